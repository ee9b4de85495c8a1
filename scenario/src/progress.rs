//! What a run tells while it goes on. Never called inside a timed region.

use crate::{
    energy::PlannedReplays,
    record::{PhaseRecord, Role, Stage},
};
use phase_core::Arm;
use std::time::Duration;

/// Receives progress.
pub trait Observer {
    /// Takes note of one step.
    fn progress(&mut self, progress: &Progress<'_>);
}

/// Does not listen.
impl Observer for () {
    fn progress(&mut self, _: &Progress<'_>) {}
}

/// One step of a run.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// A block is on the disk.
    BlockEnd {
        /// Its number, from 0.
        block: usize,
        /// Blocks planned.
        blocks: usize,
        /// Share of the processor time that others used meanwhile.
        other_load_fraction: Option<f64>,
    },
    /// A block begins.
    BlockStart {
        /// Its number, from 0.
        block: usize,
        /// Blocks planned.
        blocks: usize,
        /// Its set.
        scenario: &'a str,
    },
    /// A call is about to be replayed for its energy.
    Energy {
        /// The call.
        call: &'a str,
        /// Calls done.
        done: usize,
        /// Calls planned.
        total: usize,
    },
    /// The blocks are done: what is replayed for energy, in order. Calls that were replayed before are not in it.
    EnergyAgenda {
        /// One for each backend and call.
        replays: &'a [PlannedReplays],
        /// Seconds of the run's time that are left for it; `None` is as long as it takes.
        left_s: Option<f64>,
    },
    /// Something failed; the run goes on without it.
    Failed {
        /// Who.
        backend: &'a Arm,
        /// At what.
        stage: Stage,
        /// In words.
        message: &'a str,
    },
    /// A model was loaded.
    Loaded {
        /// Whose.
        backend: &'a Arm,
        /// Wall time of the load call.
        load_ns: u64,
    },
    /// A model is being loaded.
    Loading {
        /// Whose.
        backend: &'a Arm,
    },
    /// What a device can do at most can't be measured any more; the run goes on without.
    NoCeilings {
        /// Why.
        message: &'a str,
    },
    /// A backend was compared with the reference.
    Parity {
        /// Who.
        backend: &'a Arm,
        /// Whether it agrees (the reference does).
        passed: bool,
    },
    /// A sample was taken. Told after the visit that it was taken in, when nothing is timed any more.
    Sampled {
        /// Who.
        backend: &'a Arm,
        /// The planned cell.
        cell: &'a str,
        /// From just before the sample's first call to just after its last.
        wall_ns: u64,
    },
    /// Results are computed and the directory is sealed.
    Sealing,
    /// A workload is about to run on a backend.
    Visit {
        /// Who.
        backend: &'a Arm,
        /// The planned cell.
        cell: &'a str,
        /// Visits done, those of earlier processes included.
        done: usize,
        /// Visits planned.
        total: usize,
        /// Estimate of the time left, from the speed so far.
        remaining: Duration,
    },
}

/// Tells of the samples among the records of one visit.
pub(crate) fn tell_samples<'a>(records: impl Iterator<Item = &'a PhaseRecord>, backend: &Arm, cell: &str, observer: &mut dyn Observer) {
    let mut samples: Vec<(u32, u64, u64)> = Vec::new();
    for record in records.filter(|r| matches!(r.role, Role::Sample | Role::Cold)) {
        match samples.last_mut() {
            Some((sample, _, end)) if *sample == record.sample => *end = record.end_ns,
            _ => samples.push((record.sample, record.start_ns, record.end_ns)),
        }
    }
    for (_, start, end) in samples {
        observer.progress(&Progress::Sampled { backend, cell, wall_ns: end.saturating_sub(start) });
    }
}
