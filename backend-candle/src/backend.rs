//! The runtime as a [`Backend`].

use std::num::NonZeroUsize;

use phase_core::{Backend, BackendId, Capabilities, Layer, LoadSpec, Mode, ModelInfo, StackInfo};
use phase_model::{Activation, Checkpoint, Mlp, ModelConfig, Norm, Position};

use crate::{CandleConfig, CandleError, CandleModel, Device, cache, cpu, decoder::Decoder, weights::Weights};

/// candle on one device.
#[derive(Clone, Debug, Default)]
pub struct Candle {
    config: CandleConfig,
}

impl Candle {
    /// candle on the host's processor, with default settings.
    pub fn cpu() -> Self {
        Self::new(CandleConfig::default().with_device(Device::Cpu))
    }

    /// candle on the CUDA device of this number, with default settings.
    pub fn cuda(ordinal: usize) -> Self {
        Self::new(CandleConfig::default().with_device(Device::Cuda(ordinal)))
    }

    /// candle with settings.
    pub const fn new(config: CandleConfig) -> Self {
        Self { config }
    }

    /// The settings.
    pub const fn config(&self) -> &CandleConfig {
        &self.config
    }
}

impl Backend for Candle {
    type Model = CandleModel;
    type Error = CandleError;

    fn id(&self) -> BackendId {
        match self.config.device {
            Device::Cpu => BackendId::new("candle-cpu"),
            Device::Cuda(_) => BackendId::new("candle-cuda"),
        }
    }

    fn mode(&self) -> Mode {
        match (self.config.device, self.config.mode) {
            (Device::Cuda(_), Mode::Default) => Mode::Compiled,
            (_, mode) => mode,
        }
    }

    fn probe(&self) -> Result<StackInfo, CandleError> {
        let stack = StackInfo::new().with(Layer::Runtime, "backend", self.id().as_str());
        let stack = version(stack, "library", "candle-core", env!("PHASE_CANDLE_CORE_VERSION"));
        let stack = stack.with(Layer::Runtime, "crate", concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")));
        match self.config.device {
            Device::Cpu => {
                let stack = version(stack, "gemm", "gemm", env!("PHASE_GEMM_VERSION"));
                Ok(stack.with(Layer::Runtime, "kernel_path", cpu::instruction_set()))
            }
            Device::Cuda(ordinal) => self.probe_cuda(stack, ordinal),
        }
    }

    fn load(&self, spec: &LoadSpec) -> Result<CandleModel, CandleError> {
        spec.check()?;
        if self.config.prefill_rows == Some(0) {
            return Err(CandleError::Setting { setting: "prefill_rows", found: 0, expected: "1 or more" });
        }
        let threads = spec.threads.and_then(NonZeroUsize::new).or_else(|| std::thread::available_parallelism().ok());
        let threads = threads.unwrap_or(NonZeroUsize::MIN);
        let checkpoint = Checkpoint::of(spec)?;
        check_implemented(checkpoint.config())?;
        match self.config.device {
            Device::Cpu => self.load_cpu(spec, &checkpoint, threads),
            Device::Cuda(ordinal) => self.load_cuda(spec, &checkpoint, threads, ordinal),
        }
    }
}

impl Candle {
    fn load_cpu(&self, spec: &LoadSpec, checkpoint: &Checkpoint, threads: NonZeroUsize) -> Result<CandleModel, CandleError> {
        if self.config.mode != Mode::Default {
            return Err(CandleError::Feature(format!("the mode {} on candle-cpu", self.config.mode)));
        }
        let config = checkpoint.config().clone();
        let workers = cpu::Workers::start(threads)?;
        let (digest, weights) = workers.install(|| {
            let weights = Weights::load(&config, checkpoint.weights(), spec.dtype, &candle_core::Device::Cpu)?;
            Ok::<_, CandleError>((checkpoint.digest()?.to_string(), weights))
        })?;
        let stack = self.stack(spec, &config, digest)?.with(Layer::Runtime, "threads", workers.threads().to_string()).with(
            Layer::Runtime,
            "matmul_threads",
            workers.matmul_threads().to_string(),
        );
        let info = self.info(&config, spec, weights.bytes_per_step(), weights.flops_per_token()).with_stack(stack);
        let capabilities = Capabilities::new(spec.max_batch, config.max_context).with_chunked_prefill();
        let decoder = cpu::Decoder::new(config, weights, workers, self.config.rows())?;
        Ok(CandleModel::new(info, capabilities, Decoder::Cpu(Box::new(decoder))))
    }

    #[cfg(feature = "cuda")]
    fn load_cuda(
        &self,
        spec: &LoadSpec,
        checkpoint: &Checkpoint,
        threads: NonZeroUsize,
        ordinal: usize,
    ) -> Result<CandleModel, CandleError> {
        let config = checkpoint.config().clone();
        let gpu = crate::cuda::Gpu::open(ordinal)?.with_products(self.config.products, self.config.product_workspace_bytes)?;
        // The host reads and converts; nothing of it stays once the weights are on the device.
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.get())
            .build()
            .map_err(|e| CandleError::threads(threads.get())(e.into()))?;
        let mode = self.mode();
        let (decoder, digest) = pool.install(|| {
            rayon::join(
                || crate::cuda::Decoder::load(config.clone(), checkpoint.weights(), spec.dtype, gpu, mode, &self.config),
                || checkpoint.digest(),
            )
        });
        let (decoder, digest) = (decoder?, digest?.to_string());
        let workspace = self.config.product_workspace_bytes.to_string();
        let stack = self.stack(spec, &config, digest)?.with(Layer::Runtime, "mode", mode.as_str());
        let mut stack = stack.with(Layer::Runtime, "product_workspace_bytes", workspace);
        if self.config.products != crate::Products::Cublas {
            stack = stack.with(Layer::Runtime, "products", self.config.products.as_str());
        }
        let info = self.info(&config, spec, decoder.bytes_per_step(), decoder.flops_per_token()).with_stack(stack);
        let capabilities = Capabilities::new(spec.max_batch, config.max_context)
            .with_chunked_prefill()
            .with_device_timing()
            .with_device_sampling()
            .with_decode_run();
        Ok(CandleModel::new(info, capabilities, Decoder::Cuda(Box::new(crate::cuda::Guarded::new(decoder)))))
    }

    #[cfg(not(feature = "cuda"))]
    #[expect(clippy::unused_self, reason = "the same signature as with CUDA")]
    const fn load_cuda(&self, _: &LoadSpec, _: &Checkpoint, _: NonZeroUsize, _: usize) -> Result<CandleModel, CandleError> {
        Err(CandleError::NotBuilt)
    }

    #[cfg(feature = "cuda")]
    #[expect(clippy::unused_self, reason = "the same signature as without CUDA")]
    fn probe_cuda(&self, stack: StackInfo, ordinal: usize) -> Result<StackInfo, CandleError> {
        let stack = version(stack, "cudarc", "cudarc", env!("PHASE_CUDARC_VERSION")).with(Layer::Runtime, "kernel_path", "sm_90");
        crate::cuda::facts(stack, ordinal)
    }

    #[cfg(not(feature = "cuda"))]
    #[expect(clippy::unused_self, reason = "the same signature as with CUDA")]
    fn probe_cuda(&self, _: StackInfo, _: usize) -> Result<StackInfo, CandleError> {
        Err(CandleError::NotBuilt)
    }

    fn stack(&self, spec: &LoadSpec, config: &ModelConfig, digest: String) -> Result<StackInfo, CandleError> {
        Ok(self
            .probe()?
            .with(Layer::Model, "digest", digest)
            .with(Layer::Model, "architecture", config.architecture.as_str())
            .with(Layer::Model, "dtype", spec.dtype.as_str())
            .with(Layer::Runtime, "cache_dtype", spec.dtype.as_str())
            .with(Layer::Runtime, "prefill_rows", self.config.rows().to_string()))
    }

    fn info(&self, config: &ModelConfig, spec: &LoadSpec, bytes_per_step: u64, flops_per_token: u64) -> ModelInfo {
        ModelInfo::new(self.id(), config.vocab, config.max_context, spec.dtype).with_work(
            bytes_per_step,
            cache::bytes_per_position(config, spec.dtype),
            flops_per_token,
        )
    }
}

/// The model's enumerations may grow; what is not known here must not run as something else.
fn check_implemented(config: &ModelConfig) -> Result<(), CandleError> {
    let known = [
        (matches!(config.activation, Activation::Gelu | Activation::GeluTanh | Activation::Relu | Activation::Silu), "activation"),
        (matches!(config.mlp, Mlp::Gated | Mlp::Plain), "mlp"),
        (matches!(config.norm, Norm::Layer | Norm::Rms), "norm"),
        (matches!(config.position, Position::Learned | Position::Rope(_)), "position"),
    ];
    match known.into_iter().find(|(known, _)| !known) {
        Some((_, what)) => Err(CandleError::Feature(format!("the {what} of {config:?}"))),
        None => Ok(()),
    }
}

fn version(stack: StackInfo, key: &str, name: &str, version: &str) -> StackInfo {
    if version.is_empty() {
        return stack.with_unknown(Layer::Runtime, key, format!("{name} was built without a lock file that names one version"));
    }
    stack.with(Layer::Runtime, key, format!("{name} {version}"))
}
