//! Everything that is exported, and what an application tells it.

use crate::{
    TextFormat,
    render::render,
    series::{Series, phase_at},
    sink::MetricsSink,
    state::{Seen, State},
};
use phase_core::{Clock, Energy, Evidence, MeasurementBoundary, Outcome, Phase};
use phase_policy::{Cell, Changes, Decision, LedgerSnapshot, Limits, Observation, Policy, Validity, cost::PerMillion};
use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Collects what happens and gives it out as text. Clones are the same exporter.
///
/// ```
/// use phase_core::{Backend, GenerateOptions, Greedy, LoadSpec, Measured, MonotonicClock, Session, TokenId, sim::Sim};
/// use phase_metrics::{Exporter, TextFormat};
/// let clock = std::sync::Arc::new(MonotonicClock::new());
/// let exporter = Exporter::new(clock.clone()).with_model("sim");
/// let mut model = Measured::new(Sim::default().load(&LoadSpec::new("none"))?, clock, exporter.sink());
/// let mut session = Session::new(&mut model, 32)?;
/// session.generate(&[TokenId(1)], GenerateOptions::new(4), Greedy)?.collect::<Result<Vec<_>, _>>()?;
/// let text = exporter.render(TextFormat::Prometheus);
/// assert!(text.contains("gen_ai_server_time_to_first_token_seconds_count{"), "{text}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Exporter {
    inner: Arc<Inner>,
    model: Arc<str>,
}

/// Backends that have series of their own.
pub(crate) const MOST_BACKENDS: usize = 32;
/// Values of the label of [`DECISION_LIMITS`](crate::table::DECISION_LIMITS).
pub(crate) const LIMITS: [&str; 5] = ["kept", "missed", "not_known", "unset", "other"];

pub(crate) struct Inner {
    clock: Box<dyn Clock>,
    backends: Mutex<Vec<Arc<Series>>>,
    unlisted: AtomicU64,
    limits: [AtomicU64; LIMITS.len()],
    state: Mutex<State>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("backends", &self.backends().len()).finish_non_exhaustive()
    }
}

impl Inner {
    /// The series of a backend; `None` beyond [`MOST_BACKENDS`].
    pub(crate) fn series(&self, name: &str) -> Option<Arc<Series>> {
        let mut backends = self.backends.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = backends.iter().find(|s| s.name == name) {
            return Some(series.clone());
        }
        if backends.len() == MOST_BACKENDS {
            return None;
        }
        let series = Arc::new(Series::new(name));
        backends.push(series.clone());
        Some(series)
    }

    pub(crate) fn unlisted(&self) {
        self.unlisted.fetch_add(1, Relaxed);
    }

    /// All series, in a fixed order.
    pub(crate) fn backends(&self) -> Vec<Arc<Series>> {
        let mut all = self.backends.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    pub(crate) fn unlisted_count(&self) -> u64 {
        self.unlisted.load(Relaxed)
    }

    pub(crate) fn limits(&self) -> impl Iterator<Item = (&'static str, u64)> {
        LIMITS.into_iter().zip(self.limits.iter().map(|c| c.load(Relaxed)))
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.clock.now().as_nanos()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is one assignment or one insertion.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Exporter {
    /// Nothing yet. `clock` must be the one that the models are measured with: idle ages are differences of its times.
    pub fn new(clock: impl Clock + 'static) -> Self {
        Self {
            inner: Arc::new(Inner {
                clock: Box::new(clock),
                backends: Mutex::default(),
                unlisted: AtomicU64::new(0),
                limits: std::array::from_fn(|_| AtomicU64::new(0)),
                state: Mutex::default(),
            }),
            model: Arc::from("unknown"),
        }
    }

    /// Names the model in the metrics that OpenTelemetry defines (`gen_ai.request.model`).
    #[must_use]
    pub fn with_model(mut self, model: &str) -> Self {
        self.model = Arc::from(model);
        self
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.inner.clock
    }

    /// A sink for the events of one [`Measured`](phase_core::Measured).
    pub fn sink(&self) -> MetricsSink {
        MetricsSink::new(self.inner.clone())
    }

    /// A model was loaded.
    pub fn record_load(&self, backend: &str, took: Duration) {
        match self.inner.series(backend) {
            None => self.inner.unlisted(),
            Some(series) => {
                series.loads.fetch_add(1, Relaxed);
                series.load_ns.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
            }
        }
    }

    /// What is known of the energy of one event.
    pub fn record_energy(&self, backend: &str, phase: Phase, energy: &Energy) {
        match (self.inner.series(backend), phase_at(phase)) {
            (Some(series), Some(phase)) => series.energy[phase].add(energy),
            _ => self.inner.unlisted(),
        }
    }

    /// The router decided.
    pub fn record_decision(&self, decision: &Decision<'_>) {
        match self.inner.series(decision.route.backend.as_str()) {
            None => self.inner.unlisted(),
            Some(series) => series.decide(decision.class, decision.route.reason.as_str()),
        }
        let limits = match decision.limits {
            Limits::Kept => 0,
            Limits::Missed => 1,
            Limits::NotKnown => 2,
            Limits::Unset => 3,
            _ => LIMITS.len() - 1,
        };
        self.inner.limits[limits].fetch_add(1, Relaxed);
    }

    /// A call that was recorded earlier, as a run directory holds it. Its time is no time of this process: it does not change the
    /// idle age, and a request has no TTFT.
    pub fn replay(&self, seen: &Observation) {
        let name = match seen.mode.as_str() {
            phase_policy::DEFAULT_MODE => seen.backend.to_string(),
            mode => format!("{}@{mode}", seen.backend),
        };
        let (Some(series), Some(phase)) = (self.inner.series(&name), phase_at(seen.phase)) else {
            return self.inner.unlisted();
        };
        let tokens = u64::try_from(seen.shape.batch * seen.shape.new_tokens).unwrap_or(u64::MAX);
        match (seen.outcome, seen.phase) {
            (Outcome::Ok, Phase::Request) => series.request.record(seen.duration_ns),
            (Outcome::Ok, _) => series.call(phase, seen.regime, tokens, seen.duration_ns),
            (Outcome::Failed(kind), _) => series.fail(phase, kind),
            _ => {
                series.cancelled.fetch_add(1, Relaxed);
            }
        }
    }

    /// Under which boundary a backend's numbers hold.
    pub fn set_boundary(&self, backend: &str, boundary: &MeasurementBoundary) {
        self.inner.state().boundaries.insert((backend.to_owned(), boundary.id()));
    }

    /// What was seen of a loaded model.
    pub fn set_evidence(&self, backend: &str, evidence: &Evidence) {
        self.inner.state().evidence.insert(backend.to_owned(), Seen::of(evidence));
    }

    /// What tokens cost on a backend.
    pub fn set_cost(&self, backend: &str, cost: &PerMillion) {
        self.inner.state().costs.insert(backend.to_owned(), *cost);
    }

    /// Measured cells, in place of those before.
    pub fn set_cells(&self, cells: &[Cell]) {
        self.inner.state().cells = cells.to_vec();
    }

    /// The policy in use, and the boundaries it holds under. Whether it does is not known before
    /// [`set_validity`](Self::set_validity) or [`set_changes`](Self::set_changes); its cells are shown by
    /// [`set_cells`](Self::set_cells).
    pub fn set_policy(&self, policy: &Policy) {
        for backend in policy.backends() {
            if let Some(boundary) = policy.boundary(backend) {
                self.set_boundary(backend.as_str(), boundary);
            }
        }
        self.inner.state().set_policy(policy);
    }

    /// How the running process compares with the policy: [`Router::validity`](phase_policy::Router::validity).
    pub fn set_validity(&self, validity: &Validity) {
        self.inner.state().set_validity(validity);
    }

    /// The same without loaded models: [`Changes::of_probes`].
    pub fn set_changes(&self, policy: &Policy, changes: &Changes) {
        self.inner.state().set_changes(policy, changes);
    }

    /// What was predicted against what then happened, in place of what was said before: a worker's
    /// [`Ledger::snapshot`](phase_policy::Ledger::snapshot), or those of all workers merged.
    pub fn set_ledger(&self, ledger: &LedgerSnapshot) {
        self.inner.state().ledger = Some(ledger.clone());
    }

    /// Everything, as text.
    pub fn render(&self, format: TextFormat) -> String {
        render(&self.inner, &self.model, format)
    }
}
