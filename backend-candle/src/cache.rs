//! Keys and values, preallocated and owned by the session.

use candle_core::{Device, Tensor};
use half::{bf16, f16};
use phase_core::{CacheSpec, DType, KvCache, available_memory_bytes};
use phase_model::ModelConfig;

use crate::{CandleError, memory::Stored};

/// Keys and values of a static batch: for each layer two tensors `[batch, kv_heads, capacity, head_dim]` on the host's
/// processor, one `[layers, 2, batch, kv_heads, capacity, head_dim]` on a CUDA device.
///
/// Every position is allocated and touched at once, so that no phase pays for it.
#[derive(Debug)]
pub struct CandleCache {
    store: Store,
    pub(crate) len: usize,
    batch: usize,
    capacity: usize,
    owner: u64,
}

#[derive(Debug)]
enum Store {
    Host(Vec<LayerCache>),
    #[cfg(feature = "cuda")]
    Device(crate::cuda::Guarded<crate::cuda::Buffer>),
}

#[derive(Debug)]
pub(crate) struct LayerCache {
    pub(crate) k: Tensor,
    pub(crate) v: Tensor,
}

impl CandleCache {
    pub(crate) fn allocate(config: &ModelConfig, spec: CacheSpec, dtype: DType, device: &Device, owner: u64) -> Result<Self, CandleError> {
        let CacheSpec { batch, capacity } = spec;
        let needed_bytes = bytes_per_position(config, dtype).saturating_mul(batch as u64).saturating_mul(capacity as u64);
        if let Some(available_bytes) = available_memory_bytes()
            && needed_bytes > available_bytes
        {
            return Err(CandleError::OutOfMemory { what: "the KV cache's tensors", needed_bytes, available_bytes });
        }
        let shape = [batch, config.kv_heads, capacity, config.head_dim];
        let tensor = || match dtype {
            DType::F32 => zeros::<f32>(shape, device),
            DType::F16 => zeros::<f16>(shape, device),
            DType::Bf16 => zeros::<bf16>(shape, device),
            other => Err(CandleError::DType(other)),
        };
        let layers = (0..config.layers).map(|_| Ok(LayerCache { k: tensor()?, v: tensor()? })).collect::<Result<_, CandleError>>()?;
        Ok(Self { store: Store::Host(layers), len: 0, batch, capacity, owner })
    }

    /// A cache in a device's memory.
    #[cfg(feature = "cuda")]
    pub(crate) const fn on_device(store: crate::cuda::Buffer, spec: CacheSpec, owner: u64) -> Self {
        Self { store: Store::Device(crate::cuda::Guarded::new(store)), len: 0, batch: spec.batch, capacity: spec.capacity, owner }
    }

    /// The tensors of a cache on the host.
    #[cfg_attr(not(feature = "cuda"), expect(clippy::unnecessary_wraps, reason = "there is one store only without CUDA"))]
    pub(crate) fn layers(&self) -> Result<&[LayerCache], CandleError> {
        match &self.store {
            Store::Host(layers) => Ok(layers),
            #[cfg(feature = "cuda")]
            Store::Device(_) => Err(CandleError::ForeignCache),
        }
    }

    /// The memory of a cache on a device.
    #[cfg(feature = "cuda")]
    pub(crate) fn store(&self) -> Result<&crate::cuda::Buffer, CandleError> {
        match &self.store {
            Store::Device(store) => Ok(store),
            Store::Host(_) => Err(CandleError::ForeignCache),
        }
    }

    /// Refuses a cache that another model allocated.
    pub(crate) fn check_owner(&self, model: u64) -> Result<(), CandleError> {
        if self.owner == model { Ok(()) } else { Err(CandleError::ForeignCache) }
    }
}

impl KvCache for CandleCache {
    fn batch(&self) -> usize {
        self.batch
    }

    fn len(&self) -> usize {
        self.len
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

/// Bytes that one position of one sequence takes in all layers.
pub(crate) fn bytes_per_position(config: &ModelConfig, dtype: DType) -> u64 {
    (2 * config.layers * config.kv_dim() * dtype.size_bytes()) as u64
}

fn zeros<E: Stored>(shape: [usize; 4], device: &Device) -> Result<Tensor, CandleError> {
    let len = shape.iter().product();
    let mut elements = Vec::new();
    elements.try_reserve_exact(len).map_err(|_| CandleError::OutOfMemory {
        what: "a layer's keys or values",
        needed_bytes: (len * size_of::<E>()) as u64,
        available_bytes: available_memory_bytes().unwrap_or(0),
    })?;
    // Written and not asked for as zeros, so that the system maps the pages now and not in the first phase.
    elements.resize(len, E::default());
    Tensor::from_vec(elements, &shape, device).map_err(CandleError::candle("allocate a KV cache"))
}
