//! Time since idle: a loaded, warmed model stands idle for increasing times, and the next call is timed. Gives samples for
//! [`IdleCurve::fit`](phase_policy::IdleCurve::fit); writes nothing.

use crate::{
    Calls, ScenarioError,
    clock::SharedClock,
    cold::nanos,
    files::json_text,
    random::{Random, tokens},
};
use phase_core::{
    Arm, BoxError, BoxModel, CacheSpec, Clock, Decode as _, KvCache as _, Logits, Measured, MeasurementBoundary, Model as _, Prefill as _,
    PromptBatch, RingSink, TokenId,
};
use phase_policy::{IdleCurve, IdleError, IdleSample, constants::Constants};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};

/// Schema of an idle file.
pub const IDLE_SCHEMA: &str = "phase.idle/1";

/// What is measured, and how long the model stands idle before it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IdlePlan {
    /// Sequences.
    pub batch: usize,
    /// Prompt tokens of each; decode steps are timed right after such a prompt.
    pub prompt_tokens: usize,
    /// Idle times. The shortest one is what the others are held against.
    pub idle: Vec<Duration>,
    /// How often each is measured, in an order drawn anew each time.
    pub passes: u32,
    /// Unrecorded calls of each phase before the first pass, and one before each idle time.
    pub warmup: u32,
    /// Which calls are timed: those of the runs that the curves belong to.
    pub calls: Calls,
    /// The orders and the tokens follow from it.
    pub seed: u64,
}

impl IdlePlan {
    /// A look at a few seconds a backend: 0 to 1 s, five passes.
    pub fn short() -> Self {
        Self::of([0, 10, 100, 1_000])
    }

    /// What a service sees between requests: 0 to 60 s, five passes, about 13 minutes a backend.
    pub fn full() -> Self {
        Self::of([0, 10, 100, 1_000, 5_000, 15_000, 60_000])
    }

    fn of<const N: usize>(idle_ms: [u64; N]) -> Self {
        let idle = idle_ms.map(Duration::from_millis).into();
        Self { batch: 1, prompt_tokens: 32, idle, passes: 5, warmup: 5, calls: Calls::Scores, seed: 1 }
    }

    /// How long it takes at least: the idle times themselves, twice, because both phases are timed.
    pub fn at_least(&self) -> Duration {
        self.idle.iter().sum::<Duration>().saturating_mul(2 * self.passes)
    }
}

/// An idle file: what was seen of each backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct IdleFile {
    /// [`IDLE_SCHEMA`].
    pub schema: String,
    /// One report a backend.
    pub reports: Vec<IdleReport>,
}

impl IdleFile {
    /// A file of these reports.
    pub fn new(reports: Vec<IdleReport>) -> Self {
        Self { schema: IDLE_SCHEMA.to_owned(), reports }
    }

    /// The document.
    ///
    /// # Errors
    /// None that a report of [`measure_idle`] gives rise to.
    pub fn to_json(&self) -> Result<String, ScenarioError> {
        json_text(self)
    }

    /// Reads a file; `name` stands for it in errors.
    ///
    /// # Errors
    /// Another schema, or not such a file.
    pub fn from_json(name: &str, json: &str) -> Result<Self, ScenarioError> {
        let wrong = |e: serde_json::Error| ScenarioError::damaged(name, None, e.to_string());
        let value: serde_json::Value = serde_json::from_str(json).map_err(wrong)?;
        match value.get("schema").and_then(|s| s.as_str()) {
            Some(IDLE_SCHEMA) => serde_json::from_value(value).map_err(wrong),
            found => {
                let found = found.unwrap_or("none").to_owned();
                Err(ScenarioError::Schema { file: name.to_owned(), found, wanted: IDLE_SCHEMA })
            }
        }
    }

    /// The curves of all backends.
    ///
    /// # Errors
    /// Samples that make no curve.
    pub fn curves(&self, constants: &Constants) -> Result<Vec<IdleCurve>, IdleError> {
        let samples: Vec<_> = self.reports.iter().flat_map(|r| r.samples.iter().cloned()).collect();
        IdleCurve::fit(&samples, constants)
    }
}

/// What was seen of one backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct IdleReport {
    /// The path.
    pub backend: Arm,
    /// Names the boundary.
    pub boundary_id: String,
    /// The conditions that the times hold under.
    pub boundary: MeasurementBoundary,
    /// The calls, in the order they were made.
    pub samples: Vec<IdleSample>,
}

/// Times the calls of `plan` on a loaded model. `wait` lets the time pass: a sleep, which a test replaces. The times themselves,
/// idle ones too, are read off `clock`.
///
/// # Errors
/// [`ScenarioError::Call`] for the first call that fails, [`ScenarioError::Plan`] for a plan without a prompt, a row, a pass or
/// two idle times.
pub fn measure_idle(
    backend: &Arm,
    model: BoxModel,
    plan: &IdlePlan,
    clock: Arc<dyn Clock>,
    wait: &mut dyn FnMut(Duration),
) -> Result<IdleReport, ScenarioError> {
    let IdlePlan { batch, prompt_tokens, ref idle, passes, warmup, calls, seed } = *plan;
    if batch == 0 || prompt_tokens == 0 || idle.len() < 2 || passes == 0 {
        return Err(ScenarioError::plan("an idle measurement takes a prompt, a row, a pass and two idle times"));
    }
    let failed = |source: BoxError| ScenarioError::Call { backend: backend.clone(), source };
    let sink = Arc::new(RingSink::new(64));
    let mut model = Measured::new(model, SharedClock(clock), Arc::clone(&sink));
    let boundary = match calls {
        Calls::Scores => Arc::clone(model.boundary()),
        Calls::Greedy => Arc::clone(model.greedy_boundary()),
    };
    let id = boundary.id();
    let mut random = Random::new(seed, &format!("idle {backend}"));
    let prompt = tokens(&mut random, batch * prompt_tokens, model.info().vocab, &[]);
    let step = tokens(&mut random, batch, model.info().vocab, &[]);
    let mut cache = model.allocate(CacheSpec { batch, capacity: prompt_tokens + 1 }).map_err(failed)?;
    let (mut logits, mut picked) = (Logits::new(), vec![TokenId(0); batch]);
    let mut call = |phase: Timed| -> Result<(), BoxError> {
        let prompt = PromptBatch::new(&prompt, batch).map_err(|e| BoxError::new(backend.backend.clone(), e))?;
        cache.truncate(if phase == Timed::Prefill { 0 } else { prompt_tokens });
        match (phase, calls) {
            (Timed::Prefill, Calls::Scores) => model.prefill(&mut cache, prompt, &mut logits),
            (Timed::Prefill, Calls::Greedy) => model.prefill_greedy(&mut cache, prompt, &mut picked),
            (Timed::Decode, Calls::Scores) => model.decode(&mut cache, &step, &mut logits),
            (Timed::Decode, Calls::Greedy) => model.decode_greedy(&mut cache, &step, &mut picked),
        }
    };
    for phase in [Timed::Prefill, Timed::Decode] {
        (0..warmup.max(1)).try_for_each(|_| call(phase)).map_err(failed)?;
    }
    let mut samples = Vec::new();
    for pass in 0..passes {
        let mut order: Vec<_> = idle.iter().flat_map(|idle| [Timed::Prefill, Timed::Decode].map(|phase| (*idle, phase))).collect();
        random.shuffle(&mut order);
        for (asked, phase) in order {
            // A decode step needs a prompt in the cache, and both need a path that is warm when it begins to rest.
            call(Timed::Prefill).and_then(|()| call(phase)).map_err(failed)?;
            if !asked.is_zero() {
                wait(asked);
            }
            call(phase).map_err(failed)?;
            let events = sink.drain();
            let [.., before, timed] = events.as_slice() else { continue };
            samples.push(
                IdleSample::new(
                    backend.backend.clone(),
                    timed.phase,
                    timed.shape,
                    nanos(timed.start.since(before.end)),
                    nanos(timed.duration()),
                )
                .with_mode(backend.mode.as_str())
                .with_boundary(id.as_str())
                .with_asked_ns(nanos(asked))
                .with_block(pass),
            );
        }
    }
    Ok(IdleReport { backend: backend.clone(), boundary_id: id, boundary: (*boundary).clone(), samples })
}

#[derive(Clone, Copy, PartialEq)]
enum Timed {
    Prefill,
    Decode,
}
