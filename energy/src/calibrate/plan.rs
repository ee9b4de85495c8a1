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
    /// T7, with the sampler.
    Polled,
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

/// Shifts of the square wave against the sensor.
pub(super) const PHASES: u32 = 16;

impl Plan {
    /// What is done before anything is known: T1.
    pub fn first() -> Self {
        Self { steps: vec![Step::busy(Test::Period, 6.0, 6.0)] }
    }

    /// The rest, for sensors that update every `periods_s`: T2, T3, T4 at each distinct period, T5, T6.
    pub fn rest(periods_s: &[f64]) -> Self {
        let mut steps: Vec<Step> = (0..8_u32).map(|k| Step::busy(Test::Step, 1.8 + 0.037 * f64::from(k), 1.8)).collect();
        for level in [0.2, 0.4, 0.6, 0.8, 1.0] {
            steps.push(Step { level, ..Step::busy(Test::Level, 1.0, 4.0) });
        }
        let mut distinct: Vec<f64> = Vec::new();
        for &p in periods_s.iter().filter(|p| p.is_finite() && **p >= 0.01 && **p <= 0.5) {
            if distinct.iter().all(|d| (d / p - 1.0).abs() > 0.2) {
                distinct.push(p);
            }
        }
        for period_s in distinct {
            // Two seconds a shift, in an order that no drift follows.
            let count = whole(2.0 / period_s) + 4;
            for k in 0..PHASES {
                let phase = f64::from((k * 7) % PHASES) / f64::from(PHASES);
                steps.push(Step { phase: Some(phase), ..Step::square(Test::Phase, 0.3, period_s, count) });
            }
        }
        steps.push(Step::square(Test::Slow, 1.0, 0.5, 20));
        steps.push(Step::busy(Test::Steady, 1.0, 20.0));
        Self { steps }
    }

    /// T7: the same work with and without the sampler, alternating.
    pub fn perturbation() -> Self {
        let pair = |k: u32| if k.is_multiple_of(2) { Test::Polled } else { Test::Unpolled };
        // Each pair begins with the other one, so that neither is always the warmer.
        let order = (0..12).map(|k| if (k / 2_u32).is_multiple_of(2) { pair(k) } else { pair(k + 1) });
        Self { steps: order.map(|test| Step::busy(test, 0.5, 2.0)).collect() }
    }

    /// Time it takes, seconds.
    pub fn seconds(&self) -> f64 {
        self.steps.iter().map(Step::seconds).sum()
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
        let rest = Plan::rest(&[0.1, 0.1003, 0.02, 1.0, f64::NAN]);
        let phases = rest.steps.iter().filter(|s| s.test == Test::Phase).count();
        assert_eq!(phases, 2 * PHASES as usize);
        assert!(Plan::first().seconds() + rest.seconds() + Plan::perturbation().seconds() < 300.0);
    }

    #[test]
    fn neither_arm_of_the_perturbation_test_comes_first_always() {
        let tests: Vec<_> = Plan::perturbation().steps.iter().map(|s| s.test).collect();
        assert_eq!(tests[..4], [Test::Polled, Test::Unpolled, Test::Unpolled, Test::Polled]);
        assert_eq!(tests.iter().filter(|t| **t == Test::Polled).count(), 6);
    }
}
