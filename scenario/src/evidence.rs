//! `evidence/<backend>.json`: what a backend's runtime was seen doing in this run.

use phase_core::{Arm, Evidence};
use serde::{Deserialize, Serialize};

/// Schema of an evidence file.
pub const EVIDENCE_SCHEMA: &str = "phase.evidence/1";

/// What was seen, or why nothing could be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct EvidenceFile {
    /// [`EVIDENCE_SCHEMA`].
    pub schema: String,
    /// The run.
    pub run_id: String,
    /// Whose evidence.
    pub backend: Arm,
    /// What was seen by the last process of the run.
    pub evidence: Option<Evidence>,
    /// Why the runtime's record can't be read.
    pub error: Option<String>,
}

impl EvidenceFile {
    pub(crate) fn new(run_id: &str, backend: &Arm, seen: Result<Evidence, String>) -> Self {
        let (evidence, error) = match seen {
            Ok(evidence) => (Some(evidence), None),
            Err(error) => (None, Some(error)),
        };
        Self { schema: EVIDENCE_SCHEMA.to_owned(), run_id: run_id.to_owned(), backend: backend.clone(), evidence, error }
    }
}

/// The file of a backend, below the run directory.
pub(crate) fn file_name(backend: &Arm) -> String {
    // An id is a name of ours, but a file name must not become a path.
    let plain: String = backend.to_string().chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect();
    format!("evidence/{}.json", plain.trim_start_matches('.'))
}
