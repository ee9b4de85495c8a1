//! The KV cache: one allocation per session, made before the first phase.

use std::sync::Arc;

use phase_core::{CacheSpec, KvCache};

use crate::BurnError;

/// Keys and values of a static batch, in f32, preallocated to its capacity.
///
/// One block holds keys, another values, each `[layers, batch, kv_heads, capacity, head_dim]`.
pub struct BurnCache {
    shape: Arc<CacheShape>,
    batch: usize,
    capacity: usize,
    pub(crate) len: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
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
        let elements = [shape.layers, batch, shape.kv_heads, capacity, shape.head_dim]
            .into_iter()
            .try_fold(1usize, usize::checked_mul)
            .filter(|n| n.checked_mul(2 * size_of::<f32>()).is_some());
        let bytes = elements.map_or(u64::MAX, |n| (n * 2 * size_of::<f32>()) as u64);
        let full = || BurnError::OutOfMemory { what: "a KV cache", bytes };
        let elements = elements.ok_or_else(full)?;
        let zeroed = || bytemuck::allocation::try_zeroed_vec(elements).map_err(|()| full());
        Ok(Self { shape: Arc::clone(shape), batch, capacity, len: 0, keys: zeroed()?, values: zeroed()? })
    }

    pub(crate) fn belongs_to(&self, shape: &Arc<CacheShape>) -> bool {
        Arc::ptr_eq(&self.shape, shape)
    }

    /// Keys and values of one layer, each `[batch, kv_heads, capacity, head_dim]`.
    pub(crate) fn layer(&mut self, layer: usize) -> (&mut [f32], &mut [f32]) {
        let size = self.batch * self.shape.kv_heads * self.capacity * self.shape.head_dim;
        let range = layer * size..(layer + 1) * size;
        (&mut self.keys[range.clone()], &mut self.values[range])
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
