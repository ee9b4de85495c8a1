//! What ran where, from ONNX Runtime's own profiles of the graphs, and what was captured and replayed.
//!
//! The profiles are taken on further sessions over the same weights in device memory, made for the purpose and dropped: a
//! profiled session is slower, so the one that is measured is never profiled.

use super::{
    device::Device,
    model::{Captured, OrtCudaModel, Program},
    operators,
    session::{self, Record},
};
use crate::{error::OrtError, evidence::parse, graph::Format, model::next_id};
use ort::session::Session;
use phase_capture::{Guarded, together};
use phase_core::{Artefact, ArtefactForm, CacheSpec, Decode, Evidence, Logits, Mode, Model, Prefill, PromptBatch, TokenId};
use std::{collections::BTreeMap, path::Path, sync::Arc};

/// The sessions of a model.
pub(super) struct Sessions {
    pub(super) session: Guarded<Session>,
    pub(super) single: Option<Guarded<Session>>,
}

impl Sessions {
    /// Opens them, together with other users of the device; with `profile`, each records what it runs into a file in that folder.
    pub(super) fn open(program: &Program, device: &Device, format: Format, profile: Option<&Path>) -> Result<Self, OrtError> {
        let prefix = |name| profile.map(|folder| folder.join(name));
        let both = open_both(program, device, format, Record::profile(prefix("both").as_deref()))?;
        let single = match &program.single {
            Some((graph, kernels)) => {
                let domain = operators::domain(kernels, format).map_err(OrtError::runtime("adding operators"))?;
                Some(session::open(&program.setup, device, graph, Some(domain), Record::profile(prefix("single").as_deref()))?)
            }
            None => None,
        };
        Ok(Self { session: Guarded::new(both), single: single.map(Guarded::new) })
    }
}

/// A session of the graph for both phases.
fn open_both(program: &Program, device: &Device, format: Format, record: Record<'_>) -> Result<Session, OrtError> {
    let domain = program.gating.as_ref().map(|gating| operators::gated_domain(gating, format)).transpose();
    session::open(&program.setup, device, &program.graph, domain.map_err(OrtError::runtime("adding operators"))?, record)
}

/// Runs a prefill and a decode step under the profiler, for one sequence and for two.
pub(super) fn observe(model: &OrtCudaModel) -> Result<Evidence, OrtError> {
    let folder = tempfile::tempdir().map_err(OrtError::store("create a folder in", std::env::temp_dir()))?;
    let Sessions { session, single } = {
        let _together = together();
        model.runtime.device.enter()?;
        Sessions::open(&model.program, &model.runtime.device, model.runtime.format, Some(folder.path()))?
    };
    let mut profiled = OrtCudaModel {
        id: next_id(),
        info: model.info.clone(),
        capabilities: model.capabilities.clone(),
        mode: Mode::Eager,
        session,
        single,
        program: Guarded::new(Arc::clone(&*model.program)),
        runtime: Guarded::new(Arc::clone(&*model.runtime)),
        captured: BTreeMap::new(),
        steps: Vec::new(),
        device_time: None,
    };
    let prompt = [TokenId(0); 4];
    for batch in 1..=profiled.capabilities.max_batch.min(2) {
        let mut cache = profiled.allocate(CacheSpec { batch, capacity: profiled.capabilities.max_context.min(8) })?;
        let mut out = Logits::new();
        profiled.prefill(&mut cache, PromptBatch::new(&prompt[..2 * batch], batch)?, &mut out)?;
        profiled.decode(&mut cache, &prompt[..batch], &mut out)?;
    }
    let mut parts = vec![read(&mut profiled.session)?];
    if let Some(single) = &mut profiled.single {
        parts.push(read(single)?);
    }
    let source = "ONNX Runtime profiles of a prefill and a decode step of one sequence and of two";
    let text = joined(&parts)?;
    let mut evidence = parse(&text, source)?.with_artefact(Artefact::new(ArtefactForm::OrtProfile, text));
    for (batch, Captured { nodes, spoiled, replays }) in &model.captured {
        let nodes: Vec<_> = nodes.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let again = if *spoiled == 0 { String::new() } else { format!(", captured again {spoiled} times") };
        let nodes = nodes.join(" + ");
        evidence = evidence.with_kernel(format!("graph of a decode step, batch {batch}: {nodes} nodes{again}, {replays} replays"));
    }
    if let Some(record) = Artefact::cuda_graphs(model.captured.iter().map(|(batch, c)| (*batch, c.nodes.as_slice(), c.replays))) {
        evidence = evidence.with_artefact(record);
    }
    // The profile says what ran; what the optimiser made of the graph comes from a session of its own, without which the
    // profile is still worth having.
    Ok(match optimised(model, folder.path()) {
        Ok(bytes) => evidence
            .with_artefact(Artefact::new(ArtefactForm::OrtSourceModel, model.program.graph.clone()))
            .with_artefact(Artefact::new(ArtefactForm::OrtOptimisedModel, bytes)),
        Err(e) => evidence.with_kernel(format!("the optimised graph was not recorded: {e}")),
    })
}

/// The graph for both phases as ONNX Runtime optimised it. Its weights are inputs, so it is small.
fn optimised(model: &OrtCudaModel, folder: &Path) -> Result<Vec<u8>, OrtError> {
    let file = folder.join("optimised.onnx");
    let _together = together();
    open_both(&model.program, &model.runtime.device, model.runtime.format, Record::Optimised(&file))?;
    std::fs::read(&file).map_err(OrtError::store("read", file))
}

fn read(session: &mut Session) -> Result<String, OrtError> {
    let file = session.end_profiling().map_err(OrtError::runtime("ending the profile"))?;
    std::fs::read_to_string(&file).map_err(OrtError::store("read", file))
}

/// The events of several profiles as one.
fn joined(profiles: &[String]) -> Result<String, OrtError> {
    let mut all = Vec::new();
    for profile in profiles {
        let events: Vec<serde_json::Value> = serde_json::from_str(profile).map_err(|e| OrtError::Profile(e.to_string()))?;
        all.extend(events);
    }
    serde_json::to_string(&all).map_err(|e| OrtError::Profile(e.to_string()))
}
