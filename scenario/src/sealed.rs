//! A complete run read for people: files are held against the seal, events are streamed, and no cell is recomputed.
//!
//! [`Run::open`](crate::Run::open) proves that the cells follow from the events and keeps every event; this reads a run of a
//! million events in the memory of one line.

use crate::{
    Ceilings, LoadSummary, Manifest, Parity, Record, Role, ScenarioError,
    dir::{
        BLOCKS, CEILINGS, CELLS, DIGESTS, DIGESTS_SCHEMA, Digests, ENERGY, EVENTS, FileDigest, LOADS, MANIFEST, PARITY, RunState, at_line,
        load, parse, run_state,
    },
    energy::{ENERGY_SCHEMA, EnergySummary, StoredEnergy},
    evidence::{EVIDENCE_SCHEMA, EvidenceFile, compile_evidence},
    files::{io_error, list, read},
    manifest::RUN_SCHEMA,
    open::check_finish,
    parity::PARITY_SCHEMA,
    reading::{Hashed, Work, digest, sealed},
    record::{BLOCK_SCHEMA, BlockRecord},
    results::{CELLS_SCHEMA, LOADS_SCHEMA, LoadsFile, arm_of},
};
use phase_core::{Arm, MeasurementBoundary, Outcome, Phase, Regime, SessionId, Shape};
use phase_policy::{CompileEvidence, EvidenceError, ScenarioMatrix};
use serde::Deserialize;
use std::{
    borrow::Cow,
    fs::File,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
};

/// A sealed run whose files are as they were sealed.
#[derive(Debug)]
pub struct SealedRun {
    dir: PathBuf,
    manifest: Manifest,
    parity: Parity,
    matrix: Option<ScenarioMatrix>,
    loads: Vec<LoadSummary>,
    blocks: Vec<BlockRecord>,
    evidence: Vec<EvidenceFile>,
    compile: Vec<(Arm, Result<CompileEvidence, EvidenceError>)>,
    energy: Option<EnergySummary>,
    ceilings: Vec<Ceilings>,
    sealed: Digests,
}

/// A file of a run, as sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SealedFile {
    /// Relative to the run directory, with `/` between the parts.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its BLAKE3, hexadecimal.
    pub blake3: String,
}

/// One line of `events.jsonl`, borrowed from the reader's buffer.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A phase call.
    Call(Call<'a>),
    /// Anything else: a load, a failure.
    Other(Record),
}

/// What a [`PhaseRecord`](crate::PhaseRecord) says, without its own copies.
#[derive(Debug, Deserialize)]
#[non_exhaustive]
pub struct Call<'a> {
    /// The run.
    #[serde(borrow)]
    pub run_id: Cow<'a, str>,
    /// The set.
    #[serde(borrow)]
    pub scenario: Cow<'a, str>,
    /// Which replication of its set this is, from 0.
    pub repetition: u32,
    /// Position among all calls on its cache, from 0.
    pub step: u32,
    /// Just before the call, on the segment's clock.
    pub start_ns: u64,
    /// Just after it.
    pub end_ns: u64,
    /// The planned cell: `s1/b1-p128-d64`.
    #[serde(borrow)]
    pub cell: Cow<'a, str>,
    /// The path.
    #[serde(borrow)]
    pub backend: Cow<'a, str>,
    /// Its mode.
    #[serde(borrow)]
    pub mode: Cow<'a, str>,
    /// Why the call was made.
    pub role: Role,
    /// The process of this run that made it, from 0.
    pub segment: u32,
    /// The sample (or warm-up pass) within the visit, from 0.
    pub sample: u32,
    /// Position of the call within its sample, from 0.
    pub call: u32,
    /// The cache it worked on.
    pub session: SessionId,
    /// Prefill, decode, or a request.
    pub phase: Phase,
    /// How much work it was.
    pub shape: Shape,
    /// How warm the path was.
    pub regime: Regime,
    /// The boundary it was taken under.
    #[serde(borrow)]
    pub boundary: Cow<'a, str>,
    /// The replication block.
    pub block: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// Wall time.
    pub duration_ns: u64,
    /// Time on the device's own clock, where the backend reports it.
    #[serde(default)]
    pub device_ns: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CellsFile {
    #[serde(rename = "schema")]
    _schema: String,
    #[serde(rename = "run_id")]
    _run_id: String,
    matrix: Option<ScenarioMatrix>,
}

/// What a line of a phase call begins with: the runner writes no other form, and the seal says that it is the runner's.
const CALL: &[u8] = br#"{"kind":"phase","#;

impl SealedRun {
    /// Opens a complete run: every file but the events is held against the seal. Those are when they are
    /// [read](Self::read_events).
    ///
    /// # Errors
    /// [`ScenarioError::Incomplete`], [`ScenarioError::Damaged`] with file and, where it is known, line,
    /// [`ScenarioError::Schema`], [`ScenarioError::Io`].
    pub fn open(dir: &Path) -> Result<Self, ScenarioError> {
        Self::open_in(dir, &mut Work::unwatched())
    }

    /// As [`open`](Self::open); `watch` is told how many bytes are done, of how many in all, and which file is read. The
    /// first never decreases, the second never changes, and on success the last call has both equal.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(dir: &Path, watch: &mut dyn FnMut(u64, u64, &str)) -> Result<Self, ScenarioError> {
        let mut work = Work::new(sealed(dir), watch);
        let run = Self::open_in(dir, &mut work)?;
        work.end();
        Ok(run)
    }

    /// Opens several, told how far it is with all of them.
    ///
    /// # Errors
    /// Each as [`open`](Self::open).
    pub fn open_all<'d>(
        dirs: impl IntoIterator<Item = &'d Path>,
        watch: &mut dyn FnMut(u64, u64, &str),
    ) -> Vec<Result<Self, ScenarioError>> {
        let dirs: Vec<_> = dirs.into_iter().collect();
        let mut work = Work::new(dirs.iter().map(|dir| sealed(dir)).sum(), watch);
        let mut open = |dir: &&Path| {
            if dirs.len() > 1 {
                work.of(&dir.display().to_string());
            }
            Self::open_in(dir, &mut work)
        };
        let runs = dirs.iter().map(&mut open).collect();
        work.end();
        runs
    }

    fn open_in(dir: &Path, work: &mut Work<'_>) -> Result<Self, ScenarioError> {
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
        let sealed: Digests = load(dir, DIGESTS, DIGESTS_SCHEMA)?;
        if sealed.seal != sealed.own_seal() {
            return Err(ScenarioError::damaged(DIGESTS, None, "the seal does not fit what it seals"));
        }
        for (file, want) in sealed.files.iter().filter(|(file, _)| *file != EVENTS) {
            if !dir.join(file).exists() {
                return Err(ScenarioError::damaged(file, None, "the file is missing"));
            }
            check(file, want, &digest(dir, file, work)?)?;
        }
        if let Some(added) = list(dir)?.into_iter().find(|name| name != DIGESTS && !sealed.files.contains_key(name)) {
            return Err(ScenarioError::damaged(&added, None, "the file was added after the run was sealed"));
        }
        let manifest: Manifest = load(dir, MANIFEST, RUN_SCHEMA)?;
        let parity: Parity = load(dir, PARITY, PARITY_SCHEMA)?;
        check_finish(&manifest, &parity)?;
        let evidence = sealed.files.keys().filter(|name| name.starts_with("evidence/") && name.matches('/').count() == 1);
        let evidence: Vec<EvidenceFile> = evidence.map(|file| load(dir, file, EVIDENCE_SCHEMA)).collect::<Result<_, _>>()?;
        let mut compile = Vec::new();
        for file in &evidence {
            compile.extend(compile_evidence(dir, &manifest, file)?.map(|read| (file.backend.clone(), read)));
        }
        let energy = sealed.files.contains_key(ENERGY).then(|| load::<StoredEnergy>(dir, ENERGY, ENERGY_SCHEMA)).transpose()?;
        let ceilings =
            sealed.files.keys().filter(|name| name.starts_with(CEILINGS)).map(|file| ceilings(dir, file)).collect::<Result<_, _>>()?;
        Ok(Self {
            ceilings,
            compile,
            energy: energy.map(|stored| stored.summary),
            blocks: blocks(dir)?,
            matrix: load::<CellsFile>(dir, CELLS, CELLS_SCHEMA)?.matrix,
            loads: load::<LoadsFile>(dir, LOADS, LOADS_SCHEMA)?.loads,
            evidence,
            dir: dir.to_owned(),
            manifest,
            parity,
            sealed,
        })
    }

    /// The run's id.
    pub fn run_id(&self) -> &str {
        &self.manifest.run_id
    }

    /// What was run, on what.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The boundary of one path's measured calls, when it was loaded.
    pub fn boundary(&self, backend: &Arm) -> Option<&MeasurementBoundary> {
        self.manifest.boundaries.get(self.manifest.backend(backend)?.boundary.as_ref()?)
    }

    /// The agreement of the backends.
    pub fn parity(&self) -> &Parity {
        &self.parity
    }

    /// All cells, as the run wrote them; `None` when no call was made.
    pub fn matrix(&self) -> Option<&ScenarioMatrix> {
        self.matrix.as_ref()
    }

    /// The cells a policy may be made of: those of backends that passed the agreement check.
    pub fn policy_matrix(&self) -> Option<ScenarioMatrix> {
        self.matrix.as_ref()?.admitting(|key| self.parity.passed(&arm_of(&key.backend, &key.mode)))
    }

    /// How long the backends took to load.
    pub fn loads(&self) -> &[LoadSummary] {
        &self.loads
    }

    /// The blocks, in order.
    pub fn blocks(&self) -> &[BlockRecord] {
        &self.blocks
    }

    /// What the runtimes were seen doing.
    pub fn evidence(&self) -> &[EvidenceFile] {
        &self.evidence
    }

    /// What the runtimes' raw records prove of each path, or why they prove nothing.
    pub fn compile_evidence(&self) -> &[(Arm, Result<CompileEvidence, EvidenceError>)] {
        &self.compile
    }

    /// The energy of the cells, where the run was asked for it.
    pub fn energy(&self) -> Option<&EnergySummary> {
        self.energy.as_ref()
    }

    /// What the devices can do at most, where it was measured.
    pub fn ceilings(&self) -> &[Ceilings] {
        &self.ceilings
    }

    /// Lines of `events.jsonl`.
    pub fn events(&self) -> u64 {
        self.sealed.events
    }

    /// BLAKE3 over all that was sealed.
    pub fn seal(&self) -> &str {
        &self.sealed.seal
    }

    /// Every sealed file, by name.
    pub fn files(&self) -> Vec<SealedFile> {
        let file = |(name, FileDigest { bytes, blake3 }): (&String, &FileDigest)| SealedFile {
            name: name.clone(),
            bytes: *bytes,
            blake3: blake3.clone(),
        };
        self.sealed.files.iter().map(file).collect()
    }

    /// Hands every event to `visit`, in order, and holds the file against the seal. What was visited counts only when this
    /// returns `Ok`.
    ///
    /// # Errors
    /// [`ScenarioError::Damaged`] with the line, or for another digest than the sealed one; [`ScenarioError::Io`].
    pub fn read_events(&self, mut visit: impl FnMut(&Event<'_>)) -> Result<(), ScenarioError> {
        let path = self.dir.join(EVENTS);
        let Some(want) = self.sealed.files.get(EVENTS) else { return Ok(()) };
        let file = Hashed::new(File::open(&path).map_err(io_error("read", &path))?);
        let mut reader = BufReader::with_capacity(Hashed::BUFFER, file);
        let (mut line, mut number) = (Vec::new(), 0);
        while reader.read_until(b'\n', &mut line).map_err(io_error("read", &path))? > 0 {
            number += 1;
            let whole = line.strip_suffix(b"\n").ok_or_else(|| ScenarioError::damaged(EVENTS, number, "the line is torn off"))?;
            let event = if whole.starts_with(CALL) {
                serde_json::from_slice(whole).map(Event::Call)
            } else {
                serde_json::from_slice(whole).map(Event::Other)
            };
            visit(&event.map_err(|e| ScenarioError::damaged(EVENTS, number, e.to_string()))?);
            line.clear();
        }
        let Hashed { hasher, bytes, .. } = reader.into_inner();
        check(EVENTS, want, &FileDigest { bytes, blake3: hasher.finalize().to_hex().to_string() })
    }
}

fn check(file: &str, want: &FileDigest, have: &FileDigest) -> Result<(), ScenarioError> {
    if have == want {
        return Ok(());
    }
    let why = format!("{} bytes with BLAKE3 {} where {} bytes with {} were sealed", have.bytes, have.blake3, want.bytes, want.blake3);
    Err(ScenarioError::damaged(file, None, why))
}

fn ceilings(dir: &Path, file: &str) -> Result<Ceilings, ScenarioError> {
    let bytes = read(&dir.join(file))?.unwrap_or_default();
    Ceilings::from_json(&String::from_utf8_lossy(&bytes)).map_err(|e| ScenarioError::damaged(file, None, e.to_string()))
}

fn blocks(dir: &Path) -> Result<Vec<BlockRecord>, ScenarioError> {
    let log = read(&dir.join(BLOCKS))?.unwrap_or_default();
    let lines = (1..).zip(log.split(|b| *b == b'\n').filter(|line| !line.is_empty()));
    lines.map(|(number, line)| parse(BLOCKS, line, BLOCK_SCHEMA).map_err(|e| at_line(e, number))).collect()
}
