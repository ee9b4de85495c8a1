//! Which call is replayed when, and what that takes, before it is done.

use super::{
    EnergyOptions, EnergySensorEntry,
    budget::{Need, Share, allot},
    planned::{Call, calls},
    sit::{Guest, LEAST_WINDOWS, rise_s},
};
use crate::{
    Plan, Residency,
    record::{PhaseRecord, Record},
};
use phase_core::{Arm, Outcome, Phase, Regime};
use phase_energy::{MacroPlan, SensorModel};
use std::time::Duration;

/// What is planned for one backend and call.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PlannedReplays {
    /// Who.
    pub backend: Arm,
    /// The phase.
    pub phase: Phase,
    /// The call: `decode b1 c512..575`.
    pub call: String,
    /// Windows; none where it is left out.
    pub windows: u32,
    /// The length of one, seconds.
    pub window_s: f64,
    /// Passes in one, where it is known how long one takes: a prefill, or the steps of a stretch of decode.
    pub passes: Option<u32>,
    /// What it takes, with its part of the quiet times; of one that is left out what it would have taken by itself.
    pub seconds: f64,
    /// No time is left for it.
    pub left_out: bool,
}

impl EnergyOptions {
    /// What is replayed of `plan`, in order, on sensors of which the first counts, when replays may take `left` in all;
    /// `None` is as long as they take. Every backend is taken to be covered, and calls to take no time: both are known only
    /// once the models are loaded and the blocks are done.
    pub fn agenda(&self, plan: &Plan, sensors: &[EnergySensorEntry], left: Option<Duration>) -> Vec<PlannedReplays> {
        let models: Vec<SensorModel> = sensors.iter().filter_map(|s| s.calibration.model().ok()).collect();
        if models.is_empty() || models.len() != sensors.len() {
            return Vec::new();
        }
        let guest = |(at, arm): (usize, &Arm)| Guest { at, arm: arm.clone(), sensor: 0, replays: None, dither_s: None };
        let guests: Vec<Guest> = plan.backends.iter().enumerate().map(guest).collect();
        let queue = turns(calls(plan));
        let waiting: Vec<_> = queue
            .iter()
            .map(|call| Waiting { call: *call, need: need(self, plan, (sensors, &models), &guests, |_| 0.0, 0.0), guests: guests.clone() })
            .collect();
        agenda(self, &waiting, left.map(|left| left.as_secs_f64()))
    }

    /// The time of a budget that replays may take: without the power of the device without models, which comes last.
    pub fn for_replays(&self) -> Option<Duration> {
        Some(Duration::from_secs_f64((self.budget_s? - 2.0 * self.settle_s - self.rest_s).max(0.0)))
    }
}

/// A call that waits for its turn, and who is to replay it.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) call: Call,
    pub(super) guests: Vec<Guest>,
    pub(super) need: Need,
}

/// The calls in the order of their turns: the first of decode, the first of prefill, the second of decode, and so on.
pub(super) fn turns(all: Vec<Call>) -> Vec<Call> {
    let (decode, prefill): (Vec<Call>, Vec<Call>) = all.into_iter().partition(|call| call.phase == Phase::Decode);
    let mut queue = Vec::with_capacity(decode.len() + prefill.len());
    let (mut decode, mut prefill) = (decode.into_iter(), prefill.into_iter());
    loop {
        let before = queue.len();
        queue.extend(decode.next());
        queue.extend(prefill.next());
        if queue.len() == before {
            return queue;
        }
    }
}

/// What one call needs of `guests`, whose passes take `pass_s`.
pub(super) fn need(
    options: &EnergyOptions,
    plan: &Plan,
    (sensors, models): (&[EnergySensorEntry], &[SensorModel]),
    guests: &[Guest],
    pass_s: impl Fn(&Guest) -> f64,
    load_s: f64,
) -> Need {
    let most = |of: &dyn Fn(&Guest) -> f64| guests.iter().map(of).fold(0.0, f64::max);
    let edge_s = |g: &Guest| models[g.sensor].update_s().max(models[g.sensor].shortest_event_s() / 10.0);
    let slow = super::sit::Slow::of(options, models);
    Need {
        pass_s: guests.iter().map(pass_s).collect(),
        load_s: (plan.residency == Residency::One).then_some(load_s),
        discard_s: most(&|g| 3.0 * rise_s(&sensors[g.sensor])).max(options.settle_s),
        quiet_s: slow.settling_s + slow.rest_s + slow.tail_s,
        least_s: most(&|g| MacroPlan::least_window_s(&models[g.sensor])),
        accurate_s: most(&|g| edge_s(g) / options.accuracy),
    }
}

/// What becomes of `waiting` in `left_s`.
pub(super) fn agenda(options: &EnergyOptions, waiting: &[Waiting], left_s: Option<f64>) -> Vec<PlannedReplays> {
    let needs: Vec<Need> = waiting.iter().map(|w| w.need.clone()).collect();
    let shares = allot(&needs, options, left_s);
    let line = |w: &Waiting, share: &Share, at: usize| {
        let (pass_s, planned) = (w.need.pass_s[at], at < share.guests);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of passes in seconds; casts saturate")]
        let passes = (pass_s > 0.0 && planned).then(|| (share.window_s / pass_s).ceil() as u32);
        PlannedReplays {
            backend: w.guests[at].arm.clone(),
            phase: w.call.phase,
            call: w.call.id(),
            windows: if planned { options.windows.max(LEAST_WINDOWS) } else { 0 },
            window_s: share.window_s,
            passes,
            seconds: if planned { share.seconds / real(share.guests) } else { share.lacks_s[at - share.guests] },
            left_out: !planned,
        }
    };
    waiting.iter().zip(&shares).flat_map(|(w, share)| (0..w.guests.len()).map(move |at| line(w, share, at))).collect()
}

/// The middle of what one pass of `call` took `arm` in the blocks, seconds; 0 where it made none.
pub(super) fn pass_s(records: &[Record], arm: &Arm, call: Call) -> f64 {
    let made = |r: &PhaseRecord| {
        let (seen, shape) = (&r.seen, r.seen.shape);
        let same = seen.backend == arm.backend && seen.mode == arm.mode.as_str() && seen.phase == call.phase;
        let sized = shape.batch == call.batch && shape.new_tokens == call.new_tokens;
        let within = (call.context..call.context + call.steps).contains(&shape.context);
        same && sized && within && seen.outcome == Outcome::Ok && seen.regime == Regime::Steady
    };
    let phases = records.iter().filter_map(|r| if let Record::Phase(r) = r { Some(r) } else { None });
    let mut times: Vec<u64> = phases.filter(|r| made(r)).map(|r| r.seen.duration_ns).collect();
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0.0, |ns| Duration::from_nanos(*ns).as_secs_f64() * real(call.steps))
}

#[expect(clippy::cast_precision_loss, reason = "a handful of backends and steps")]
fn real(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_take_turns_and_decode_comes_first() {
        let call = |phase, n| Call { phase, batch: n, context: 0, new_tokens: 1, steps: 1 };
        let (p, d) = (Phase::Prefill, Phase::Decode);
        let order = |all: &[Call]| turns(all.to_vec()).iter().map(|c| (c.phase, c.batch)).collect::<Vec<_>>();
        assert_eq!(order(&[call(p, 1), call(p, 2), call(p, 3), call(d, 1)]), [(d, 1), (p, 1), (p, 2), (p, 3)]);
        assert_eq!(order(&[call(d, 1), call(d, 2)]), [(d, 1), (d, 2)]);
        assert_eq!(order(&[]), []);
    }
}
