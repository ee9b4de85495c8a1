//! The compiled policy: a document with everything it rests on, and what makes it void.

mod compile;
mod document;
mod summary;
mod upgrade;

pub use compile::Comparison;
pub use document::SCHEMA;
pub use summary::Summary;
pub(crate) use summary::wrap;
pub use upgrade::Upgraded;

use crate::{
    CompileEvidence, CompileVerdict, MatrixError, ScenarioMatrix, Validity,
    capacity::Mix,
    constants::{Constants, Correction},
    matrix::Cell,
    rules::{Bases, Warmup, warmups_in},
    warm::IdleCurve,
};
use phase_core::{BackendId, BoundaryMismatch, MeasurementBoundary, Mode, Phase, Shape};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// How to compile a policy.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PolicyOptions {
    /// The backend that gets every request for which nothing better is known.
    pub default_safe: BackendId,
    /// When, in seconds since 1970, by the caller's clock.
    pub created_unix_s: u64,
    /// Ids of the runs that the matrix was built from: the evidence.
    pub runs: Vec<String>,
    /// Thresholds.
    pub constants: Constants,
    /// What idling does, where it was measured.
    pub idle_curves: Vec<IdleCurve>,
    /// The mix of requests that the policy is weighted with, where one is known.
    pub mix: Option<Mix>,
    /// What the runtimes were seen doing in those runs.
    pub evidence: Vec<CompileEvidence>,
}

impl PolicyOptions {
    /// The named constants, no runs.
    pub fn new(default_safe: BackendId, created_unix_s: u64) -> Self {
        Self {
            default_safe,
            created_unix_s,
            runs: Vec::new(),
            constants: Constants::default(),
            idle_curves: Vec::new(),
            mix: None,
            evidence: Vec::new(),
        }
    }

    /// Differences below this share don't move a route.
    #[must_use]
    pub fn with_rope(mut self, rope: f64) -> Self {
        self.constants.rope = rope;
        self
    }

    /// Confidence of the ratios.
    #[must_use]
    pub fn with_confidence(mut self, confidence: f64) -> Self {
        self.constants.confidence = confidence;
        self
    }

    /// How intervals allow for there being many comparisons.
    #[must_use]
    pub fn with_correction(mut self, correction: Correction) -> Self {
        self.constants.correction = correction;
        self
    }

    /// The mix of requests that it is weighted with: live traffic is held against it, see [`Drift`](crate::Drift).
    #[must_use]
    pub fn with_mix(mut self, mix: Mix) -> Self {
        self.mix = Some(mix);
        self
    }

    /// What the runtimes were seen doing in the runs.
    #[must_use]
    pub fn with_evidence(mut self, evidence: impl IntoIterator<Item = CompileEvidence>) -> Self {
        self.evidence.extend(evidence);
        self
    }

    /// The runs that the matrix was built from.
    #[must_use]
    pub fn with_runs(mut self, runs: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.runs.extend(runs.into_iter().map(Into::into));
        self
    }

    /// What idling does to the measured paths.
    #[must_use]
    pub fn with_idle_curves(mut self, curves: impl IntoIterator<Item = IdleCurve>) -> Self {
        self.idle_curves.extend(curves);
        self
    }
}

/// A policy: cells, comparisons against the default-safe backend, warm-ups, idle curves, boundaries and constants, under a
/// digest. Its form is described by `docs/schema/policy.v2.schema.json`.
///
/// ```
/// # use phase_core::{BackendId, MeasurementBoundary, Phase, Shape, StackInfo};
/// # use phase_policy::{Observation, Policy, PolicyOptions, ScenarioMatrix};
/// # let shape = Shape { batch: 1, new_tokens: 32, context: 0 };
/// # let sim = BackendId::new("sim");
/// # let seen = [Observation::new(sim.clone(), Phase::Prefill, shape, 1_000).with_boundary("b")];
/// # let matrix = ScenarioMatrix::build(&seen, &[("b".to_owned(), MeasurementBoundary::call(StackInfo::new()))].into())?;
/// let policy = Policy::compile(&matrix, &PolicyOptions::new(sim, 1_760_000_000).with_runs(["run-7"]))?;
/// let json = policy.to_json();
/// assert_eq!(Policy::from_json(&json)?, policy);
/// assert!(Policy::from_json(&json.replace("1000", "1001")).is_err(), "an edited file is refused");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Policy {
    schema: String,
    digest: String,
    created_unix_s: u64,
    default_safe: BackendId,
    runs: Vec<String>,
    constants: Constants,
    boundaries: BTreeMap<String, MeasurementBoundary>,
    cells: Vec<Cell>,
    comparisons: Vec<Comparison>,
    warmups: Vec<Warmup>,
    idle_curves: Vec<IdleCurve>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upgraded: Option<Upgraded>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mix: Option<Mix>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    evidence: Vec<CompileEvidence>,
}

impl Policy {
    /// Compares every challenger with the default-safe backend, bucket by bucket.
    ///
    /// # Errors
    /// [`PolicyError::DefaultSafeNotMeasured`]; [`PolicyError::Constants`] for an option that makes no sense;
    /// [`PolicyError::Inconsistent`] for evidence of other runs or boundaries.
    pub fn compile(matrix: &ScenarioMatrix, options: &PolicyOptions) -> Result<Self, PolicyError> {
        compile::compile(matrix, options)
    }

    /// Reads a policy, of this version or an older one: [`upgraded`](Self::upgraded) says what an older one lacks.
    ///
    /// # Errors
    /// Not JSON, not a policy, of a newer version, edited since it was written, or inconsistent in itself. Never panics.
    pub fn from_json(json: &str) -> Result<Self, PolicyError> {
        document::read(json)
    }

    /// The document, indented, the same for equal policies.
    pub fn to_json(&self) -> String {
        document::write(self)
    }

    /// Names this policy: BLAKE3 over the document without this field, in canonical form. It shows an edit, accidental
    /// or not; it proves no author.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// When it was compiled, in seconds since 1970.
    pub fn created_unix_s(&self) -> u64 {
        self.created_unix_s
    }

    /// The backend for everything that is not decided by measurement.
    pub fn default_safe(&self) -> &BackendId {
        &self.default_safe
    }

    /// Ids of the runs it rests on.
    pub fn runs(&self) -> &[String] {
        &self.runs
    }

    /// The thresholds it was compiled with.
    pub fn constants(&self) -> &Constants {
        &self.constants
    }

    /// The boundaries it holds under, by name.
    pub fn boundaries(&self) -> &BTreeMap<String, MeasurementBoundary> {
        &self.boundaries
    }

    /// All cells, ordered by key.
    pub fn cells(&self) -> &[Cell] {
        &self.cells
    }

    /// Every challenger against the default-safe backend.
    pub fn comparisons(&self) -> &[Comparison] {
        &self.comparisons
    }

    /// Cold against steady.
    pub fn warmups(&self) -> &[Warmup] {
        &self.warmups
    }

    /// What idling does to loaded models, where it was measured.
    pub fn idle_curves(&self) -> &[IdleCurve] {
        &self.idle_curves
    }

    /// Where this policy was read from a document of an older version: which one, and what it lacks.
    pub fn upgraded(&self) -> Option<&Upgraded> {
        self.upgraded.as_ref()
    }

    /// The policy for people, in lines of 80 columns.
    pub fn summary(&self) -> Summary<'_> {
        Summary(self)
    }

    /// The mix of requests that it was weighted with.
    pub fn mix(&self) -> Option<&Mix> {
        self.mix.as_ref()
    }

    /// What the runtimes were seen doing.
    pub fn evidence(&self) -> &[CompileEvidence] {
        &self.evidence
    }

    /// What is known of compiling each path, bucket by bucket. Worked out anew from cells and evidence at each call: no
    /// document can state it.
    pub fn compiles(&self) -> Vec<CompileVerdict> {
        compile::compiles(self)
    }

    /// Every comparison with the compiled times that pass their gate; `None` where none does.
    pub(crate) fn routed(&self, verdicts: &[CompileVerdict]) -> Option<Vec<Comparison>> {
        compile::routed(self, verdicts)
    }

    /// The steady compiled cell of a bucket, and its place among the cells.
    pub(crate) fn compiled_cell(&self, backend: &BackendId, phase: Phase, shape: Shape) -> Option<(usize, &Cell)> {
        compile::compiled_cell(self, backend, phase, shape)
    }

    /// Cold against steady of compiled paths.
    pub(crate) fn compiled_warmups(&self) -> Vec<Warmup> {
        warmups_in(&self.cells, &self.constants, |mode| mode == Mode::Compiled.as_str())
    }

    /// The mode in which `backend` takes routes where nothing is compiled, as cells name it.
    pub fn mode(&self, backend: &BackendId) -> Option<&str> {
        Some(self.phase_cells().find(|c| c.key.backend == *backend)?.key.mode.as_str())
    }

    /// Whether the evidence that this policy states is what its runs' raw records say, read again.
    ///
    /// # Errors
    /// [`PolicyError::Inconsistent`] with the first that is not.
    pub fn check_evidence(&self, read_again: &[CompileEvidence]) -> Result<(), PolicyError> {
        match self.evidence.iter().find(|stated| !read_again.contains(stated)) {
            Some(stated) => {
                let why = format!("the records of {} in run {} do not say what the policy states of them", stated.arm(), stated.run());
                Err(PolicyError::Inconsistent(why))
            }
            None => Ok(()),
        }
    }

    /// The backends with phase cells, ordered.
    pub fn backends(&self) -> impl Iterator<Item = &BackendId> {
        self.phase_cells().map(|c| &c.key.backend).collect::<BTreeSet<_>>().into_iter()
    }

    /// The boundary of `backend`'s phase calls.
    pub fn boundary(&self, backend: &BackendId) -> Option<&MeasurementBoundary> {
        let cell = self.phase_cells().find(|c| c.key.backend == *backend)?;
        self.boundaries.get(&cell.boundary)
    }

    /// Whether `live`, the boundary of `backend` in the running process, is the one this policy was measured under.
    ///
    /// # Errors
    /// [`CheckError::UnknownBackend`], or [`CheckError::Changed`] with every field that differs or is unknown.
    pub fn check(&self, backend: &BackendId, live: &MeasurementBoundary) -> Result<(), CheckError> {
        let measured = self.boundary(backend).ok_or_else(|| CheckError::UnknownBackend { backend: backend.clone() })?;
        measured.same(live).map_err(|mismatch| CheckError::Changed { backend: backend.clone(), mismatch })
    }

    /// How each backend's live boundary compares with the measured one.
    pub fn validity(&self, live: &[(BackendId, MeasurementBoundary)]) -> Validity {
        Validity::of(self, live)
    }

    /// Cells that may take a route.
    pub(crate) fn phase_cells(&self) -> impl Iterator<Item = &Cell> {
        let bases = Bases::of(&self.cells);
        self.cells.iter().filter(move |c| bases.holds(&c.key))
    }
}

/// A policy that can't be compiled or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// A threshold that makes no sense.
    #[error("{0}")]
    Constants(String),
    /// Nothing can be called better than a default that was never measured here.
    #[error("the default-safe backend `{backend}` has no successful steady call in this matrix; measured: {}", names(.measured))]
    DefaultSafeNotMeasured {
        /// The backend asked for.
        backend: BackendId,
        /// Those that have one.
        measured: Vec<BackendId>,
    },
    /// The file was changed after it was written.
    #[error("the policy was edited: its content has digest {actual}, it states {stated}")]
    Digest {
        /// What the file says.
        stated: String,
        /// What its content gives.
        actual: String,
    },
    /// Parts that contradict each other.
    #[error("the policy contradicts itself: {0}")]
    Inconsistent(String),
    /// Not JSON, cut off, or not of the right form.
    #[error("the policy {}", crate::json::state(.0))]
    Json(#[from] serde_json::Error),
    /// Cells that can't be used.
    #[error("the policy's cells can't be used")]
    Matrix(#[from] MatrixError),
    /// JSON, but of something else.
    #[error("this is not a policy: it has no `{field}`")]
    NotAPolicy {
        /// What is missing.
        field: &'static str,
    },
    /// Written by a newer version, or by something else.
    #[error("policy schema `{found}` is not known: this version reads {}", upgrade::readable())]
    Schema {
        /// What the file says.
        found: String,
    },
}

fn names(backends: &[BackendId]) -> String {
    if backends.is_empty() {
        return "none".to_owned();
    }
    backends.iter().map(BackendId::as_str).collect::<Vec<_>>().join(", ")
}

/// A policy does not hold for a backend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// Something it rests on is different now.
    #[error("the policy does not hold for `{backend}` any more")]
    Changed {
        /// The backend.
        backend: BackendId,
        /// Every field that differs or is unknown.
        #[source]
        mismatch: BoundaryMismatch,
    },
    /// It was not measured.
    #[error("the policy knows no backend `{backend}`")]
    UnknownBackend {
        /// The backend.
        backend: BackendId,
    },
}

impl CheckError {
    /// How many fields differ.
    pub(crate) fn differing(&self) -> usize {
        match self {
            Self::Changed { mismatch, .. } => mismatch.fields.len(),
            Self::UnknownBackend { .. } => usize::MAX,
        }
    }
}
