//! What the device draws at rest, and what a phase cost above that.

use super::Series;
use crate::JouleRange;
use phase_core::Timestamp;
use serde::{Deserialize, Serialize};

/// In which state of rest a baseline was taken. They differ by tens of watts, so a claim names its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BaselineKind {
    /// A device context is open, no weights are loaded.
    ContextResident,
    /// Nothing uses the device.
    DeepIdle,
    /// Context and weights are resident, nothing runs.
    ModelResident,
}

/// Power at rest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Baseline {
    /// The state of rest.
    pub kind: BaselineKind,
    /// Mean power, watts.
    pub mean_w: f64,
    /// Standard error of the mean, watts.
    pub error_w: f64,
    /// Middle of the time it was taken in.
    pub at: Timestamp,
    /// Temperature of the device, degrees Celsius, where it can be read.
    pub celsius: Option<f64>,
    /// Identity of the conditions it holds under.
    pub boundary: String,
}

/// Why a baseline must not be subtracted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BaselineMismatch {
    /// Taken under other conditions.
    #[error("the baseline was taken under another boundary")]
    Boundary,
    /// Taken too long before or after.
    #[error("the baseline is more than 30 minutes away from the phase")]
    Age,
    /// Taken at another temperature.
    #[error("the baseline was taken more than 5 degrees Celsius away from the phase")]
    Temperature,
}

/// A phase's energy above a baseline. May be negative within its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ActiveEnergy {
    /// The state of rest that was subtracted.
    pub above: BaselineKind,
    /// The difference.
    pub energy: JouleRange,
}

const MAX_AGE_S: f64 = 1800.0;
const MAX_DEGREES: f64 = 5.0;

impl Baseline {
    /// The mean power of `series` between `start` and `end`, from the windows that lie wholly inside. `None` with fewer than
    /// three of them, or where the stretch is void: an explicit quiet time is needed, the least reading ever seen is none.
    pub fn of(kind: BaselineKind, series: &Series, start: Timestamp, end: Timestamp, boundary: &str) -> Option<Self> {
        Self::over(kind, series, &[(start, end)], boundary)
    }

    /// As [`of`](Self::of), over several quiet stretches together: the guards of isolated phases, which follow a slow drift.
    pub fn over(kind: BaselineKind, series: &Series, quiet: &[(Timestamp, Timestamp)], boundary: &str) -> Option<Self> {
        let (mut inside, mut joules, mut sensed_s) = (Vec::new(), 0.0, 0.0);
        for &(start, end) in quiet {
            let (a, b) = (series.seconds(start), series.seconds(end));
            if series.voids().any(|(_, stretches)| stretches.iter().any(|s| s.start_s < b && s.end_s > a)) {
                return None;
            }
            for window in series.windows().iter().filter(|w| w.lo_s >= a && w.hi_s <= b) {
                inside.push(window.joules / window.sensed_s);
                joules += window.joules;
                sensed_s += window.sensed_s;
            }
        }
        if inside.len() < 3 {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "a count of windows")]
        let n = inside.len() as f64;
        // Over the whole time: a mean of powers would count windows that seem short, for a late poll, for more than they are.
        let mean_w = joules / sensed_s;
        let variance = inside.iter().map(|w| (w - mean_w).powi(2)).sum::<f64>() / (n - 1.0);
        let (first, last) = (quiet.first()?.0, quiet.last()?.1);
        let at = Timestamp::from_nanos(first.as_nanos().midpoint(last.as_nanos()));
        Some(Self { kind, mean_w, error_w: (variance / n).sqrt(), at, celsius: None, boundary: boundary.to_owned() })
    }

    /// The baseline with the temperature it was taken at.
    #[must_use]
    pub fn with_celsius(mut self, celsius: f64) -> Self {
        self.celsius = Some(celsius);
        self
    }

    /// `raw` less what the device would have drawn at rest in `seconds`, `z` standard errors wide; `raw`'s own bounds are
    /// kept whole. Raw and active energy are both worth keeping; which one a claim means is part of the claim.
    pub fn active(&self, raw: JouleRange, seconds: f64, z: f64) -> ActiveEnergy {
        let (rest, error) = (self.mean_w * seconds, z * self.error_w * seconds);
        ActiveEnergy { above: self.kind, energy: JouleRange::new(raw.low_j - rest - error, raw.high_j - rest + error) }
    }

    /// Whether this baseline may be used for a phase at `at` under `boundary`, at `celsius` where both are known.
    ///
    /// # Errors
    /// The first [`BaselineMismatch`].
    pub fn holds(&self, at: Timestamp, celsius: Option<f64>, boundary: &str) -> Result<(), BaselineMismatch> {
        let apart = at.since(self.at).max(self.at.since(at)).as_secs_f64();
        let warmer = self.celsius.zip(celsius).map_or(0.0, |(a, b)| (a - b).abs());
        if self.boundary != boundary {
            Err(BaselineMismatch::Boundary)
        } else if apart > MAX_AGE_S {
            Err(BaselineMismatch::Age)
        } else if warmer > MAX_DEGREES {
            Err(BaselineMismatch::Temperature)
        } else {
            Ok(())
        }
    }
}
