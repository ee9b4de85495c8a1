//! How long things are expected to take, before and while they run.

use crate::{Block, Plan, Workload, WorkloadKind, task::WARMUP_STEPS};
use std::time::Duration;

/// Speeds that a plan's duration is estimated with before anything is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Rates {
    /// Prompt tokens per second, over all rows.
    pub prefill_tokens_per_second: f64,
    /// Decode steps per second at batch 1.
    pub decode_steps_per_second: f64,
    /// What each further row adds to a decode step, as a share of the step at batch 1.
    pub row_share: f64,
    /// Seconds to load a model.
    pub load_seconds: f64,
}

impl Default for Rates {
    /// A model of 135 million parameters in f32 on two cores.
    fn default() -> Self {
        Self { prefill_tokens_per_second: 450.0, decode_steps_per_second: 35.0, row_share: 0.15, load_seconds: 3.0 }
    }
}

#[expect(clippy::cast_precision_loss, reason = "token counts are far below 2^52")]
impl Rates {
    /// Seconds one backend takes for one visit of a workload, warm-up apart.
    pub(crate) fn seconds(&self, w: &Workload) -> f64 {
        let load = if w.kind == WorkloadKind::Cold { self.load_seconds } else { 0.0 };
        f64::from(w.samples) * (load + self.prefill(w) + self.decode(w, w.decode_steps))
    }

    pub(crate) fn warmup_seconds(&self, w: &Workload) -> f64 {
        match w.kind {
            WorkloadKind::Cold => 0.0,
            WorkloadKind::Steady => f64::from(w.warmup) * (self.prefill(w) + self.decode(w, w.decode_steps.min(WARMUP_STEPS))),
        }
    }

    fn prefill(&self, w: &Workload) -> f64 {
        (w.batch * w.prompt_tokens) as f64 / self.prefill_tokens_per_second
    }

    fn decode(&self, w: &Workload, steps: usize) -> f64 {
        steps as f64 / self.decode_steps_per_second * (1.0 + self.row_share * (w.batch - 1) as f64)
    }
}

/// Estimate of what is left, scaled by how the visits so far compare with theirs.
pub(crate) fn remaining(plan: &Plan, (first, number, task): (usize, usize, usize), elapsed: Duration) -> Duration {
    let rates = Rates::default();
    let seconds =
        |blocks: &[Block]| -> f64 { blocks.iter().flat_map(|b| &b.tasks).map(|t| rates.seconds(&plan.cells[t.cell].workload)).sum() };
    let part: f64 = plan.blocks[number].tasks[..task].iter().map(|t| rates.seconds(&plan.cells[t.cell].workload)).sum();
    let done = seconds(&plan.blocks[first..number]) + part;
    let left = seconds(&plan.blocks[number..]) - part;
    let scale = if done > 0.0 { elapsed.as_secs_f64() / done } else { 1.0 };
    Duration::try_from_secs_f64((left * scale).max(0.0)).unwrap_or_default()
}
