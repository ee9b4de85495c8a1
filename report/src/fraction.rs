//! Prefill against decode: where the time of a request goes.

use crate::events::Digest;
use phase_policy::stats::Ordered;
use phase_scenario::SealedRun;
use serde::Serialize;

/// The share of decode in the phase time of one planned request on one competitor.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct FractionRow {
    /// The planned cell.
    pub cell: String,
    /// Sequences, prompt tokens and new tokens of each.
    pub request: [usize; 3],
    /// Who.
    pub arm: String,
    /// Median over the samples of decode / (prefill + decode).
    pub decode_fraction: f64,
    /// Where that median lies.
    pub low: Option<f64>,
    /// The upper end.
    pub high: Option<f64>,
    /// Samples.
    pub n: u64,
    /// The boundary of its calls.
    pub boundary: String,
}

pub(crate) fn rows(run: &SealedRun, digest: &Digest) -> Vec<FractionRow> {
    let mut rows = Vec::new();
    for ((arm, cell), shares) in &digest.fractions {
        let (arm, cell) = (&digest.arms[usize::from(*arm)], &digest.cells[usize::from(*cell)]);
        let Some(planned) = run.manifest().plan.cells.iter().find(|c| c.id() == *cell) else { continue };
        let Some(all) = Ordered::new(shares.iter().map(|s| f64::from(*s))) else { continue };
        let interval = all.median_interval(phase_policy::constants::CONFIDENCE);
        let boundary = run.manifest().backends.iter().find(|b| b.backend.to_string() == *arm).and_then(|b| b.boundary.clone());
        rows.push(FractionRow {
            cell: cell.clone(),
            request: [planned.workload.batch, planned.workload.prompt_tokens, planned.workload.new_tokens()],
            arm: arm.clone(),
            decode_fraction: all.median(),
            low: interval.map(|i| i.low),
            high: interval.map(|i| i.high),
            n: shares.len() as u64,
            boundary: boundary.unwrap_or_default(),
        });
    }
    rows.sort_by(|a, b| (a.request, &a.cell, &a.arm).cmp(&(b.request, &b.cell, &b.arm)));
    rows
}
