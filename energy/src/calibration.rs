//! What calibration found out about one sensor, and which sensor that was.

use crate::{AttributionError, PowerBounds, ReadingKind, SensorKind, SensorModel, SourceId, UpdateClock};
use serde::{Deserialize, Serialize};

/// The way of calibrating; a calibration of another version is refused.
pub const METHOD_VERSION: u32 = 1;

/// A calibration older than this is refused.
pub const VALID_DAYS: u64 = 90;

/// A value with its half-width.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "two numbers")]
pub struct Estimate {
    /// The value.
    pub value: f64,
    /// Half of its interval.
    pub half_width: f64,
}

/// The clock on which a counter's updates came in every one that calibration saw, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a clock is its period and two errors")]
pub struct CalibratedClock {
    /// Period.
    pub period_ns: f64,
    /// The true period lies within this much of it.
    pub period_error_ns: f64,
    /// Every update lies within this much of the clock.
    pub error_ns: f64,
}

impl From<UpdateClock> for CalibratedClock {
    fn from(clock: UpdateClock) -> Self {
        let ns = |s: f64| s * 1e9;
        Self { period_ns: ns(clock.period_s), period_error_ns: ns(clock.period_error_s), error_ns: ns(clock.error_s) }
    }
}

impl From<CalibratedClock> for UpdateClock {
    fn from(clock: CalibratedClock) -> Self {
        let s = |ns: f64| ns * 1e-9;
        Self { period_s: s(clock.period_ns), period_error_s: s(clock.period_error_ns), error_s: s(clock.error_ns) }
    }
}

/// A sensor's description as calibration found it, with the identity it holds for. The first six fields are enough to
/// attribute; a description without `source` is taken on the word of whoever wrote it.
///
/// ```
/// use phase_energy::{SensorCalibration, SensorKind};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let text = r#"{"kind":"integrating","update_ns":100000000,"window_ns":100000000,"lag_ns":0,"min_w":60,"max_w":770}"#;
/// let calibration: SensorCalibration = serde_json::from_str(text)?;
/// assert_eq!(calibration.model()?.kind(), SensorKind::Integrating);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SensorCalibration {
    /// How the sensor sees.
    pub kind: SensorKind,
    /// Time between updates, nanoseconds.
    pub update_ns: f64,
    /// Time an update speaks about, nanoseconds.
    pub window_ns: f64,
    /// Time from the end of the window to the update, nanoseconds.
    pub lag_ns: f64,
    /// Least power the device draws, watts: the measured idle floor less a margin.
    pub min_w: f64,
    /// Greatest power the device draws, watts: the enforced limit and a margin, or the highest reading.
    pub max_w: f64,
    /// Standard deviation of the time between updates, nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter_ns: Option<f64>,
    /// The clock of its updates, where they keep one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<CalibratedClock>,
    /// Time a reading's own time may be off, nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_error_ns: Option<f64>,
    /// Share of an energy by which the sensor was seen to be off on loads that keep step with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residual: Option<f64>,
    /// Time the sensor needs from a tenth to nine tenths of a step, nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rise_ns: Option<f64>,
    /// Smallest difference between readings, in the unit of the readings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantum: Option<f64>,
    /// Spread of the energy over the phases of a load that keeps step with the sensor, peak to peak over the mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase_spread: Option<f64>,
    /// Reading over true power, where somebody held the sensor against a meter. Absent: never compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gain: Option<Estimate>,
    /// What the readings are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reading: Option<ReadingKind>,
    /// The sensor this holds for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceId>,
    /// Firmware of the board.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<String>,
    /// Way of calibrating, [`METHOD_VERSION`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method_version: Option<u32>,
    /// When it was done, seconds of Unix time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_unix_s: Option<u64>,
}

impl SensorCalibration {
    /// A description that holds for whatever it is used with.
    pub const fn described(kind: SensorKind, update_ns: f64, window_ns: f64, lag_ns: f64, min_w: f64, max_w: f64) -> Self {
        Self {
            kind,
            update_ns,
            window_ns,
            lag_ns,
            min_w,
            max_w,
            jitter_ns: None,
            clock: None,
            time_error_ns: None,
            residual: None,
            rise_ns: None,
            quantum: None,
            phase_spread: None,
            gain: None,
            reading: None,
            source: None,
            firmware: None,
            method_version: None,
            taken_unix_s: None,
        }
    }

    /// The model that attribution works with.
    ///
    /// # Errors
    /// [`AttributionError`] where the numbers contradict each other.
    pub fn model(&self) -> Result<SensorModel, AttributionError> {
        let power = PowerBounds::new(self.min_w, self.max_w)?;
        let s = |ns: f64| ns * 1e-9;
        let model = SensorModel::new(self.kind, s(self.update_ns), s(self.window_ns), s(self.lag_ns), power)?
            .with_time_error(self.time_error_ns.map_or(0.0, s))
            .with_residual(self.residual.unwrap_or(0.0));
        let model = self.clock.map_or(model, |clock| model.with_clock(clock.into()));
        Ok(self.jitter_ns.map_or(model, |jitter_ns| model.with_jitter(s(jitter_ns))))
    }

    /// Whether this calibration holds for readings of `reading` kind from `source`. Where it names neither, it does.
    pub fn holds_for(&self, source: &SourceId, reading: ReadingKind) -> bool {
        let same_sensor = self.source.as_ref().is_none_or(|s| s == source);
        let same_kind = self.reading.is_none_or(|r| r == reading);
        let same_method = self.method_version.is_none_or(|v| v == METHOD_VERSION);
        same_sensor && same_kind && same_method
    }

    /// Whether it is too old at `now_unix_s`. Without a date it does not expire.
    pub fn expired(&self, now_unix_s: u64) -> bool {
        self.taken_unix_s.is_some_and(|taken| now_unix_s.saturating_sub(taken) > VALID_DAYS * 86_400)
    }
}
