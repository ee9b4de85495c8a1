//! How long windows may be when a run has to end at some time: pure.

use super::EnergyOptions;
use std::time::Duration;

/// Windows are not made shorter than this, seconds, whatever the budget: below, their edges are most of what is known.
const LEAST_WINDOW_S: f64 = 2.0;
/// What the planning of windows leaves open: a replay more or less, reads and files.
const SLACK: f64 = 1.05;

/// The sitting that is to be fitted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fit {
    /// Backends that sit, all in one sitting or each in its own.
    pub(super) guests: usize,
    pub(super) sittings: usize,
    /// Calls that wait after this one.
    pub(super) later: usize,
    /// Work before a window that does not count, seconds.
    pub(super) discard_s: f64,
    /// One quiet time with what comes before it, seconds.
    pub(super) quiet_s: f64,
    /// The least that the sensor needs of a window, seconds.
    pub(super) least_s: f64,
}

impl Fit {
    /// Seconds that windows of `window_s` take for all guests.
    fn seconds(&self, options: &EnergyOptions, window_s: f64) -> f64 {
        let (guests, sittings) = (real(self.guests), real(self.sittings));
        let first = (3.0 * options.settle_s - self.discard_s).max(0.0);
        let rounds = f64::from(options.windows) * (self.discard_s + window_s);
        SLACK * (guests * (first + rounds) + sittings * 2.0 * self.quiet_s)
    }

    /// The window that fits the call's share of `left`: the options' own where it does, else a shorter one. A call whose
    /// share is too small takes what it needs at the expense of the later ones; `None` when not even all of `left` is enough.
    pub(super) fn window_s(&self, options: &EnergyOptions, left: Duration) -> Option<f64> {
        let least_s = LEAST_WINDOW_S.max(self.least_s).min(options.window_s.max(self.least_s));
        let (without, least) = (self.seconds(options, 0.0), self.seconds(options, least_s));
        let left_s = left.as_secs_f64();
        if least > left_s {
            return None;
        }
        let share = (left_s / real(self.later + 1)).max(least);
        let longest = (share - without) / (SLACK * real(self.guests) * f64::from(options.windows));
        Some(longest.min(options.window_s).max(least_s))
    }
}

#[expect(clippy::cast_precision_loss, reason = "a handful of backends and calls")]
fn real(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: Fit = Fit { guests: 2, sittings: 1, later: 2, discard_s: 1.0, quiet_s: 3.0, least_s: 2.0 };

    #[test]
    fn a_budget_shortens_windows_before_it_drops_calls() {
        let options = EnergyOptions::default();
        let window = |fit: &Fit, s: u64| fit.window_s(&options, Duration::from_secs(s));
        assert_eq!(window(&TWO, 600), Some(5.0));
        let shorter = window(&TWO, 180).unwrap();
        assert!((2.0..5.0).contains(&shorter), "{shorter}");
        // As long as it says: three such calls fill the time.
        assert!((3.0 * TWO.seconds(&options, shorter) - 180.0).abs() < 1e-6);
        // Too little for three calls: the first has the least windows there are, and then there is no time.
        assert_eq!(window(&TWO, 60), Some(2.0));
        assert_eq!(window(&TWO, 40), None);
        assert_eq!(window(&TWO, 0), None);
    }

    #[test]
    fn what_the_sensor_needs_is_not_cut() {
        let slow = Fit { least_s: 20.0, later: 0, ..TWO };
        let options = EnergyOptions::default();
        assert_eq!(slow.window_s(&options, Duration::from_secs(100)), None);
        assert_eq!(slow.window_s(&options, Duration::from_secs(250)), Some(20.0));
    }

    #[test]
    fn short_windows_that_were_asked_for_stay_short() {
        let options = EnergyOptions::default().with_window_s(0.5).unwrap();
        let fast = Fit { least_s: 0.1, ..TWO };
        assert_eq!(fast.window_s(&options, Duration::from_secs(600)), Some(0.5));
    }
}
