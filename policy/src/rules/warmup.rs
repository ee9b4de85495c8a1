//! "Treat cold start as its own regime; warm the routed path before routing to it." What to warm, and what not warming
//! costs, from cold and steady cells of one bucket.

use crate::{
    constants::Constants,
    matrix::{Cell, CellKey, RegimeClass, TimeSummary},
    stats::Interval,
};
use phase_core::{BackendId, Phase, Shape};
use serde::{Deserialize, Serialize};

/// Cold against steady, for one backend, phase and bucket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Warmup {
    /// The backend.
    pub backend: BackendId,
    /// The phase.
    pub phase: Phase,
    /// The bucket.
    pub shape: Shape,
    /// Median of the cold calls.
    pub cold_ns: f64,
    /// Median of the steady ones.
    pub steady_ns: f64,
    /// `cold_ns / steady_ns`.
    pub ratio: f64,
    /// Where the ratio lies: both medians at their ends at once; `None` where one of them has no interval, or where the two
    /// together leave no confidence.
    pub ratio_interval: Option<Interval>,
    /// `cold_ns - steady_ns`.
    pub delta_ns: f64,
    /// Where the difference lies, as for the ratio.
    pub delta_interval: Option<Interval>,
    /// Cold calls.
    pub n: u64,
    /// Whether the ratio asks for a warm pool or a warm-up before routing.
    pub required: bool,
    /// Ids of the cold and the steady cell.
    pub cells: [String; 2],
}

/// The ends of what two medians give, with the confidence that both hold (Bonferroni).
fn ends(cold: &TimeSummary, steady: &TimeSummary, of: fn(f64, f64) -> f64) -> Option<Interval> {
    let (c, s) = (cold.interval?, steady.interval?);
    let confidence = c.confidence + s.confidence - 1.0;
    (confidence > 0.0).then(|| Interval { low: of(c.low, s.high), high: of(c.high, s.low), confidence })
}

/// What is known of the first call on a path.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Warmth {
    /// Cold calls of this bucket were measured.
    Measured {
        /// Median of the cold calls.
        cold_ns: f64,
        /// Cold over steady.
        ratio: f64,
        /// Cold calls.
        n: u64,
        /// Whether the path must be warm before it is routed to.
        required: bool,
    },
    /// No cold calls of this bucket were measured.
    NotMeasured,
}

impl From<&Warmup> for Warmth {
    fn from(w: &Warmup) -> Self {
        Self::Measured { cold_ns: w.cold_ns, ratio: w.ratio, n: w.n, required: w.required }
    }
}

/// One entry for each cold cell with a steady cell of the same bucket.
pub(crate) fn warmups(cells: &[Cell], constants: &Constants) -> Vec<Warmup> {
    warmups_in(cells, constants, super::may_route)
}

/// As [`warmups`], of the modes that `counts`.
pub(crate) fn warmups_in(cells: &[Cell], constants: &Constants, counts: impl Fn(&str) -> bool) -> Vec<Warmup> {
    let routable = |c: &&Cell| c.key.phase != Phase::Request && counts(&c.key.mode);
    let cold = cells.iter().filter(routable).filter(|c| c.key.regime == RegimeClass::Cold);
    cold.filter_map(|cold| {
        let wanted = CellKey { regime: RegimeClass::Steady, ..cold.key.clone() };
        let steady = &cells[cells.binary_search_by(|c| c.key.cmp(&wanted)).ok()?];
        let (first, later) = (cold.time?, steady.time?);
        let (cold_ns, steady_ns) = (first.median_ns, later.median_ns);
        let ratio = cold_ns / steady_ns;
        Some(Warmup {
            backend: cold.key.backend.clone(),
            phase: cold.key.phase,
            shape: cold.key.shape,
            cold_ns,
            steady_ns,
            ratio,
            ratio_interval: ends(&first, &later, |c, s| c / s),
            delta_ns: cold_ns - steady_ns,
            delta_interval: ends(&first, &later, |c, s| c - s),
            n: cold.n,
            required: ratio > constants.warm_pool_ratio,
            cells: [cold.key.id(), steady.key.id()],
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{A, B, cells, seen};
    use phase_core::Regime;

    #[test]
    fn needs_both_regimes_of_one_bucket_and_flags_more_than_tenfold() {
        let matrix = cells(&[
            seen(&A, Phase::Prefill, 1, 32, 1100).with_regime(Regime::Cold),
            seen(&A, Phase::Prefill, 1, 32, 100),
            seen(&A, Phase::Decode, 1, 40, 1000).with_regime(Regime::Cold),
            seen(&A, Phase::Decode, 1, 63, 100),
            seen(&B, Phase::Prefill, 1, 32, 900).with_regime(Regime::Cold),
            seen(&B, Phase::Prefill, 1, 32, 900).with_regime(Regime::Warmup(1)),
        ]);
        let found = warmups(matrix.cells(), &Constants::default());
        let short: Vec<_> = found.iter().map(|w| (w.phase, w.ratio, w.required)).collect();
        assert_eq!(short, [(Phase::Prefill, 11.0, true), (Phase::Decode, 10.0, false)]);
        assert!(found.iter().all(|w| w.ratio_interval.is_none()), "one block says nothing of the next");
    }

    #[test]
    fn ratio_and_difference_have_the_ends_of_both_medians() {
        let call = |block, ns| seen(&A, Phase::Prefill, 1, 32, ns).with_block(block);
        // Six blocks: the interval of the median is the whole range at 97%.
        let calls = (0..6).flat_map(|b| [call(b, 100 + u64::from(b)), call(b, 1000 + u64::from(b)).with_regime(Regime::Cold)]);
        let found = warmups(cells(&calls.collect::<Vec<_>>()).cells(), &Constants::default());
        let [Warmup { ratio, ratio_interval: Some(r), delta_ns, delta_interval: Some(d), .. }] = found[..] else { panic!("{found:?}") };
        assert!((ratio - 1002.5 / 102.5).abs() < 1e-9 && (delta_ns - 900.0).abs() < 1e-9);
        assert!((r.low - 1000.0 / 105.0).abs() < 1e-9 && (r.high - 10.05).abs() < 1e-9, "{r:?}");
        assert!((d.low - 895.0).abs() < 1e-9 && (d.high - 905.0).abs() < 1e-9);
        assert!((r.confidence - 0.9375).abs() < 1e-9, "{r:?}");
    }
}
