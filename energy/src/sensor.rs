//! What a sensor's readings mean: which stretch of time an update speaks about.

use crate::{PowerBounds, attribution::AttributionError};
use serde::{Deserialize, Serialize};
use std::fmt;

/// How a sensor sees power over time. Update `k` appears at `t_k` and speaks about a window that ended a lag earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SensorKind {
    /// Mean over the whole time since the previous update.
    Boxcar,
    /// Differences cover all time: an energy counter that misses nothing.
    Integrating,
    /// Mean over the last part of the time since the previous update; the rest is never seen.
    PartTime,
    /// Mean over more than the time since the previous update: neighbours overlap.
    TrailingMean,
}

impl SensorKind {
    /// The name used in files, for example `part_time`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Boxcar => "boxcar",
            Self::Integrating => "integrating",
            Self::PartTime => "part_time",
            Self::TrailingMean => "trailing_mean",
        }
    }
}

impl fmt::Display for SensorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What the readings of a source are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "a source counts energy or shows power; there is no third")]
pub enum ReadingKind {
    /// Energy since some origin.
    Counter,
    /// Power.
    Power,
}

impl ReadingKind {
    /// The name used in files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Power => "power",
        }
    }
}

impl fmt::Display for ReadingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The calibrated behaviour of one sensor. Times in seconds.
///
/// ```
/// use phase_energy::{PowerBounds, SensorKind, SensorModel};
/// # fn main() -> Result<(), phase_energy::AttributionError> {
/// let power = PowerBounds::new(60.0, 700.0)?;
/// let counter = SensorModel::new(SensorKind::Integrating, 0.1, 0.1, 0.0, power)?;
/// assert_eq!(counter.coverage(), 1.0);
/// // A sensor that looks for a quarter of the time is no boxcar.
/// assert!(SensorModel::new(SensorKind::Boxcar, 0.1, 0.025, 0.0, power).is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SensorModel {
    kind: SensorKind,
    update_s: f64,
    window_s: f64,
    lag_s: f64,
    power: PowerBounds,
    jitter_s: Option<f64>,
    time_error_s: f64,
    residual: f64,
    pace_s: f64,
    clock: Option<UpdateClock>,
}

/// A sensor whose updates come on a clock: update `k` at `origin + k period`, within `error`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a clock is its period and two errors")]
pub struct UpdateClock {
    /// Period, seconds.
    pub period_s: f64,
    /// The true period lies within this much of it, seconds.
    pub period_error_s: f64,
    /// Every update lies within this much of the clock, seconds.
    pub error_s: f64,
}

impl SensorModel {
    /// A sensor of `kind` with a new value every `update_s`, about the `window_s` that ended `lag_s` before.
    ///
    /// # Errors
    /// [`AttributionError::Sensor`] where a time is not finite, a period is not positive, the lag is negative, or the
    /// window does not belong to the kind: as long as the period for `boxcar` (within a tenth), shorter for `part_time`,
    /// longer for `trailing_mean`. `integrating` has no window of its own; any is accepted.
    pub fn new(kind: SensorKind, update_s: f64, window_s: f64, lag_s: f64, power: PowerBounds) -> Result<Self, AttributionError> {
        let wrong = |what: &'static str| AttributionError::Sensor { kind, update_s, window_s, lag_s, what };
        if !(update_s.is_finite() && update_s > 0.0) {
            return Err(wrong("the update period must be positive"));
        }
        if !(lag_s.is_finite() && lag_s >= 0.0) {
            return Err(wrong("the lag must not be negative"));
        }
        let share = window_s / update_s;
        let fits = match kind {
            SensorKind::Integrating => window_s.is_finite() && window_s >= 0.0,
            SensorKind::Boxcar => (share - 1.0).abs() <= 0.1,
            SensorKind::PartTime => share > 0.0 && share < 1.0,
            SensorKind::TrailingMean => share > 1.0 && window_s.is_finite(),
        };
        if !fits {
            return Err(wrong("the window does not belong to this kind"));
        }
        let window_s = if kind == SensorKind::Integrating { update_s } else { window_s };
        Ok(Self { kind, update_s, window_s, lag_s, power, jitter_s: None, time_error_s: 0.0, residual: 0.0, pace_s: 0.0, clock: None })
    }

    /// Says how much the update period varies (standard deviation, seconds); otherwise it is estimated from the readings.
    #[must_use]
    pub const fn with_jitter(mut self, jitter_s: f64) -> Self {
        self.jitter_s = Some(jitter_s);
        self
    }

    /// Says how far the times of readings may be from the clock of the phases, in seconds.
    #[must_use]
    pub const fn with_time_error(mut self, time_error_s: f64) -> Self {
        self.time_error_s = time_error_s;
        self
    }

    /// Says that the sensor is read every `pace_s` only: a counter loses nothing meanwhile, so a silence is a gap only when it
    /// is longer than that by as much as it may be longer than the sensor's period.
    #[must_use]
    pub const fn with_pace(mut self, pace_s: f64) -> Self {
        self.pace_s = pace_s;
        self
    }

    /// Says that updates come on `clock`, as calibration found: then their times are known better than polls show them.
    #[must_use]
    pub const fn with_clock(mut self, clock: UpdateClock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Says which share of an energy calibration found the sensor to be off by, whatever the bounds say: it is added to
    /// the half-width.
    #[must_use]
    pub const fn with_residual(mut self, residual: f64) -> Self {
        self.residual = residual;
        self
    }

    /// How the sensor sees.
    pub const fn kind(&self) -> SensorKind {
        self.kind
    }

    /// Time between updates.
    pub const fn update_s(&self) -> f64 {
        self.update_s
    }

    /// Time an update speaks about.
    pub const fn window_s(&self) -> f64 {
        self.window_s
    }

    /// Time from the end of the window to the update.
    pub const fn lag_s(&self) -> f64 {
        self.lag_s
    }

    /// What the device can draw.
    pub const fn power(&self) -> PowerBounds {
        self.power
    }

    /// Standard deviation of the update period, where calibration knows it.
    pub const fn jitter_s(&self) -> Option<f64> {
        self.jitter_s
    }

    /// How far a reading's time may be off.
    pub const fn time_error_s(&self) -> f64 {
        self.time_error_s
    }

    /// Systematic share that calibration found.
    pub const fn residual(&self) -> f64 {
        self.residual
    }

    /// Time between reads, where it is longer than the sensor's period; 0 where nobody said.
    pub const fn pace_s(&self) -> f64 {
        self.pace_s
    }

    /// The clock of the updates, where calibration found one.
    pub const fn clock(&self) -> Option<UpdateClock> {
        self.clock
    }

    /// Share of time the sensor sees: `min(1, window / update)`.
    pub fn coverage(&self) -> f64 {
        (self.window_s / self.update_s).min(1.0)
    }

    /// Shortest phase that one run can bound within the share `u` of its energy, at mean power `mean_w`:
    /// `R T / (2 mean_w u)` with `R = max_w - min_w` and `T` the longest stretch an edge can fall into. `None` for a
    /// part-time sensor, whose uncertainty does not fall with length.
    ///
    /// ```
    /// use phase_energy::{PowerBounds, SensorKind, SensorModel};
    /// # fn main() -> Result<(), phase_energy::AttributionError> {
    /// let s = SensorModel::new(SensorKind::Integrating, 0.1, 0.1, 0.0, PowerBounds::new(60.0, 700.0)?)?;
    /// assert!((s.shortest_s(400.0, 0.10).unwrap() - 0.8).abs() < 1e-9);
    /// # Ok(())
    /// # }
    /// ```
    pub fn shortest_s(&self, mean_w: f64, u: f64) -> Option<f64> {
        let range = self.power.max_w() - self.power.min_w();
        let bounded = |edge_s: f64| range * edge_s / (2.0 * mean_w * u);
        match self.kind {
            SensorKind::PartTime => None,
            SensorKind::Boxcar | SensorKind::Integrating => Some(bounded(self.update_s).max(2.0 * self.update_s)),
            SensorKind::TrailingMean => Some(bounded(self.window_s).max(self.shortest_event_s())),
        }
    }

    /// Events shorter than this are not for this sensor: ten windows of a trailing mean, nothing otherwise.
    pub fn shortest_event_s(&self) -> f64 {
        if self.kind == SensorKind::TrailingMean { 10.0 * self.window_s } else { 0.0 }
    }
}
