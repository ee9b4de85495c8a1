//! After the last block: evidence, boundaries again, results, seal.

use super::Runner;
use crate::{
    ScenarioError,
    dir::MANIFEST,
    evidence::{EvidenceFile, file_name},
    manifest::Change,
    reading::Work,
    results::Results,
    task::recapture,
};
use phase_core::{Arm, MeasurementBoundary, Registry, StackInfo};

impl Runner<'_> {
    pub(super) fn finish(&mut self) -> Result<(), ScenarioError> {
        if self.metering.is_some() {
            self.stable.drop_all();
            self.context_resident()?;
        }
        self.stable.read_evidence();
        for (id, evidence) in self.stable.evidence(&self.manifest.plan) {
            let file = file_name(&id);
            let raw: Vec<_> = evidence.iter().flat_map(|e| e.artefacts.clone()).collect();
            let stored = EvidenceFile::new(&self.manifest.run_id, &id, evidence);
            for kept in &stored.artefacts {
                if let Some(record) = raw.iter().find(|a| a.form == kept.form) {
                    self.dir.write_bytes(&kept.file, &record.bytes)?;
                }
            }
            self.dir.write_json(&file, &stored)?;
        }
        let (registry, stable, manifest) = (self.registry, &self.stable, &self.manifest);
        let changes = manifest.backends.iter().enumerate().filter_map(|(at, entry)| {
            let before = manifest.boundaries.get(entry.boundary.as_ref()?)?;
            change(registry, &entry.backend, before, stable.facts(at)?)
        });
        self.manifest.changes = changes.collect();
        self.manifest.captured_after = true;
        self.dir.write_json(MANIFEST, &self.manifest)?;
        let results = Results::read(self.dir.path(), &self.manifest, &mut Work::unwatched())?;
        for (file, text) in results.files(&self.manifest)? {
            self.dir.write_text(file, &text)?;
        }
        self.dir.seal(&self.manifest.run_id)
    }
}

fn change(registry: &Registry, id: &Arm, before: &MeasurementBoundary, load_facts: &StackInfo) -> Option<Change> {
    let probe = registry.get(&id.to_string()).ok().and_then(|b| b.probe_dyn().ok()).unwrap_or_default();
    let mismatch = before.same(&recapture(before, load_facts, &probe)).err()?;
    Some(Change { backend: id.clone(), fields: mismatch.fields })
}
