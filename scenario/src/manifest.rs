//! `manifest.json`: what a run is, on what it ran, and what was planned. Every fact in it was captured by code.

use crate::{EnergyPlan, Plan, StoredLoad, clock::rfc3339};
use phase_core::{Arm, Capabilities, DEFINITIONS_VERSION, DType, Difference, Layer, MeasurementBoundary, ModelInfo, NoData};
use phase_energy::SourceStatus;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Schema of a run directory.
pub const RUN_SCHEMA: &str = "phase.run/1";

/// What a run is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Manifest {
    /// [`RUN_SCHEMA`].
    pub schema: String,
    /// Names the run: its start and a hash of its plan.
    pub run_id: String,
    /// When it was started, RFC 3339 in UTC.
    pub created: String,
    /// The same in seconds since 1970.
    pub created_unix_seconds: u64,
    /// The program that ran it, with its version.
    pub program: String,
    /// Version of this crate.
    pub scenario_version: String,
    /// Version of the definitions of phases and boundaries.
    pub definitions_version: u32,
    /// What was planned.
    pub plan: Plan,
    /// How every model was loaded.
    pub load: StoredLoad,
    /// The paths, in the plan's order.
    pub backends: Vec<BackendEntry>,
    /// Every boundary that an event names, by its id.
    pub boundaries: BTreeMap<String, MeasurementBoundary>,
    /// Energy sources of the machine.
    pub energy_sources: Vec<SourceStatus>,
    /// Why there are no energy numbers.
    pub energy_reason: NoData,
    /// How energy was measured; absent where nobody asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy: Option<EnergyPlan>,
    /// The processes that worked on this run.
    pub segments: Vec<Segment>,
    /// What was different at the end from what was captured at the start: a run with entries here is void.
    pub changes: Vec<Change>,
    /// Whether the boundaries were captured again after the last block.
    pub captured_after: bool,
}

/// One path of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct BackendEntry {
    /// Its id.
    pub backend: Arm,
    /// The boundary of its measured calls; absent when it could not be loaded.
    pub boundary: Option<String>,
    /// The model as loaded.
    pub model: Option<ModelEntry>,
    /// Why it could not be loaded.
    pub load_error: Option<String>,
}

/// A model as loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ModelEntry {
    /// Digest of the checkpoint, when the backend tells it.
    pub digest: Option<String>,
    /// Number format of the weights.
    pub dtype: DType,
    /// Vocabulary size.
    pub vocab: usize,
    /// Most rows in one cache.
    pub max_batch: usize,
    /// Most positions in one cache.
    pub max_context: usize,
    /// Bytes of weights one decode step reads at batch 1; 0 when unknown.
    pub weight_bytes: u64,
    /// Bytes of KV cache of one position of one sequence; 0 when unknown.
    pub kv_bytes_per_position: u64,
    /// Floating-point operations per prompt token; 0 when unknown.
    pub flops_per_token: u64,
    /// Prefill continues a non-empty cache.
    pub chunked_prefill: bool,
    /// It reports its device's own clock.
    pub device_timing: bool,
    /// Greedy calls pick the token on the device.
    pub device_sampling: bool,
}

impl ModelEntry {
    pub(crate) fn new(info: &ModelInfo, capabilities: &Capabilities) -> Self {
        let digest = ["digest", "blake3", "checkpoint"].iter().find_map(|key| info.stack.fact(Layer::Model, key));
        Self {
            digest: digest.map(ToString::to_string),
            dtype: info.dtype,
            vocab: info.vocab,
            max_batch: capabilities.max_batch,
            max_context: capabilities.max_context,
            weight_bytes: info.weight_bytes,
            kv_bytes_per_position: info.kv_bytes_per_position,
            flops_per_token: info.flops_per_token,
            chunked_prefill: capabilities.chunked_prefill,
            device_timing: capabilities.device_timing,
            device_sampling: capabilities.device_sampling,
        }
    }
}

/// One process that worked on a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Segment {
    /// When it began, RFC 3339 in UTC.
    pub started: String,
    /// The first block it was to run.
    pub first_block: u32,
}

/// What changed under a backend while the run went on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Change {
    /// The path.
    pub backend: Arm,
    /// The fields.
    pub fields: Vec<Difference>,
}

impl Manifest {
    pub(crate) fn new(plan: &Plan, load: StoredLoad, program: &str, created_unix_seconds: u64) -> Self {
        let energy_sources = phase_energy::sources();
        Self {
            schema: RUN_SCHEMA.to_owned(),
            run_id: String::new(),
            created: rfc3339(created_unix_seconds),
            created_unix_seconds,
            program: program.to_owned(),
            scenario_version: env!("CARGO_PKG_VERSION").to_owned(),
            definitions_version: DEFINITIONS_VERSION,
            plan: plan.clone(),
            load,
            backends: Vec::new(),
            boundaries: BTreeMap::new(),
            energy_reason: phase_energy::absence_reason_of(&energy_sources),
            energy_sources,
            energy: None,
            segments: Vec::new(),
            changes: Vec::new(),
            captured_after: false,
        }
    }

    /// Names the run after its start and its plan; `now_ns` keeps two runs of one second apart.
    pub(crate) fn name(&mut self, now_ns: u64) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&now_ns.to_le_bytes());
        hasher.update(serde_json::to_string(&self.plan).unwrap_or_default().as_bytes());
        let stamp: String = self.created.chars().filter(char::is_ascii_alphanumeric).collect();
        self.run_id = format!("{stamp}-{}", &hasher.finalize().to_hex()[..8]);
    }

    /// The entry of a path.
    pub fn backend(&self, id: &Arm) -> Option<&BackendEntry> {
        self.backends.iter().find(|b| b.backend == *id)
    }
}
