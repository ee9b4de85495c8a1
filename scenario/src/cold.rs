//! Cold starts: a process that loads, prefills and decodes for the first time, and nothing else.
//!
//! The model's files are as a rule in the page cache: what is cold is the process, not the disk.

use phase_core::{
    Arm, CacheSpec, Clock, DType, Decode as _, ErrorKind, Evidence, LoadSpec, Logits, Measured, MeasurementBoundary, Model as _,
    MonotonicClock, PhaseError as _, Prefill as _, PromptBatch, Registry, RingSink, TokenId,
};
use phase_policy::Observation;
use serde::{Deserialize, Serialize};
use std::{
    ffi::OsString,
    fmt,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
};

use crate::{
    Calls,
    clock::SharedClock,
    random::{Random, tokens},
};

/// What a fresh process is asked to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ColdRequest {
    /// The path to load.
    pub backend: Arm,
    /// How to load it.
    pub load: StoredLoad,
    /// Which calls to make.
    pub calls: Calls,
    /// Sequences.
    pub batch: usize,
    /// Prompt tokens per sequence.
    pub prompt_tokens: usize,
    /// Decode steps.
    pub decode_steps: usize,
    /// Prompts follow from it.
    pub seed: u64,
    /// Names the stream of random numbers.
    pub stream: String,
}

/// A [`LoadSpec`] that can be stored and handed to another process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StoredLoad {
    /// The checkpoint.
    pub path: PathBuf,
    /// Number format of the weights.
    pub dtype: DType,
    /// Most rows in one cache.
    pub max_batch: usize,
    /// Host threads.
    pub threads: Option<usize>,
    /// Where derived files are kept.
    pub cache_dir: Option<PathBuf>,
}

impl From<&LoadSpec> for StoredLoad {
    fn from(spec: &LoadSpec) -> Self {
        let LoadSpec { path, dtype, max_batch, threads, cache_dir, .. } = spec.clone();
        Self { path, dtype, max_batch, threads, cache_dir }
    }
}

impl From<&StoredLoad> for LoadSpec {
    fn from(stored: &StoredLoad) -> Self {
        let mut spec = Self::new(&stored.path).with_dtype(stored.dtype).with_max_batch(stored.max_batch);
        spec.threads = stored.threads;
        spec.cache_dir.clone_from(&stored.cache_dir);
        spec
    }
}

/// What a fresh process saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ColdReport {
    /// Wall time of the load call.
    pub load_ns: u64,
    /// Wall time of the whole process, start to exit; filled in by the launcher.
    #[serde(default)]
    pub process_ns: Option<u64>,
    /// The calls in order: one prefill, then the decode steps.
    pub calls: Vec<ColdCall>,
    /// The boundary they hold under.
    pub boundary: MeasurementBoundary,
    /// What was seen while they ran.
    pub evidence: Evidence,
}

/// One call of a fresh process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ColdCall {
    /// Just before it, since the process read its clock first.
    pub start_ns: u64,
    /// Just after it.
    pub end_ns: u64,
    /// What the statistics read; block and boundary are set by the runner.
    #[serde(flatten)]
    pub seen: Observation,
}

/// A cold start that gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ColdError {
    /// The class of the failure.
    pub kind: ErrorKind,
    /// In words.
    pub message: String,
}

impl ColdError {
    /// A failure of a class, in words.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

impl fmt::Display for ColdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ColdError {}

/// Starts fresh processes.
pub trait ColdLauncher: fmt::Debug {
    /// Has a fresh process do what is asked.
    ///
    /// # Errors
    /// When the process can't be started, fails, or says something else.
    fn launch(&mut self, request: &ColdRequest) -> Result<ColdReport, ColdError>;
}

/// Runs a program with the request as its last argument (JSON) and takes the last line of its output as the report
/// (JSON).
#[derive(Debug)]
pub struct CommandLauncher {
    program: PathBuf,
    arguments: Vec<OsString>,
    clock: MonotonicClock,
}

impl CommandLauncher {
    /// `program arguments.. <request>`.
    pub fn new(program: impl Into<PathBuf>, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self { program: program.into(), arguments: arguments.into_iter().map(Into::into).collect(), clock: MonotonicClock::new() }
    }
}

impl<L: ColdLauncher + ?Sized> ColdLauncher for Box<L> {
    fn launch(&mut self, request: &ColdRequest) -> Result<ColdReport, ColdError> {
        (**self).launch(request)
    }
}

impl ColdLauncher for CommandLauncher {
    fn launch(&mut self, request: &ColdRequest) -> Result<ColdReport, ColdError> {
        let fail = |message: String| ColdError::new(ErrorKind::Other, message);
        let argument = serde_json::to_string(request).map_err(|e| fail(e.to_string()))?;
        let start = self.clock.now();
        let output = Command::new(&self.program)
            .args(&self.arguments)
            .arg(argument)
            .stdin(Stdio::null())
            .output()
            .map_err(|e| fail(format!("could not start {}: {e}", self.program.display())))?;
        let elapsed = self.clock.now().since(start);
        let last = |bytes: &[u8]| String::from_utf8_lossy(bytes).lines().rfind(|l| !l.trim().is_empty()).unwrap_or("").to_owned();
        if !output.status.success() {
            return Err(fail(format!("the fresh process ended with {}: {}", output.status, last(&output.stderr))));
        }
        let line = last(&output.stdout);
        let mut report: ColdReport = serde_json::from_str(&line).map_err(|e| fail(format!("the fresh process said `{line}`: {e}")))?;
        report.process_ns = u64::try_from(elapsed.as_nanos()).ok();
        Ok(report)
    }
}

/// What the fresh process does: load, one prefill, the decode steps. The first call of each phase is
/// [`Cold`](phase_core::Regime::Cold).
///
/// # Errors
/// The backend's own failure, with its kind.
pub fn cold_start(registry: &Registry, request: &ColdRequest, clock: Arc<dyn Clock>) -> Result<ColdReport, ColdError> {
    let clock = SharedClock(clock);
    let backend = registry.get(&request.backend.to_string()).map_err(|e| ColdError::new(ErrorKind::Unavailable, e.to_string()))?;
    let origin = clock.now();
    let model = backend.load_dyn(&LoadSpec::from(&request.load)).map_err(|e| ColdError::new(e.kind(), e.to_string()))?;
    let load_ns = nanos(clock.now().since(origin));
    let sink = Arc::new(RingSink::new(request.decode_steps + 1));
    // No call of a fresh process is steady, however many there are.
    let mut model = Measured::new(model, clock, sink.clone()).with_warmup(u32::MAX);
    let boundary = match request.calls {
        Calls::Scores => model.boundary(),
        Calls::Greedy => model.greedy_boundary(),
    };
    let boundary = MeasurementBoundary::clone(boundary);
    let run = |model: &mut Measured<phase_core::BoxModel, SharedClock, Arc<RingSink>>| {
        let capacity = request.prompt_tokens + request.decode_steps;
        let mut cache = model.allocate(CacheSpec { batch: request.batch, capacity })?;
        let vocab = model.info().vocab;
        let mut random = Random::new(request.seed, &request.stream);
        let prompt = tokens(&mut random, request.batch * request.prompt_tokens, vocab, &[]);
        let prompt = PromptBatch::new(&prompt, request.batch).map_err(|e| phase_core::BoxError::new(request.backend.backend.clone(), e))?;
        let (mut logits, mut picked) = (Logits::new(), vec![TokenId(0); request.batch]);
        match request.calls {
            Calls::Scores => model.prefill(&mut cache, prompt, &mut logits)?,
            Calls::Greedy => model.prefill_greedy(&mut cache, prompt, &mut picked)?,
        }
        for _ in 0..request.decode_steps {
            let step = tokens(&mut random, request.batch, vocab, &[]);
            match request.calls {
                Calls::Scores => model.decode(&mut cache, &step, &mut logits)?,
                Calls::Greedy => model.decode_greedy(&mut cache, &step, &mut picked)?,
            }
        }
        drop(cache);
        model.evidence()
    };
    let evidence = run(&mut model).map_err(|e| ColdError::new(e.kind(), e.to_string()))?;
    let events = sink.drain();
    let calls = events.iter().map(|event| ColdCall {
        start_ns: nanos(event.start.since(origin)),
        end_ns: nanos(event.end.since(origin)),
        seen: Observation::from_event(event, "", 0).with_mode(request.backend.mode.as_str()),
    });
    Ok(ColdReport { load_ns, process_ns: None, calls: calls.collect(), boundary, evidence })
}

pub(crate) fn nanos(d: std::time::Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}
