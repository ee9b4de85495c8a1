//! Runs a plan into a run directory.

mod ceilings;
mod finish;
mod visit;

use crate::{
    CeilingMeter, Ceilings, ColdLauncher, LoadProbe, Manifest, Observer, Plan, Progress, Residency, ScenarioError, StoredLoad,
    clock::{SharedClock, rfc3339},
    cold::nanos,
    dir::{BlockEnd, MANIFEST, PARITY, RunDir},
    energy::Metering,
    manifest::Segment,
    other_load::ProcLoad,
    parity::{PARITY_SCHEMA, Parity},
    rates::remaining,
    record::{FailureRecord, Record, Stage},
    results,
    stable::{Slot, Stable},
    task::Visit,
};
use phase_core::{Clock, ErrorKind, LoadSpec, PhaseError as _, Registry, Timestamp};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// How a run ended, when it did not fail.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finish {
    /// All blocks are done and the directory is sealed.
    Complete {
        /// The run.
        run_id: String,
        /// Failures recorded by this process; the run is complete all the same.
        failures: usize,
    },
    /// It was cancelled: the directory can be resumed.
    Stopped {
        /// Blocks done.
        blocks_done: usize,
        /// Blocks planned.
        blocks_total: usize,
    },
}

/// Runs a plan into a directory, or goes on with a stopped run.
///
/// **Timing model:** every phase call is timed by [`phase_core::Measured`] and by nothing else. Between calls the runner
/// draws tokens and moves events; files are written and the [`Observer`] is told between visits and blocks.
///
/// ```
/// use phase_core::{BackendId, LoadSpec, ManualClock, Registry, sim::Sim};
/// use phase_scenario::*;
/// use std::{sync::{Arc, atomic::AtomicBool}, time::Duration};
/// let registry = Registry::new().with(Sim::default());
/// let spec = PlanSpec::new(vec![ScenarioSet::built_in("s0")?], [BackendId::new("sim")]);
/// let clock = Arc::new(ManualClock::ticking(Duration::from_millis(1)));
/// let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
/// let dir = folder.path().join("run");
/// let mut runner = Runner::create(&registry, Plan::new(&spec)?, LoadSpec::new("none"), clock, &dir)?;
/// let finish = runner.run(&mut (), &AtomicBool::new(false))?;
/// assert!(matches!(finish, Finish::Complete { failures: 0, .. }));
/// assert!(validate(&dir)?.events > 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Runner<'a> {
    registry: &'a Registry,
    pub(crate) clock: SharedClock,
    pub(crate) dir: RunDir,
    pub(crate) manifest: Manifest,
    pub(crate) resumed: bool,
    now_unix_seconds: u64,
    launcher: Option<Box<dyn ColdLauncher + 'a>>,
    probe: Box<dyn LoadProbe + 'a>,
    pub(crate) stable: Stable,
    pub(crate) pending: Vec<Record>,
    pub(crate) failures: usize,
    pub(crate) metering: Option<Metering<'a>>,
    ceilings: Vec<Ceilings>,
    ceiling_meter: Option<CeilingMeter<'a>>,
}

impl<'a> Runner<'a> {
    /// A new run in `dir`, which must be empty or not exist. Rows and threads come from `load`; its `max_batch` is raised
    /// to what the plan needs.
    ///
    /// # Errors
    /// [`ScenarioError::Resumable`], [`ScenarioError::AlreadyComplete`], [`ScenarioError::NotEmpty`] for a directory in
    /// use; [`ScenarioError::Plan`] for a backend the registry has not; [`ScenarioError::Io`].
    pub fn create(registry: &'a Registry, plan: Plan, load: LoadSpec, clock: Arc<dyn Clock>, dir: &Path) -> Result<Self, ScenarioError> {
        for id in &plan.backends {
            registry.get(&id.to_string()).map_err(|e| ScenarioError::plan(e.to_string()))?;
        }
        let rows = load.max_batch.max(plan.max_batch());
        let load = load.with_max_batch(rows);
        let manifest = Manifest::new(&plan, StoredLoad::from(&load), "unnamed", 0);
        Ok(Self::assemble(registry, SharedClock(clock), RunDir::create(dir)?, manifest, false))
    }

    /// Goes on with the stopped run in `dir`, with its own plan and load settings.
    ///
    /// # Errors
    /// [`ScenarioError::AlreadyComplete`], [`ScenarioError::Damaged`], [`ScenarioError::Schema`],
    /// [`ScenarioError::Io`].
    pub fn resume(registry: &'a Registry, clock: Arc<dyn Clock>, dir: &Path) -> Result<Self, ScenarioError> {
        let (dir, manifest) = RunDir::reopen(dir)?;
        Ok(Self::assemble(registry, SharedClock(clock), dir, manifest, true))
    }

    fn assemble(registry: &'a Registry, clock: SharedClock, dir: RunDir, manifest: Manifest, resumed: bool) -> Self {
        let backends = manifest.plan.backends.len();
        Self {
            registry,
            clock,
            dir,
            resumed,
            now_unix_seconds: manifest.created_unix_seconds,
            manifest,
            launcher: None,
            probe: Box::new(ProcLoad),
            stable: Stable::new(backends),
            pending: Vec::new(),
            failures: 0,
            metering: None,
            ceilings: Vec::new(),
            ceiling_meter: None,
        }
    }

    /// Names the program in the manifest of a new run.
    #[must_use]
    pub fn with_program(mut self, program: &str) -> Self {
        if !self.resumed {
            program.clone_into(&mut self.manifest.program);
        }
        self
    }

    /// Tells the wall time, in seconds since 1970: this crate reads no calendar.
    #[must_use]
    pub fn with_created(mut self, unix_seconds: u64) -> Self {
        self.now_unix_seconds = unix_seconds;
        if !self.resumed {
            self.manifest.created_unix_seconds = unix_seconds;
            self.manifest.created = rfc3339(unix_seconds);
        }
        self
    }

    /// Starts cold starts with `launcher`. Without one, cold workloads are recorded as failures.
    #[must_use]
    pub fn with_cold_launcher(mut self, launcher: impl ColdLauncher + 'a) -> Self {
        self.launcher = Some(Box::new(launcher));
        self
    }

    /// Reads the machine's load with `probe` instead of [`ProcLoad`].
    #[must_use]
    pub fn with_load_probe(mut self, probe: impl LoadProbe + 'a) -> Self {
        self.probe = Box::new(probe);
        self
    }

    /// Keeps what the devices of a new run can do at most; a resumed one has it.
    #[must_use]
    pub fn with_ceilings(mut self, ceilings: Vec<Ceilings>) -> Self {
        self.ceilings = ceilings;
        self
    }

    /// Measures what a device can do at most beside a new run: before its first block and after each. A resumed run keeps
    /// what it measured before it stopped.
    #[must_use]
    pub fn with_ceiling_meter(mut self, meter: CeilingMeter<'a>) -> Self {
        self.ceiling_meter = (!self.resumed).then_some(meter);
        self
    }

    /// What is run.
    pub fn plan(&self) -> &Plan {
        &self.manifest.plan
    }

    /// Where it is written.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    #[cfg(test)]
    pub(crate) fn set_disk(&mut self, disk: Box<dyn crate::files::Disk>) {
        self.dir.set_disk(disk);
    }

    /// Loads the backends, checks their agreement, runs what is left of the plan, and seals the directory. A backend that
    /// fails is recorded and the run goes on. `cancel` is looked at between passes.
    ///
    /// # Errors
    /// [`ScenarioError::NothingLoaded`], [`ScenarioError::BoundaryChanged`], [`ScenarioError::Io`],
    /// [`ScenarioError::Matrix`]. The directory stays resumable.
    pub fn run(&mut self, observer: &mut dyn Observer, cancel: &AtomicBool) -> Result<Finish, ScenarioError> {
        self.deep_idle();
        if !self.begin(observer, cancel)? {
            return Ok(self.stopped());
        }
        let started = self.clock.now();
        let first = self.dir.blocks_done();
        for number in first..self.plan().blocks.len() {
            let progress = (number, first, started);
            if cancel.load(Ordering::Relaxed) || !self.block(progress, observer, cancel)? {
                return Ok(self.stopped());
            }
            self.measure_ceilings(1, observer)?;
        }
        if !self.sit(observer, cancel)? {
            return Ok(self.stopped());
        }
        observer.progress(&Progress::Sealing);
        self.finish()?;
        Ok(Finish::Complete { run_id: self.manifest.run_id.clone(), failures: self.failures })
    }

    fn stopped(&self) -> Finish {
        Finish::Stopped { blocks_done: self.dir.blocks_done(), blocks_total: self.plan().blocks.len() }
    }

    pub(crate) fn segment(&self) -> u32 {
        u32::try_from(self.manifest.segments.len().saturating_sub(1)).unwrap_or(u32::MAX)
    }

    /// Loads and compares all backends and writes the manifest. `false` when cancelled.
    fn begin(&mut self, observer: &mut dyn Observer, cancel: &AtomicBool) -> Result<bool, ScenarioError> {
        if !self.resumed {
            self.manifest.name(self.clock.now().as_nanos());
        }
        let first_block = u32::try_from(self.dir.blocks_done()).unwrap_or(u32::MAX);
        self.manifest.segments.push(Segment { started: rfc3339(self.now_unix_seconds), first_block });
        self.manifest.captured_after = false;
        let mut parity = self.earlier_parity()?;
        let mut errors = Vec::new();
        for at in 0..self.plan().backends.len() {
            if cancel.load(Ordering::Relaxed) {
                return Ok(false);
            }
            if self.load(at, None, observer)? {
                let check = self.stable.compare(at, &self.manifest.plan, self.segment())?;
                let passed = matches!(check.verdict, crate::ParityVerdict::Agrees | crate::ParityVerdict::Reference);
                observer.progress(&Progress::Parity { backend: &check.backend, passed });
                parity.checks.push(check);
                if self.plan().residency == Residency::One {
                    self.stable.drop_lane(at);
                }
            } else if let Slot::Broken { message, .. } = self.stable.slot(at) {
                errors.push(message.clone());
                parity.checks.push(crate::parity::bare(
                    &self.plan().backends[at],
                    self.segment(),
                    crate::ParityVerdict::Failed,
                    message.clone(),
                ));
            }
        }
        if errors.len() == self.plan().backends.len() {
            return Err(ScenarioError::NothingLoaded { failures: errors });
        }
        self.dir.write_json(PARITY, &parity)?;
        self.first_ceilings(observer)?;
        self.dir.write_json(MANIFEST, &self.manifest)?;
        Ok(true)
    }

    fn earlier_parity(&self) -> Result<Parity, ScenarioError> {
        let fresh = Parity::new(&self.manifest.run_id, &self.plan().parity);
        if !self.resumed || !self.dir.path().join(PARITY).exists() {
            return Ok(fresh);
        }
        crate::dir::load(self.dir.path(), PARITY, PARITY_SCHEMA)
    }

    /// Loads one backend into its slot; whether it worked. A boundary that is not the run's is an error.
    pub(crate) fn load(&mut self, at: usize, block: Option<u32>, observer: &mut dyn Observer) -> Result<bool, ScenarioError> {
        let id = self.plan().backends[at].clone();
        observer.progress(&Progress::Loading { backend: &id });
        let spec = LoadSpec::from(&self.manifest.load);
        let start = self.clock.now();
        let loaded = self.registry.get(&id.to_string()).map_err(|e| (ErrorKind::Unavailable, e.to_string()));
        let loaded = loaded.and_then(|b| b.load_dyn(&spec).map_err(|e| (e.kind(), e.to_string())));
        let load_ns = nanos(self.clock.now().since(start));
        match loaded {
            Ok(model) => {
                self.stable.install(at, model, self.clock.clone(), &mut self.manifest)?;
                let record = results::load_record(&self.manifest.run_id, &id, block, self.segment(), load_ns);
                self.pending.push(Record::Load(record));
                observer.progress(&Progress::Loaded { backend: &id, load_ns });
                Ok(true)
            }
            Err((kind, message)) => {
                self.fail(at, None, block, Stage::Load, kind, &message, observer);
                self.stable.break_lane(at, kind, message, &mut self.manifest);
                Ok(false)
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one failure is that many facts")]
    fn fail(
        &mut self,
        backend: usize,
        cell: Option<usize>,
        block: Option<u32>,
        stage: Stage,
        error_kind: ErrorKind,
        message: &str,
        observer: &mut dyn Observer,
    ) {
        let backend = self.plan().backends[backend].clone();
        observer.progress(&Progress::Failed { backend: &backend, stage, message });
        self.failures += 1;
        self.pending.push(Record::Failure(FailureRecord {
            schema: crate::record::EVENT_SCHEMA.to_owned(),
            run_id: self.manifest.run_id.clone(),
            backend,
            cell: cell.map(|c| self.plan().cells[c].id()),
            block,
            segment: self.segment(),
            stage,
            error_kind,
            message: message.to_owned(),
        }));
    }

    /// Runs one block and puts it on the disk. `false` when cancelled: nothing of it is kept.
    fn block(
        &mut self,
        (number, first, started): (usize, usize, Timestamp),
        observer: &mut dyn Observer,
        cancel: &AtomicBool,
    ) -> Result<bool, ScenarioError> {
        let plan = Arc::new(self.plan().clone());
        let (block, blocks) = (&plan.blocks[number], plan.blocks.len());
        observer.progress(&Progress::BlockStart { block: number, blocks, scenario: &block.scenario });
        let known = self.manifest.boundaries.len();
        let before = self.probe.read();
        let start = self.clock.now();
        let mut previous = None;
        for (n, task) in block.tasks.iter().enumerate() {
            let done: usize = plan.blocks[..number].iter().map(|b| b.tasks.len()).sum::<usize>() + n;
            observer.progress(&Progress::Visit {
                backend: &plan.backends[task.backend],
                cell: &plan.cells[task.cell].id(),
                done,
                total: plan.blocks.iter().map(|b| b.tasks.len()).sum(),
                remaining: remaining(&plan, (first, number, n), self.clock.now().since(started)),
            });
            if previous != Some(task.backend) && plan.residency == Residency::One {
                self.stable.drop_all();
            }
            let visit = Visit {
                plan: &plan,
                run_id: &self.manifest.run_id.clone(),
                cell: task.cell,
                block: u32::try_from(number).unwrap_or(u32::MAX),
                repetition: block.repetition,
                segment: self.segment(),
                switched: previous != Some(task.backend),
            };
            if !self.visit(task.backend, visit, observer, cancel)? {
                return Ok(false);
            }
            previous = Some(task.backend);
        }
        if plan.residency == Residency::One {
            self.stable.drop_all();
        }
        let end = self.clock.now();
        let after = self.probe.read();
        let other_load_fraction = before.zip(after).and_then(|(a, b)| b.other_load_since(a));
        if self.manifest.boundaries.len() != known {
            self.dir.write_json(MANIFEST, &self.manifest)?;
        }
        let end = BlockEnd { segment: self.segment(), start_ns: start.as_nanos(), end_ns: end.as_nanos(), other_load_fraction };
        self.dir.append_block(&self.manifest.run_id, end, &self.pending)?;
        self.pending.clear();
        observer.progress(&Progress::BlockEnd { block: number, blocks, other_load_fraction });
        Ok(true)
    }
}
