//! From raw events to cells: the same code computes a run's results and checks them later.

use crate::{
    ColdReport, ColdRequest, ENERGY_SCHEMA, EnergySummary, Manifest, Parity, ScenarioError, StoredLoad,
    dir::{CELLS, CELLS_CSV, ENERGY, EVENTS, LOADS, at_line, length},
    energy::{EnergyFile, energies, sittings},
    files::{io_error, json_text},
    reading::{Work, open},
    record::{EVENT_SCHEMA, LoadProcess, LoadRecord, PhaseLine, PhaseRecord, Record, Role},
    task::Visit,
};
use phase_core::{Arm, BackendId, Energy, NoData, SessionId};
use phase_policy::{Cell, CellKey, EnergyBasis, MatrixError, Observation, ScenarioMatrix, stats::Ordered};
use serde::{Deserialize, Serialize};
use std::{
    io::{BufRead as _, BufReader},
    path::Path,
};

/// Schema of `cells.json`.
pub const CELLS_SCHEMA: &str = "phase.cells/1";
/// Schema of `loads.json`.
pub const LOADS_SCHEMA: &str = "phase.loads/1";

/// How long one backend took to load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct LoadSummary {
    /// What was loaded.
    pub backend: Arm,
    /// By which process.
    pub process: LoadProcess,
    /// Loads.
    pub n: usize,
    /// Shortest load call.
    pub min_ns: f64,
    /// Median load call.
    pub median_ns: f64,
    /// Longest load call.
    pub max_ns: f64,
    /// Median wall time of the whole process, of fresh ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_median_ns: Option<f64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LoadsFile {
    schema: String,
    run_id: String,
    pub(crate) loads: Vec<LoadSummary>,
}

/// `matrix` is absent when no call was made at all.
#[derive(Debug, Serialize)]
struct CellsFile<'a> {
    schema: &'a str,
    run_id: &'a str,
    matrix: Option<&'a ScenarioMatrix>,
}

/// What follows from the events of a run.
#[derive(Debug)]
pub(crate) struct Results {
    pub(crate) records: Vec<Record>,
    pub(crate) matrix: Option<ScenarioMatrix>,
    pub(crate) loads: Vec<LoadSummary>,
    /// `None` where nobody asked for energy.
    pub(crate) energy: Option<EnergySummary>,
}

impl Results {
    /// Reads the events of a run and computes everything from them.
    pub(crate) fn read(dir: &Path, manifest: &Manifest, work: &mut Work<'_>) -> Result<Self, ScenarioError> {
        let records = read_records(dir, &manifest.run_id, work)?;
        work.did(0, "computing the cells");
        let mut matrix = matrix(&records, manifest, None, |_| true)?;
        let sittings = if manifest.energy.is_some() { sittings(dir, &manifest.run_id)? } else { Vec::new() };
        let energy = energies(&sittings, manifest, matrix.as_ref())?;
        if let Some(matrix) = matrix.as_mut().filter(|_| energy.is_some()) {
            set_energies(matrix, manifest, energy.as_ref())?;
        }
        let loads = loads(&records);
        work.computed(length(dir, EVENTS)?, "computing the cells");
        Ok(Self { records, matrix, loads, energy })
    }

    /// The files that hold the results, with their text.
    pub(crate) fn files(&self, manifest: &Manifest) -> Result<Vec<(&'static str, String)>, ScenarioError> {
        let cells = CellsFile { schema: CELLS_SCHEMA, run_id: &manifest.run_id, matrix: self.matrix.as_ref() };
        let loads = LoadsFile { schema: LOADS_SCHEMA.to_owned(), run_id: manifest.run_id.clone(), loads: self.loads.clone() };
        let mut files = vec![(CELLS, json_text(&cells)?), (CELLS_CSV, self.csv()?), (LOADS, json_text(&loads)?)];
        if let Some((plan, summary)) = manifest.energy.as_ref().zip(self.energy.as_ref()) {
            let file = EnergyFile { schema: ENERGY_SCHEMA, run_id: &manifest.run_id, reason: plan.reason, summary };
            files.push((ENERGY, file.text()?));
        }
        Ok(files)
    }

    fn csv(&self) -> Result<String, ScenarioError> {
        let wrong = |e: &dyn std::fmt::Display| ScenarioError::damaged(CELLS_CSV, None, e.to_string());
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(Cell::CSV_COLUMNS).map_err(|e| wrong(&e))?;
        for cell in self.matrix.iter().flat_map(ScenarioMatrix::cells) {
            writer.write_record(cell.csv_row()).map_err(|e| wrong(&e))?;
        }
        let bytes = writer.into_inner().map_err(|e| wrong(&e))?;
        String::from_utf8(bytes).map_err(|e| wrong(&e))
    }
}

/// The matrix of the backends that `admit` lets in; `None` when they made no call.
pub(crate) fn matrix(
    records: &[Record],
    manifest: &Manifest,
    energy: Option<&EnergySummary>,
    admit: impl Fn(&Arm) -> bool,
) -> Result<Option<ScenarioMatrix>, ScenarioError> {
    let seen: Vec<&Observation> = policy_observations(records, admit).collect();
    let mut matrix = match ScenarioMatrix::build_as_if_independent(seen, &manifest.boundaries) {
        Ok(matrix) => matrix,
        Err(MatrixError::Empty) => return Ok(None),
        Err(e) => return Err(ScenarioError::Matrix(e)),
    };
    set_energies(&mut matrix, manifest, energy)?;
    Ok(Some(matrix))
}

fn set_energies(matrix: &mut ScenarioMatrix, manifest: &Manifest, energy: Option<&EnergySummary>) -> Result<(), ScenarioError> {
    let keys: Vec<_> = matrix.cells().iter().map(|cell| cell.key.clone()).collect();
    keys.iter().try_for_each(|key| set_energy(matrix, key, manifest, energy))
}

/// Gives a cell its energy; what nobody replayed says why.
fn set_energy(
    matrix: &mut ScenarioMatrix,
    key: &CellKey,
    manifest: &Manifest,
    energy: Option<&EnergySummary>,
) -> Result<(), ScenarioError> {
    let (found, basis) = cell_energy(key, manifest, energy);
    match basis {
        Some(basis) => matrix.set_energy_with(key, found, basis),
        None => matrix.set_energy(key, found),
    }
    .map_err(ScenarioError::Matrix)
}

/// The energy of a cell in one run, and what it rests on.
pub(crate) fn cell_energy(key: &CellKey, manifest: &Manifest, energy: Option<&EnergySummary>) -> (Energy, Option<EnergyBasis>) {
    if let Some(cell) = energy.and_then(|e| e.cells.iter().find(|c| c.key.as_ref() == Some(key))) {
        return (cell.energy.clone(), cell.basis.clone());
    }
    let reason = manifest.energy.as_ref().map_or(manifest.energy_reason, |e| e.reason.unwrap_or(NoData::NotRecorded));
    (Energy::NoData { reason }, None)
}

/// The matrix a policy may be made of: only backends whose scores agree with the reference's.
pub(crate) fn policy_matrix(results: &Results, manifest: &Manifest, parity: &Parity) -> Result<Option<ScenarioMatrix>, ScenarioError> {
    matrix(&results.records, manifest, results.energy.as_ref(), |backend| parity.passed(backend))
}

/// The calls that enter a matrix, of the backends that `admit` lets in.
pub(crate) fn policy_observations(records: &[Record], admit: impl Fn(&Arm) -> bool) -> impl Iterator<Item = &Observation> {
    // A run has a handful of competitors and a million calls.
    let mut known: Vec<(&BackendId, &str, bool)> = Vec::new();
    records.iter().filter_map(counted).filter(move |seen| {
        match known.iter().find(|(backend, mode, _)| **backend == seen.backend && *mode == seen.mode) {
            Some((.., admitted)) => *admitted,
            None => {
                let admitted = admit(&arm_of(&seen.backend, &seen.mode));
                known.push((&seen.backend, &seen.mode, admitted));
                admitted
            }
        }
    })
}

/// The competitor that a call or a cell names. One of an unknown mode is none of a plan's.
pub fn arm_of(backend: &BackendId, mode: &str) -> Arm {
    let text = format!("{backend}@{mode}");
    text.parse().unwrap_or_else(|_| Arm::from(BackendId::from(text)))
}

fn counted(record: &Record) -> Option<&Observation> {
    match record {
        Record::Phase(phase) if phase.role.counts() => Some(&phase.seen),
        _ => None,
    }
}

fn loads(records: &[Record]) -> Vec<LoadSummary> {
    let all: Vec<&LoadRecord> = records.iter().filter_map(|r| if let Record::Load(load) = r { Some(load) } else { None }).collect();
    let mut keys: Vec<_> = all.iter().map(|r| (r.backend.clone(), r.process)).collect();
    keys.sort();
    keys.dedup();
    let summary = |(backend, process): (Arm, LoadProcess)| {
        let own: Vec<_> = all.iter().filter(|r| r.backend == backend && r.process == process).collect();
        let times = Ordered::new(own.iter().map(|r| real(r.load_ns)))?;
        let whole = Ordered::new(own.iter().filter_map(|r| r.process_ns).map(real));
        Some(LoadSummary {
            backend,
            process,
            n: own.len(),
            min_ns: times.min(),
            median_ns: times.median(),
            max_ns: times.max(),
            process_median_ns: whole.map(|w| w.median()),
        })
    };
    keys.into_iter().filter_map(summary).collect()
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of a load are far below 2^52")]
fn real(ns: u64) -> f64 {
    ns as f64
}

/// All lines of `events.jsonl`, each of this schema and run.
pub(crate) fn read_records(dir: &Path, run_id: &str, work: &mut Work<'_>) -> Result<Vec<Record>, ScenarioError> {
    /// Lines between two words to who watches.
    const WATCHED: usize = 4096;
    let path = dir.join(EVENTS);
    let Some(file) = open(&path)? else { return Ok(Vec::new()) };
    let mut reader = BufReader::with_capacity(1 << 18, file);
    let (mut records, mut line, mut bytes) = (Vec::new(), Vec::new(), 0);
    while reader.read_until(b'\n', &mut line).map_err(io_error("read", &path))? > 0 {
        let number = records.len() + 1;
        bytes += line.len() as u64;
        let whole = line.strip_suffix(b"\n").ok_or_else(|| ScenarioError::damaged(EVENTS, number, "the line is torn off"))?;
        let record = record(whole).map_err(|e| at_line(e, number))?;
        if record.origin().1 != run_id {
            return Err(ScenarioError::damaged(EVENTS, number, format!("it belongs to run {}, not {run_id}", record.origin().1)));
        }
        if let Record::Phase(phase) = &record {
            if phase.end_ns.checked_sub(phase.start_ns) != Some(phase.seen.duration_ns) {
                return Err(ScenarioError::damaged(EVENTS, number, "duration_ns is not end_ns - start_ns"));
            }
            if number.is_multiple_of(WATCHED) {
                work.parsed(std::mem::take(&mut bytes), &format!("reading {} of {}", phase.cell, phase.seen.backend));
            }
        }
        records.push(record);
        line.clear();
    }
    work.parsed(bytes, "reading the events");
    Ok(records)
}

fn record(line: &[u8]) -> Result<Record, ScenarioError> {
    // The other way takes four times as long, and says what is wrong with the rest.
    match serde_json::from_slice::<PhaseLine>(line) {
        Ok(phase) if phase.schema == EVENT_SCHEMA => Ok(Record::Phase(phase.into())),
        _ => crate::dir::parse(EVENTS, line, EVENT_SCHEMA),
    }
}

pub(crate) fn load_record(run_id: &str, backend: &Arm, block: Option<u32>, segment: u32, load_ns: u64) -> LoadRecord {
    LoadRecord {
        schema: EVENT_SCHEMA.to_owned(),
        run_id: run_id.to_owned(),
        backend: backend.clone(),
        process: LoadProcess::Runner,
        block,
        segment,
        load_ns,
        process_ns: None,
    }
}

pub(crate) fn cold_request(visit: Visit<'_>, backend: Arm, load: StoredLoad, sample: u32) -> ColdRequest {
    let cell = &visit.plan.cells[visit.cell];
    ColdRequest {
        backend,
        load,
        calls: visit.plan.calls,
        batch: cell.workload.batch,
        prompt_tokens: cell.workload.prompt_tokens,
        decode_steps: cell.workload.decode_steps,
        seed: visit.plan.seed,
        stream: format!("{}/{}/{sample}", cell.id(), visit.block),
    }
}

/// The records of one fresh process: its load, then its calls.
pub(crate) fn cold_records(visit: Visit<'_>, backend: &Arm, sample: u32, report: &ColdReport) -> Vec<Record> {
    let cell = &visit.plan.cells[visit.cell];
    let load = LoadRecord {
        process: LoadProcess::Fresh,
        process_ns: report.process_ns,
        ..load_record(visit.run_id, backend, Some(visit.block), visit.segment, report.load_ns)
    };
    let boundary = report.boundary.id();
    let calls = (0..).zip(&report.calls).map(|(call, made)| {
        Record::Phase(PhaseRecord {
            schema: EVENT_SCHEMA.to_owned(),
            run_id: visit.run_id.to_owned(),
            scenario: cell.scenario.clone(),
            cell: cell.id(),
            repetition: visit.repetition,
            segment: visit.segment,
            role: Role::Cold,
            sample,
            call,
            session: SessionId(1),
            step: call,
            start_ns: made.start_ns,
            end_ns: made.end_ns,
            seen: made.seen.clone().with_boundary(boundary.as_str()).with_block(visit.block),
        })
    });
    std::iter::once(Record::Load(load)).chain(calls).collect()
}
