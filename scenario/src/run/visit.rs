//! One workload on one backend.

use super::Runner;
use crate::{
    ColdError, Observer, ScenarioError, WorkloadKind,
    progress::tell_samples,
    record::{Record, Stage},
    results,
    stable::{Slot, Stable},
    task::{Stop, Visit},
};
use phase_core::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};

impl Runner<'_> {
    /// `false` when cancelled.
    pub(super) fn visit(
        &mut self,
        at: usize,
        visit: Visit<'_>,
        observer: &mut dyn Observer,
        cancel: &AtomicBool,
    ) -> Result<bool, ScenarioError> {
        if visit.plan.cells[visit.cell].workload.kind == WorkloadKind::Cold {
            return Ok(self.cold(at, visit, observer, cancel));
        }
        if matches!(self.stable.slot(at), Slot::Empty) && !self.load(at, Some(visit.block), observer)? {
            return Ok(true);
        }
        let mut records = Vec::new();
        let result = match self.stable.slot_mut(at) {
            Slot::Loaded(lane) => lane.visit(visit, cancel, &mut records),
            Slot::Broken { kind, message } => Err(Stop::Failed { stage: Stage::Load, kind: *kind, message: message.clone() }),
            Slot::Empty => Ok(()),
        };
        if result.is_ok() {
            tell_samples(records.iter(), &visit.plan.backends[at], &visit.plan.cells[visit.cell].id(), observer);
        }
        self.pending.extend(records.into_iter().map(Record::Phase));
        match result {
            Ok(()) => Ok(true),
            Err(Stop::Cancelled) => Ok(false),
            Err(Stop::Failed { stage, kind, message }) => {
                self.fail(at, Some(visit.cell), Some(visit.block), stage, kind, &message, observer);
                if kind == ErrorKind::DeviceLost && stage != Stage::Load {
                    self.stable.break_lane(at, kind, message, &mut self.manifest);
                }
                Ok(true)
            }
        }
    }

    /// One cold start per sample. `false` when cancelled.
    fn cold(&mut self, at: usize, visit: Visit<'_>, observer: &mut dyn Observer, cancel: &AtomicBool) -> bool {
        let id = visit.plan.backends[at].clone();
        for sample in 0..visit.plan.cells[visit.cell].workload.samples {
            if cancel.load(Ordering::Relaxed) {
                return false;
            }
            let request = results::cold_request(visit, id.clone(), self.manifest.load.clone(), sample);
            let none = || Err(ColdError::new(ErrorKind::Unavailable, "no launcher for fresh processes was given"));
            let report = self.launcher.as_mut().map_or_else(none, |launcher| launcher.launch(&request));
            if cancel.load(Ordering::Relaxed) {
                return false;
            }
            let kept = report.map_err(|e| (e.kind, e.message)).and_then(|report| {
                let records = results::cold_records(visit, &id, sample, &report);
                Stable::accept(at, report.boundary, &mut self.manifest).map(|()| records)
            });
            match kept {
                Ok(records) => {
                    let phases = records.iter().filter_map(|r| if let Record::Phase(phase) = r { Some(phase) } else { None });
                    tell_samples(phases, &id, &visit.plan.cells[visit.cell].id(), observer);
                    self.pending.extend(records);
                }
                Err((kind, message)) => self.fail(at, Some(visit.cell), Some(visit.block), Stage::ColdStart, kind, &message, observer),
            }
        }
        true
    }
}
