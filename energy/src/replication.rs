//! Energy of phases too short for a single verdict: many of them in a window, several windows, and what must hold for the
//! mean to mean something.
//!
//! [`MacroPlan`] says how many replays and windows a sensor needs, [`verdict`] judges what came out. Both are pure. The
//! answer is the mean per replay, warm and back to back; it never says what one call cost.

mod fold;
mod judge;

pub use fold::{FoldWindow, Folded, folded};
pub use judge::{GuardedWindow, ReplayWindow, guarded_shot, verdict};

use crate::{SensorKind, SensorModel};
use serde::{Deserialize, Serialize};

/// How a phase is to be replayed. Times in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MacroPlan {
    /// Replays in each window.
    pub replays: u32,
    /// Windows, in random order with those of whatever it is compared with.
    pub windows: u32,
    /// Between replays wait for a time uniform in `0..=dither_s`.
    pub dither_s: f64,
    /// Work of the same kind before each window that does not count: three rise times, or as long as caches take to be warm.
    pub discard_s: f64,
    /// Whether one replay alone would have had a verdict: its shortest length under this sensor.
    pub single_shot_s: Option<f64>,
}

/// A window holds at least this many updates.
const MIN_UPDATES: f64 = 20.0;
/// A window lasts at least this long, seconds.
const MIN_WINDOW_S: f64 = 5.0;
/// Fewer windows have no interval worth the name.
const MIN_WINDOWS: u32 = 5;

impl MacroPlan {
    /// For a phase of `phase_s` at about `mean_w`, to be known within the share `eps`, under `sensor`, whose step takes `rise_s`
    /// and whose device needs `warm_s` to be warm.
    ///
    /// `replays = ceil(max(T / eps, 20 T, 5 s) / phase_s)`, with `T` the longest stretch that an edge of the window can fall
    /// into: the update period, or the window of a trailing mean, of which ten must fit. `None` for a phase of no length or an
    /// `eps` outside `0..1`.
    ///
    /// ```
    /// use phase_energy::{MacroPlan, PowerBounds, SensorKind, SensorModel};
    /// # fn main() -> Result<(), phase_energy::AttributionError> {
    /// let sensor = SensorModel::new(SensorKind::Integrating, 0.1, 0.1, 0.0, PowerBounds::new(60.0, 700.0)?)?;
    /// let plan = MacroPlan::new(&sensor, 0.060, 400.0, 0.02, 0.1, 1.0).unwrap();
    /// assert_eq!((plan.replays, plan.dither_s), (84, 0.0));
    /// # Ok(())
    /// # }
    /// ```
    pub fn new(sensor: &SensorModel, phase_s: f64, mean_w: f64, eps: f64, rise_s: f64, warm_s: f64) -> Option<Self> {
        Self::in_windows_of(sensor, phase_s, mean_w, eps, rise_s, warm_s, MIN_WINDOW_S)
    }

    /// As [`new`](Self::new), with windows of at least `least_s` in place of five seconds. What the sensor needs stays.
    pub fn in_windows_of(
        sensor: &SensorModel,
        phase_s: f64,
        mean_w: f64,
        eps: f64,
        rise_s: f64,
        warm_s: f64,
        least_s: f64,
    ) -> Option<Self> {
        if !(phase_s.is_finite() && phase_s > 0.0 && eps > 0.0 && eps < 1.0) {
            return None;
        }
        let edge_s = if sensor.kind() == SensorKind::TrailingMean { sensor.window_s() } else { sensor.update_s() };
        let window_s = (edge_s / eps).max(least_s).max(Self::least_window_s(sensor));
        let dither_s = if sensor.kind() == SensorKind::PartTime { sensor.window_s() } else { 0.0 };
        let single_shot_s = sensor.shortest_s(mean_w, 0.10);
        // Dither is time in the window, but no time of the phase: it does not count.
        let replays = whole((window_s / phase_s).ceil());
        Some(Self { replays, windows: MIN_WINDOWS, dither_s, discard_s: (3.0 * rise_s).max(warm_s), single_shot_s })
    }

    /// The shortest window that `sensor` can judge, seconds: twenty updates, and ten windows of a trailing mean.
    pub fn least_window_s(sensor: &SensorModel) -> f64 {
        (MIN_UPDATES * sensor.update_s()).max(sensor.shortest_event_s())
    }

    /// The plan with more windows; fewer than five are not planned.
    #[must_use]
    pub fn with_windows(mut self, windows: u32) -> Self {
        self.windows = windows.max(MIN_WINDOWS);
        self
    }

    /// Time it takes, seconds: windows, their dither at its mean, and what is discarded.
    pub fn seconds(&self, phase_s: f64) -> f64 {
        f64::from(self.windows) * (self.discard_s + f64::from(self.replays) * (phase_s + 0.5 * self.dither_s))
    }

    /// Whether a single event of `phase_s` has a chance of a verdict of its own.
    pub fn single_shot_suffices(&self, phase_s: f64) -> bool {
        self.single_shot_s.is_some_and(|shortest| phase_s >= shortest)
    }
}

/// The number after `replays` for the next try, when a window of `replays` was known within `half_width` (a share) and `eps`
/// is wanted: as many times more as it is too wide, at least one more, at most eight times as many. `None` where it suffices.
///
/// ```
/// assert_eq!(phase_energy::more_replays(100, 0.05, 0.02), Some(250));
/// assert_eq!(phase_energy::more_replays(100, 0.01, 0.02), None);
/// ```
pub fn more_replays(replays: u32, half_width: f64, eps: f64) -> Option<u32> {
    if half_width <= eps {
        return None;
    }
    let times = if half_width.is_finite() { (half_width / eps).min(8.0) } else { 8.0 };
    Some(whole((f64::from(replays) * times).ceil()).max(replays.saturating_add(1)))
}

/// Whether replays kept step with the sensor: `starts_s` modulo the update period, in ten bins. Locked when a bin holds less
/// than half of its share. Only a sensor that does not see all time can be fooled so.
///
/// ```
/// let locked: Vec<f64> = (0..100).map(|k| f64::from(k) * 0.1).collect();
/// assert!(phase_energy::locked(&locked, 0.1));
/// let free: Vec<f64> = (0..100).map(|k| f64::from(k) * 0.1037).collect();
/// assert!(!phase_energy::locked(&free, 0.1));
/// ```
pub fn locked(starts_s: &[f64], update_s: f64) -> bool {
    const BINS: usize = 10;
    let mut bins = [0_usize; BINS];
    for start in starts_s {
        let bin = (start / update_s).rem_euclid(1.0) * 10.0;
        bins[(whole(bin.floor()) as usize).min(BINS - 1)] += 1;
    }
    bins.iter().any(|n| 2 * BINS * n < starts_s.len())
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "casts of floats saturate; counts are not negative")]
fn whole(x: f64) -> u32 {
    x as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PowerBounds;

    fn sensor(kind: SensorKind, window_s: f64) -> SensorModel {
        SensorModel::new(kind, 0.1, window_s, 0.0, PowerBounds::new(60.0, 700.0).unwrap()).unwrap()
    }

    #[test]
    fn the_sensor_decides_how_often() {
        let plan = |kind, window_s, phase_s, eps| MacroPlan::new(&sensor(kind, window_s), phase_s, 400.0, eps, 0.1, 1.0).unwrap();
        // 5 s rule: 60 ms at 2% and at 10%; resolution rule: 100 ms at 1% is 10 s.
        assert_eq!(plan(SensorKind::Integrating, 0.1, 0.06, 0.10).replays, 84);
        assert_eq!(plan(SensorKind::Integrating, 0.1, 0.1, 0.01).replays, 100);
        assert!((plan(SensorKind::PartTime, 0.025, 0.06, 0.02).dither_s - 0.025).abs() < 1e-12);
        assert_eq!(plan(SensorKind::PartTime, 0.025, 0.06, 0.02).single_shot_s, None);
        assert_eq!(plan(SensorKind::TrailingMean, 1.0, 0.1, 0.05).replays, 200);
        let long = plan(SensorKind::Integrating, 0.1, 2.0, 0.02);
        assert!(long.single_shot_suffices(2.0) && !long.single_shot_suffices(0.05));
        assert_eq!(long.with_windows(2).windows, MIN_WINDOWS);
        assert!((long.seconds(2.0) - 5.0 * (1.0 + 3.0 * 2.0)).abs() < 1e-9);
        for (phase_s, eps) in [(0.0, 0.02), (f64::NAN, 0.02), (0.1, 0.0), (0.1, 1.0)] {
            assert_eq!(MacroPlan::new(&sensor(SensorKind::Boxcar, 0.1), phase_s, 400.0, eps, 0.1, 1.0), None);
        }
    }

    #[test]
    fn more_is_planned_until_it_suffices() {
        let (mut replays, mut tries) = (10, 0);
        // The half-width of a window falls with its length.
        while let Some(more) = more_replays(replays, 2.0 / f64::from(replays), 0.01) {
            (replays, tries) = (more, tries + 1);
        }
        assert!((200..300).contains(&replays) && tries < 5, "{replays} after {tries}");
        assert_eq!(more_replays(10, f64::INFINITY, 0.01), Some(80));
    }
}
