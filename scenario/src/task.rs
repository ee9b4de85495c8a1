//! One loaded backend, and one visit of one workload on it. The only code of this crate that makes measured calls.

use crate::{
    Calls, Plan, Workload,
    clock::SharedClock,
    random::{Random, tokens},
    record::{EVENT_SCHEMA, PhaseRecord, Role, Stage},
};
use phase_core::{
    BoxCache, BoxError, BoxModel, CacheSpec, Decode as _, ErrorKind, Evidence, KvCache as _, Logits, Measured, MeasurementBoundary, Mode,
    Model, ModelInfo, PhaseError as _, PhaseEvent, Prefill as _, PromptBatch, Regime, RingSink, TokenId, Tracked,
};
use phase_policy::Observation;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Decode steps of a warm-up pass; more steps at the same shapes would warm nothing else.
pub(crate) const WARMUP_STEPS: usize = 8;
/// Decode steps after another backend ran: thread pools wake up, and the other's spinning threads go to sleep.
const SETTLE_STEPS: usize = 2;

/// Calls of one replay at most; so many events are kept.
pub(crate) const REPLAY_CALLS: usize = 1024;

/// A loaded backend with its caches.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) model: Measured<BoxModel, SharedClock, Arc<RingSink>>,
    mode: Mode,
    sink: Arc<RingSink>,
    caches: BTreeMap<usize, Tracked<BoxCache>>,
    warmed: BTreeSet<usize>,
    boundary_id: String,
    logits: Logits,
}

/// What a visit is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visit<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) run_id: &'a str,
    pub(crate) cell: usize,
    pub(crate) block: u32,
    pub(crate) repetition: u32,
    pub(crate) segment: u32,
    /// Whether another backend ran just before.
    pub(crate) switched: bool,
}

/// Why a visit ended early.
#[derive(Debug)]
pub(crate) enum Stop {
    Cancelled,
    Failed { stage: Stage, kind: ErrorKind, message: String },
}

impl Stop {
    fn failed(stage: Stage, error: &BoxError) -> Self {
        Self::Failed { stage, kind: error.kind(), message: error.to_string() }
    }
}

#[derive(Clone, Copy, Debug)]
struct Pass {
    role: Role,
    regime: Regime,
    sample: u32,
    prefill: bool,
    steps: usize,
}

impl Lane {
    pub(crate) fn new(model: BoxModel, mode: Mode, clock: SharedClock, plan: &Plan) -> Self {
        let calls = plan.cells.iter().map(|c| c.workload.decode_steps).max().unwrap_or(0) + 1;
        let sink = Arc::new(RingSink::new(calls.max(plan.parity.decode_steps + 1).max(REPLAY_CALLS)));
        let model = Measured::new(model, clock, sink.clone());
        let boundary_id = boundary(&model, plan.calls).id();
        Self { model, mode, sink, caches: BTreeMap::new(), warmed: BTreeSet::new(), boundary_id, logits: Logits::new() }
    }

    pub(crate) fn boundary(&self, calls: Calls) -> &MeasurementBoundary {
        boundary(&self.model, calls)
    }

    pub(crate) fn info(&self) -> &ModelInfo {
        self.model.info()
    }

    /// Takes the events of the calls since the last time.
    pub(crate) fn take_events(&self) -> Vec<PhaseEvent> {
        self.sink.drain()
    }

    /// Forgets the events of calls that are no measurement.
    pub(crate) fn forget_events(&self) {
        self.sink.drain();
    }

    /// What was seen running. Caches are dropped first: a backend may have to load its weights again for this, and keeps
    /// what a cache refers to.
    pub(crate) fn evidence(&mut self) -> Result<Evidence, BoxError> {
        self.caches.clear();
        self.model.evidence()
    }

    /// Warm-up where it is due, then the samples. Records are added for every call that was made, failed ones too.
    pub(crate) fn visit(&mut self, visit: Visit<'_>, cancel: &AtomicBool, records: &mut Vec<PhaseRecord>) -> Result<(), Stop> {
        let workload = &visit.plan.cells[visit.cell].workload;
        if !self.caches.contains_key(&visit.cell) {
            let spec = CacheSpec { batch: workload.batch, capacity: workload.capacity().max(SETTLE_STEPS) };
            let cache = self.model.allocate(spec).map_err(|e| Stop::failed(Stage::Allocate, &e))?;
            self.caches.insert(visit.cell, cache);
        }
        let result = self.passes(workload, visit).try_for_each(|pass| {
            if cancel.load(Ordering::Relaxed) {
                return Err(Stop::Cancelled);
            }
            self.pass(workload, visit, pass, records)
        });
        match &result {
            Ok(()) => {
                self.warmed.insert(visit.cell);
            }
            Err(_) => {
                self.caches.remove(&visit.cell);
            }
        }
        result
    }

    fn passes(&self, workload: &Workload, visit: Visit<'_>) -> impl Iterator<Item = Pass> + use<> {
        let first = !self.warmed.contains(&visit.cell);
        let (warmups, samples, steps) = (workload.warmup, workload.samples, workload.decode_steps);
        let settle = (visit.switched && !(first && warmups > 0)).then_some(Pass {
            role: Role::Settle,
            regime: Regime::Warmup(1),
            sample: 0,
            prefill: false,
            steps: SETTLE_STEPS,
        });
        let warmup = (0..if first { warmups } else { 0 }).map(move |n| Pass {
            role: Role::Warmup,
            regime: Regime::Warmup(n + 1),
            sample: n,
            prefill: true,
            steps: steps.min(WARMUP_STEPS),
        });
        let sample = (0..samples).map(move |n| Pass { role: Role::Sample, regime: Regime::Steady, sample: n, prefill: true, steps });
        settle.into_iter().chain(warmup).chain(sample)
    }

    fn pass(&mut self, workload: &Workload, visit: Visit<'_>, pass: Pass, records: &mut Vec<PhaseRecord>) -> Result<(), Stop> {
        let id = visit.plan.cells[visit.cell].id();
        let vocab = self.info().vocab;
        let mut random = Random::new(visit.plan.seed, &format!("{id}/{}/{:?}/{}", visit.block, pass.role, pass.sample));
        let prompt = tokens(&mut random, workload.batch * workload.prompt_tokens, vocab, &visit.plan.prompt);
        let steps: Vec<_> = (0..pass.steps).map(|_| tokens(&mut random, workload.batch, vocab, &visit.plan.prompt)).collect();
        self.model.force_regime(Some(pass.regime));
        let result = self.calls(visit, pass, &prompt, &steps);
        self.model.force_regime(None);
        records.extend((0..).zip(self.sink.drain()).map(|(call, event)| PhaseRecord {
            schema: EVENT_SCHEMA.to_owned(),
            run_id: visit.run_id.to_owned(),
            scenario: visit.plan.cells[visit.cell].scenario.clone(),
            cell: id.clone(),
            repetition: visit.repetition,
            segment: visit.segment,
            role: pass.role,
            sample: pass.sample,
            call,
            session: event.session,
            step: event.step,
            start_ns: event.start.as_nanos(),
            end_ns: event.end.as_nanos(),
            seen: Observation::from_event(&event, self.boundary_id.as_str(), visit.block).with_mode(self.mode.as_str()),
        }));
        result.map_err(|e| Stop::failed(Stage::Call, &e))
    }

    fn calls(&mut self, visit: Visit<'_>, pass: Pass, prompt: &[TokenId], steps: &[Vec<TokenId>]) -> Result<(), BoxError> {
        let Self { model, caches, logits, .. } = self;
        let Some(cache) = caches.get_mut(&visit.cell) else { return Ok(()) };
        let backend = model.info().backend.clone();
        let mut picked = vec![TokenId(0); cache.batch()];
        cache.truncate(0);
        if pass.prefill {
            let prompt = PromptBatch::new(prompt, cache.batch()).map_err(|e| BoxError::new(backend, e))?;
            match visit.plan.calls {
                Calls::Scores => model.prefill(cache, prompt, logits)?,
                Calls::Greedy => model.prefill_greedy(cache, prompt, &mut picked)?,
            }
        }
        steps.iter().try_for_each(|step| match visit.plan.calls {
            Calls::Scores => model.decode(cache, step, logits),
            Calls::Greedy => model.decode_greedy(cache, step, &mut picked),
        })
    }
}

fn boundary(model: &Measured<BoxModel, SharedClock, Arc<RingSink>>, calls: Calls) -> &MeasurementBoundary {
    match calls {
        Calls::Scores => model.boundary(),
        Calls::Greedy => model.greedy_boundary(),
    }
}

/// A fresh capture of what a loaded model runs on: the machine as it is now, the facts of the load, and what the backend
/// says about its library now.
pub(crate) fn recapture(
    before: &MeasurementBoundary,
    load_facts: &phase_core::StackInfo,
    probe: &phase_core::StackInfo,
) -> MeasurementBoundary {
    let mut stack = phase_core::machine().merged(load_facts);
    for (layer, key, fact) in probe.iter() {
        // A fact that only the probe tells was not part of the boundary at the start either.
        if before.stack.fact(layer, key).is_some() {
            stack = match fact {
                phase_core::Fact::Known(v) => stack.with(layer, key, v.as_str()),
                phase_core::Fact::Unknown(why) => stack.with_unknown(layer, key, why.as_str()),
            };
        }
    }
    let mut after = before.clone();
    after.stack = stack;
    after
}
