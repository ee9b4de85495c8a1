//! The decoder on the host's processor.

mod feed_forward;
mod ops;
mod workers;

use std::sync::Arc;

use candle_core::Device;
use phase_core::{CacheSpec, DType, Evidence, KvCache, PromptBatch};
use phase_kernels::{AttentionShape, HeadShape};
use phase_model::{ModelConfig, RopeTables, rope_tables};
use rayon::ThreadPool;

pub(crate) use self::workers::{Workers, instruction_set};
use self::{feed_forward::feed_forward, ops::Ops};
use crate::{
    CandleCache, CandleError,
    cache::LayerCache,
    memory::Buffer,
    weights::{LayerWeights, Weights},
};

/// Weights, threads and working memory of one model.
#[derive(Debug)]
pub(crate) struct Decoder {
    config: ModelConfig,
    weights: Weights,
    ops: Ops,
    pool: Arc<ThreadPool>,
    /// For every position of the longest cache allocated so far.
    rope: Option<RopeTables>,
    work: Work,
    prefill_rows: usize,
}

/// Activations between two operations, reused from call to call.
#[derive(Debug)]
struct Work {
    /// The residual stream.
    x: Vec<f32>,
    normed: Buffer,
    q: Buffer,
    k: Buffer,
    v: Buffer,
    attended: Buffer,
    gate: Buffer,
    up: Buffer,
    /// What is added to the residual stream next.
    update: Buffer,
    spare: Buffer,
}

/// Consecutive new positions of every sequence.
#[derive(Clone, Copy, Debug)]
struct Piece {
    batch: usize,
    len: usize,
    start: usize,
}

impl Piece {
    const fn rows(self) -> usize {
        self.batch * self.len
    }
}

/// Whose output a layer must give. The keys and values of all positions are always written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    All,
    /// The last position of each sequence: the last layer of a prompt.
    Last,
    /// None: the last layer of a piece that is not the prompt's last.
    Nothing,
}

impl Decoder {
    pub(crate) fn new(config: ModelConfig, weights: Weights, workers: Workers, prefill_rows: usize) -> Result<Self, CandleError> {
        let Workers { pool, team } = workers;
        let work = Work {
            x: Vec::new(),
            normed: Buffer::new()?,
            q: Buffer::new()?,
            k: Buffer::new()?,
            v: Buffer::new()?,
            attended: Buffer::new()?,
            gate: Buffer::new()?,
            up: Buffer::new()?,
            update: Buffer::new()?,
            spare: Buffer::new()?,
        };
        let ops = Ops::new(team, &config)?;
        Ok(Self { config, weights, ops, pool: Arc::new(pool), rope: None, work, prefill_rows })
    }

    /// Prepares for positions up to `capacity`.
    pub(crate) fn reserve(&mut self, capacity: usize) -> Result<(), CandleError> {
        if self.rope.as_ref().is_none_or(|tables| tables.positions < capacity) {
            self.rope = rope_tables(&self.config, 0..capacity)?;
        }
        Ok(())
    }

    pub(crate) fn allocate(&self, spec: CacheSpec, dtype: DType, owner: u64) -> Result<CandleCache, CandleError> {
        CandleCache::allocate(&self.config, spec, dtype, &Device::Cpu, owner)
    }

    pub(crate) fn evidence(&self, dtype: DType) -> Evidence {
        self.ops.counts.evidence(dtype.as_str(), &instruction_set())
    }

    /// Writes keys and values of `prompt` behind the cache's length, which it leaves as it is, and the scores of each
    /// sequence's last position to `out` (`[batch, vocab]`).
    pub(crate) fn forward(&mut self, cache: &CandleCache, prompt: PromptBatch<'_>, out: &mut [f32]) -> Result<(), CandleError> {
        if self.ops.is_few(prompt.tokens().len()) {
            return self.pieces(cache, prompt, out);
        }
        // candle's products run on the pool they are called in.
        let pool = Arc::clone(&self.pool);
        pool.install(|| self.pieces(cache, prompt, out))
    }

    fn pieces(&mut self, cache: &CandleCache, prompt: PromptBatch<'_>, out: &mut [f32]) -> Result<(), CandleError> {
        let batch = prompt.batch();
        let most = (self.prefill_rows / batch).max(1);
        let mut done = 0;
        while done < prompt.len() {
            let left = prompt.len() - done;
            let piece = Piece { batch, len: left.div_ceil(left.div_ceil(most)), start: cache.len() + done };
            self.embed(prompt, done, piece)?;
            done += piece.len;
            let last = self.config.layers - 1;
            for (index, layer) in cache.layers()?.iter().enumerate() {
                let wanted = match (index == last, done == prompt.len()) {
                    (false, _) => Wanted::All,
                    (true, true) => Wanted::Last,
                    (true, false) => Wanted::Nothing,
                };
                self.layer(index, layer, cache.capacity(), piece, wanted)?;
            }
        }
        let Self { weights, ops, work, .. } = self;
        ops.norm(&work.x, batch, &weights.final_norm, &mut work.normed)?;
        ops.product_into(&work.normed, batch, &weights.head, out)
    }

    fn embed(&mut self, prompt: PromptBatch<'_>, done: usize, piece: Piece) -> Result<(), CandleError> {
        let Self { config, weights, ops, work, .. } = self;
        work.x.resize(piece.rows() * config.hidden, 0.0);
        let tokens = prompt.rows().flat_map(|row| &row[done..done + piece.len]);
        ops.rows(&weights.embedding, tokens.map(|token| token.0 as usize), &mut work.x)?;
        let Some(positions) = &weights.positions else { return Ok(()) };
        let learned = (0..piece.rows()).map(|row| piece.start + row % piece.len);
        work.spare.write(piece.rows() * config.hidden, |out| ops.rows(positions, learned, out))??;
        ops.add(&mut work.x, &work.spare)
    }

    fn layer(&mut self, index: usize, cache: &LayerCache, capacity: usize, piece: Piece, wanted: Wanted) -> Result<(), CandleError> {
        let Self { config, weights, ops, rope, work, .. } = self;
        let weights = &weights.layers[index];
        let LayerWeights { attn_norm, qkv, q_norm, k_norm, o, mlp_norm, .. } = weights;
        let (q_dim, kv_dim) = (config.q_dim(), config.kv_dim());
        let heads = |piece: Piece, heads| HeadShape { batch: piece.batch, query_len: piece.len, heads, head_dim: config.head_dim };

        ops.norm(&work.x, piece.rows(), attn_norm, &mut work.normed)?;
        ops.product(&work.normed, piece.rows(), qkv, q_dim..q_dim + kv_dim, &mut work.k)?;
        ops.product(&work.normed, piece.rows(), qkv, q_dim + kv_dim..q_dim + 2 * kv_dim, &mut work.v)?;
        let keys = heads(piece, config.kv_heads);
        ops.norm_heads(&mut work.k, keys, k_norm.as_ref(), &mut work.spare)?;
        ops.rotate(&mut work.k, keys, rope.as_ref(), piece.start)?;
        ops.append(&work.k, &cache.k, keys, capacity, piece.start)?;
        ops.append(&work.v, &cache.v, keys, capacity, piece.start)?;

        let piece = match wanted {
            Wanted::All => piece,
            Wanted::Last => work.keep_last(piece, config.hidden)?,
            Wanted::Nothing => return Ok(()),
        };
        let rows = piece.rows();
        ops.product(&work.normed, rows, qkv, 0..q_dim, &mut work.q)?;
        let queries = heads(piece, config.heads);
        ops.norm_heads(&mut work.q, queries, q_norm.as_ref(), &mut work.spare)?;
        ops.rotate(&mut work.q, queries, rope.as_ref(), piece.start)?;
        let shape = AttentionShape {
            batch: piece.batch,
            query_len: piece.len,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            capacity,
            start: piece.start,
            window: config.sliding_window,
        };
        ops.attention(&work.q, cache, &mut work.attended, &shape, config.attention_scale())?;
        ops.product(&work.attended, rows, o, 0..config.hidden, &mut work.update)?;
        ops.add(&mut work.x, &work.update)?;

        ops.norm(&work.x, rows, mlp_norm, &mut work.normed)?;
        feed_forward(ops, config, weights, work, rows)?;
        ops.add(&mut work.x, &work.update)
    }
}

impl Work {
    /// Drops all rows but the last of each sequence.
    fn keep_last(&mut self, piece: Piece, hidden: usize) -> Result<Piece, CandleError> {
        let Piece { batch, len, start } = piece;
        let keep = |rows: &mut [f32]| {
            for sequence in 0..batch {
                let last = (sequence * len + len - 1) * hidden;
                rows.copy_within(last..last + hidden, sequence * hidden);
            }
        };
        if len > 1 {
            keep(&mut self.x);
            self.x.truncate(batch * hidden);
            self.normed.write(batch * len * hidden, keep)?;
        }
        Ok(Piece { batch, len: 1, start: start + len - 1 })
    }
}
