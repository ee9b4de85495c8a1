//! Keys and values of one batch, and the bindings of a graph to them.

use crate::{growing::Growing, shared::Shared};
use phase_core::KvCache;

/// A cache of an [`OrtModel`](crate::OrtModel), in host memory, allocated once.
#[derive(Debug)]
pub struct OrtCache {
    /// Which model it belongs to.
    pub(crate) model: u64,
    pub(crate) batch: usize,
    pub(crate) len: usize,
    pub(crate) capacity: usize,
    pub(crate) state: State,
}

/// How the graph keeps keys and values.
#[derive(Debug)]
pub(crate) enum State {
    /// One buffer that the graph extends in place.
    Shared(Shared),
    /// The graph reads one buffer and writes a longer one.
    Growing(Growing),
}

impl KvCache for OrtCache {
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
