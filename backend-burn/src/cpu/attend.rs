//! From the products of queries, keys and values to what attention gives.

use phase_kernels::{AttentionShape, Team, append_kv, attention, rms_norm, rotary};
use phase_model::{ModelConfig, RopeTables};

use super::{
    rows::{self, Spread},
    storage::Buffer,
    weights::LayerWeights,
};

/// Dimensions of attention, and working memory.
#[derive(Debug)]
pub(super) struct Attend {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    window: Option<usize>,
    scale: f32,
    eps: f32,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

/// The new positions of one chunk: `new` for each of `batch` sequences, after `past` earlier ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    pub(super) batch: usize,
    pub(super) past: usize,
    pub(super) new: usize,
    pub(super) capacity: usize,
    pub(super) spread: Spread,
    /// Whether scores are wanted after it.
    pub(super) last: bool,
}

impl Chunk {
    pub(super) fn rows(self) -> usize {
        self.batch * self.new
    }
}

impl Attend {
    pub(super) fn new(config: &ModelConfig) -> Self {
        Self {
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            window: config.sliding_window,
            scale: config.attention_scale(),
            eps: super::rounded(config.norm_eps),
            q: Vec::new(),
            k: Vec::new(),
            v: Vec::new(),
        }
    }

    /// Takes `qkv`, `[rows, q | k | v]`, appends keys and values to the layer's cache, and writes what the queries
    /// attend to, `[rows, q]`, to `out`.
    #[expect(clippy::too_many_arguments, reason = "everything a layer's attention reads and writes")]
    pub(super) fn run(
        &mut self,
        team: &Team,
        layer: &LayerWeights,
        rope: Option<&RopeTables>,
        chunk: Chunk,
        qkv: &Buffer,
        (keys, values): (&mut [f32], &mut [f32]),
        out: &mut Buffer,
    ) {
        let Chunk { batch, past, new, capacity, spread, .. } = chunk;
        let (q_dim, kv_dim) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let shape = AttentionShape {
            batch,
            query_len: new,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            capacity,
            start: past,
            window: self.window,
        };
        let width = q_dim + 2 * kv_dim;
        let qkv = qkv.get(chunk.rows() * width);
        let eps = self.eps;
        let split = |to: &mut Vec<f32>, from: usize, dim: usize, norm: Option<&Vec<f32>>| {
            to.resize(chunk.rows() * dim, 0.0);
            rows::zip(spread, to, dim, qkv, width, |to, row| match norm {
                Some(weight) => rms_norm(team, &row[from..from + dim], weight, eps, to),
                None => to.copy_from_slice(&row[from..from + dim]),
            });
        };
        split(&mut self.q, 0, q_dim, layer.q_norm.as_ref());
        split(&mut self.k, q_dim, kv_dim, layer.k_norm.as_ref());
        split(&mut self.v, q_dim + kv_dim, kv_dim, None);
        if let Some(RopeTables { cos, sin, .. }) = rope {
            rotary(team, &mut self.q, cos, sin, shape.queries(), past);
            rotary(team, &mut self.k, cos, sin, shape.keys(), past);
        }
        append_kv(team, &self.k, keys, shape.keys(), capacity, past);
        append_kv(team, &self.v, values, shape.keys(), capacity, past);
        attention(team, &self.q, keys, values, out.get_mut(self.q.len()), &shape, self.scale);
    }
}
