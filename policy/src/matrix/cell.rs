//! One cell: its key, its numbers, its row.

use super::EnergyBasis;
use crate::stats::{BlockMedian, Interval, Steadiness};
use phase_core::{BackendId, Energy, Phase, Regime, Shape};
use serde::{Deserialize, Serialize};

/// A regime without the count of its warm-up calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "the three regimes that are never averaged")]
pub enum RegimeClass {
    /// First call after loading.
    Cold,
    /// The calls after it, before the path is trusted to be warm.
    Warmup,
    /// Warmed execution.
    Steady,
}

impl RegimeClass {
    /// The name used in files: `cold`, `warmup`, `steady`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Warmup => "warmup",
            Self::Steady => "steady",
        }
    }

    /// The class of `regime`; `None` for one this version does not know.
    pub fn of(regime: Regime) -> Option<Self> {
        match regime {
            Regime::Cold => Some(Self::Cold),
            Regime::Warmup(_) => Some(Self::Warmup),
            Regime::Steady => Some(Self::Steady),
            _ => None,
        }
    }
}

/// What a cell is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CellKey {
    /// The path.
    pub backend: BackendId,
    /// Its mode.
    pub mode: String,
    /// The phase.
    pub phase: Phase,
    /// The size of the work. In a decode cell `context` is the lower end of an octave (128 for 128..=255): every step
    /// of a generation has another context, and cells of one call each would have no statistics.
    pub shape: Shape,
    /// How warm.
    pub regime: RegimeClass,
}

impl CellKey {
    /// The key under which calls of `shape` are collected.
    pub fn new(backend: BackendId, mode: impl Into<String>, phase: Phase, shape: Shape, regime: RegimeClass) -> Self {
        let shape = if phase == Phase::Decode { Shape { context: octave(shape.context), ..shape } } else { shape };
        Self { backend, mode: mode.into(), phase, shape, regime }
    }

    /// A name for people and evidence lists: `ort-cpu/default/decode/b1/n1/c128/steady`.
    pub fn id(&self) -> String {
        let Self { backend, mode, phase, shape: Shape { batch, new_tokens, context }, regime } = self;
        format!("{backend}/{mode}/{phase}/b{batch}/n{new_tokens}/c{context}/{}", regime.as_str())
    }
}

/// The largest power of two that is not above `context`, or 0.
fn octave(context: usize) -> usize {
    context.checked_ilog2().map_or(0, |log| 1 << log)
}

/// The contexts that a cell's successful calls really had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Contexts {
    /// Smallest.
    pub min: usize,
    /// Median, the lower one of two.
    pub median: usize,
    /// Largest.
    pub max: usize,
}

impl Contexts {
    /// Contexts between `min` and `max`.
    pub(crate) const fn new(min: usize, median: usize, max: usize) -> Self {
        Self { min, median, max }
    }
}

/// Times of a cell's successful calls.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TimeSummary {
    /// Median over the blocks of each block's median: the block is the unit of replication.
    pub median_ns: f64,
    /// Where that median lies, from the order statistics of the block medians, with the confidence that so many blocks
    /// can give (3 blocks: 75%). `None` for a single block, which says nothing of the next one.
    pub interval: Option<Interval>,
    /// Fastest call.
    pub min_ns: u64,
    /// Slowest call.
    pub max_ns: u64,
    /// 95th percentile over all calls; `None` below 90 calls or 3 blocks.
    pub p95_ns: Option<f64>,
    /// 99% upper bound of the 95th percentile, by order statistics; `None` as above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95_upper_ns: Option<f64>,
    /// 99th percentile over all calls; `None` below 459 calls or 3 blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_ns: Option<f64>,
    /// 99% upper bound of the 99th percentile; `None` as above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_upper_ns: Option<f64>,
    /// Median of the device's own times; `None` unless every call reported one.
    pub device_median_ns: Option<f64>,
}

/// Everything known about one key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Cell {
    /// What it is about.
    #[serde(flatten)]
    pub key: CellKey,
    /// The boundary of its numbers.
    pub boundary: String,
    /// Successful calls.
    pub n: u64,
    /// Failed calls: counted here and nowhere else.
    pub failures: u64,
    /// Cancelled requests: counted here and nowhere else.
    pub cancelled: u64,
    /// The replication blocks, by number.
    pub blocks: Vec<BlockMedian>,
    /// Contexts of the successful calls; `None` without any.
    pub contexts: Option<Contexts>,
    /// Times of the successful calls; `None` without any.
    pub time: Option<TimeSummary>,
    /// What its blocks did; `None` outside of steady phase cells, and in policies written before it was judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steady: Option<Steadiness>,
    /// Energy of one call.
    pub energy: Energy,
    /// What that rests on; `None` where it was not measured, and in policies written before it was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_basis: Option<EnergyBasis>,
}

impl Cell {
    /// Column names of [`csv_row`](Self::csv_row), units included.
    pub const CSV_COLUMNS: [&'static str; 40] = [
        "backend",
        "mode",
        "phase",
        "batch",
        "new_tokens",
        "context",
        "regime",
        "context_min",
        "context_median",
        "context_max",
        "n",
        "failures",
        "cancelled",
        "blocks",
        "median_ns",
        "low_ns",
        "high_ns",
        "confidence",
        "min_ns",
        "max_ns",
        "p95_ns",
        "p95_upper_ns",
        "p99_ns",
        "p99_upper_ns",
        "device_median_ns",
        "judged_blocks",
        "unsteady_blocks",
        "energy_status",
        "energy_j",
        "energy_low_j",
        "energy_high_j",
        "energy_no_data_reason",
        "energy_replays",
        "energy_windows",
        "energy_single_status",
        "energy_active_above",
        "energy_active_j",
        "energy_active_low_j",
        "energy_active_high_j",
        "boundary",
    ];

    /// The cell as one row. What is not known is an empty field, never a zero.
    pub fn csv_row(&self) -> [String; Self::CSV_COLUMNS.len()] {
        fn text<T: ToString>(value: Option<T>) -> String {
            value.map_or_else(String::new, |v| v.to_string())
        }
        let Self { key, boundary, n, failures, cancelled, blocks, contexts, time, steady, energy, energy_basis } = self;
        let CellKey { backend, mode, phase, shape, regime } = key;
        let interval = time.and_then(|t| t.interval);
        let (joules, mean) = match energy {
            Energy::Measured { joules, low, high } | Energy::Interpolated { joules, low, high } => (Some([joules.0, low.0, high.0]), None),
            Energy::MacroWindow { joules, low, high, replays, windows, .. } => {
                (Some([joules.0, low.0, high.0]), Some([*replays, *windows]))
            }
            _ => (None, None),
        };
        let active = energy_basis.as_ref().and_then(|b| b.active.as_ref());
        [
            backend.to_string(),
            mode.clone(),
            phase.to_string(),
            shape.batch.to_string(),
            shape.new_tokens.to_string(),
            shape.context.to_string(),
            regime.as_str().to_owned(),
            text(contexts.map(|c| c.min)),
            text(contexts.map(|c| c.median)),
            text(contexts.map(|c| c.max)),
            n.to_string(),
            failures.to_string(),
            cancelled.to_string(),
            blocks.len().to_string(),
            text(time.map(|t| t.median_ns)),
            text(interval.map(|i| i.low)),
            text(interval.map(|i| i.high)),
            text(interval.map(|i| i.confidence)),
            text(time.map(|t| t.min_ns)),
            text(time.map(|t| t.max_ns)),
            text(time.and_then(|t| t.p95_ns)),
            text(time.and_then(|t| t.p95_upper_ns)),
            text(time.and_then(|t| t.p99_ns)),
            text(time.and_then(|t| t.p99_upper_ns)),
            text(time.and_then(|t| t.device_median_ns)),
            text(steady.map(|s| s.judged())),
            text(steady.map(|s| s.unsteady())),
            energy.status().to_owned(),
            text(joules.map(|j| j[0])),
            text(joules.map(|j| j[1])),
            text(joules.map(|j| j[2])),
            text(energy.reason()),
            text(mean.map(|m| m[0])),
            text(mean.map(|m| m[1])),
            text(energy_basis.as_ref().map(|b| b.single.status())),
            text(active.map(|a| &a.above)),
            text(active.map(|a| a.joules)),
            text(active.map(|a| a.low)),
            text(active.map(|a| a.high)),
            boundary.clone(),
        ]
    }
}
