//! What the load does in which test.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Which test a step belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Test {
    /// T1: period and quantum.
    Period,
    /// T2: lag, rise, window.
    Step,
    /// T3: agreement over power levels.
    Level,
    /// T4: coverage of time.
    Phase,
    /// T5: agreement on slow change.
    Slow,
    /// T6: a long steady load.
    Steady,
    /// T8: isolated pulses between quiet guards.
    Shot,
    /// Energy over the number of replays.
    Sweep,
    /// T7, with the sampler reading every source at every poll.
    Polled,
    /// T7, with the sampler at its default pace.
    Paced,
    /// T7, without it.
    Unpolled,
}

/// One train of pulses, with rest before it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Step {
    /// The test.
    pub test: Test,
    /// Quiet time before it, seconds.
    pub rest_s: f64,
    /// From one pulse to the next, seconds.
    pub period_s: f64,
    /// Length of a pulse, seconds.
    pub busy_s: f64,
    /// Pulses.
    pub count: u32,
    /// Share of full load.
    pub level: f64,
    /// Shift against a grid of `period_s`, as a share of it; `None` where the step begins when it likes.
    pub phase: Option<f64>,
}

impl Step {
    const fn busy(test: Test, rest_s: f64, busy_s: f64) -> Self {
        Self { test, rest_s, period_s: busy_s, busy_s, count: 1, level: 1.0, phase: None }
    }

    const fn square(test: Test, rest_s: f64, period_s: f64, count: u32) -> Self {
        Self { test, rest_s, period_s, busy_s: 0.5 * period_s, count, level: 1.0, phase: None }
    }

    const fn shots(busy_s: f64, count: u32) -> Self {
        // No multiple of an update period, so that the shots fall anywhere between updates.
        Self { test: Test::Shot, rest_s: SHOT_REST_S, period_s: SHOT_REST_S + busy_s + 0.0137, busy_s, count, level: 1.0, phase: None }
    }

    const fn replays(count: u32) -> Self {
        Self { test: Test::Sweep, rest_s: 1.0, period_s: 0.055, busy_s: 0.05, count, level: 1.0, phase: None }
    }

    /// Time it takes, seconds.
    pub fn seconds(&self) -> f64 {
        self.rest_s + self.period_s * f64::from(self.count)
    }

    /// Its period.
    pub fn period(&self) -> Duration {
        Duration::from_secs_f64(self.period_s)
    }
}

/// The steps of one part of a calibration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Plan {
    /// In this order.
    pub steps: Vec<Step>,
}

/// How much of a calibration is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Extent {
    /// All tests, and T4 also at load periods that no sensor has.
    #[default]
    Full,
    /// What a calibration and its errors need: T1, T2, T4 in step, T6, T7, T8, the sweep; fewer repeats.
    Short,
}

/// Shifts of a square wave against the sensor.
pub(super) const PHASES: u32 = 6;
/// Trains at each shift of a wave in step with a sensor: what they differ by is noise.
pub(super) const REPEATS: u32 = 2;
/// Periods of the sweep, seconds.
const SWEEP_S: [f64; 5] = [0.02, 0.04, 0.06, 0.1, 0.25];
/// Quiet time before an isolated pulse, seconds: the guards of two.
const SHOT_REST_S: f64 = 0.95;
/// Replays in a train of the sweep: K/2, K, 2K.
const SWEEP: [u32; 3] = [16, 32, 64];
/// Length of a slice of T7 and slices of an arm's pulse.
const SLICE_S: f64 = 0.005;
const SLICES: u32 = 260;

impl Plan {
    /// What is done before anything is known: T1.
    pub fn first() -> Self {
        Self { steps: vec![Step::busy(Test::Period, 3.0, 3.0)] }
    }

    /// The rest but for T7, for sensors that update every `periods_s`: T2, T3, T4 at each distinct period and over a sweep,
    /// T5, T6, T8, the sweep of replays.
    pub fn rest(periods_s: &[f64], extent: Extent) -> Self {
        let full = extent == Extent::Full;
        let mut steps: Vec<Step> =
            (0..if full { 8 } else { 6_u32 }).map(|k| Step::busy(Test::Step, 1.7 + 0.037 * f64::from(k), 1.713)).collect();
        for level in [0.25, 0.5, 0.75] {
            steps.push(Step { level, ..Step::busy(Test::Level, 0.3, 4.0) });
        }
        let mut distinct: Vec<f64> = Vec::new();
        let is_new = |known: &[f64], p: f64| known.iter().all(|d| (d / p - 1.0).abs() > 0.2);
        for &p in periods_s.iter().filter(|p| p.is_finite() && **p >= 0.01 && **p <= 0.5) {
            if is_new(&distinct, p) {
                distinct.push(p);
            }
        }
        for &period_s in &distinct {
            phases(&mut steps, period_s, REPEATS);
        }
        for period_s in SWEEP_S.into_iter().filter(|&p| is_new(&distinct, p)) {
            phases(&mut steps, period_s, 1);
        }
        steps.push(Step::square(Test::Slow, 0.5, 0.5, 12));
        steps.push(Step::busy(Test::Steady, 1.0, 11.0));
        steps.push(Step::shots(0.05, 16));
        steps.extend(if full { vec![Step::shots(0.2, 10), Step::shots(0.02, 6)] } else { vec![Step::shots(0.2, 6)] });
        // Not in order of their number, which a device grows warm in.
        let sweep = [SWEEP[1], SWEEP[0], SWEEP[2]].map(Step::replays);
        steps.extend((0..if full { 3 } else { 2 }).flat_map(|_| sweep));
        if !full {
            let others = |s: &Step| is_new(&distinct, s.period_s);
            steps.retain(|s| !(matches!(s.test, Test::Level | Test::Slow) || s.test == Test::Phase && others(s)));
        }
        Self { steps }
    }

    /// T7: the same work with and without the sampler, in slices short enough that a delay shows: without it, at its default
    /// pace, and reading everything at every poll.
    pub fn perturbation() -> Self {
        const ARMS: [Test; 3] = [Test::Polled, Test::Paced, Test::Unpolled];
        // All six orders, so that no arm is always the warmer.
        const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1], [2, 0, 1], [1, 0, 2]];
        let train = |test| Step { period_s: SLICE_S, count: SLICES, ..Step::busy(test, 0.3, SLICE_S) };
        Self { steps: ORDERS.iter().flatten().map(|arm| train(ARMS[*arm])).collect() }
    }

    /// Time it takes, seconds.
    pub fn seconds(&self) -> f64 {
        self.steps.iter().map(Step::seconds).sum()
    }
}

/// Trains of a square wave of `period_s` at every shift, about 1.7 seconds each, in an order that no drift follows.
fn phases(steps: &mut Vec<Step>, period_s: f64, repeats: u32) {
    let count = whole(1.7 / period_s) + 4;
    for k in 0..PHASES * repeats {
        // 0, 2, 4, 1, 3, 5, and again from the middle: neighbours in time are none in shift.
        let shift = (2 * k + (2 * k / PHASES) + 3 * (k / PHASES)) % PHASES;
        let phase = f64::from(shift) / f64::from(PHASES);
        steps.push(Step { phase: Some(phase), ..Step::square(Test::Phase, 0.2, period_s, count) });
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few hundred periods")]
fn whole(x: f64) -> u32 {
    x.max(1.0).round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calibration_fits_one_visit_to_a_device() {
        let periods = [0.1, 0.1003, 0.02, 1.0, f64::NAN];
        let (rest, short) = (Plan::rest(&periods, Extent::Full), Plan::rest(&periods, Extent::Short));
        let phases = |p: &Plan| p.steps.iter().filter(|s| s.test == Test::Phase).count();
        assert_eq!(phases(&short), 2 * (PHASES * REPEATS) as usize);
        assert_eq!(phases(&rest), 2 * (PHASES * REPEATS) as usize + 3 * PHASES as usize);
        for at in [0.1, 0.04] {
            let trains: Vec<f64> =
                rest.steps.iter().filter(|s| s.test == Test::Phase && (s.period_s - at).abs() < 1e-9).filter_map(|s| s.phase).collect();
            let of = |k: u32| trains.iter().filter(|p| (**p * f64::from(PHASES) - f64::from(k)).abs() < 1e-9).count();
            assert!((0..PHASES).all(|k| of(k) * PHASES as usize == trains.len()), "{trains:?}");
        }
        let whole = |rest: &Plan| Plan::first().seconds() + rest.seconds() + Plan::perturbation().seconds();
        println!("{} s, short {} s", whole(&rest), whole(&short));
        assert!(whole(&rest) < 300.0 && whole(&short) < 210.0);
    }

    #[test]
    fn neither_arm_of_the_perturbation_test_comes_first_always() {
        let tests: Vec<_> = Plan::perturbation().steps.iter().map(|s| s.test).collect();
        for arm in [Test::Polled, Test::Paced, Test::Unpolled] {
            assert_eq!(tests.iter().filter(|t| **t == arm).count(), 6);
            // Twice in each place of a round.
            assert!((0..3).all(|place| tests.chunks(3).filter(|round| round[place] == arm).count() == 2), "{tests:?}");
        }
    }
}
