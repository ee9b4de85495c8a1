//! "Treat cold start as its own regime; warm the routed path before routing to it." What to warm, and what not warming
//! costs, from cold and steady cells of one bucket.

use crate::{
    constants::Constants,
    matrix::{Cell, CellKey, RegimeClass},
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
    /// Cold calls.
    pub n: u64,
    /// Whether the ratio asks for a warm pool or a warm-up before routing.
    pub required: bool,
    /// Ids of the cold and the steady cell.
    pub cells: [String; 2],
}

impl Warmup {
    pub(crate) fn check(&self) -> Result<(), String> {
        let Self { backend, phase, shape: _, cold_ns, steady_ns, ratio, n, required: _, cells: _ } = self;
        let sane = [cold_ns, steady_ns, ratio].iter().all(|v| v.is_finite() && **v > 0.0) && *n > 0;
        let ok = sane && (ratio * steady_ns / cold_ns - 1.0).abs() < 1e-9;
        if ok {
            Ok(())
        } else {
            Err(format!("warm-up of `{backend}` {phase}: {cold_ns} ns cold, {steady_ns} ns steady, ratio {ratio}, n {n}"))
        }
    }
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
    let routable = |c: &&Cell| c.key.phase != Phase::Request && super::may_route(&c.key.mode);
    let cold = cells.iter().filter(routable).filter(|c| c.key.regime == RegimeClass::Cold);
    cold.filter_map(|cold| {
        let wanted = CellKey { regime: RegimeClass::Steady, ..cold.key.clone() };
        let steady = &cells[cells.binary_search_by(|c| c.key.cmp(&wanted)).ok()?];
        let (cold_ns, steady_ns) = (cold.time?.median_ns, steady.time?.median_ns);
        let ratio = cold_ns / steady_ns;
        Some(Warmup {
            backend: cold.key.backend.clone(),
            phase: cold.key.phase,
            shape: cold.key.shape,
            cold_ns,
            steady_ns,
            ratio,
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
        assert!(found.iter().all(|w| w.check().is_ok()));
    }
}
