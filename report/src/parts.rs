//! Where the wall time of the run went, with what nobody accounts for as a part of its own.

use crate::{
    events::Digest,
    figure::{percent, real},
};
use phase_scenario::SealedRun;
use serde::Serialize;

/// One part of the run's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Part {
    /// Samples of prefill.
    Prefill,
    /// Samples of decode.
    Decode,
    /// Calls before the first sample of a workload.
    Warmup,
    /// Calls that wake a backend's threads after another one ran.
    Settle,
    /// Fresh processes, their loads and calls included.
    ColdStart,
    /// Loads within blocks.
    Load,
    /// Wall time of the blocks minus everything above: prompts, caches, files, waiting.
    Unattributed,
}

impl Part {
    /// The words shown.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Prefill => "prefill, measured",
            Self::Decode => "decode, measured",
            Self::Warmup => "warm-up",
            Self::Settle => "settling",
            Self::ColdStart => "cold starts",
            Self::Load => "loads",
            Self::Unattributed => "unattributed",
        }
    }
}

/// A part, by competitor.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PartsRow {
    /// Which part.
    pub part: Part,
    /// Seconds, by competitor in the plan's order; empty for what belongs to nobody.
    pub by_arm_s: Vec<f64>,
    /// Seconds together.
    pub seconds: f64,
    /// Share of the blocks' wall time.
    pub share: f64,
    /// Those blocks.
    pub blocks: usize,
}

impl PartsRow {
    /// `12.3 %`.
    pub fn share_text(&self) -> String {
        percent(self.share)
    }
}

/// The parts of all blocks' wall time; they add up to it.
pub(crate) fn rows(run: &SealedRun, digest: &Digest) -> Vec<PartsRow> {
    let wall: u64 = run.blocks().iter().map(|b| b.end_ns.saturating_sub(b.start_ns)).sum();
    if wall == 0 {
        return Vec::new();
    }
    let blocks = run.blocks().len();
    let arms: Vec<_> = run.manifest().plan.backends.iter().map(|arm| digest.position(arm)).collect();
    let spent = |arm: &Option<u16>| arm.and_then(|arm| digest.spent.get(&arm)).copied().unwrap_or_default();
    let all: Vec<_> = arms.iter().map(spent).collect();
    let parts = [Part::Prefill, Part::Decode, Part::Warmup, Part::Settle, Part::ColdStart, Part::Load];
    let mut rows = Vec::new();
    let mut told = 0;
    for (at, part) in parts.into_iter().enumerate() {
        let ns: Vec<u64> = all.iter().map(|s| [s.prefill, s.decode, s.warmup, s.settle, s.cold, s.loads][at]).collect();
        let sum: u64 = ns.iter().sum();
        told += sum;
        let by_arm_s = ns.iter().map(|ns| real(*ns) / 1e9).collect();
        rows.push(PartsRow { part, by_arm_s, seconds: real(sum) / 1e9, share: real(sum) / real(wall), blocks });
    }
    // Below zero would mean that calls overlap or lie outside of their blocks: it is shown as it is.
    let rest = real(wall) - real(told);
    rows.push(PartsRow { part: Part::Unattributed, by_arm_s: Vec::new(), seconds: rest / 1e9, share: rest / real(wall), blocks });
    rows
}
