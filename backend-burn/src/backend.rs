//! burn on a device, as a [`Backend`].

use std::{num::NonZeroUsize, sync::Arc, thread};

use phase_core::{Backend, BackendId, CallError, Capabilities, Layer, LoadSpec, ModelInfo, StackInfo};
use phase_model::Checkpoint;

use crate::{BurnConfig, BurnError, BurnModel, cache::CacheShape, cpu::Decoder, evidence};

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
    pub(crate) const ID: BackendId = BackendId::new("burn-cpu");

    /// burn-flex on the processor.
    pub fn cpu() -> Self {
        Self::new(BurnConfig::default())
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
        Self::ID
    }

    fn probe(&self) -> Result<StackInfo, BurnError> {
        Ok(evidence::runtime(&self.config, threads(None)?.get()))
    }

    fn load(&self, spec: &LoadSpec) -> Result<BurnModel, BurnError> {
        if spec.max_batch == 0 || spec.max_batch > MAX_BATCH {
            return Err(CallError::Batch { got: spec.max_batch, max: MAX_BATCH }.into());
        }
        if self.config.prefill_rows == 0 {
            return Err(BurnError::Setting { setting: "prefill_rows", found: 0, expected: "1 or more" });
        }
        let threads = threads(spec.threads)?;
        let mut checkpoint = Checkpoint::open(&spec.path)?;
        if let Some(dir) = &spec.cache_dir {
            checkpoint = checkpoint.with_digest_cache(dir);
        }
        let decoder = Decoder::load(&checkpoint, spec.dtype, threads, &self.config)?;

        let config = checkpoint.config();
        let stack = evidence::runtime(&self.config, threads.get())
            .with(Layer::Model, "digest", checkpoint.digest()?.to_string())
            .with(Layer::Model, "architecture", config.architecture.as_str())
            .with(Layer::Model, "dtype", spec.dtype.as_str());
        let weights = decoder.engine().weights();
        let kv_bytes = 2 * config.layers * config.kv_dim() * size_of::<f32>();
        let info = ModelInfo::new(Self::ID, config.vocab, config.max_context, spec.dtype)
            .with_work(weights.bytes_per_step(), kv_bytes as u64, weights.flops_per_token())
            .with_stack(stack);
        let shape = CacheShape { layers: config.layers, kv_heads: config.kv_heads, head_dim: config.head_dim };
        let capabilities = Capabilities::new(spec.max_batch, config.max_context).with_chunked_prefill();
        Ok(BurnModel::new(info, capabilities, decoder, Arc::new(shape)))
    }
}

/// Sequences in one cache.
const MAX_BATCH: usize = 64;

fn threads(wanted: Option<usize>) -> Result<NonZeroUsize, BurnError> {
    match wanted {
        Some(n) => NonZeroUsize::new(n).ok_or(BurnError::Setting { setting: "threads", found: 0, expected: "1 or more" }),
        None => Ok(thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)),
    }
}
