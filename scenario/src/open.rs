//! Reading a run back: nothing is believed that can be recomputed.

use crate::{
    EnergySummary, LoadSummary, Manifest, Parity, ScenarioError,
    dir::{
        BLOCKS, CELLS_CSV, DIGESTS, DIGESTS_SCHEMA, Digests, EVENTS, FileDigest, MANIFEST, PARITY, RunState, digests, intact_blocks,
        length, load, run_state,
    },
    evidence::{EVIDENCE_SCHEMA, EvidenceFile, compile_evidence, file_name},
    files::{json_text, list, read},
    manifest::RUN_SCHEMA,
    parity::PARITY_SCHEMA,
    reading::{Work, whole},
    record::{BlockRecord, Record},
    results::{Results, policy_matrix},
};
use phase_core::{Arm, MeasurementBoundary};
use phase_policy::{Cell, CompileEvidence, EvidenceError, ScenarioMatrix};
use std::{collections::BTreeMap, path::Path};

/// A complete run whose files were all checked.
#[derive(Debug)]
pub struct Run {
    manifest: Manifest,
    parity: Parity,
    results: Results,
    blocks: Vec<BlockRecord>,
    evidence: Vec<EvidenceFile>,
    compile: Vec<(Arm, Result<CompileEvidence, EvidenceError>)>,
    files: usize,
}

/// What [`validate`] found intact.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Validated {
    /// The run.
    pub run_id: String,
    /// Lines of `events.jsonl`.
    pub events: usize,
    /// Cells recomputed.
    pub cells: usize,
    /// Files whose digests agree.
    pub files: usize,
}

/// Checks a run directory: the seal, every file's digest and schema, the plan's completeness, and every cell, recomputed
/// from the raw events.
///
/// # Errors
/// [`ScenarioError::Incomplete`], [`ScenarioError::Damaged`] with file and, where it is known, line,
/// [`ScenarioError::Schema`], [`ScenarioError::Matrix`], [`ScenarioError::Io`].
pub fn validate(dir: &Path) -> Result<Validated, ScenarioError> {
    validate_with(dir, &mut |_, _, _| {})
}

/// As [`validate`], told how far it is as [`Run::open_with`] tells.
///
/// # Errors
/// As [`validate`].
pub fn validate_with(dir: &Path, watch: &mut dyn FnMut(u64, u64, &str)) -> Result<Validated, ScenarioError> {
    let run = Run::open_with(dir, watch)?;
    Ok(Validated {
        run_id: run.manifest.run_id.clone(),
        events: run.records().len(),
        cells: run.matrix().map_or(0, |m| m.cells().len()),
        files: run.files,
    })
}

impl Run {
    /// Opens and checks a complete run.
    ///
    /// # Errors
    /// As [`validate`].
    pub fn open(dir: &Path) -> Result<Self, ScenarioError> {
        Self::open_in(dir, &mut Work::unwatched())
    }

    /// As [`open`](Self::open); `watch` is told how much is done, of how much in all, and what is being worked on. The
    /// numbers are bytes, weighed by what they cost: they tell a share and nothing else. The first never decreases, the
    /// second never changes, and on success the last call has both equal.
    ///
    /// # Errors
    /// As [`validate`].
    pub fn open_with(dir: &Path, watch: &mut dyn FnMut(u64, u64, &str)) -> Result<Self, ScenarioError> {
        let mut work = Work::new(whole(dir), watch);
        let run = Self::open_in(dir, &mut work)?;
        work.end();
        Ok(run)
    }

    pub(crate) fn open_in(dir: &Path, work: &mut Work<'_>) -> Result<Self, ScenarioError> {
        match run_state(dir)? {
            RunState::Complete => {}
            RunState::Resumable { done, total } => {
                let missing = vec![format!("{} of {total} blocks", total - done), format!("the seal ({DIGESTS})")];
                return Err(ScenarioError::Incomplete { dir: dir.to_owned(), missing });
            }
            RunState::Absent | RunState::Foreign => {
                return Err(ScenarioError::damaged(MANIFEST, None, format!("{} holds no run", dir.display())));
            }
        }
        let manifest: Manifest = load(dir, MANIFEST, RUN_SCHEMA)?;
        let blocks = complete_blocks(dir, &manifest, work)?;
        let results = Results::read(dir, &manifest, work)?;
        for (file, text) in results.files(&manifest)? {
            let text = if file == CELLS_CSV { in_its_columns(dir, text)? } else { text };
            same_text(dir, file, &text)?;
        }
        let parity: Parity = load(dir, PARITY, PARITY_SCHEMA)?;
        let evidence = evidence(dir, &manifest)?;
        let events = blocks.last().map(|b| FileDigest { bytes: b.events_bytes, blake3: b.events_blake3.clone() });
        let files = check_seal(dir, &manifest, results.records.len(), events, work)?;
        check_finish(&manifest, &parity)?;
        let mut compile = Vec::new();
        for file in &evidence {
            compile.extend(compile_evidence(dir, &manifest, file)?.map(|read| (file.backend.clone(), read)));
        }
        Ok(Self { manifest, parity, results, blocks, evidence, compile, files })
    }

    /// The run's id.
    pub fn run_id(&self) -> &str {
        &self.manifest.run_id
    }

    /// What was run, on what.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Every boundary an event names, by its id.
    pub fn boundaries(&self) -> &BTreeMap<String, MeasurementBoundary> {
        &self.manifest.boundaries
    }

    /// The boundary of one path's measured calls, when it was loaded.
    pub fn boundary(&self, backend: &Arm) -> Option<&MeasurementBoundary> {
        self.manifest.boundaries.get(self.manifest.backend(backend)?.boundary.as_ref()?)
    }

    /// The agreement of the backends.
    pub fn parity(&self) -> &Parity {
        &self.parity
    }

    /// All cells; `None` when no call was made.
    pub fn matrix(&self) -> Option<&ScenarioMatrix> {
        self.results.matrix.as_ref()
    }

    /// The cells a policy may be made of: those of backends that passed the agreement check. `None` when there are none.
    ///
    /// # Errors
    /// [`ScenarioError::Matrix`].
    pub fn policy_matrix(&self) -> Result<Option<ScenarioMatrix>, ScenarioError> {
        policy_matrix(&self.results, &self.manifest, &self.parity)
    }

    /// How long the backends took to load.
    pub fn loads(&self) -> &[LoadSummary] {
        &self.results.loads
    }

    /// Energies of calls and requests; `None` where nobody asked for them.
    pub fn energy(&self) -> Option<&EnergySummary> {
        self.results.energy.as_ref()
    }

    /// The blocks, in order.
    pub fn blocks(&self) -> &[BlockRecord] {
        &self.blocks
    }

    /// The raw events, in order.
    pub fn records(&self) -> &[Record] {
        &self.results.records
    }

    /// What the runtimes were seen doing.
    pub fn evidence(&self) -> &[EvidenceFile] {
        &self.evidence
    }

    /// What the runtimes' raw records prove of each path, read from the sealed files, or why they prove nothing. Paths
    /// without a record are not among them.
    pub fn compile_evidence(&self) -> &[(Arm, Result<CompileEvidence, EvidenceError>)] {
        &self.compile
    }
}

fn complete_blocks(dir: &Path, manifest: &Manifest, work: &mut Work<'_>) -> Result<Vec<BlockRecord>, ScenarioError> {
    let (blocks, bytes) = intact_blocks(dir, &manifest.run_id, work)?;
    let planned = manifest.plan.blocks.len();
    if blocks.len() != planned {
        return Err(ScenarioError::damaged(
            BLOCKS,
            blocks.len() + 1,
            format!("{} of {planned} blocks are whole; the next was not finished, or its part of {EVENTS} is another", blocks.len()),
        ));
    }
    if length(dir, BLOCKS)? != bytes {
        return Err(ScenarioError::damaged(BLOCKS, blocks.len() + 1, "there is more after the last block"));
    }
    let (events, lines) = blocks.last().map_or((0, 0), |b| (b.events_bytes, b.events_lines));
    if length(dir, EVENTS)? != events {
        return Err(ScenarioError::damaged(EVENTS, usize::try_from(lines + 1).ok(), "there is more after the last block"));
    }
    Ok(blocks)
}

/// The table in the columns that the run's own has: those of an older version lack the ones that were added since. A table
/// with unknown columns is left as it is, and will differ in its first line.
fn in_its_columns(dir: &Path, want: String) -> Result<String, ScenarioError> {
    let Some(bytes) = read(&dir.join(CELLS_CSV))? else { return Ok(want) };
    let header = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    let header = String::from_utf8_lossy(header);
    let columns: Option<Vec<usize>> = header.split(',').map(|name| Cell::CSV_COLUMNS.iter().position(|c| *c == name)).collect();
    let Some(columns) = columns.filter(|c| c.len() < Cell::CSV_COLUMNS.len()) else { return Ok(want) };
    let wrong = |e: &dyn std::fmt::Display| ScenarioError::damaged(CELLS_CSV, None, e.to_string());
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(want.as_bytes());
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in reader.records() {
        let row = row.map_err(|e| wrong(&e))?;
        writer.write_record(columns.iter().filter_map(|c| row.get(*c))).map_err(|e| wrong(&e))?;
    }
    let bytes = writer.into_inner().map_err(|e| wrong(&e))?;
    String::from_utf8(bytes).map_err(|e| wrong(&e))
}

/// Whether a file is `want`, naming the first line that is not.
fn same_text(dir: &Path, file: &str, want: &str) -> Result<(), ScenarioError> {
    let bytes = read(&dir.join(file))?.ok_or_else(|| ScenarioError::damaged(file, None, "the file is missing"))?;
    if bytes == want.as_bytes() {
        return Ok(());
    }
    let (have, want): (Vec<_>, Vec<_>) = (bytes.split(|b| *b == b'\n').collect(), want.as_bytes().split(|b| *b == b'\n').collect());
    let at = have.iter().zip(&want).position(|(a, b)| a != b).unwrap_or(have.len().min(want.len()));
    let show = |lines: &[&[u8]]| lines.get(at).map_or_else(|| "nothing".to_owned(), |l| format!("`{}`", String::from_utf8_lossy(l).trim()));
    Err(ScenarioError::damaged(file, at + 1, format!("it says {} where the events give {}", show(&have), show(&want))))
}

fn evidence(dir: &Path, manifest: &Manifest) -> Result<Vec<EvidenceFile>, ScenarioError> {
    let loaded = manifest.backends.iter().filter(|b| b.boundary.is_some()).map(|b| file_name(&b.backend));
    let there = list(dir)?;
    loaded.filter(|file| there.contains(file)).map(|file| load(dir, &file, EVIDENCE_SCHEMA)).collect()
}

/// The number of files the seal covers, all of them intact. The events were held against `blocks` already.
fn check_seal(
    dir: &Path,
    manifest: &Manifest,
    events: usize,
    blocks: Option<FileDigest>,
    work: &mut Work<'_>,
) -> Result<usize, ScenarioError> {
    let sealed: Digests = load(dir, DIGESTS, DIGESTS_SCHEMA)?;
    if sealed.seal != sealed.own_seal() {
        return Err(ScenarioError::damaged(DIGESTS, None, "the seal does not fit what it seals"));
    }
    same_text(dir, DIGESTS, &json_text(&sealed)?)?;
    let live = digests(dir, &manifest.run_id, events as u64, blocks, work)?;
    for (file, want) in &sealed.files {
        match live.files.get(file) {
            None => return Err(ScenarioError::damaged(file, None, "the file is missing")),
            Some(have) if have != want => {
                let why =
                    format!("{} bytes with BLAKE3 {} where {} bytes with {} were sealed", have.bytes, have.blake3, want.bytes, want.blake3);
                return Err(ScenarioError::damaged(file, None, why));
            }
            Some(_) => {}
        }
    }
    if let Some(file) = live.files.keys().find(|file| !sealed.files.contains_key(*file)) {
        return Err(ScenarioError::damaged(file, None, "the file was added after the run was sealed"));
    }
    if (sealed.run_id.as_str(), sealed.events) != (manifest.run_id.as_str(), events as u64) {
        let why =
            format!("it seals {} events of run {}, the directory holds {events} of {}", sealed.events, sealed.run_id, manifest.run_id);
        return Err(ScenarioError::damaged(DIGESTS, None, why));
    }
    Ok(sealed.files.len())
}

pub(crate) fn check_finish(manifest: &Manifest, parity: &Parity) -> Result<(), ScenarioError> {
    if parity.run_id != manifest.run_id {
        return Err(ScenarioError::damaged(PARITY, None, format!("it belongs to run {}", parity.run_id)));
    }
    if !manifest.captured_after {
        return Err(ScenarioError::damaged(MANIFEST, None, "the boundaries were not captured again after the last block"));
    }
    match manifest.changes.first() {
        None => Ok(()),
        Some(change) => {
            let fields: Vec<_> = change.fields.iter().map(ToString::to_string).collect();
            let why = format!("the boundary of {} changed during the run, which voids it: {}", change.backend, fields.join("; "));
            Err(ScenarioError::damaged(MANIFEST, None, why))
        }
    }
}
