//! Whole runs on simulated backends and a clock held by hand.

mod bytes;
mod ceilings;
mod cold;
mod damage;
mod energy;
mod evidence;
mod failing;
mod idle;
mod resume;
mod runs;
mod whole;

use crate::{files::list, *};
use phase_core::{
    Arm, Artefact, ArtefactForm, Backend, BackendId, CacheSpec, CallError, Capabilities, Clock, Decode, ErrorKind, Evidence, Layer,
    LoadSpec, Logits, ManualClock, Model, ModelInfo, PhaseError, PhaseTypes, Prefill, PromptBatch, Registry, StackInfo, TokenId,
    sim::{Sim, SimCache, SimError, SimModel},
};
use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

pub(crate) const SMALL: &str = r#"
schema = "phase.scenarios/1"
id = "small"
title = "Small"
parity = { prompt_tokens = 4, batch = 2, decode_steps = 2, tolerance = { f32 = 0.01 } }
[scale.cpu.full]
blocks = 4
workloads = [
    { id = "a", kind = "steady", batch = 1, prompt_tokens = 4, decode_steps = 3, warmup = 1 },
    { id = "b", kind = "steady", batch = 2, prompt_tokens = 3, samples = 2, warmup = 1 },
]
"#;

/// A simulated backend with a temper, shared by all its models.
#[derive(Clone, Debug)]
pub(crate) struct Actor {
    id: &'static str,
    script: Arc<Script>,
}

#[derive(Default)]
pub(crate) struct Script {
    pub(crate) calls: AtomicU32,
    /// Fails from this call on, when it is not 0.
    pub(crate) fails_at: AtomicU32,
    pub(crate) kind: Mutex<Option<ErrorKind>>,
    pub(crate) refuses_to_load: AtomicBool,
    pub(crate) wrong: AtomicBool,
    /// What its runtime writes of captured graphs.
    pub(crate) record: Mutex<Option<String>>,
    /// The version of its library.
    pub(crate) version: AtomicU32,
    /// Every call takes this long on the clock.
    pub(crate) pace: Mutex<Option<(Arc<ManualClock>, Duration)>>,
    /// What a call does to the device it runs on, and that device's name.
    pub(crate) work: Mutex<Option<(Work, &'static str)>>,
}

pub(crate) type Work = Arc<dyn Fn(phase_core::Phase) + Send + Sync>;

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Script").field("calls", &self.calls).finish_non_exhaustive()
    }
}

pub(crate) fn arm(id: &'static str) -> Arm {
    BackendId::new(id).into()
}

impl Actor {
    pub(crate) fn new(id: &'static str) -> Self {
        Self { id, script: Arc::default() }
    }
}

#[derive(Debug)]
pub(crate) struct ActorModel {
    inner: SimModel,
    info: ModelInfo,
    script: Arc<Script>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ActorError {
    #[error(transparent)]
    Sim(#[from] SimError),
    #[error("injected failure")]
    Injected(ErrorKind),
}

impl From<CallError> for ActorError {
    fn from(error: CallError) -> Self {
        Self::Sim(error.into())
    }
}

impl PhaseError for ActorError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Sim(e) => e.kind(),
            Self::Injected(kind) => *kind,
        }
    }
}

impl Backend for Actor {
    type Model = ActorModel;
    type Error = ActorError;

    fn id(&self) -> BackendId {
        BackendId::new(self.id)
    }

    fn probe(&self) -> Result<StackInfo, ActorError> {
        let version = self.script.version.load(Ordering::Relaxed).to_string();
        Ok(StackInfo::new().with(Layer::Runtime, "library", format!("{} {version}", self.id)))
    }

    fn load(&self, spec: &LoadSpec) -> Result<ActorModel, ActorError> {
        if self.script.refuses_to_load.load(Ordering::Relaxed) {
            return Err(ActorError::Injected(ErrorKind::Unavailable));
        }
        let inner = Sim::named(self.id()).load(spec)?;
        let info = inner.info().clone();
        let mut stack = info.stack.clone().merged(&self.probe()?);
        if let Some((_, device)) = *self.script.work.lock().unwrap() {
            stack = stack.with(Layer::Runtime, "gpu_uuid", device);
        }
        let info = info.with_work(1_000, 10, 100).with_stack(stack);
        Ok(ActorModel { inner, info, script: self.script.clone() })
    }
}

impl ActorModel {
    fn act(&self, phase: phase_core::Phase) -> Result<(), ActorError> {
        let call = self.script.calls.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some((clock, pace)) = &*self.script.pace.lock().unwrap() {
            clock.advance(*pace);
        }
        let work = self.script.work.lock().unwrap().clone();
        if let Some((work, _)) = work {
            work(phase);
        }
        let fails_at = self.script.fails_at.load(Ordering::Relaxed);
        if fails_at > 0 && call >= fails_at {
            return Err(ActorError::Injected(self.script.kind.lock().unwrap().unwrap_or(ErrorKind::Other)));
        }
        Ok(())
    }

    fn spoil(&self, out: &mut Logits) {
        if self.script.wrong.load(Ordering::Relaxed) {
            let (batch, vocab) = (out.batch(), out.vocab());
            out.reset(batch, vocab)[0] += 100.0;
        }
    }
}

impl PhaseTypes for ActorModel {
    type Cache = SimCache;
    type Error = ActorError;
}

impl Prefill for ActorModel {
    fn prefill(&mut self, cache: &mut SimCache, prompt: PromptBatch<'_>, out: &mut Logits) -> Result<(), ActorError> {
        self.act(phase_core::Phase::Prefill)?;
        self.inner.prefill(cache, prompt, out)?;
        self.spoil(out);
        Ok(())
    }
}

impl Decode for ActorModel {
    fn decode(&mut self, cache: &mut SimCache, tokens: &[TokenId], out: &mut Logits) -> Result<(), ActorError> {
        self.act(phase_core::Phase::Decode)?;
        self.inner.decode(cache, tokens, out)?;
        self.spoil(out);
        Ok(())
    }
}

impl Model for ActorModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn allocate(&mut self, spec: CacheSpec) -> Result<SimCache, ActorError> {
        Ok(self.inner.allocate(spec)?)
    }

    fn evidence(&mut self) -> Result<Evidence, ActorError> {
        let evidence = self.inner.evidence()?;
        let record = self.script.record.lock().unwrap().clone();
        Ok(record.into_iter().fold(evidence, |e, text| e.with_artefact(Artefact::new(ArtefactForm::CudaGraphs, text))))
    }
}

/// Two actors, a clock and a registry of them.
pub(crate) struct Stage2 {
    pub(crate) a: Arc<Script>,
    pub(crate) b: Arc<Script>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) registry: Registry,
}

impl Stage2 {
    pub(crate) fn new() -> Self {
        let (a, b) = (Actor::new("a"), Actor::new("b"));
        let clock = Arc::new(ManualClock::ticking(Duration::from_micros(1)));
        let scripts = (a.script.clone(), b.script.clone());
        Self { a: scripts.0, b: scripts.1, clock, registry: Registry::new().with(a).with(b) }
    }

    pub(crate) fn spec(text: &str) -> PlanSpec {
        PlanSpec::new(vec![ScenarioSet::parse(text).unwrap()], vec![BackendId::new("a"), BackendId::new("b")])
    }

    pub(crate) fn small() -> Plan {
        Plan::new(&Self::spec(SMALL)).unwrap()
    }

    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }

    pub(crate) fn create(&self, plan: Plan, dir: &Path) -> Result<Runner<'_>, ScenarioError> {
        let runner = Runner::create(&self.registry, plan, LoadSpec::new("none"), self.clock(), dir)?;
        Ok(runner.with_load_probe(NoLoad).with_created(1_795_492_392).with_program("test 1"))
    }

    pub(crate) fn resume(&self, dir: &Path) -> Result<Runner<'_>, ScenarioError> {
        Ok(Runner::resume(&self.registry, self.clock(), dir)?.with_load_probe(NoLoad))
    }

    /// A whole run of `plan`.
    pub(crate) fn complete(&self, plan: Plan, dir: &Path) -> Run {
        let finish = self.create(plan, dir).unwrap().run(&mut (), &AtomicBool::new(false)).unwrap();
        assert!(matches!(finish, Finish::Complete { .. }), "{finish:?}");
        Run::open(dir).unwrap()
    }

    /// A run of the small plan that stops after `blocks` blocks.
    pub(crate) fn stopped_after(&self, blocks: usize, dir: &Path) {
        let cancel = AtomicBool::new(blocks == 0);
        let mut observer = StopAfter { blocks, cancel: &cancel };
        let finish = self.create(Self::small(), dir).unwrap().run(&mut observer, &cancel).unwrap();
        assert_eq!(finish, Finish::Stopped { blocks_done: blocks, blocks_total: 4 });
    }
}

pub(crate) struct StopAfter<'a> {
    pub(crate) blocks: usize,
    pub(crate) cancel: &'a AtomicBool,
}

impl Observer for StopAfter<'_> {
    fn progress(&mut self, progress: &Progress<'_>) {
        if matches!(progress, Progress::BlockEnd { block, .. } if block + 1 >= self.blocks) {
            self.cancel.store(true, Ordering::Relaxed);
        }
    }
}

pub(crate) fn copy_dir(from: &Path, to: &Path) {
    for name in list(from).unwrap() {
        std::fs::create_dir_all(to.join(&name).parent().unwrap()).unwrap();
        std::fs::copy(from.join(&name), to.join(&name)).unwrap();
    }
}

/// Key, calls, failures and blocks of every steady cell.
pub(crate) type Outline = Vec<(String, u64, u64, Vec<u32>)>;

/// Cells without their times: what was measured, how often, in which blocks.
pub(crate) fn outline(run: &Run) -> Outline {
    let cells = run.matrix().unwrap().cells();
    cells
        .iter()
        .filter(|c| c.key.regime == phase_policy::RegimeClass::Steady)
        .map(|c| (c.key.id(), c.n, c.failures, c.blocks.iter().map(|b| b.block).collect()))
        .collect()
}
