//! `evidence/<backend>.json`: what a backend's runtime was seen doing in this run.

use crate::{
    ScenarioError,
    dir::{DIGESTS, DIGESTS_SCHEMA, Digests, load},
    files::read,
    manifest::Manifest,
};
use phase_core::{Arm, Artefact, ArtefactForm, Evidence, Phase, Shape};
use phase_policy::{CompileEvidence, EvidenceError, Sealed};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, path::Path};

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
    /// The runtime's own records, as files beside this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artefacts: Vec<ArtefactFile>,
}

/// A raw record in a run directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ArtefactFile {
    /// Where it lies, below the run directory.
    pub file: String,
    /// What it is.
    pub form: ArtefactForm,
    /// The calls that were made while it was recorded; empty where the record itself says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub during: Vec<(Phase, Shape)>,
}

/// Larger records are not kept.
const LARGEST: usize = 16 << 20;

impl EvidenceFile {
    pub(crate) fn new(run_id: &str, backend: &Arm, seen: Result<Evidence, String>) -> Self {
        let (evidence, error) = match seen {
            Ok(evidence) => (Some(evidence), None),
            Err(error) => (None, Some(error)),
        };
        // One record of each form: a second one would have the same name.
        let mut forms = BTreeSet::new();
        let kept = evidence.iter().flat_map(|e| &e.artefacts).filter(|a| a.bytes.len() <= LARGEST && forms.insert(a.form));
        let file = |a: &Artefact| ArtefactFile { file: raw_name(backend, a.form), form: a.form, during: a.during.clone() };
        let artefacts = kept.map(file).collect();
        Self { schema: EVIDENCE_SCHEMA.to_owned(), run_id: run_id.to_owned(), backend: backend.clone(), evidence, error, artefacts }
    }
}

/// What the raw records of a backend prove, or why they prove nothing; `None` where none were kept.
pub(crate) fn compile_evidence(
    dir: &Path,
    manifest: &Manifest,
    file: &EvidenceFile,
) -> Result<Option<Result<CompileEvidence, EvidenceError>>, ScenarioError> {
    let Some(boundary) = manifest.backend(&file.backend).and_then(|b| b.boundary.as_deref()) else { return Ok(None) };
    if file.artefacts.is_empty() {
        return Ok(None);
    }
    let digests: Digests = load(dir, DIGESTS, DIGESTS_SCHEMA)?;
    let mut all = Vec::new();
    for entry in &file.artefacts {
        // Only what the seal covers, so that a name can't lead elsewhere.
        let wrong = |why| ScenarioError::damaged(&entry.file, None, why);
        let sealed = digests.files.get(&entry.file).ok_or_else(|| wrong("the record is not sealed"))?;
        let bytes = read(&dir.join(&entry.file))?.ok_or_else(|| wrong("the record is missing"))?;
        all.push((entry, bytes, sealed.blake3.clone()));
    }
    let sealed: Result<Vec<_>, _> =
        all.iter().map(|(entry, bytes, digest)| Sealed::new(entry.form, &entry.during, bytes, digest)).collect();
    Ok(Some(sealed.and_then(|sealed| CompileEvidence::read(file.backend.clone(), boundary, &manifest.run_id, &sealed))))
}

/// The file of a backend, below the run directory.
pub(crate) fn file_name(backend: &Arm) -> String {
    format!("evidence/{}.json", plain(backend))
}

/// A raw record of a backend, below the run directory.
pub(crate) fn raw_name(backend: &Arm, form: ArtefactForm) -> String {
    format!("evidence/{}/{}", plain(backend), form.file_name())
}

fn plain(backend: &Arm) -> String {
    // An id is a name of ours, but a file name must not become a path.
    let plain: String = backend.to_string().chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect();
    plain.trim_start_matches('.').to_owned()
}
