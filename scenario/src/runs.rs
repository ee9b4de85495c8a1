//! Several runs as one source for a policy.

use crate::{
    Run, ScenarioError,
    files::{Disk as _, RealDisk, io_error},
    reading::{Work, whole},
    results::{cell_energy, policy_observations},
};
use phase_core::{Arm, BackendId, Energy, Joules, MeasurementBoundary, NoData};
use phase_policy::{
    CellKey, CompileEvidence, EnergyBasis, EvidenceError, LeastWork, Observation, ScenarioMatrix, add_energies, repeat_energy,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// Complete, checked runs whose events may go into one matrix.
#[derive(Debug)]
pub struct Runs(Vec<Run>);

/// Opens and checks the runs in `dirs`.
///
/// # Errors
/// As [`validate`](crate::validate); [`ScenarioError::Plan`] for no directory, or one run twice.
pub fn load_runs(dirs: &[PathBuf]) -> Result<Runs, ScenarioError> {
    load_runs_with(dirs, &mut |_, _, _| {})
}

/// As [`load_runs`], told how far it is with all of them as [`Run::open_with`] tells.
///
/// # Errors
/// As [`load_runs`].
pub fn load_runs_with(dirs: &[PathBuf], watch: &mut dyn FnMut(u64, u64, &str)) -> Result<Runs, ScenarioError> {
    let mut work = Work::new(dirs.iter().map(|dir| whole(dir)).sum(), watch);
    let mut runs = Vec::new();
    for dir in dirs {
        if dirs.len() > 1 {
            work.of(&dir.display().to_string());
        }
        runs.push(Run::open_in(dir, &mut work)?);
    }
    work.end();
    let ids: BTreeSet<_> = runs.iter().map(Run::run_id).collect();
    if runs.is_empty() || ids.len() != runs.len() {
        return Err(ScenarioError::plan("no run, or the same run twice"));
    }
    Ok(Runs(runs))
}

impl Runs {
    /// Their ids, in the order given.
    pub fn run_ids(&self) -> Vec<String> {
        self.0.iter().map(|run| run.run_id().to_owned()).collect()
    }

    /// Seconds since 1970 at the start of the newest run: the age of a policy is that of its newest measurement.
    pub fn created_unix_s(&self) -> u64 {
        self.0.iter().map(|run| run.manifest().created_unix_seconds).max().unwrap_or(0)
    }

    /// The backends that passed the agreement check of every run they were part of, ordered.
    pub fn backends(&self) -> Vec<Arm> {
        let all: BTreeSet<_> = self.0.iter().flat_map(|run| &run.manifest().plan.backends).collect();
        all.into_iter().filter(|id| self.admits(id)).cloned().collect()
    }

    /// One matrix of the backends that [`backends`](Self::backends) lists. Blocks of different runs stay different blocks.
    ///
    /// # Errors
    /// [`ScenarioError::Matrix`], also when no call of such a backend was made, and when the runs' boundaries differ.
    pub fn matrix(&self) -> Result<ScenarioMatrix, ScenarioError> {
        let (mut seen, mut boundaries) = (Vec::<Observation>::new(), BTreeMap::<String, MeasurementBoundary>::new());
        let mut first_block = 0;
        for run in &self.0 {
            seen.extend(policy_observations(run.records(), |id| self.admits(id)).map(|o| o.clone().with_block(o.block + first_block)));
            boundaries.extend(run.boundaries().clone());
            first_block += u32::try_from(run.blocks().len()).unwrap_or(u32::MAX);
        }
        let mut matrix = ScenarioMatrix::build(&seen, &boundaries).map_err(ScenarioError::Matrix)?;
        let keys: Vec<_> = matrix.cells().iter().map(|cell| cell.key.clone()).collect();
        for key in keys {
            let (energy, basis) = self.energy(&key);
            match basis {
                Some(basis) => matrix.set_energy_with(&key, energy, basis),
                None => matrix.set_energy(&key, energy),
            }
            .map_err(ScenarioError::Matrix)?;
        }
        Ok(matrix)
    }

    /// The energy of a cell over all runs: of several that measured it, everything that one of them says is possible. Where
    /// their sensors differ it is not known.
    fn energy(&self, key: &CellKey) -> (Energy, Option<EnergyBasis>) {
        let all: Vec<_> = self.0.iter().map(|run| cell_energy(key, run.manifest(), run.energy())).collect();
        let mut known = all.iter().filter(|(energy, _)| energy.bounds().is_some());
        let Some(first) = known.next() else {
            let none = || (Energy::NoData { reason: NoData::NotRecorded }, None);
            return all.into_iter().next().unwrap_or_else(none);
        };
        known.fold(first.clone(), |(energy, basis), (other, theirs)| {
            let sensors = |basis: &Option<EnergyBasis>| basis.as_ref().map(|b| b.sensors.clone());
            if sensors(&basis) == sensors(theirs) {
                (either(&energy, other), basis)
            } else {
                (Energy::NoData { reason: NoData::BoundaryChanged }, None)
            }
        })
    }

    /// What the raw records of the backends that [`backends`](Self::backends) lists prove.
    pub fn evidence(&self) -> Vec<CompileEvidence> {
        let all = self.0.iter().flat_map(Run::compile_evidence);
        all.filter(|(arm, _)| self.admits(arm)).filter_map(|(_, read)| read.as_ref().ok().cloned()).collect()
    }

    /// Records that prove nothing, and why, each with its run.
    pub fn unproven(&self) -> Vec<(String, EvidenceError)> {
        let of = |run: &Run| {
            run.compile_evidence()
                .iter()
                .filter_map(|(_, read)| Some((run.run_id().to_owned(), read.as_ref().err()?.clone())))
                .collect::<Vec<_>>()
        };
        self.0.iter().flat_map(of).collect()
    }

    /// The least work of a call of a path, from what its model told when it was loaded; `None` where it told nothing.
    pub fn least_work(&self, path: &BackendId) -> Option<LeastWork> {
        let entries = self.0.iter().flat_map(|run| &run.manifest().backends).filter(|b| b.backend.backend == *path);
        let model = entries.filter_map(|b| b.model.as_ref()).find(|m| m.weight_bytes > 0)?;
        Some(LeastWork::new(model.weight_bytes, model.flops_per_token))
    }

    fn admits(&self, id: &Arm) -> bool {
        let mut part_of = self.0.iter().filter(|run| run.manifest().plan.backends.contains(id)).peekable();
        part_of.peek().is_some() && part_of.all(|run| run.parity().passed(id))
    }
}

/// What is possible by one of the two, with the status of the weaker.
fn either(a: &Energy, b: &Energy) -> Energy {
    let Some(([l1, h1], [l2, h2])) = a.bounds().zip(b.bounds()) else { return add_energies(a, b) };
    let (lowest, highest) = (Joules(l1.0.min(l2.0)), Joules(h1.0.max(h2.0)));
    match repeat_energy(&add_energies(a, b), 0.5) {
        Energy::Measured { joules, .. } => Energy::Measured { joules, low: lowest, high: highest },
        Energy::Interpolated { joules, .. } => Energy::Interpolated { joules, low: lowest, high: highest },
        Energy::MacroWindow { joules, replays, windows, method, .. } => {
            Energy::MacroWindow { joules, low: lowest, high: highest, replays, windows, method }
        }
        other => other,
    }
}

/// Writes a file whole or not at all: a temporary file beside it, flushed to the disk, then renamed.
///
/// # Errors
/// [`ScenarioError::Io`]; what was there before is still there.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), ScenarioError> {
    RealDisk.replace(path, bytes).map_err(io_error("write", path))
}
