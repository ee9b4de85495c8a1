//! A prompt: cuBLAS products of many rows with kernels between them, last positions through the head.

use phase_core::PromptBatch;
use phase_kernels::cuda::{AttentionGeneral, AttentionPrefill, Embed, LastRows, Region, RotateAppend};

use super::{
    device::Buffer,
    engine::{At, Engine, Sum},
    profile::{Cost, Costs},
    step::StepWork,
};
use crate::CandleError;

/// Activations of a piece of a prompt.
#[derive(Debug)]
pub(super) struct PromptWork {
    pub(super) rows: usize,
    tokens: Buffer,
    /// The residual stream, f32.
    x: Buffer,
    normed: Buffer,
    qkv: Buffer,
    q: Buffer,
    attended: Buffer,
    wide: Buffer,
    inner: Buffer,
}

/// Consecutive new positions of every sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    /// Where in the prompt it begins.
    pub(super) done: usize,
    pub(super) len: usize,
    /// Whether it is the prompt's last: then scores are wanted.
    pub(super) last: bool,
}

impl PromptWork {
    pub(super) fn new(engine: &Engine, rows: usize) -> Result<Self, CandleError> {
        let (config, gpu) = (&engine.config, &engine.gpu);
        let element = engine.kernels.format().size_bytes();
        let buffer = |width: usize, element: usize| gpu.buffer("a prompt's activations", rows * width * element);
        let q_bytes = if engine.kernels.has_prefill(config.head_dim) { element } else { 4 };
        Ok(Self {
            rows,
            tokens: buffer(1, 4)?,
            x: buffer(config.hidden, 4)?,
            normed: buffer(config.hidden, element)?,
            qkv: buffer(config.q_dim() + 2 * config.kv_dim(), element)?,
            q: buffer(config.q_dim(), q_bytes)?,
            attended: buffer(config.q_dim(), element)?,
            wide: buffer(engine.weights.layers[0].gate_up.n, element)?,
            inner: buffer(config.intermediate, element)?,
        })
    }
}

impl Engine {
    /// Writes a piece's keys and values to the cache at `at`; the last piece leaves scores and tokens in `step`. `part` hears of
    /// each part when it is on the stream.
    pub(super) fn piece(
        &self,
        work: &PromptWork,
        step: &StepWork,
        prompt: PromptBatch<'_>,
        piece: Piece,
        at: &At,
        part: &mut dyn FnMut(&'static str, Cost) -> Result<(), CandleError>,
    ) -> Result<(), CandleError> {
        let Piece { done, len, last } = piece;
        let (config, weights) = (&self.config, &self.weights);
        let rows = at.batch * len;
        let tokens: Vec<u32> = prompt.rows().flat_map(|row| &row[done..done + len]).map(|token| token.0).collect();
        self.gpu.upload(bytemuck::cast_slice(&tokens), work.tokens.region())?;
        let op = Embed {
            tokens: work.tokens.region(),
            table: weights.embedding,
            positions: weights.positions,
            x: work.x.region(),
            place: self.place(at, 0),
            len,
            width: config.hidden,
        };
        // SAFETY: tokens and positions were checked against the model.
        unsafe { self.kernels.embed(&op) }?;
        let cost = Costs::new(config, self.kernels.format().size_bytes(), at.batch, at.start, piece);
        part("embedding", Cost::default())?;
        for (index, layer) in weights.layers.iter().enumerate() {
            let before = index.checked_sub(1).and_then(|before| weights.layers[before].down.bias);
            let (x, normed) = (work.x.region(), work.normed.region());
            self.norm_rows(x, normed, rows, layer.attn_norm, before)?;
            part("norm", cost.norm())?;
            self.product(layer.qkv, normed, work.qkv.region(), rows, Sum::Narrow)?;
            part("q, k, v", cost.product(layer.qkv, Sum::Narrow))?;
            let ends = index + 1 == config.layers;
            let (q, tail) = match (ends, last) {
                (false, _) => (Some(work.q.region()), None),
                (true, true) => (None, Some(step.q.region())),
                (true, false) => (None, None),
            };
            self.append(work, index, len, at, q, tail)?;
            part("rotation", cost.rotate(q.is_some()))?;
            if ends {
                break;
            }
            self.attend(work, index, len, at)?;
            part("attention", cost.attention())?;
            self.product(layer.o, work.attended.region(), x, rows, Sum::Onto)?;
            part("o", cost.product(layer.o, Sum::Onto))?;
            self.norm_rows(x, normed, rows, layer.mlp_norm, layer.o.bias)?;
            part("norm", cost.norm())?;
            self.product(layer.gate_up, normed, work.wide.region(), rows, Sum::Narrow)?;
            part("gate, up", cost.product(layer.gate_up, Sum::Narrow))?;
            self.activate(layer.gate_up, work.wide.region(), work.inner.region(), rows)?;
            part("activation", cost.activate(layer.gate_up))?;
            self.product(layer.down, work.inner.region(), x, rows, Sum::Onto)?;
            part("down", cost.product(layer.down, Sum::Onto))?;
        }
        if !last {
            return Ok(());
        }
        // Only the last positions matter from here on.
        let op = LastRows { x: work.x.region(), out: step.x.region(), batch: at.batch, len, width: config.hidden };
        // SAFETY: all regions are this model's and live as long as its stream.
        unsafe { self.kernels.last_rows(&op) }?;
        let at = At { start: at.start + len - 1, ..*at };
        self.after_queries(config.layers - 1, step, &at)?;
        self.head(step, None)?;
        part("last positions", Cost::default())
    }

    fn append(
        &self,
        work: &PromptWork,
        layer: usize,
        len: usize,
        at: &At,
        q: Option<Region>,
        last: Option<Region>,
    ) -> Result<(), CandleError> {
        let weights = &self.weights.layers[layer];
        let op = RotateAppend {
            qkv: work.qkv.region(),
            wide_in: false,
            bias: weights.qkv.bias,
            q_norm: weights.q_norm,
            k_norm: weights.k_norm,
            eps: weights.attn_norm.eps,
            frequencies: self.weights.frequencies,
            q,
            wide_out: !self.kernels.has_prefill(self.config.head_dim),
            last,
            place: self.place(at, layer),
            len,
            heads: self.config.heads,
        };
        // SAFETY: all regions are this model's and live as long as its stream.
        Ok(unsafe { self.kernels.rotate_append(&op) }?)
    }

    fn attend(&self, work: &PromptWork, layer: usize, len: usize, at: &At) -> Result<(), CandleError> {
        let config = &self.config;
        let (q, out, place) = (work.q.region(), work.attended.region(), self.place(at, layer));
        let (heads, window, scale) = (config.heads, config.sliding_window, config.attention_scale());
        if self.kernels.has_prefill(config.head_dim) {
            let op = AttentionPrefill { q, out, place, len, heads, window, scale };
            // SAFETY: as above.
            return Ok(unsafe { self.kernels.attention_prefill(&op) }?);
        }
        let op = AttentionGeneral { q, out, narrow: true, place, len, heads, window, scale };
        // SAFETY: as above.
        Ok(unsafe { self.kernels.attention_general(&op) }?)
    }
}
