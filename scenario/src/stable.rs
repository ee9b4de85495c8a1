//! The backends of a run: loaded, between loads, or broken; and what was learnt about them.

use crate::{
    Manifest, Plan, ScenarioError,
    clock::SharedClock,
    manifest::{BackendEntry, ModelEntry},
    parity::{ParityCheck, ParityVerdict, Transcript, bare, judge, tolerance, transcript},
    task::Lane,
};
use phase_core::{Arm, BoxModel, ErrorKind, Evidence, MeasurementBoundary, Model as _, StackInfo};

/// One backend's place.
#[derive(Debug)]
pub(crate) enum Slot {
    /// Not in memory; can be loaded.
    Empty,
    Loaded(Box<Lane>),
    /// Gave up on for the rest of this process.
    Broken {
        kind: ErrorKind,
        message: String,
    },
}

#[derive(Debug)]
struct Stall {
    slot: Slot,
    facts: Option<StackInfo>,
    evidence: Option<Result<Evidence, String>>,
}

#[derive(Debug)]
pub(crate) struct Stable {
    stalls: Vec<Stall>,
    reference: Option<(Arm, Transcript)>,
}

impl Stable {
    pub(crate) fn new(backends: usize) -> Self {
        let stalls = (0..backends).map(|_| Stall { slot: Slot::Empty, facts: None, evidence: None }).collect();
        Self { stalls, reference: None }
    }

    pub(crate) fn slot(&self, at: usize) -> &Slot {
        &self.stalls[at].slot
    }

    pub(crate) fn slot_mut(&mut self, at: usize) -> &mut Slot {
        &mut self.stalls[at].slot
    }

    /// The facts captured when this backend was loaded.
    pub(crate) fn facts(&self, at: usize) -> Option<&StackInfo> {
        self.stalls[at].facts.as_ref()
    }

    /// Takes a loaded model in, and checks that it runs under the boundary this backend has in the manifest, if any.
    pub(crate) fn install(&mut self, at: usize, model: BoxModel, clock: SharedClock, manifest: &mut Manifest) -> Result<(), ScenarioError> {
        let backend = manifest.plan.backends[at].clone();
        let lane = Lane::new(model, backend.mode, clock, &manifest.plan);
        let live = lane.boundary(manifest.plan.calls).clone();
        let entry = entry(manifest, &backend);
        entry.model = Some(ModelEntry::new(lane.info(), lane.model.capabilities()));
        entry.load_error = None;
        match entry.boundary.clone().and_then(|id| manifest.boundaries.get(&id)) {
            Some(planned) => planned.same(&live).map_err(|mismatch| ScenarioError::BoundaryChanged { backend, mismatch })?,
            None => {
                entry_boundary(manifest, &backend, &live);
            }
        }
        self.stalls[at].facts = Some(lane.info().stack.clone());
        self.stalls[at].slot = Slot::Loaded(Box::new(lane));
        Ok(())
    }

    pub(crate) fn break_lane(&mut self, at: usize, kind: ErrorKind, message: String, manifest: &mut Manifest) {
        let backend = manifest.plan.backends[at].clone();
        let entry = entry(manifest, &backend);
        if entry.boundary.is_none() {
            entry.load_error = Some(message.clone());
        }
        self.stalls[at].slot = Slot::Broken { kind, message };
    }

    /// Reads a loaded backend's evidence and drops it.
    pub(crate) fn drop_lane(&mut self, at: usize) {
        let stall = &mut self.stalls[at];
        if let Slot::Loaded(lane) = &mut stall.slot {
            stall.evidence = Some(lane.evidence().map_err(|e| e.to_string()));
            stall.slot = Slot::Empty;
        }
    }

    pub(crate) fn drop_all(&mut self) {
        (0..self.stalls.len()).for_each(|at| self.drop_lane(at));
    }

    /// Reads the evidence of every loaded backend.
    pub(crate) fn read_evidence(&mut self) {
        for stall in &mut self.stalls {
            if let Slot::Loaded(lane) = &mut stall.slot {
                stall.evidence = Some(lane.evidence().map_err(|e| e.to_string()));
            }
        }
    }

    /// The evidence read last, of every backend that has some.
    pub(crate) fn evidence(&self, plan: &Plan) -> Vec<(Arm, Result<Evidence, String>)> {
        let all = plan.backends.iter().zip(&self.stalls);
        all.filter_map(|(id, stall)| Some((id.clone(), stall.evidence.clone()?))).collect()
    }

    /// Compares a loaded backend with the reference; the first one that can run is the reference.
    pub(crate) fn compare(&mut self, at: usize, plan: &Plan, segment: u32) -> Result<ParityCheck, ScenarioError> {
        let id = &plan.backends[at];
        let Slot::Loaded(lane) = &mut self.stalls[at].slot else {
            return Ok(bare(id, segment, ParityVerdict::Failed, "not loaded"));
        };
        let follow = self.reference.as_ref().map(|(_, transcript)| transcript);
        let ours = transcript(&mut lane.model, &plan.parity, plan.seed, &plan.prompt, follow);
        lane.forget_events();
        let allowed = tolerance(&plan.parity, lane.info().dtype)?;
        Ok(match (ours, &self.reference) {
            (Err(e), _) => bare(id, segment, ParityVerdict::Failed, e.to_string()),
            (Ok(ours), Some((name, reference))) => {
                let check = ParityCheck { reference: Some(name.clone()), ..bare(id, segment, ParityVerdict::Failed, "") };
                judge(check, &ours, reference, allowed)
            }
            (Ok(ours), None) => {
                // A reference whose own scores are no numbers would make every other backend look wrong.
                let itself = judge(bare(id, segment, ParityVerdict::Failed, ""), &ours, &ours, allowed);
                if itself.verdict != ParityVerdict::Agrees {
                    return Ok(itself);
                }
                self.reference = Some((id.clone(), ours));
                ParityCheck { verdict: ParityVerdict::Reference, ..bare(id, segment, ParityVerdict::Reference, "") }
            }
        })
    }

    /// Takes the boundary of a fresh process into the manifest, when it is the backend's own.
    pub(crate) fn accept(at: usize, boundary: MeasurementBoundary, manifest: &mut Manifest) -> Result<(), (ErrorKind, String)> {
        let backend = manifest.plan.backends[at].clone();
        let own = manifest.backend(&backend).and_then(|e| e.boundary.clone());
        match own.and_then(|id| manifest.boundaries.get(&id)) {
            Some(planned) => {
                let words = |e| (ErrorKind::Other, format!("the fresh process ran under another boundary: {e}"));
                planned.same(&boundary).map_err(words)?;
                manifest.boundaries.insert(boundary.id(), boundary);
                Ok(())
            }
            None => Err((ErrorKind::Other, "the runner could not load this backend, so there is no boundary to compare with".to_owned())),
        }
    }
}

fn entry<'m>(manifest: &'m mut Manifest, backend: &Arm) -> &'m mut BackendEntry {
    let at = manifest.backends.iter().position(|b| b.backend == *backend).unwrap_or_else(|| {
        manifest.backends.push(BackendEntry { backend: backend.clone(), boundary: None, model: None, load_error: None });
        manifest.backends.len() - 1
    });
    &mut manifest.backends[at]
}

fn entry_boundary(manifest: &mut Manifest, backend: &Arm, live: &MeasurementBoundary) {
    let id = live.id();
    entry(manifest, backend).boundary = Some(id.clone());
    manifest.boundaries.insert(id, live.clone());
}
