//! Parts of device memory, and places in a KV cache.

use super::{CudaError, args::PlaceArgs, launch::narrow};

/// A part of device memory: where it begins and how long it is. It does not own it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    address: u64,
    bytes: usize,
}

impl Region {
    /// `bytes` bytes at `address` of a device.
    #[must_use]
    pub const fn new(address: u64, bytes: usize) -> Self {
        Self { address, bytes }
    }

    /// Where it begins.
    #[must_use]
    pub const fn address(self) -> u64 {
        self.address
    }

    /// How long it is.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self.bytes
    }

    /// `bytes` bytes of it behind the first `from`, or as many as there are.
    #[must_use]
    pub const fn part(self, from: usize, bytes: usize) -> Self {
        let from = if from < self.bytes { from } else { self.bytes };
        let left = self.bytes - from;
        Self { address: self.address + from as u64, bytes: if bytes < left { bytes } else { left } }
    }

    /// Its address, after a check of its length.
    pub(super) fn holding(self, what: &'static str, bytes: usize) -> Result<u64, CudaError> {
        if self.bytes < bytes { Err(CudaError::Shape { what, found: self.bytes, expected: bytes }) } else { Ok(self.address) }
    }
}

/// Where a layer's keys and values are, and how many positions are there already.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "plain dimensions, and callers write it out")]
pub struct Place {
    /// A [`Step`](super::Step) in device memory to read cache, capacity and position from; without it the next three hold.
    pub step: Option<Region>,
    /// The KV cache, `[layers, 2, batch, kv_heads, capacity, head_dim]`; not looked at with a `step`.
    pub cache: Region,
    /// Positions the cache has room for; not looked at with a `step`.
    pub capacity: usize,
    /// Positions already in it; not looked at with a `step`.
    pub start: usize,
    /// Sequences.
    pub batch: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements of a head, an even number.
    pub head_dim: usize,
    /// Which layer.
    pub layer: usize,
}

impl Place {
    /// `new` is how many positions will be added or looked at; `element` the bytes of one element of the cache.
    pub(super) fn args(&self, new: usize, element: usize) -> Result<PlaceArgs, CudaError> {
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(2) || self.head_dim > 256 {
            return Err(CudaError::Shape { what: "head_dim (even, at most 256)", found: self.head_dim, expected: 256 });
        }
        if let Some(step) = self.step {
            step.holding("the step", size_of::<super::Step>())?;
        } else {
            if self.start + new > self.capacity {
                return Err(CudaError::Shape { what: "the last position", found: self.start + new, expected: self.capacity });
            }
            let layer = 2 * self.batch * self.kv_heads * self.capacity * self.head_dim * element;
            self.cache.holding("the KV cache", (self.layer + 1) * layer)?;
        }
        Ok(PlaceArgs {
            step: self.step.map_or(0, Region::address),
            cache: self.cache.address(),
            capacity: narrow("capacity", self.capacity)?,
            start: narrow("start", self.start)?,
            batch: narrow("batch", self.batch)?,
            kv_heads: narrow("kv_heads", self.kv_heads)?,
            head_dim: narrow("head_dim", self.head_dim)?,
            layer: narrow("layer", self.layer)?,
        })
    }
}
