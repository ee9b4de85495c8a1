//! Whole runs on simulated backends whose speed is set, and a clock held by hand.

use phase_core::{
    Backend, BackendId, CacheSpec, Capabilities, Clock, Decode, Evidence, Layer, LoadSpec, Logits, ManualClock, Model, ModelInfo,
    PhaseTypes, Prefill, PromptBatch, Registry, StackInfo, TokenId,
    sim::{Sim, SimCache, SimError, SimModel},
};
use phase_scenario::{Calls, Finish, NoLoad, Plan, PlanSpec, Runner, ScenarioSet, SealedRun};
use std::{
    path::Path,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

/// Two workloads of two batches, enough blocks for an interval.
pub(crate) const SMALL: &str = r#"
schema = "phase.scenarios/1"
id = "small"
title = "Small"
parity = { prompt_tokens = 4, batch = 2, decode_steps = 2, tolerance = { f32 = 0.01 } }
[scale.cpu.full]
blocks = 5
workloads = [
    { id = "a", kind = "steady", batch = 1, prompt_tokens = 4, decode_steps = 3, warmup = 1 },
    { id = "b", kind = "steady", batch = 2, prompt_tokens = 16, decode_steps = 40, samples = 2, warmup = 1 },
]
"#;

/// A simulated backend that takes as long as it is told.
#[derive(Clone, Debug)]
pub(crate) struct Paced {
    /// Its id.
    pub(crate) id: &'static str,
    /// Nanoseconds a prefill takes for each token of each row.
    pub(crate) prefill_ns: u64,
    /// Nanoseconds a decode step takes.
    pub(crate) decode_ns: u64,
    /// Version of its library.
    pub(crate) version: u32,
    /// Set by [`run`].
    pub(crate) clock: Arc<ManualClock>,
}

impl Paced {
    pub(crate) fn new(id: &'static str, prefill_ns: u64, decode_ns: u64) -> Self {
        Self { id, prefill_ns, decode_ns, version: 1, clock: Arc::new(ManualClock::ticking(Duration::ZERO)) }
    }
}

#[derive(Debug)]
pub(crate) struct PacedModel {
    inner: SimModel,
    info: ModelInfo,
    own: Paced,
    calls: u64,
}

impl PacedModel {
    /// Up to 0.8 % more, the same in every run: intervals of no width would hide mistakes.
    fn take(&mut self, ns: u64) {
        self.calls += 1;
        let wobble = self.calls.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61;
        self.own.clock.advance(Duration::from_nanos(ns + ns * wobble / 1000));
    }
}

impl Backend for Paced {
    type Model = PacedModel;
    type Error = SimError;

    fn id(&self) -> BackendId {
        BackendId::new(self.id)
    }

    fn probe(&self) -> Result<StackInfo, SimError> {
        Ok(StackInfo::new().with(Layer::Runtime, "library", format!("{} {}", self.id, self.version)))
    }

    fn load(&self, spec: &LoadSpec) -> Result<PacedModel, SimError> {
        let inner = Sim::named(self.id()).load(spec)?;
        let info = inner.info().clone();
        let stack = info.stack.clone().merged(&self.probe()?).with(Layer::Model, "architecture", "sim");
        let info = info.with_work(1_000_000, 1_000, 2_000_000).with_stack(stack);
        Ok(PacedModel { inner, info, own: self.clone(), calls: 0 })
    }
}

impl PhaseTypes for PacedModel {
    type Cache = SimCache;
    type Error = SimError;
}

impl Prefill for PacedModel {
    fn prefill(&mut self, cache: &mut SimCache, prompt: PromptBatch<'_>, out: &mut Logits) -> Result<(), SimError> {
        self.take(self.own.prefill_ns * prompt.tokens().len() as u64);
        self.inner.prefill(cache, prompt, out)
    }
}

impl Decode for PacedModel {
    fn decode(&mut self, cache: &mut SimCache, tokens: &[TokenId], out: &mut Logits) -> Result<(), SimError> {
        self.take(self.own.decode_ns);
        self.inner.decode(cache, tokens, out)
    }
}

impl Model for PacedModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn allocate(&mut self, spec: CacheSpec) -> Result<SimCache, SimError> {
        self.inner.allocate(spec)
    }

    fn evidence(&mut self) -> Result<Evidence, SimError> {
        self.inner.evidence()
    }
}

/// A sealed run of `set` on `backends`, the first one the reference.
pub(crate) fn run(set: &str, backends: Vec<Paced>, calls: Calls, created: u64, dir: &Path) -> SealedRun {
    let clock = Arc::new(ManualClock::ticking(Duration::from_nanos(50)));
    let ids: Vec<_> = backends.iter().map(|b| BackendId::new(b.id)).collect();
    let registry = backends.into_iter().fold(Registry::new(), |all, b| all.with(Paced { clock: clock.clone(), ..b }));
    let mut spec = PlanSpec::new(vec![ScenarioSet::parse(set).expect("a set")], ids);
    spec.calls = calls;
    let plan = Plan::new(&spec).expect("a plan");
    let clock: Arc<dyn Clock> = clock;
    let runner = Runner::create(&registry, plan, LoadSpec::new("none"), clock, dir).expect("a runner");
    let mut runner = runner.with_load_probe(NoLoad).with_created(created).with_program("test 1");
    let finish = runner.run(&mut (), &AtomicBool::new(false)).expect("a run");
    assert!(matches!(finish, Finish::Complete { .. }), "{finish:?}");
    SealedRun::open(dir).expect("a sealed run")
}

/// 2026-11-24.
pub(crate) const CREATED: u64 = 1_795_492_392;
