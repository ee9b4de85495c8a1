//! The KV cache: one allocation per session, made before the first phase.

use std::sync::Arc;

use phase_core::{CacheSpec, KvCache, available_memory_bytes};

use crate::BurnError;

/// Keys and values of a static batch, allocated to its capacity and touched at once, so that no phase pays for it.
///
/// On the processor one block holds keys, another values, each `[layers, batch, kv_heads, capacity, head_dim]` in f32; on a
/// CUDA device both are in one, `[layers, 2, batch, kv_heads, capacity, head_dim]` in the weights' format.
pub struct BurnCache {
    shape: Arc<CacheShape>,
    batch: usize,
    capacity: usize,
    pub(crate) len: usize,
    store: Memory,
}

enum Memory {
    Host {
        keys: Vec<f32>,
        values: Vec<f32>,
    },
    #[cfg(feature = "cuda")]
    Device(crate::cuda::Guarded<crate::cuda::Store>),
}

/// What a model's caches have in common; its address tells whose cache it is.
#[derive(Debug)]
pub(crate) struct CacheShape {
    pub(crate) layers: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
}

impl BurnCache {
    pub(crate) fn allocate(shape: &Arc<CacheShape>, CacheSpec { batch, capacity }: CacheSpec) -> Result<Self, BurnError> {
        let elements = [shape.layers, batch, shape.kv_heads, capacity, shape.head_dim].into_iter().try_fold(1usize, usize::checked_mul);
        let bytes = elements.and_then(|n| (n as u64).checked_mul(2 * size_of::<f32>() as u64)).unwrap_or(u64::MAX);
        let full = || BurnError::OutOfMemory { what: "a KV cache", bytes };
        let elements = elements.filter(|_| available_memory_bytes().is_none_or(|available| bytes <= available)).ok_or_else(full)?;
        let touched = || {
            let mut values = Vec::new();
            values.try_reserve_exact(elements).map_err(|_| full())?;
            // Written and not asked for as zeros, so that the system maps the pages now and not in the first phase.
            values.resize(elements, 0.0);
            Ok::<_, BurnError>(values)
        };
        Ok(Self { shape: Arc::clone(shape), batch, capacity, len: 0, store: Memory::Host { keys: touched()?, values: touched()? } })
    }

    pub(crate) fn belongs_to(&self, shape: &Arc<CacheShape>) -> bool {
        Arc::ptr_eq(&self.shape, shape)
    }

    /// A cache in a device's memory.
    #[cfg(feature = "cuda")]
    pub(crate) fn on_device(shape: &Arc<CacheShape>, spec: CacheSpec, store: crate::cuda::Store) -> Self {
        let store = Memory::Device(crate::cuda::Guarded::new(store));
        Self { shape: Arc::clone(shape), batch: spec.batch, capacity: spec.capacity, len: 0, store }
    }

    /// The memory of a cache on a device.
    #[cfg(feature = "cuda")]
    pub(crate) fn store(&self) -> Result<&crate::cuda::Store, BurnError> {
        match &self.store {
            Memory::Device(store) => Ok(store),
            Memory::Host { .. } => Err(BurnError::ForeignCache),
        }
    }

    /// Keys and values of one layer on the host, each `[batch, kv_heads, capacity, head_dim]`.
    #[cfg_attr(not(feature = "cuda"), expect(clippy::unnecessary_wraps, reason = "there is one kind of memory only without CUDA"))]
    pub(crate) fn layer(&mut self, layer: usize) -> Result<(&mut [f32], &mut [f32]), BurnError> {
        let size = self.batch * self.shape.kv_heads * self.capacity * self.shape.head_dim;
        let range = layer * size..(layer + 1) * size;
        match &mut self.store {
            Memory::Host { keys, values } => Ok((&mut keys[range.clone()], &mut values[range])),
            #[cfg(feature = "cuda")]
            Memory::Device(_) => Err(BurnError::ForeignCache),
        }
    }
}

impl KvCache for BurnCache {
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

impl std::fmt::Debug for BurnCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BurnCache")
            .field("batch", &self.batch)
            .field("len", &self.len)
            .field("capacity", &self.capacity)
            .field("shape", &self.shape)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use phase_core::{ErrorKind, PhaseError};

    #[test]
    fn what_does_not_fit_is_refused_before_it_is_touched() {
        // 512 TiB, and more than 64 bits can count.
        for layers in [1 << 30, usize::MAX] {
            let shape = Arc::new(CacheShape { layers, kv_heads: 1, head_dim: 64 });
            let error = BurnCache::allocate(&shape, CacheSpec { batch: 1, capacity: 1024 }).map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
        }
    }
}
