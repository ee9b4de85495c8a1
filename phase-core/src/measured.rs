//! The one place where phases are timed.

use crate::{
    BackendId, CacheSpec, Capabilities, Clock, Decode, EventSink, Evidence, Includes, KvCache, Logits, MeasurementBoundary, Model,
    ModelInfo, Outcome, Phase, PhaseError, PhaseEvent, PhaseTypes, Prefill, PromptBatch, Regime, SessionId, Shape, Span, Timestamp,
    TokenId,
};
use std::{sync::Arc, time::Duration};

/// Wraps a model and records every phase call: one event per call, failed ones too.
///
/// **Timing model:** an event's duration is `clock(after the call) - clock(before the call)` and nothing else; the
/// bookkeeping is outside.
///
/// ```
/// use phase_core::{sim::Sim, *};
/// use std::sync::Arc;
/// let sink = Arc::new(RingSink::new(16));
/// let model = Sim::default().load(&LoadSpec::new("none"))?;
/// let mut model = Measured::new(model, MonotonicClock::new(), sink.clone());
/// let mut cache = model.allocate(CacheSpec { batch: 1, capacity: 8 })?;
/// let mut logits = Logits::new();
/// model.prefill(&mut cache, PromptBatch::single(&[TokenId(1), TokenId(2)])?, &mut logits)?;
/// model.decode(&mut cache, &logits.argmax(), &mut logits)?;
/// assert_eq!(sink.drain().len(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Measured<M, C, S> {
    model: M,
    clock: C,
    sink: S,
    backend: BackendId,
    scores: Arc<MeasurementBoundary>,
    greedy: Arc<MeasurementBoundary>,
    request: Arc<MeasurementBoundary>,
    next_session: u64,
    warmup: Warmup,
}

/// Counts calls per phase until the path counts as warm. A call that failed may have ended before any work: it warms nothing.
#[derive(Debug)]
struct Warmup {
    calls: u32,
    seen: [u32; 2],
    forced: Option<Regime>,
}

impl Warmup {
    fn regime(&self, phase: Phase) -> Regime {
        if let Some(regime) = self.forced {
            return regime;
        }
        let seen = match phase {
            Phase::Prefill => self.seen[0],
            Phase::Decode => self.seen[1],
            Phase::Request => self.seen[0].saturating_sub(1),
        };
        match seen {
            0 => Regime::Cold,
            n if n <= self.calls => Regime::Warmup(n),
            _ => Regime::Steady,
        }
    }

    fn count(&mut self, phase: Phase) {
        match phase {
            Phase::Prefill => self.seen[0] = self.seen[0].saturating_add(1),
            Phase::Decode => self.seen[1] = self.seen[1].saturating_add(1),
            Phase::Request => {}
        }
    }
}

/// A model's cache together with who it is and how far it got.
#[derive(Debug)]
pub struct Tracked<K> {
    inner: K,
    session: SessionId,
    step: u32,
}

impl<K> Tracked<K> {
    /// Names this cache in events.
    pub fn session(&self) -> SessionId {
        self.session
    }
}

#[deny(clippy::missing_trait_methods)]
impl<K: KvCache> KvCache for Tracked<K> {
    fn batch(&self) -> usize {
        self.inner.batch()
    }

    fn len(&self) -> usize {
        self.inner.len()
    }

    fn capacity(&self) -> usize {
        self.inner.capacity()
    }

    fn truncate(&mut self, len: usize) {
        self.inner.truncate(len);
    }

    fn is_empty(&self) -> bool {
        self.inner.is_empty()
    }
}

impl<M: Model, C: Clock, S: EventSink> Measured<M, C, S> {
    /// Calls after the cold one that count as warm-up unless [`with_warmup`](Self::with_warmup) says otherwise.
    pub const DEFAULT_WARMUP_CALLS: u32 = 2;

    /// Records `model`'s calls in `sink` with the times of `clock`, under a boundary of the model's own stack and this
    /// machine's facts.
    pub fn new(model: M, clock: C, sink: S) -> Self {
        let stack = crate::machine().merged(&model.info().stack);
        let backend = model.info().backend.clone();
        let scores = MeasurementBoundary::call(stack);
        let sampled = scores.includes | Includes::SAMPLE;
        Self {
            model,
            clock,
            sink,
            backend,
            greedy: Arc::new(scores.clone().with_region(Span::Call, sampled)),
            request: Arc::new(scores.clone().with_region(Span::Request, sampled)),
            scores: Arc::new(scores),
            next_session: 0,
            warmup: Warmup { calls: Self::DEFAULT_WARMUP_CALLS, seen: [0; 2], forced: None },
        }
    }

    /// Counts `calls` calls of each phase after the cold one as warm-up. Calls that fail are not counted.
    #[must_use]
    pub fn with_warmup(mut self, calls: u32) -> Self {
        self.warmup.calls = calls;
        self
    }

    /// From now on records `regime`; with `None` goes back to counting calls.
    pub fn force_regime(&mut self, regime: Option<Regime>) {
        self.warmup.forced = regime;
    }

    /// The boundary of calls that return logits.
    pub fn boundary(&self) -> &Arc<MeasurementBoundary> {
        &self.scores
    }

    /// The boundary of the greedy calls.
    pub fn greedy_boundary(&self) -> &Arc<MeasurementBoundary> {
        &self.greedy
    }

    /// The boundary of requests.
    pub fn request_boundary(&self) -> &Arc<MeasurementBoundary> {
        &self.request
    }

    /// The clock the events are on.
    pub fn clock(&self) -> &C {
        &self.clock
    }

    /// The model inside: calls on it are not recorded.
    pub fn into_inner(self) -> M {
        self.model
    }

    pub(crate) fn record_request(&self, session: SessionId, step: u32, shape: Shape, start: Timestamp, outcome: Outcome) {
        let end = self.clock.now();
        self.sink.record(&PhaseEvent {
            backend: self.backend.clone(),
            session,
            phase: Phase::Request,
            step,
            regime: self.warmup.regime(Phase::Request),
            shape,
            start,
            end,
            device_time: None,
            outcome,
            boundary: self.request.clone(),
        });
    }

    #[inline]
    fn timed(
        &mut self,
        cache: &mut Tracked<M::Cache>,
        phase: Phase,
        new_tokens: usize,
        greedy: bool,
        call: impl FnOnce(&mut M, &mut M::Cache) -> Result<(), M::Error>,
    ) -> Result<(), M::Error> {
        let shape = Shape { batch: cache.batch(), new_tokens, context: cache.len() };
        let regime = self.warmup.regime(phase);
        let start = self.clock.now();
        let result = call(&mut self.model, &mut cache.inner);
        let end = self.clock.now();
        self.sink.record(&PhaseEvent {
            backend: self.backend.clone(),
            session: cache.session,
            phase,
            step: cache.step,
            regime,
            shape,
            start,
            end,
            // After a failure the model may still tell the time of the call before.
            device_time: result.is_ok().then(|| self.model.device_time()).flatten(),
            outcome: result.as_ref().map_or_else(|e| Outcome::Failed(e.kind()), |()| Outcome::Ok),
            boundary: if greedy { self.greedy.clone() } else { self.scores.clone() },
        });
        cache.step = cache.step.saturating_add(1);
        if result.is_ok() {
            self.warmup.count(phase);
        }
        result
    }
}

impl<M: Model, C, S> PhaseTypes for Measured<M, C, S> {
    type Cache = Tracked<M::Cache>;
    type Error = M::Error;
}

#[deny(clippy::missing_trait_methods)]
impl<M: Model, C: Clock, S: EventSink> Prefill for Measured<M, C, S> {
    fn prefill(&mut self, cache: &mut Self::Cache, prompt: PromptBatch<'_>, out: &mut Logits) -> Result<(), M::Error> {
        self.timed(cache, Phase::Prefill, prompt.len(), false, |m, c| m.prefill(c, prompt, out))
    }

    fn prefill_greedy(&mut self, cache: &mut Self::Cache, prompt: PromptBatch<'_>, out: &mut [TokenId]) -> Result<(), M::Error> {
        self.timed(cache, Phase::Prefill, prompt.len(), true, |m, c| m.prefill_greedy(c, prompt, out))
    }
}

#[deny(clippy::missing_trait_methods)]
impl<M: Model, C: Clock, S: EventSink> Decode for Measured<M, C, S> {
    fn decode(&mut self, cache: &mut Self::Cache, tokens: &[TokenId], out: &mut Logits) -> Result<(), M::Error> {
        self.timed(cache, Phase::Decode, 1, false, |m, c| m.decode(c, tokens, out))
    }

    fn decode_greedy(&mut self, cache: &mut Self::Cache, tokens: &[TokenId], out: &mut [TokenId]) -> Result<(), M::Error> {
        self.timed(cache, Phase::Decode, 1, true, |m, c| m.decode_greedy(c, tokens, out))
    }

    fn decode_run(&mut self, cache: &mut Self::Cache, tokens: &[TokenId], out: &mut [TokenId]) -> Result<(), M::Error> {
        let steps = out.len() / tokens.len().max(1);
        self.timed(cache, Phase::Decode, steps, true, |m, c| m.decode_run(c, tokens, out))
    }
}

#[deny(clippy::missing_trait_methods)]
impl<M: Model, C: Clock + std::fmt::Debug, S: EventSink + std::fmt::Debug> Model for Measured<M, C, S> {
    fn info(&self) -> &ModelInfo {
        self.model.info()
    }

    fn capabilities(&self) -> &Capabilities {
        self.model.capabilities()
    }

    fn allocate(&mut self, spec: CacheSpec) -> Result<Self::Cache, M::Error> {
        let inner = self.model.allocate(spec)?;
        self.next_session += 1;
        Ok(Tracked { inner, session: SessionId(self.next_session), step: 0 })
    }

    fn evidence(&mut self) -> Result<Evidence, M::Error> {
        self.model.evidence()
    }

    fn device_time(&self) -> Option<Duration> {
        self.model.device_time()
    }

    fn device_steps(&self) -> &[Duration] {
        self.model.device_steps()
    }
}

#[cfg(test)]
mod tests {
    use crate::{sim::Sim, *};
    use std::{sync::Arc, time::Duration};

    #[test]
    fn a_failed_call_leaves_an_event_and_later_calls_are_timed_apart() {
        let sink = Arc::new(RingSink::new(8));
        let clock = ManualClock::ticking(Duration::from_nanos(5));
        let mut model = Measured::new(Sim::default().load(&LoadSpec::new("none")).unwrap(), clock, sink.clone()).with_warmup(1);
        let mut cache = model.allocate(CacheSpec { batch: 1, capacity: 4 }).unwrap();
        let mut out = Logits::new();
        let prompt = [TokenId(1), TokenId(2)];
        model.prefill(&mut cache, PromptBatch::single(&prompt).unwrap(), &mut out).unwrap();
        for _ in 0..2 {
            model.decode(&mut cache, &[TokenId(3)], &mut out).unwrap();
        }
        model.decode(&mut cache, &[TokenId(3)], &mut out).unwrap_err();
        let events = sink.drain();
        assert_eq!(events.len(), 4);
        assert_eq!(events[3].outcome, Outcome::Failed(ErrorKind::ContextOverflow));
        assert_eq!(events.iter().map(|e| e.regime).collect::<Vec<_>>(), [Regime::Cold, Regime::Cold, Regime::Warmup(1), Regime::Steady]);
        assert_eq!(events[1].shape, Shape { batch: 1, new_tokens: 1, context: 2 });
        assert!(events.iter().all(|e| e.duration() == Duration::from_nanos(5)));
    }

    #[test]
    fn a_refused_call_is_not_the_cold_one() {
        let sink = Arc::new(RingSink::new(8));
        let mut model = Measured::new(Sim::default().load(&LoadSpec::new("none")).unwrap(), ManualClock::default(), sink.clone());
        let mut cache = model.allocate(CacheSpec { batch: 1, capacity: 4 }).unwrap();
        model.decode(&mut cache, &[TokenId(u32::MAX)], &mut Logits::new()).unwrap_err();
        model.decode(&mut cache, &[TokenId(1)], &mut Logits::new()).unwrap();
        model.decode(&mut cache, &[TokenId(2)], &mut Logits::new()).unwrap();
        assert_eq!(sink.drain().iter().map(|e| e.regime).collect::<Vec<_>>(), [Regime::Cold, Regime::Cold, Regime::Warmup(1)]);
    }

    #[test]
    fn greedy_calls_have_a_boundary_of_their_own() {
        let sink = Arc::new(RingSink::new(8));
        let mut model = Measured::new(Sim::default().load(&LoadSpec::new("none")).unwrap(), ManualClock::default(), sink.clone());
        let mut cache = model.allocate(CacheSpec { batch: 1, capacity: 4 }).unwrap();
        let mut token = [TokenId(0)];
        model.prefill_greedy(&mut cache, PromptBatch::single(&[TokenId(1)]).unwrap(), &mut token).unwrap();
        let event = &sink.drain()[0];
        assert!(event.boundary.comparable(model.boundary()).is_err());
    }
}
