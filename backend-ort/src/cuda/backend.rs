//! The backend: finds driver and library, writes the graphs, brings the weights to the device.

use super::{
    device::Device,
    evidence::Sessions,
    kernels::{Gating, Picking, StepKernels},
    model::{OrtCudaModel, Program, Runtime},
    weights::Weights,
};
use crate::{
    backend::{stack, store_root, threads, work},
    binding::RunOptions,
    config::OrtConfig,
    error::OrtError,
    export,
    graph::{self, Format, GRAPH_VERSION, decoder, step},
    library::{self, Library},
    model::next_id,
    session::Setup,
    shared::KvShape,
    store::hash_file,
};
use phase_capture::{Guarded, together};
use phase_core::{Backend, BackendId, Capabilities, Layer, LoadSpec, Mode, ModelInfo, StackInfo};
use phase_model::{Checkpoint, Position};
use prost::Message;
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, OnceLock},
};

/// ONNX Runtime on a CUDA device.
#[derive(Clone, Debug)]
pub struct OrtCuda {
    config: OrtConfig,
    ordinal: u32,
    mode: Mode,
}

const ID: &str = "ort-cuda";
/// The oldest devices that ONNX Runtime's fused attention works on.
const OLDEST_CAPABILITY: u32 = 80;
/// The CUDA provider's file, which ONNX Runtime looks for beside its own.
const PROVIDER_FILE: &str = "libonnxruntime_providers_cuda.so";

impl OrtCuda {
    pub(crate) fn new(ordinal: u32) -> Self {
        Self { config: OrtConfig::default(), ordinal, mode: Mode::Compiled }
    }

    /// Uses these settings.
    #[must_use]
    pub fn with_config(mut self, config: OrtConfig) -> Self {
        self.config = config;
        self
    }

    /// Chooses how decode steps run: [`Eager`](Mode::Eager) launches operator by operator, [`Compiled`](Mode::Compiled),
    /// which [`Default`](Mode::Default) means here, replays a captured CUDA graph. Prefill is the same in both.
    ///
    /// ```
    /// use phase_core::{Backend, Mode};
    /// assert_eq!(phase_backend_ort::Ort::cuda(0).with_mode(Mode::Eager).mode(), Mode::Eager);
    /// ```
    #[must_use]
    pub fn with_mode(mut self, mode: Mode) -> Self {
        self.mode = if mode == Mode::Eager { Mode::Eager } else { Mode::Compiled };
        self
    }

    fn open(&self) -> Result<(Library, Guarded<Arc<Device>>, StackInfo), OrtError> {
        // The driver first: without it, the provider's own message names some library and not the cause.
        let device = {
            let _together = together();
            Guarded::new(Device::open(self.ordinal)?)
        };
        let library = library::load(self.config.library.as_deref())?;
        let provider = library.path.with_file_name(PROVIDER_FILE);
        let stack = stack(ID, &library)
            .with(Layer::Runtime, "gpu", &device.name)
            .with(Layer::Runtime, "gpu_uuid", &device.uuid)
            .with(Layer::Runtime, "gpu_compute_capability", format!("{}.{}", device.capability / 10, device.capability % 10))
            .with(Layer::Runtime, "cuda_driver", &device.cuda)
            .with(Layer::Runtime, "mode", self.mode.as_str());
        let stack = match provider_hash(&provider) {
            Ok(hash) => stack.with(Layer::Runtime, "provider_blake3", hash),
            Err(reason) => {
                let reason = format!("there is no CUDA provider {}: {reason}; {}", provider.display(), super::session::HOW_TO_GET);
                return Err(OrtError::Device { reason });
            }
        };
        Ok((library, device, stack))
    }
}

/// The hash of the provider's file; a process has one.
fn provider_hash(file: &Path) -> Result<String, String> {
    static HASH: OnceLock<Result<String, String>> = OnceLock::new();
    HASH.get_or_init(|| hash_file(file).map(|h| h.to_hex().to_string()).map_err(|e| e.to_string())).clone()
}

impl Backend for OrtCuda {
    type Model = OrtCudaModel;
    type Error = OrtError;

    fn id(&self) -> BackendId {
        BackendId::new(ID)
    }

    fn mode(&self) -> Mode {
        self.mode
    }

    fn probe(&self) -> Result<StackInfo, OrtError> {
        self.open().map(|(_, _, stack)| stack)
    }

    fn load(&self, spec: &LoadSpec) -> Result<OrtCudaModel, OrtError> {
        let unsupported = |what, found: &str, supported: &str| {
            Err(OrtError::Unsupported { what, found: found.to_owned(), supported: supported.to_owned() })
        };
        spec.check()?;
        let Some(format) = Format::of(spec.dtype) else {
            return unsupported("dtype", spec.dtype.as_str(), "its CUDA attention computes in f16 and bf16");
        };
        if export::find(&spec.path).is_some() {
            return unsupported("an ONNX export on CUDA", &spec.path.display().to_string(), "load the checkpoint it was made from");
        }
        let (library, device, stack) = self.open()?;
        if device.capability < OLDEST_CAPABILITY {
            let found = format!("{}.{}", device.capability / 10, device.capability % 10);
            return unsupported("compute capability", &found, "its CUDA attention needs 8.0 or newer");
        }
        let setup = Setup { library, optimization: self.config.optimization, waiting: self.config.waiting, threads: threads(spec) };
        self.load_on(spec, format, setup, &device, stack)
    }
}

impl OrtCuda {
    fn load_on(
        &self,
        spec: &LoadSpec,
        format: Format,
        setup: Setup,
        device: &Arc<Device>,
        stack: StackInfo,
    ) -> Result<OrtCudaModel, OrtError> {
        let root = store_root(spec)?;
        let checkpoint = Checkpoint::of(spec)?.with_digest_cache(root.join("digests"));
        // Reading all weights is not work on the device: others may capture meanwhile.
        let digest = checkpoint.digest()?.to_string();
        let _together = together();
        device.enter()?;
        let (config, inputs) = (checkpoint.config(), graph::Weights::Inputs(format));
        let folder = root.join("kernels");
        let graph = decoder(config, inputs)?;
        let gating = graph.has_own().then(|| Gating::new(device, format, &folder).map(Arc::new)).transpose()?;
        let (graph, constants) = graph.finish(config.architecture.as_str());
        let single = match step(config, inputs) {
            Ok(graph) => {
                let kernels = Arc::new(StepKernels::new(device, config, format, &folder)?);
                Ok((graph.finish(config.architecture.as_str()).0.encode_to_vec(), kernels))
            }
            Err(limit) => Err(limit),
        };
        let steps = match &single {
            Ok(_) => "own".to_owned(),
            Err(limit) => format!("provider ({limit})"),
        };
        let runtime = Arc::new(Runtime {
            weights: Weights::load(device, &checkpoint, &constants, format)?,
            picking: Picking::new(device, &folder)?,
            options: RunOptions::without_waiting()?,
            kv: KvShape { layers: config.layers, heads: config.kv_heads, head_dim: config.head_dim },
            vocab: config.vocab,
            format,
            learned_positions: config.position == Position::Learned,
            device: Arc::clone(device),
        });
        let stack = setup
            .facts()
            .into_iter()
            .fold(stack, |stack, (key, value)| stack.with(Layer::Runtime, key, value))
            .with(Layer::Model, "digest", digest)
            .with(Layer::Model, "architecture", config.architecture.as_str())
            .with(Layer::Model, "dtype", spec.dtype.as_str())
            .with(Layer::Runtime, "graph", format!("phase {GRAPH_VERSION}"))
            .with(Layer::Runtime, "gated_layers", if gating.is_some() { "own" } else { "provider" })
            .with(Layer::Runtime, "single_steps", steps);
        let (weight_bytes, kv_bytes, flops) = work(config, spec.dtype);
        let info = ModelInfo::new(self.id(), config.vocab, config.max_context, spec.dtype)
            .with_work(weight_bytes, kv_bytes, flops)
            .with_stack(stack);
        let capabilities = Capabilities::new(spec.max_batch, config.max_context)
            .with_chunked_prefill()
            .with_device_timing()
            .with_device_sampling()
            .with_decode_run();
        let program = Arc::new(Program { setup, graph: graph.encode_to_vec(), gating, single: single.ok() });
        let Sessions { session, single } = Sessions::open(&program, &runtime.device, format, None)?;
        Ok(OrtCudaModel {
            id: next_id(),
            info,
            capabilities,
            mode: self.mode,
            session,
            single,
            program: Guarded::new(program),
            runtime: Guarded::new(runtime),
            captured: BTreeMap::new(),
            steps: Vec::new(),
            device_time: None,
        })
    }
}
