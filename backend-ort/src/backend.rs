//! The backend: finds the library, derives the graph, loads it.

use crate::{
    config::OrtConfig,
    error::OrtError,
    export::{self, Export},
    graph::GRAPH_VERSION,
    library::{self, Library},
    model::{OrtModel, Program, next_id},
    session::Setup,
    shared::KvShape,
    store,
};
use phase_core::{Backend, BackendId, Capabilities, DType, Layer, LoadSpec, ModelInfo, StackInfo};
use phase_model::{Checkpoint, ModelConfig, Position};
use std::path::PathBuf;

/// ONNX Runtime on one device.
#[derive(Clone, Debug, Default)]
pub struct Ort {
    config: OrtConfig,
    device: Device,
}

/// The binding's name and version, which its crate does not tell.
pub(crate) const BINDING: &str = "ort 2.0.0-rc.15";

/// Where it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Device {
    #[default]
    Cpu,
}

impl Device {
    const fn id(self) -> &'static str {
        match self {
            Self::Cpu => "ort-cpu",
        }
    }
}

impl Ort {
    /// ONNX Runtime's CPU execution provider.
    ///
    /// ```
    /// use phase_core::Backend;
    /// assert_eq!(phase_backend_ort::Ort::cpu().id().as_str(), "ort-cpu");
    /// ```
    pub fn cpu() -> Self {
        Self::default()
    }

    /// ONNX Runtime's CUDA execution provider on the device of this number.
    ///
    /// ```
    /// use phase_core::Backend;
    /// assert_eq!(phase_backend_ort::Ort::cuda(0).id().as_str(), "ort-cuda");
    /// ```
    #[cfg(feature = "cuda")]
    pub fn cuda(ordinal: u32) -> crate::OrtCuda {
        crate::OrtCuda::new(ordinal)
    }

    /// Uses these settings.
    #[must_use]
    pub fn with_config(mut self, config: OrtConfig) -> Self {
        self.config = config;
        self
    }

    fn library(&self) -> Result<Library, OrtError> {
        library::load(self.config.library.as_deref())
    }

    fn stack(&self, library: &Library) -> StackInfo {
        stack(self.device.id(), library)
    }
}

/// What is known about a path through a library before a model is loaded.
pub(crate) fn stack(backend: &str, library: &Library) -> StackInfo {
    let stack = StackInfo::new()
        .with(Layer::Runtime, "backend", backend)
        .with(Layer::Runtime, "library", format!("onnxruntime {}", library.version))
        .with(Layer::Runtime, "binding", BINDING)
        .with(Layer::Runtime, "crate", concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")));
    let file = library.path.file_name().unwrap_or_default().to_string_lossy();
    let stack = stack.with(Layer::Runtime, "library_file", file);
    match &library.hash {
        Ok(hash) => stack.with(Layer::Runtime, "library_blake3", hash),
        Err(why) => stack.with_unknown(Layer::Runtime, "library_blake3", why),
    }
}

impl Backend for Ort {
    type Model = OrtModel;
    type Error = OrtError;

    fn id(&self) -> BackendId {
        BackendId::new(self.device.id())
    }

    fn probe(&self) -> Result<StackInfo, OrtError> {
        Ok(self.stack(&self.library()?))
    }

    fn load(&self, spec: &LoadSpec) -> Result<OrtModel, OrtError> {
        spec.check()?;
        if spec.dtype != DType::F32 {
            return Err(OrtError::DType(spec.dtype));
        }
        let setup = Setup {
            library: self.library()?,
            optimization: self.config.optimization,
            waiting: self.config.waiting,
            threads: threads(spec),
        };
        match export::find(&spec.path) {
            Some(file) => self.load_export(spec, setup, file),
            None => self.load_checkpoint(spec, setup),
        }
    }
}

impl Ort {
    fn load_checkpoint(&self, spec: &LoadSpec, setup: Setup) -> Result<OrtModel, OrtError> {
        let root = store_root(spec)?;
        let checkpoint = Checkpoint::of(spec)?.with_digest_cache(root.join("digests"));
        let config = checkpoint.config();
        let file = store::model_file(&checkpoint, &root)?;
        let session = setup.session(&file, None)?;
        let stack = self
            .stack_of(&setup)
            .with(Layer::Model, "digest", checkpoint.digest()?.to_string())
            .with(Layer::Model, "architecture", config.architecture.as_str())
            .with(Layer::Model, "dtype", spec.dtype.as_str())
            .with(Layer::Runtime, "graph", format!("phase {GRAPH_VERSION}"));
        let (weight_bytes, kv_bytes, flops) = work(config, spec.dtype);
        let info = ModelInfo::new(self.id(), config.vocab, config.max_context, spec.dtype)
            .with_work(weight_bytes, kv_bytes, flops)
            .with_stack(stack);
        let program = Program::Own {
            kv: KvShape { layers: config.layers, heads: config.kv_heads, head_dim: config.head_dim },
            heads: config.heads,
            learned_positions: config.position == Position::Learned,
        };
        let capabilities = Capabilities::new(spec.max_batch, config.max_context).with_chunked_prefill();
        Ok(OrtModel { id: next_id(), info, capabilities, session: Some(session), setup, file, program })
    }

    fn load_export(&self, spec: &LoadSpec, setup: Setup, file: PathBuf) -> Result<OrtModel, OrtError> {
        let export = Export::open(file)?;
        let max_context = export.max_context()?;
        let session = setup.session(&export.file, None)?;
        let interface = export.interface(&session)?;
        let stack = self
            .stack_of(&setup)
            .with(Layer::Model, "digest", export.digest()?)
            .with(Layer::Model, "dtype", spec.dtype.as_str())
            .with(Layer::Runtime, "graph", "export");
        let stack = match export.architecture() {
            Some(name) => stack.with(Layer::Model, "architecture", name),
            None => stack.with_unknown(Layer::Model, "architecture", "no configuration file beside the export names it"),
        };
        let work = export.work(interface.vocab);
        let kv_bytes = 4 * 2 * (interface.kv.layers * interface.kv.elements(1, 1)) as u64;
        let info = ModelInfo::new(self.id(), interface.vocab, max_context, spec.dtype)
            .with_work(work.weight_bytes, kv_bytes, work.flops_per_token)
            .with_stack(stack);
        let capabilities = Capabilities::new(spec.max_batch, max_context).with_chunked_prefill();
        let (file, program) = (export.file, Program::Export(interface));
        Ok(OrtModel { id: next_id(), info, capabilities, session: Some(session), setup, file, program })
    }

    fn stack_of(&self, setup: &Setup) -> StackInfo {
        setup.facts().into_iter().fold(self.stack(&setup.library), |stack, (key, value)| stack.with(Layer::Runtime, key, value))
    }
}

pub(crate) fn threads(spec: &LoadSpec) -> usize {
    let all = || std::thread::available_parallelism().map_or(1, usize::from);
    spec.threads.unwrap_or_else(all)
}

pub(crate) fn store_root(spec: &LoadSpec) -> Result<PathBuf, OrtError> {
    match &spec.cache_dir {
        Some(dir) => Ok(dir.join("ort")),
        None => Ok(std::env::home_dir().ok_or(OrtError::NoStore)?.join(".cache").join("phase").join("ort")),
    }
}

/// Bytes of weights a decode step reads, bytes of keys and values a position takes, operations a prompt token takes.
pub(crate) fn work(config: &ModelConfig, dtype: DType) -> (u64, u64, u64) {
    let size = dtype.size_bytes() as u64;
    let embedding = (config.vocab * config.hidden) as u64;
    let positions = if config.position == Position::Learned { (config.max_context * config.hidden) as u64 } else { 0 };
    let looked_up = if config.tied_embeddings { positions } else { embedding + positions };
    let gated = if config.mlp == phase_model::Mlp::Gated { 3 } else { 2 };
    let layer = config.hidden * (2 * config.q_dim() + 2 * config.kv_dim()) + gated * config.hidden * config.intermediate;
    let kv = (2 * config.layers * config.kv_dim()) as u64 * size;
    ((config.parameters() - looked_up) * size, kv, 2 * (config.layers * layer) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binding_is_the_one_that_is_pinned() {
        let manifest = include_str!("../../Cargo.toml");
        let version = BINDING.trim_start_matches("ort ");
        assert!(manifest.contains(&format!(r#"ort = {{ version = "={version}""#)));
    }
}
