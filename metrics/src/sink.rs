//! The sink of one measured model: counts calls, and puts requests together from them.

use crate::{
    exporter::Inner,
    series::{Series, phase_at},
};
use phase_core::{EventSink, Outcome, Phase, PhaseEvent};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, atomic::Ordering::Relaxed};

/// Takes the events of one [`Measured`](phase_core::Measured): session numbers are unique in one of those only, so each has its own
/// sink. Made by [`Exporter::sink`](crate::Exporter::sink).
///
/// One event costs a few atomic additions and one lock that nobody else takes; nothing is allocated after the first event.
#[derive(Debug)]
pub struct MetricsSink {
    inner: Arc<Inner>,
    series: OnceLock<Option<Arc<Series>>>,
    conversations: Mutex<[Conversation; CONVERSATIONS]>,
}

/// Conversations of one model whose requests are put together at one time.
pub(crate) const CONVERSATIONS: usize = 64;

/// The calls of one cache since its last prefill.
#[derive(Clone, Copy, Debug, Default)]
struct Conversation {
    session: u64,
    /// End of the last prefill call, which gives the first token.
    first_end: u64,
    last_end: u64,
    tokens: u64,
}

impl MetricsSink {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self { inner, series: OnceLock::new(), conversations: Mutex::new([Conversation::default(); CONVERSATIONS]) }
    }

    fn request(&self, series: &Series, event: &PhaseEvent) {
        let (start, end) = (event.start.as_nanos(), event.end.as_nanos());
        series.request.record(end.saturating_sub(start));
        series.input_tokens.record(whole(event.shape.batch * event.shape.context));
        series.output_tokens.record(whole(event.shape.batch * event.shape.new_tokens));
        let known = *self.conversation(event.session.0);
        // Another conversation may have taken the place meanwhile.
        if known.session != event.session.0 || known.first_end < start || known.first_end > end {
            series.unmatched.fetch_add(1, Relaxed);
            return;
        }
        series.ttft.record(known.first_end - start);
        if known.tokens >= 2 {
            series.tpot.record((known.last_end - known.first_end) / (known.tokens - 1));
        }
    }

    fn conversation(&self, session: u64) -> ConversationGuard<'_> {
        // Nothing in here can be left half done by a panic elsewhere.
        let guard = self.conversations.lock().unwrap_or_else(PoisonError::into_inner);
        ConversationGuard { guard, at: usize::try_from(session).unwrap_or(usize::MAX) % CONVERSATIONS }
    }
}

struct ConversationGuard<'a> {
    guard: std::sync::MutexGuard<'a, [Conversation; CONVERSATIONS]>,
    at: usize,
}

impl std::ops::Deref for ConversationGuard<'_> {
    type Target = Conversation;

    fn deref(&self) -> &Conversation {
        &self.guard[self.at]
    }
}

impl std::ops::DerefMut for ConversationGuard<'_> {
    fn deref_mut(&mut self) -> &mut Conversation {
        &mut self.guard[self.at]
    }
}

fn whole(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

impl EventSink for MetricsSink {
    fn record(&self, event: &PhaseEvent) {
        let Some(phase) = phase_at(event.phase) else { return };
        let name = event.backend.as_str();
        let own = self.series.get_or_init(|| self.inner.series(name));
        // All events of a model name one backend; whoever feeds a sink by hand may name others.
        let other;
        let series = match own {
            Some(series) if series.name == name => series,
            _ => {
                other = self.inner.series(name);
                let Some(series) = &other else { return self.inner.unlisted() };
                series
            }
        };
        let end = event.end.as_nanos();
        series.ended(end);
        match event.outcome {
            Outcome::Ok => {}
            Outcome::Failed(kind) => return series.fail(phase, kind),
            _ => {
                series.cancelled.fetch_add(1, Relaxed);
                return;
            }
        }
        let tokens = whole(event.shape.batch * event.shape.new_tokens);
        match event.phase {
            Phase::Prefill => {
                series.call(phase, event.regime, tokens, end.saturating_sub(event.start.as_nanos()));
                *self.conversation(event.session.0) = Conversation { session: event.session.0, first_end: end, last_end: end, tokens: 1 };
            }
            Phase::Decode => {
                series.call(phase, event.regime, tokens, end.saturating_sub(event.start.as_nanos()));
                let mut known = self.conversation(event.session.0);
                if known.session == event.session.0 {
                    known.last_end = end;
                    known.tokens += whole(event.shape.new_tokens);
                }
            }
            _ => self.request(series, event),
        }
    }
}
