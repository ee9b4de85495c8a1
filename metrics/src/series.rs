//! What is counted of one backend. Everything here is on the path of every call: atomics, no lock, no allocation.

use crate::{
    histogram::{Histogram, Sum},
    table,
};
use phase_core::{Energy, ErrorKind, NoData, Phase, Regime};
use phase_policy::{Class, Reason};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub(crate) const PHASES: [Phase; 3] = [Phase::Prefill, Phase::Decode, Phase::Request];
pub(crate) const REGIMES: [&str; 3] = ["cold", "warmup", "steady"];
pub(crate) const STEADY: usize = 2;
pub(crate) const CLASSES: [&str; 4] = ["decode_heavy", "mixed", "prefill_heavy", "other"];
pub(crate) const STATUSES: [&str; 4] = ["measured", "interpolated", "macro_window", "no_data"];
/// The kinds there are, and one for those of a later version.
pub(crate) const KINDS: [ErrorKind; 9] = [
    ErrorKind::ContextOverflow,
    ErrorKind::DeviceLost,
    ErrorKind::ForeignCache,
    ErrorKind::InvalidInput,
    ErrorKind::Load,
    ErrorKind::OutOfMemory,
    ErrorKind::Unavailable,
    ErrorKind::Unsupported,
    ErrorKind::Other,
];

/// One backend's series.
#[derive(Debug)]
pub(crate) struct Series {
    /// The path, with its mode where it has several.
    pub(crate) name: String,
    /// By phase (prefill, decode) and regime.
    pub(crate) calls: [[CallSeries; 3]; 2],
    /// By phase and kind.
    pub(crate) failed: [[AtomicU64; KINDS.len()]; 3],
    pub(crate) cancelled: AtomicU64,
    pub(crate) ttft: Histogram,
    pub(crate) tpot: Histogram,
    pub(crate) request: Histogram,
    pub(crate) input_tokens: Histogram,
    pub(crate) output_tokens: Histogram,
    pub(crate) unmatched: AtomicU64,
    /// End of the newest call, plus one; 0 before any.
    pub(crate) last_end: AtomicU64,
    pub(crate) loads: AtomicU64,
    pub(crate) load_ns: AtomicU64,
    /// By phase.
    pub(crate) energy: [EnergySeries; 3],
    /// By class and reason.
    pub(crate) decisions: [[AtomicU64; Reason::NAMES.len()]; CLASSES.len()],
}

/// Calls of one phase and regime.
#[derive(Debug)]
pub(crate) struct CallSeries {
    pub(crate) duration: Histogram,
    pub(crate) tokens: AtomicU64,
}

/// Energies of one phase.
#[derive(Debug)]
pub(crate) struct EnergySeries {
    /// By status: how many, and the sums of best estimate, lower and upper bound.
    pub(crate) by_status: [(AtomicU64, [Sum; 3]); STATUSES.len()],
    /// By reason, in the order of [`NoData::ALL`].
    pub(crate) no_data: Box<[AtomicU64]>,
}

fn zeros<const N: usize>() -> [AtomicU64; N] {
    std::array::from_fn(|_| AtomicU64::new(0))
}

impl Series {
    pub(crate) fn new(name: &str) -> Self {
        let nanos = |edges| Histogram::new(edges, 1e9);
        let energy = || EnergySeries {
            by_status: std::array::from_fn(|_| (AtomicU64::new(0), std::array::from_fn(|_| Sum::default()))),
            no_data: NoData::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
        };
        Self {
            name: name.to_owned(),
            calls: std::array::from_fn(|_| {
                std::array::from_fn(|_| CallSeries { duration: nanos(table::CALL_EDGES), tokens: AtomicU64::new(0) })
            }),
            failed: std::array::from_fn(|_| zeros()),
            cancelled: AtomicU64::new(0),
            ttft: nanos(table::TTFT_EDGES),
            tpot: nanos(table::TPOT_EDGES),
            request: nanos(table::REQUEST_EDGES),
            input_tokens: Histogram::new(table::TOKEN_EDGES, 1.0),
            output_tokens: Histogram::new(table::TOKEN_EDGES, 1.0),
            unmatched: AtomicU64::new(0),
            last_end: AtomicU64::new(0),
            loads: AtomicU64::new(0),
            load_ns: AtomicU64::new(0),
            energy: std::array::from_fn(|_| energy()),
            decisions: std::array::from_fn(|_| zeros()),
        }
    }

    /// A prefill or decode call that went well.
    pub(crate) fn call(&self, phase: usize, regime: Regime, tokens: u64, ns: u64) {
        let regime = match regime {
            Regime::Cold => 0,
            Regime::Warmup(_) => 1,
            // A regime of a later version is certainly not a cold one.
            _ => STEADY,
        };
        let series = &self.calls[phase][regime];
        series.duration.record(ns);
        series.tokens.fetch_add(tokens, Relaxed);
    }

    pub(crate) fn fail(&self, phase: usize, kind: ErrorKind) {
        let kind = KINDS.iter().position(|k| *k == kind).unwrap_or(KINDS.len() - 1);
        self.failed[phase][kind].fetch_add(1, Relaxed);
    }

    /// The newest call, of whichever ending, ended at `ns`.
    pub(crate) fn ended(&self, ns: u64) {
        self.last_end.fetch_max(ns.saturating_add(1), Relaxed);
    }

    pub(crate) fn decide(&self, class: Class, reason: &str) {
        let class = match class {
            Class::DecodeHeavy => 0,
            Class::Mixed => 1,
            Class::PrefillHeavy => 2,
            _ => CLASSES.len() - 1,
        };
        if let Some(reason) = Reason::NAMES.iter().position(|name| *name == reason) {
            self.decisions[class][reason].fetch_add(1, Relaxed);
        }
    }
}

impl EnergySeries {
    pub(crate) fn add(&self, energy: &Energy) {
        let status = STATUSES.iter().position(|s| *s == energy.status()).unwrap_or(STATUSES.len() - 1);
        let (count, sums) = &self.by_status[status];
        count.fetch_add(1, Relaxed);
        if let Some(reason) = energy.reason()
            && let Some(at) = NoData::ALL.iter().position(|r| *r == reason)
        {
            self.no_data[at].fetch_add(1, Relaxed);
        }
        if let Some([best, low, high]) = parts(energy) {
            for (sum, value) in sums.iter().zip([best, low, high]) {
                sum.add(value);
            }
        }
    }
}

/// Best estimate, lower and upper bound in joules, of an energy that has them.
pub(crate) fn parts(energy: &Energy) -> Option<[f64; 3]> {
    match energy {
        Energy::Measured { joules, low, high }
        | Energy::Interpolated { joules, low, high }
        | Energy::MacroWindow { joules, low, high, .. } => Some([joules.0, low.0, high.0]),
        _ => None,
    }
}

/// The position of a phase in [`PHASES`]; `None` for one of a later version.
pub(crate) fn phase_at(phase: Phase) -> Option<usize> {
    PHASES.iter().position(|p| *p == phase)
}
