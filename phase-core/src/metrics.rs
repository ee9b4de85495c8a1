//! Derived numbers, each a function with its formula. All of them take events that went well.

use crate::{Phase, PhaseEvent, Timestamp};
use std::time::Duration;

/// Prompt tokens per second of one prefill: `batch * prompt tokens / duration`. `None` for a zero duration.
pub fn prefill_tokens_per_second(event: &PhaseEvent) -> Option<f64> {
    tokens_per_second(event, Phase::Prefill)
}

/// Tokens per second of one decode call, over all rows: `batch * steps / duration`, where a call is one step unless it is a
/// [run](crate::Decode::decode_run). `None` for a zero duration.
pub fn decode_tokens_per_second(event: &PhaseEvent) -> Option<f64> {
    tokens_per_second(event, Phase::Decode)
}

#[expect(clippy::cast_precision_loss, reason = "token counts are far below 2^52")]
fn tokens_per_second(event: &PhaseEvent, phase: Phase) -> Option<f64> {
    let seconds = event.duration().as_secs_f64();
    (event.phase == phase && seconds > 0.0).then(|| (event.shape.batch * event.shape.new_tokens) as f64 / seconds)
}

/// Time to first token: `end of the last prefill call - request start`. With a request that starts at the prefill call
/// this equals prefill time; with queueing or tokenizing before it, it does not.
pub fn ttft(request_start: Timestamp, events: &[PhaseEvent]) -> Option<Duration> {
    let prefill = events.iter().rfind(|e| e.phase == Phase::Prefill)?;
    Some(prefill.end.since(request_start))
}

/// Inter-token latencies: the gaps between the ends of consecutive calls that gave a token, the first token excluded.
/// A distribution, not one number. A [run](crate::Decode::decode_run) of steps gives its tokens together: one gap.
pub fn inter_token_latency(events: &[PhaseEvent]) -> Vec<Duration> {
    let ends: Vec<_> = giving(events).map(|(end, _)| end).collect();
    ends.windows(2).map(|pair| pair[1].since(pair[0])).collect()
}

/// Time per output token: `(end of last token - end of first token) / (tokens - 1)`; `None` for fewer than two tokens.
///
/// Others define it otherwise: `GuideLLM` includes the first token, `MLPerf` averages the gaps as here.
pub fn time_per_output_token(events: &[PhaseEvent]) -> Option<Duration> {
    let mut calls = giving(events);
    let (begin, _) = calls.next()?;
    let (end, tokens) = calls.fold((begin, 0), |(_, sum), (end, tokens)| (end, sum + tokens));
    Some(end.since(begin) / u32::try_from(tokens).ok().filter(|n| *n > 0)?)
}

/// When each call that gave tokens ended, and how many it gave a row: prefill the first one, decode one a step.
fn giving(events: &[PhaseEvent]) -> impl Iterator<Item = (Timestamp, usize)> {
    let prefill = events.iter().rfind(|e| e.phase == Phase::Prefill).map(|e| (e.end, 1));
    prefill.into_iter().chain(events.iter().filter(|e| e.phase == Phase::Decode).map(|e| (e.end, e.shape.new_tokens)))
}

/// Decode's share of a request's phase time: `sum of decode / (sum of prefill + sum of decode)`; `None` without either.
pub fn decode_fraction(events: &[PhaseEvent]) -> Option<f64> {
    let sum = |phase| events.iter().filter(|e| e.phase == phase).map(PhaseEvent::duration).sum::<Duration>().as_secs_f64();
    let (prefill, decode) = (sum(Phase::Prefill), sum(Phase::Decode));
    (prefill + decode > 0.0).then(|| decode / (prefill + decode))
}

/// Request time that no phase accounts for: `request - sum of its phases`. Sampling, streaming and the caller's own
/// work between tokens are in here.
pub fn unattributed(request: &PhaseEvent, events: &[PhaseEvent]) -> Duration {
    let parts: Duration = events.iter().filter(|e| e.phase != Phase::Request).map(PhaseEvent::duration).sum();
    request.duration().saturating_sub(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BackendId, MeasurementBoundary, Outcome, Regime, SessionId, Shape, StackInfo};

    fn event(phase: Phase, start: u64, end: u64) -> PhaseEvent {
        PhaseEvent {
            backend: BackendId::new("sim"),
            session: SessionId(1),
            phase,
            step: 0,
            regime: Regime::Steady,
            shape: Shape { batch: 2, new_tokens: if phase == Phase::Prefill { 8 } else { 1 }, context: 0 },
            start: Timestamp::from_nanos(start),
            end: Timestamp::from_nanos(end),
            device_time: None,
            outcome: Outcome::Ok,
            boundary: MeasurementBoundary::call(StackInfo::new()).into(),
        }
    }

    #[test]
    fn a_request_of_three_tokens() {
        let events = [event(Phase::Prefill, 100, 500), event(Phase::Decode, 600, 800), event(Phase::Decode, 800, 1100)];
        let start = Timestamp::from_nanos(50);
        assert_eq!(ttft(start, &events), Some(Duration::from_nanos(450)));
        assert_eq!(inter_token_latency(&events), [Duration::from_nanos(300), Duration::from_nanos(300)]);
        assert_eq!(time_per_output_token(&events), Some(Duration::from_nanos(300)));
        assert_eq!(decode_fraction(&events), Some(500.0 / 900.0));
        assert_eq!(unattributed(&event(Phase::Request, 50, 1100), &events), Duration::from_nanos(150));
        assert_eq!(prefill_tokens_per_second(&events[0]), Some(16.0 / 400e-9));
        assert_eq!(decode_tokens_per_second(&events[0]), None);
    }

    #[test]
    fn a_run_of_steps_gives_as_many_tokens_as_it_has_steps() {
        let mut run = event(Phase::Decode, 500, 1300);
        run.shape.new_tokens = 4;
        let events = [event(Phase::Prefill, 100, 500), run];
        assert_eq!(time_per_output_token(&events), Some(Duration::from_nanos(200)));
        assert_eq!(inter_token_latency(&events), [Duration::from_nanos(800)]);
        assert_eq!(decode_tokens_per_second(&events[1]), Some(8.0 / 800e-9));
    }

    #[test]
    fn what_is_not_there_has_no_number() {
        assert_eq!(time_per_output_token(&[event(Phase::Prefill, 0, 10)]), None);
        assert_eq!(ttft(Timestamp::default(), &[]), None);
        assert_eq!(decode_fraction(&[]), None);
    }
}
