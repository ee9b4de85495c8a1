//! burn on a device, as a [`Backend`].

use std::{num::NonZeroUsize, sync::Arc, thread};

use phase_core::{Backend, BackendId, CallError, Capabilities, Layer, LoadSpec, Mode, ModelInfo, StackInfo};
use phase_model::Checkpoint;

use crate::{BurnConfig, BurnError, BurnModel, Device, cache::CacheShape, cpu, decoder::Decoder, evidence};

/// burn on one device.
///
/// ```no_run
/// use phase_backend_burn::Burn;
/// use phase_core::{Backend, LoadSpec};
/// let model = Burn::cpu().load(&LoadSpec::new("models/smollm2"))?;
/// # Ok::<(), phase_backend_burn::BurnError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Burn {
    config: BurnConfig,
}

impl Burn {
    /// burn-flex on the processor.
    pub fn cpu() -> Self {
        Self::new(BurnConfig::default())
    }

    /// The CUDA device of this number, with default settings.
    pub fn cuda(ordinal: usize) -> Self {
        Self::new(BurnConfig::default().with_device(Device::Cuda(ordinal)))
    }

    /// The device and the settings of `config`.
    pub fn new(config: BurnConfig) -> Self {
        Self { config }
    }
}

impl Backend for Burn {
    type Model = BurnModel;
    type Error = BurnError;

    fn id(&self) -> BackendId {
        match self.config.device {
            Device::Cpu => BackendId::new("burn-cpu"),
            Device::Cuda(_) => BackendId::new("burn-cuda"),
        }
    }

    fn mode(&self) -> Mode {
        match (self.config.device, self.config.mode) {
            (Device::Cuda(_), Mode::Default) => Mode::Compiled,
            (_, mode) => mode,
        }
    }

    fn probe(&self) -> Result<StackInfo, BurnError> {
        match self.config.device {
            Device::Cpu => Ok(evidence::runtime(&self.config, threads(None).get())),
            Device::Cuda(ordinal) => self.probe_cuda(ordinal),
        }
    }

    fn load(&self, spec: &LoadSpec) -> Result<BurnModel, BurnError> {
        spec.check()?;
        if spec.max_batch > MAX_BATCH {
            return Err(CallError::Batch { got: spec.max_batch, max: MAX_BATCH }.into());
        }
        if self.config.prefill_rows == Some(0) {
            return Err(BurnError::Setting { setting: "prefill_rows", found: 0, expected: "1 or more" });
        }
        let threads = threads(spec.threads);
        let checkpoint = Checkpoint::of(spec)?;
        match self.config.device {
            Device::Cpu => self.load_cpu(spec, &checkpoint, threads),
            Device::Cuda(ordinal) => self.load_cuda(spec, &checkpoint, threads, ordinal),
        }
    }
}

impl Burn {
    fn load_cpu(&self, spec: &LoadSpec, checkpoint: &Checkpoint, threads: NonZeroUsize) -> Result<BurnModel, BurnError> {
        if self.config.mode != Mode::Default {
            return Err(BurnError::Unsupported { what: format!("the mode {} on burn-cpu", self.config.mode) });
        }
        let decoder = cpu::Decoder::load(checkpoint, spec.dtype, threads, &self.config)?;
        let config = checkpoint.config();
        let stack = model_facts(evidence::runtime(&self.config, threads.get()), spec, checkpoint, checkpoint.digest()?.to_string());
        let weights = decoder.engine().weights();
        let kv_bytes = 2 * config.layers * config.kv_dim() * size_of::<f32>();
        let work = (weights.bytes_per_step(), kv_bytes as u64, weights.flops_per_token());
        let capabilities = Capabilities::new(spec.max_batch, config.max_context).with_chunked_prefill();
        Ok(self.model(spec, checkpoint, stack, work, capabilities, Decoder::Cpu(Box::new(decoder))))
    }

    #[cfg(feature = "cuda")]
    fn load_cuda(&self, spec: &LoadSpec, checkpoint: &Checkpoint, threads: NonZeroUsize, ordinal: usize) -> Result<BurnModel, BurnError> {
        use crate::cuda;
        let gpu = cuda::Gpu::open(ordinal)?;
        // The host reads and converts; nothing of it stays once the weights are on the device.
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.get())
            .build()
            .map_err(|e| BurnError::Threads { threads: threads.get(), source: Box::new(e) })?;
        let mode = self.mode();
        let options = cuda::Options {
            dtype: spec.dtype,
            mode,
            prefill_rows: self.config.rows(),
            home: self.config.cuda_home.as_deref(),
            folder: spec.cache_dir.as_deref(),
        };
        let (decoder, digest) = pool.install(|| {
            rayon::join(|| cuda::Decoder::load(checkpoint.config().clone(), checkpoint.weights(), gpu, &options), || checkpoint.digest())
        });
        let (decoder, digest) = (decoder?, digest?.to_string());
        let stack = model_facts(self.probe()?, spec, checkpoint, digest).with(Layer::Runtime, "cache_dtype", spec.dtype.as_str()).with(
            Layer::Runtime,
            "mode",
            mode.as_str(),
        );
        let work = (decoder.bytes_per_step(), decoder.bytes_per_position(), decoder.flops_per_token());
        let capabilities = Capabilities::new(spec.max_batch, checkpoint.config().max_context)
            .with_chunked_prefill()
            .with_device_timing()
            .with_device_sampling()
            .with_decode_run();
        let decoder = Decoder::Cuda(Box::new(cuda::Guarded::new(decoder)));
        Ok(self.model(spec, checkpoint, stack, work, capabilities, decoder))
    }

    #[cfg(not(feature = "cuda"))]
    #[expect(clippy::unused_self, reason = "the same signature as with CUDA")]
    const fn load_cuda(&self, _: &LoadSpec, _: &Checkpoint, _: NonZeroUsize, _: usize) -> Result<BurnModel, BurnError> {
        Err(BurnError::NotBuilt)
    }

    #[cfg(feature = "cuda")]
    fn probe_cuda(&self, ordinal: usize) -> Result<StackInfo, BurnError> {
        let stack = evidence::version(evidence::start("burn-cuda"), ("cubecl", "cubecl-cpp", env!("PHASE_CUBECL")));
        let stack = evidence::version(stack, ("cudarc", "cudarc", env!("PHASE_CUDARC")));
        let stack = crate::cuda::facts(stack, ordinal)?;
        let nvrtc = crate::cuda::compiler(self.config.cuda_home.as_deref())?;
        Ok(stack.with(Layer::Runtime, "nvrtc", nvrtc).with(Layer::Runtime, "kernel_path", "sm_90a").with(
            Layer::Runtime,
            "prefill_rows",
            self.config.rows().to_string(),
        ))
    }

    #[cfg(not(feature = "cuda"))]
    #[expect(clippy::unused_self, reason = "the same signature as with CUDA")]
    const fn probe_cuda(&self, _: usize) -> Result<StackInfo, BurnError> {
        Err(BurnError::NotBuilt)
    }

    fn model(
        &self,
        spec: &LoadSpec,
        checkpoint: &Checkpoint,
        stack: StackInfo,
        (bytes_per_step, kv_bytes, flops_per_token): (u64, u64, u64),
        capabilities: Capabilities,
        decoder: Decoder,
    ) -> BurnModel {
        let config = checkpoint.config();
        let info = ModelInfo::new(self.id(), config.vocab, config.max_context, spec.dtype)
            .with_work(bytes_per_step, kv_bytes, flops_per_token)
            .with_stack(stack);
        let shape = CacheShape { layers: config.layers, kv_heads: config.kv_heads, head_dim: config.head_dim };
        BurnModel::new(info, capabilities, decoder, Arc::new(shape))
    }
}

fn model_facts(stack: StackInfo, spec: &LoadSpec, checkpoint: &Checkpoint, digest: String) -> StackInfo {
    stack.with(Layer::Model, "digest", digest).with(Layer::Model, "architecture", checkpoint.config().architecture.as_str()).with(
        Layer::Model,
        "dtype",
        spec.dtype.as_str(),
    )
}

/// Sequences in one cache.
const MAX_BATCH: usize = 64;

fn threads(wanted: Option<usize>) -> NonZeroUsize {
    wanted.and_then(NonZeroUsize::new).or_else(|| thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
}
