//! The dimensions of activations by head and of a KV cache.

use std::ops::Range;

/// The dimensions of activations by head: `[batch, query_len, heads, head_dim]`, row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "four dimensions, and callers write it out")]
pub struct HeadShape {
    /// Sequences.
    pub batch: usize,
    /// New positions in each sequence.
    pub query_len: usize,
    /// Heads at each position.
    pub heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
}

impl HeadShape {
    /// The number of elements.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a product of dimensions, not a container")]
    pub fn len(&self) -> usize {
        self.batch * self.query_len * self.heads * self.head_dim
    }
}

/// The dimensions of one call of [`attention`](crate::attention()).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "plain dimensions, and callers write it out")]
pub struct AttentionShape {
    /// Sequences.
    pub batch: usize,
    /// New positions in each sequence.
    pub query_len: usize,
    /// Query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Positions that the cache has room for.
    pub capacity: usize,
    /// Positions in the cache before this call.
    pub start: usize,
    /// How many positions a query sees, its own included, in a model with a sliding window.
    pub window: Option<usize>,
}

impl AttentionShape {
    /// The dimensions of the queries and of the output.
    #[must_use]
    pub fn queries(&self) -> HeadShape {
        let Self { batch, query_len, heads, head_dim, .. } = *self;
        HeadShape { batch, query_len, heads, head_dim }
    }

    /// The dimensions of the new keys, and of the new values.
    #[must_use]
    pub fn keys(&self) -> HeadShape {
        let Self { batch, query_len, kv_heads: heads, head_dim, .. } = *self;
        HeadShape { batch, query_len, heads, head_dim }
    }

    /// The number of elements in the cache of keys, and in that of values: `batch * kv_heads * capacity * head_dim`.
    #[must_use]
    pub fn cache_len(&self) -> usize {
        self.batch * self.kv_heads * self.capacity * self.head_dim
    }

    pub(crate) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// The positions that query `query` sees.
    pub(crate) fn visible(&self, query: usize) -> Range<usize> {
        let end = self.start + query + 1;
        self.window.map_or(0, |window| end.saturating_sub(window))..end
    }

    pub(crate) fn check(&self) {
        assert!(
            self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads),
            "heads ({}) is not a multiple of kv_heads ({})",
            self.heads,
            self.kv_heads
        );
        assert!(
            self.start + self.query_len <= self.capacity,
            "positions {} to {} exceed the capacity {}",
            self.start,
            self.start + self.query_len,
            self.capacity
        );
        assert!(self.window != Some(0), "a window of no positions");
    }
}
