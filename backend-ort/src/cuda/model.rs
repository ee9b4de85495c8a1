//! A loaded model on a device: both phases.

use super::{
    cache::{Held, OrtCudaCache, PromptRun},
    device::Device,
    kernels::{Gating, Picking, StepKernels},
    weights::Weights,
};
use crate::{
    binding::RunOptions,
    error::OrtError,
    graph::Format,
    model::{Run, plan},
    session::Setup,
    shared::KvShape,
};
use ort::session::Session;
use phase_capture::{Guarded, alone, together};
use phase_core::{
    CacheSpec, Capabilities, Decode, Evidence, Logits, Mode, Model, ModelInfo, PhaseTypes, Prefill, PromptBatch, TokenId, check_run,
    check_slots, check_step,
};
use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

/// Most tokens in one run of the graph: enough for the matrix products to be bound by arithmetic, few enough for
/// activations to stay below a gigabyte for an 8B model.
pub(super) const CHUNK: usize = 4096;
/// Runs of a step before it is captured: the first ones load kernels and settle where activations lie.
const WARM_UP: usize = 2;

/// A model on ONNX Runtime's CUDA provider.
pub struct OrtCudaModel {
    pub(super) id: u64,
    pub(super) info: ModelInfo,
    pub(super) capabilities: Capabilities,
    pub(super) mode: Mode,
    /// The graph for both phases.
    pub(super) session: Guarded<Session>,
    /// The graph for steps of one sequence, of this crate's operators.
    pub(super) single: Option<Guarded<Session>>,
    pub(super) program: Guarded<Arc<Program>>,
    pub(super) runtime: Guarded<Arc<Runtime>>,
    /// Captured graphs by batch, as evidence.
    pub(super) captured: BTreeMap<usize, Captured>,
    pub(super) steps: Vec<Duration>,
    pub(super) device_time: Option<Duration>,
}

/// Steps of one batch that were captured, over all caches.
#[derive(Debug, Default)]
pub(super) struct Captured {
    /// Nodes of the last graph by type, as the driver tells them.
    pub(super) nodes: Vec<(&'static str, u64)>,
    /// Captures that were begun again.
    pub(super) spoiled: u64,
    pub(super) replays: u64,
}

/// What sessions are made from.
pub(super) struct Program {
    pub(super) setup: Setup,
    pub(super) graph: Vec<u8>,
    /// Its gated layers' operator, if it has one of ours.
    pub(super) gating: Option<Arc<Gating>>,
    pub(super) single: Option<(Vec<u8>, Arc<StepKernels>)>,
}

/// What a model and its caches share.
#[derive(Debug)]
pub(super) struct Runtime {
    pub(super) weights: Weights,
    pub(super) picking: Picking,
    pub(super) options: RunOptions,
    pub(super) kv: KvShape,
    pub(super) vocab: usize,
    pub(super) format: Format,
    pub(super) learned_positions: bool,
    /// Declared last: it outlives what lies on it.
    pub(super) device: Arc<Device>,
}

impl fmt::Debug for OrtCudaModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OrtCudaModel").field("device", &self.runtime.device).field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl OrtCudaModel {
    /// Checks that the cache is ours, and makes the device current.
    fn enter<'c>(&mut self, cache: &'c mut OrtCudaCache) -> Result<&'c mut Held, OrtError> {
        let cache = &mut *cache.0;
        if cache.model != self.id {
            return Err(OrtError::ForeignCache);
        }
        self.runtime.device.enter()?;
        cache.events.clear();
        self.steps.clear();
        self.device_time = None;
        Ok(cache)
    }

    fn queue_prompt(&mut self, cache: &mut Held, prompt: PromptBatch<'_>) -> Result<(), OrtError> {
        let (len, new) = (cache.len, prompt.len());
        let runs = plan(cache.batch, new, len, CHUNK);
        let runs = runs.into_iter().map(|Run { rows, at }| {
            let (new, len) = (at.len(), len + at.start);
            let tokens = prompt.rows().skip(rows.start).take(rows.len()).flat_map(move |row| &row[at.clone()]);
            PromptRun { rows, new, len, tokens: Box::new(tokens) }
        });
        let placed = cache.upload_prompt(runs)?;
        cache.events.record()?;
        for run in &placed {
            cache.queue_run(&mut self.session, run)?;
        }
        cache.events.record()
    }

    /// Queues a step after `len` positions.
    fn queue_step(&mut self, cache: &mut Held, len: usize) -> Result<(), OrtError> {
        if let Some(graph) = &mut cache.step {
            if let Some(captured) = self.captured.get_mut(&cache.batch) {
                captured.replays += 1;
            }
            return graph.launch();
        }
        cache.queue_step(self.stepping(cache.batch), len + 1)
    }

    /// The session for steps of so many sequences.
    fn stepping(&mut self, batch: usize) -> &mut Session {
        let single = if batch == 1 { self.single.as_deref_mut() } else { None };
        single.unwrap_or(&mut self.session)
    }

    /// Waits after a failure, so that nothing of the call is under way when it returns.
    fn settle<T>(&self, worked: Result<T, OrtError>) -> Result<T, OrtError> {
        match worked {
            Ok(done) => Ok(done),
            // What the first failure says is more telling than what the device says after it.
            Err(error) => match self.runtime.device.synchronize() {
                Err(lost @ OrtError::DeviceLost { .. }) => Err(lost),
                _ => Err(error),
            },
        }
    }

    fn finish(&mut self, cache: &mut Held, new: usize) -> Result<(), OrtError> {
        cache.len += new;
        cache.events.intervals(&mut self.steps)?;
        self.device_time = Some(self.steps.iter().sum());
        Ok(())
    }

    /// A cache whose steps are bound, and have run where they will be captured.
    fn prepare(&mut self, batch: usize, capacity: usize) -> Result<Held, OrtError> {
        let _together = together();
        let device = Arc::clone(&self.runtime.device);
        device.enter()?;
        let mut cache = Held::new(&self.runtime, self.id, batch, capacity)?;
        match &self.single {
            Some(single) if batch == 1 => cache.prepare_steps(single, false)?,
            _ => cache.prepare_steps(&self.session, true)?,
        }
        let warm = if self.mode == Mode::Compiled { self.warm_up(&mut cache) } else { Ok(()) };
        self.settle(warm.and_then(|()| device.synchronize()))?;
        Ok(cache)
    }

    fn warm_up(&mut self, cache: &mut Held) -> Result<(), OrtError> {
        cache.upload_step(&vec![TokenId(0); cache.batch])?;
        (0..WARM_UP).try_for_each(|_| cache.queue_step(self.stepping(cache.batch), cache.capacity))
    }

    /// Captures a step of the whole batch, all of whose kernels are loaded.
    fn capture(&mut self, cache: &mut Held) -> Result<(), OrtError> {
        let device = Arc::clone(&self.runtime.device);
        let session = self.stepping(cache.batch);
        let _alone = alone();
        // Positions beyond those on the device's own count are never read, so one graph serves all lengths.
        let graph = device.capture(|| cache.queue_step(session, cache.capacity))?;
        let captured = self.captured.entry(cache.batch).or_default();
        captured.nodes.clone_from(&graph.nodes);
        captured.spoiled += graph.spoiled;
        cache.step = Some(graph);
        device.synchronize()
    }
}

impl PhaseTypes for OrtCudaModel {
    type Cache = OrtCudaCache;
    type Error = OrtError;
}

impl Prefill for OrtCudaModel {
    fn prefill(&mut self, cache: &mut OrtCudaCache, prompt: PromptBatch<'_>, out: &mut Logits) -> Result<(), OrtError> {
        let _together = together();
        let cache = self.enter(cache)?;
        prompt.check(cache, self.info.vocab)?;
        let out = out.reset(cache.batch, self.info.vocab);
        let worked = self.queue_prompt(cache, prompt).and_then(|()| cache.take_scores(out));
        self.settle(worked)?;
        self.finish(cache, prompt.len())?;
        self.steps.clear();
        Ok(())
    }

    fn prefill_greedy(&mut self, cache: &mut OrtCudaCache, prompt: PromptBatch<'_>, out: &mut [TokenId]) -> Result<(), OrtError> {
        let _together = together();
        let cache = self.enter(cache)?;
        check_slots(cache, out)?;
        prompt.check(cache, self.info.vocab)?;
        let worked = self.queue_prompt(cache, prompt).and_then(|()| cache.queue_pick(0)).and_then(|()| cache.take_picked(out));
        self.settle(worked)?;
        self.finish(cache, prompt.len())?;
        self.steps.clear();
        Ok(())
    }
}

impl Decode for OrtCudaModel {
    fn decode(&mut self, cache: &mut OrtCudaCache, tokens: &[TokenId], out: &mut Logits) -> Result<(), OrtError> {
        let _together = together();
        let cache = self.enter(cache)?;
        check_step(tokens, cache, self.info.vocab)?;
        let out = out.reset(cache.batch, self.info.vocab);
        let mut queue = || {
            cache.upload_step(tokens)?;
            cache.events.record()?;
            self.queue_step(cache, cache.len)?;
            cache.events.record()?;
            cache.take_scores(out)
        };
        let worked = queue();
        self.settle(worked)?;
        self.finish(cache, 1)?;
        self.steps.clear();
        Ok(())
    }

    fn decode_greedy(&mut self, cache: &mut OrtCudaCache, tokens: &[TokenId], out: &mut [TokenId]) -> Result<(), OrtError> {
        check_slots(cache, out)?;
        self.decode_run(cache, tokens, out)?;
        self.steps.clear();
        Ok(())
    }

    fn decode_run(&mut self, cache: &mut OrtCudaCache, tokens: &[TokenId], out: &mut [TokenId]) -> Result<(), OrtError> {
        let _together = together();
        let cache = self.enter(cache)?;
        let len = cache.len;
        if out.is_empty() {
            return Ok(());
        }
        check_step(tokens, cache, self.info.vocab)?;
        let steps = check_run(cache, out)?;
        let mut queue = || {
            cache.upload_step(tokens)?;
            cache.events.record()?;
            for step in 0..steps {
                self.queue_step(cache, len + step)?;
                cache.queue_pick(step)?;
                cache.events.record()?;
            }
            cache.take_picked(out)
        };
        let worked = queue();
        self.settle(worked)?;
        self.finish(cache, steps)
    }
}

impl Model for OrtCudaModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn allocate(&mut self, spec: CacheSpec) -> Result<OrtCudaCache, OrtError> {
        let CacheSpec { batch, capacity } = spec.check(&self.capabilities)?;
        let mut cache = OrtCudaCache(Guarded::new(self.prepare(batch, capacity)?));
        if self.mode == Mode::Compiled {
            let captured = self.capture(&mut cache.0);
            self.settle(captured)?;
        }
        Ok(cache)
    }

    fn evidence(&mut self) -> Result<Evidence, OrtError> {
        super::evidence::observe(self)
    }

    fn device_time(&self) -> Option<Duration> {
        self.device_time
    }

    fn device_steps(&self) -> &[Duration] {
        &self.steps
    }
}
