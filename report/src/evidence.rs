//! What the report rests on: agreement, what runtimes were seen doing, failures, the raw files.

use phase_core::Arm;
use phase_scenario::{FailureRecord, ParityVerdict, SealedRun};
use serde::Serialize;

/// One agreement check.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct AgreementRow {
    /// Who was checked.
    pub arm: String,
    /// Against whom.
    pub reference: Option<String>,
    /// The outcome.
    pub verdict: ParityVerdict,
    /// Largest absolute difference of a score.
    pub max_abs_diff: Option<f64>,
    /// What was allowed.
    pub tolerance: Option<f64>,
    /// Rows of scores compared.
    pub rows: u64,
    /// Greedy tokens that differ, near ties apart.
    pub tokens_different: u64,
    /// Near ties among them.
    pub near_ties: u64,
    /// What is wrong, in words.
    pub why: String,
}

/// What one runtime was seen doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct EvidenceRow {
    /// Whose.
    pub arm: String,
    /// Where the observation comes from.
    pub source: String,
    /// Executor and operators it ran.
    pub placement: Vec<String>,
    /// Kernels seen running.
    pub kernels: Vec<String>,
    /// Why there is none.
    pub error: Option<String>,
    /// The file it is in, relative to the run directory.
    pub file: String,
}

/// Something that should have run did not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FailureRow {
    /// Who.
    pub arm: String,
    /// The planned cell.
    pub cell: String,
    /// What was attempted.
    pub stage: String,
    /// The class of the failure.
    pub kind: String,
    /// How often.
    pub times: u32,
    /// The backend's own words.
    pub message: String,
}

/// A sealed file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Artefact {
    /// Relative to the run directory.
    pub name: String,
    /// Where a page finds it; `None` when nobody said where the run is.
    pub href: Option<String>,
    /// Its length.
    pub bytes: u64,
    /// Its BLAKE3.
    pub blake3: String,
}

pub(crate) fn agreement(run: &SealedRun) -> Vec<AgreementRow> {
    let row = |check: &phase_scenario::ParityCheck| AgreementRow {
        arm: check.backend.to_string(),
        reference: check.reference.as_ref().map(Arm::to_string),
        verdict: check.verdict,
        max_abs_diff: check.max_abs_diff,
        tolerance: check.tolerance,
        rows: check.rows_compared,
        tokens_different: check.tokens_different,
        near_ties: check.near_ties,
        why: check.why.clone(),
    };
    run.parity().checks.iter().map(row).collect()
}

pub(crate) fn evidence(run: &SealedRun, artefacts: &[Artefact]) -> Vec<EvidenceRow> {
    let mut files = artefacts.iter().filter(|a| a.name.starts_with("evidence/"));
    let row = |file: &phase_scenario::EvidenceFile| {
        let seen = file.evidence.clone().unwrap_or_default();
        EvidenceRow {
            arm: file.backend.to_string(),
            source: seen.source,
            placement: seen.placement.iter().map(|p| format!("{}: {} operators", p.executor, p.nodes)).collect(),
            kernels: seen.kernels,
            error: file.error.clone(),
            file: files.next().map_or_else(String::new, |a| a.name.clone()),
        }
    };
    run.evidence().iter().map(row).collect()
}

pub(crate) fn artefacts(run: &SealedRun, base: Option<&str>) -> Vec<Artefact> {
    let href = |name: &str| base.map(|base| format!("{}/{name}", base.trim_end_matches('/')));
    run.files().into_iter().map(|f| Artefact { href: href(&f.name), name: f.name, bytes: f.bytes, blake3: f.blake3 }).collect()
}

pub(crate) fn failures(found: &[(FailureRecord, u32)]) -> Vec<FailureRow> {
    let row = |(failure, times): &(FailureRecord, u32)| FailureRow {
        arm: failure.backend.to_string(),
        cell: failure.cell.clone().unwrap_or_default(),
        stage: failure.stage.to_string(),
        kind: failure.error_kind.to_string(),
        times: *times,
        message: failure.message.clone(),
    };
    found.iter().map(row).collect()
}
