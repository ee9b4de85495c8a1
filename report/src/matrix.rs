//! Every cell as a row: median with interval, tail, rate.

use crate::figure::{Figure, bucket, real_size};
use phase_core::{Phase, Shape};
use phase_policy::{Cell, RegimeClass};
use phase_scenario::arm_of;
use serde::Serialize;

/// One cell.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CellRow {
    /// Its id.
    pub id: String,
    /// The competitor.
    pub arm: String,
    /// The phase.
    pub phase: Phase,
    /// How warm.
    pub regime: RegimeClass,
    /// The bucket in words.
    pub bucket: String,
    /// The bucket; in a decode cell `context` is the lower end of an octave.
    pub shape: Shape,
    /// Contexts of its calls: smallest, median, largest.
    pub contexts: Option<[usize; 3]>,
    /// The median, in milliseconds.
    pub median: Option<Figure>,
    /// The 95th percentile, in milliseconds, with its upper bound.
    pub p95: Option<Figure>,
    /// The 99th percentile, in milliseconds, with its upper bound.
    pub p99: Option<Figure>,
    /// Tokens a second, over all sequences.
    pub rate: Option<Figure>,
    /// Failed calls.
    pub failures: u64,
    /// Blocks that were judged for steadiness, and those that slowed down or never settled.
    pub steadiness: Option<[u32; 2]>,
}

impl CellRow {
    pub(crate) fn of(cell: &Cell) -> Self {
        let key = &cell.key;
        let Shape { batch, new_tokens, .. } = key.shape;
        let median = Figure::median_ms(cell);
        let tail = |value: Option<f64>, upper: Option<f64>| {
            value.map(|ns| Figure {
                high: upper.map(|u| u / 1e6),
                low: upper.map(|_| ns / 1e6),
                ..Figure::of_cell(cell, "ms").with(ns / 1e6)
            })
        };
        Self {
            id: key.id(),
            arm: arm_of(&key.backend, &key.mode).to_string(),
            phase: key.phase,
            regime: key.regime,
            bucket: bucket(key.phase, key.shape),
            shape: key.shape,
            contexts: cell.contexts.map(|c| [c.min, c.median, c.max]),
            rate: median.as_ref().map(|m| m.rate(real_size(batch * new_tokens), "tokens/s")),
            median,
            p95: cell.time.and_then(|t| tail(t.p95_ns, t.p95_upper_ns)),
            p99: cell.time.and_then(|t| tail(t.p99_ns, t.p99_upper_ns)),
            failures: cell.failures,
            steadiness: cell.steady.map(|s| [s.judged(), s.unsteady()]),
        }
    }
}

/// Rows of all cells, steady ones first, by phase and bucket.
pub(crate) fn rows(cells: &[Cell]) -> Vec<CellRow> {
    let mut rows: Vec<_> = cells.iter().map(CellRow::of).collect();
    rows.sort_by(|a, b| {
        let key = |r: &CellRow| (r.regime != RegimeClass::Steady, r.phase, r.shape);
        key(a).cmp(&key(b)).then_with(|| a.regime.cmp(&b.regime)).then_with(|| a.arm.cmp(&b.arm))
    });
    rows
}
