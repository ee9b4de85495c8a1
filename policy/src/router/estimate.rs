//! Predicted times.

use crate::stats::Interval;
use serde::Serialize;

/// A predicted time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Estimate {
    /// The prediction.
    pub ns: f64,
    /// Where it lies if the cells' intervals hold; `None` when a cell has a single block.
    pub interval: Option<Interval>,
    /// How it came about.
    pub basis: Basis,
}

/// How a prediction came about, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Basis {
    /// This very length was measured.
    Measured,
    /// On the line between the two neighbouring lengths.
    Interpolated,
    /// The nearest length's time as it is.
    Nearest,
    /// The longest length's time, scaled per token: attention grows faster, so it may be too low.
    Scaled,
}

impl Estimate {
    /// That many calls.
    pub(super) fn times(self, factor: f64) -> Self {
        let interval = self.interval.map(|i| Interval { low: i.low * factor, high: i.high * factor, ..i });
        Self { ns: self.ns * factor, interval, ..self }
    }

    /// One after the other.
    pub(super) fn plus(self, other: Self) -> Self {
        let interval = self.interval.zip(other.interval).map(|(a, b)| Interval {
            low: a.low + b.low,
            high: a.high + b.high,
            confidence: a.confidence.min(b.confidence),
        });
        Self { ns: self.ns + other.ns, interval, basis: self.basis.max(other.basis) }
    }
}
