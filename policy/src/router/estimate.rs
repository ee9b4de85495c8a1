//! Predicted times.

use crate::{Percentile, rules::Outside, stats::Interval};
use serde::Serialize;

/// A predicted time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Estimate {
    /// The prediction.
    pub ns: f64,
    /// Where it lies if the cells' intervals hold; `None` when a cell has a single block.
    pub interval: Option<Interval>,
    /// 99% upper bound of the 95th percentile; `None` where fewer than 90 calls were measured.
    pub p95_upper_ns: Option<f64>,
    /// 99% upper bound of the 99th percentile; `None` where fewer than 459 calls were measured.
    pub p99_upper_ns: Option<f64>,
    /// The slowest call measured, brought to this length: what there is when the percentiles have no bound.
    pub slowest_ns: f64,
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

/// Why there is no prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "unpredicted", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Unpredicted {
    /// The backend no longer runs under the boundary it was measured under.
    #[error("it no longer runs under the boundary it was measured under")]
    BoundaryChanged,
    /// The backend was not measured in one of the phases here.
    #[error("it was not measured here")]
    NoCell,
    /// The request lies outside of what was measured.
    #[error("{0}")]
    Outside(Outside),
    /// The policy does not know the backend.
    #[error("the policy does not know it")]
    UnknownBackend,
}

impl Estimate {
    /// The upper bound of a percentile: for the median, the upper end of its interval. `None` where too few calls or
    /// blocks were measured.
    #[inline]
    pub fn upper_ns(&self, percentile: Percentile) -> Option<f64> {
        match percentile {
            Percentile::P50 => self.interval.map(|i| i.high),
            Percentile::P95 => self.p95_upper_ns,
            Percentile::P99 => self.p99_upper_ns,
        }
    }

    /// That many calls.
    pub(super) fn times(self, factor: f64) -> Self {
        let interval = self.interval.map(|i| Interval { low: i.low * factor, high: i.high * factor, ..i });
        Self {
            ns: self.ns * factor,
            interval,
            p95_upper_ns: self.p95_upper_ns.map(|ns| ns * factor),
            p99_upper_ns: self.p99_upper_ns.map(|ns| ns * factor),
            slowest_ns: self.slowest_ns * factor,
            ..self
        }
    }

    /// One after the other.
    pub(super) fn plus(self, other: Self) -> Self {
        let interval = self.interval.zip(other.interval).map(|(a, b)| Interval {
            low: a.low + b.low,
            high: a.high + b.high,
            confidence: a.confidence.min(b.confidence),
        });
        // The sum of percentiles is the percentile of the sum if slow goes with slow, and above it for calls that are slow on
        // their own, unless very few of them are very slow.
        let sum = |a: Option<f64>, b: Option<f64>| a.zip(b).map(|(a, b)| a + b);
        Self {
            ns: self.ns + other.ns,
            interval,
            p95_upper_ns: sum(self.p95_upper_ns, other.p95_upper_ns),
            p99_upper_ns: sum(self.p99_upper_ns, other.p99_upper_ns),
            slowest_ns: self.slowest_ns + other.slowest_ns,
            basis: self.basis.max(other.basis),
        }
    }
}
