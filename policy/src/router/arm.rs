//! What one backend did in one bucket.

use super::{
    estimate::{Basis, Estimate},
    scale::Joules,
    tables::Found,
};
use crate::{
    Percentile,
    matrix::{Cell, TimeSummary},
    rules::{CompileReason, Standing, Warmth},
    stats::{Interval, real, real_size},
};
use phase_core::Phase;

#[derive(Clone, Copy, Debug)]
pub(super) struct Arm {
    /// Index among the policy's cells.
    pub(super) cell: usize,
    pub(super) length: f64,
    pub(super) ns: f64,
    pub(super) interval: Option<Interval>,
    pub(super) tail: Tail,
    /// The way to this backend's next longer bucket.
    pub(super) slope: Option<Slope>,
    /// Against the default; `None` for the default itself, and where it was not measured.
    pub(super) standing: Option<Standing>,
    /// Energy of one call; `None` where it was not measured.
    pub(super) energy: Option<Joules>,
    pub(super) warmth: Warmth,
    pub(super) compile: CompileReason,
    /// Whether these are times of compiled calls.
    pub(super) compiled: bool,
}

/// What slow calls take, over the median.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tail {
    p95_upper: Option<f64>,
    p99_upper: Option<f64>,
    slowest: f64,
}

impl Tail {
    fn of(time: &TimeSummary) -> Self {
        let over = |ns: f64| ns / time.median_ns;
        Self { p95_upper: time.p95_upper_ns.map(over), p99_upper: time.p99_upper_ns.map(over), slowest: over(real(time.max_ns)) }
    }

    /// The worse of two neighbours.
    fn or(self, other: Self) -> Self {
        let worse = |a: Option<f64>, b: Option<f64>| a.zip(b).map(|(a, b)| a.max(b));
        Self {
            p95_upper: worse(self.p95_upper, other.p95_upper),
            p99_upper: worse(self.p99_upper, other.p99_upper),
            slowest: self.slowest.max(other.slowest),
        }
    }

    /// The bound of a percentile where the median takes `ns`; `None` for the median itself, which has an interval.
    #[inline]
    pub(super) fn upper_ns(self, percentile: Percentile, ns: f64) -> Option<f64> {
        match percentile {
            Percentile::P50 => None,
            Percentile::P95 => self.p95_upper.map(|over| ns * over),
            Percentile::P99 => self.p99_upper.map(|over| ns * over),
        }
    }

    pub(super) fn estimate(self, ns: f64, interval: Option<Interval>, basis: Basis) -> Estimate {
        let times = |over: f64| ns * over;
        Estimate {
            ns,
            interval,
            p95_upper_ns: self.p95_upper.map(times),
            p99_upper_ns: self.p99_upper.map(times),
            slowest_ns: times(self.slowest),
            basis,
        }
    }
}

/// What one more token costs between two neighbouring buckets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slope {
    pub(super) until: f64,
    pub(super) ns: f64,
    /// The ends of the interval, and its confidence over the whole stretch.
    pub(super) interval: Option<Interval>,
    /// The worse of both ends.
    pub(super) tail: Tail,
}

impl Arm {
    pub(super) fn new(found: &Found<'_>, index: usize, cell: &Cell) -> Option<Self> {
        let (time, contexts) = (cell.time?, cell.contexts?);
        let key = &cell.key;
        let comparison = found.comparisons.get(&(&key.backend, key.shape));
        let warmup = found.warmups.get(&(&key.backend, key.shape));
        Some(Self {
            cell: index,
            length: real_size(if key.phase == Phase::Decode { contexts.median } else { key.shape.new_tokens }),
            ns: time.median_ns,
            interval: time.interval,
            tail: Tail::of(&time),
            slope: None,
            standing: comparison.map(|c| c.standing),
            energy: Joules::of(&cell.energy),
            warmth: warmup.map_or(Warmth::NotMeasured, |w| Warmth::from(*w)),
            compile: found.compiles.get(&(&key.backend, key.phase, key.shape)).copied().unwrap_or(CompileReason::NoEvidence),
            compiled: false,
        })
    }
}

impl Slope {
    pub(super) fn between(a: &Arm, b: &Arm) -> Option<Self> {
        let tokens = b.length - a.length;
        let interval = a.interval.zip(b.interval).map(|(i, j)| Interval {
            low: (j.low - i.low) / tokens,
            high: (j.high - i.high) / tokens,
            confidence: i.confidence.min(j.confidence),
        });
        (tokens > 0.0).then(|| Self { until: b.length, ns: (b.ns - a.ns) / tokens, interval, tail: a.tail.or(b.tail) })
    }
}
