//! The runtime as a [`Backend`].

use std::num::NonZeroUsize;

use phase_core::{Backend, BackendId, CallError, Capabilities, Layer, LoadSpec, ModelInfo, StackInfo};
use phase_model::{Activation, Checkpoint, Mlp, ModelConfig, Norm, Position};

use crate::{CandleConfig, CandleError, CandleModel, Device, cache, cpu, weights::Weights};

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
        }
    }

    fn probe(&self) -> Result<StackInfo, CandleError> {
        let stack = StackInfo::new().with(Layer::Runtime, "backend", self.id().as_str());
        let stack = version(stack, "library", "candle-core", env!("PHASE_CANDLE_CORE_VERSION"));
        let stack = version(stack, "gemm", "gemm", env!("PHASE_GEMM_VERSION"));
        let stack = stack.with(Layer::Runtime, "crate", concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")));
        Ok(match self.config.device {
            Device::Cpu => stack.with(Layer::Runtime, "kernel_path", cpu::instruction_set()),
        })
    }

    fn load(&self, spec: &LoadSpec) -> Result<CandleModel, CandleError> {
        if spec.max_batch == 0 {
            return Err(CallError::Batch { got: 0, max: 64 }.into());
        }
        if self.config.prefill_rows == 0 {
            return Err(CandleError::Setting { setting: "prefill_rows", found: 0, expected: "1 or more" });
        }
        let threads = match spec.threads {
            None => std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            Some(threads) => {
                NonZeroUsize::new(threads).ok_or(CandleError::Setting { setting: "threads", found: 0, expected: "1 or more" })?
            }
        };
        let mut checkpoint = Checkpoint::open(&spec.path)?;
        if let Some(dir) = &spec.cache_dir {
            checkpoint = checkpoint.with_digest_cache(dir);
        }
        let config = checkpoint.config().clone();
        check_implemented(&config)?;
        let workers = cpu::Workers::start(threads)?;
        let (digest, weights) = workers.install(|| {
            let weights = Weights::load(&config, checkpoint.weights(), spec.dtype, &candle_core::Device::Cpu)?;
            Ok::<_, CandleError>((checkpoint.digest()?.to_string(), weights))
        })?;
        let stack = self
            .probe()?
            .with(Layer::Model, "digest", digest)
            .with(Layer::Model, "architecture", config.architecture.as_str())
            .with(Layer::Model, "dtype", spec.dtype.as_str())
            .with(Layer::Runtime, "threads", workers.threads().to_string())
            .with(Layer::Runtime, "matmul_threads", workers.matmul_threads().to_string())
            .with(Layer::Runtime, "cache_dtype", spec.dtype.as_str())
            .with(Layer::Runtime, "prefill_rows", self.config.prefill_rows.to_string());
        let info = self.info(&config, spec, &weights).with_stack(stack);
        let capabilities = Capabilities::new(spec.max_batch, config.max_context).with_chunked_prefill();
        let decoder = cpu::Decoder::new(config, weights, workers, self.config.prefill_rows)?;
        Ok(CandleModel::new(info, capabilities, decoder))
    }
}

impl Candle {
    fn info(&self, config: &ModelConfig, spec: &LoadSpec, weights: &Weights) -> ModelInfo {
        ModelInfo::new(self.id(), config.vocab, config.max_context, spec.dtype).with_work(
            weights.bytes_per_step(),
            cache::bytes_per_position(config, spec.dtype),
            weights.flops_per_token(),
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
