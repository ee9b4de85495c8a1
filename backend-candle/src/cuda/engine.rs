//! What a decode step is made of: kernels by the number of rows, enqueued and not waited for.

use std::cell::Cell;

use phase_kernels::cuda::{
    Activate, Activation, Ahead, AttentionDecode, AttentionGeneral, Division, Embed, Embedding, FEW_ROWS, FLASH_HEAD_DIMS, FewFinish,
    Finish, Format, Head, Kernels, Matvec, MatvecFew, Norm, NormKind, NormRows, PickTokens, Place, Region, RotateAppend, Rotation,
};
use phase_model::{Mlp, ModelConfig};

use super::{
    device::{Gpu, Product},
    step::StepWork,
    weights::{Linear, Weights},
};
use crate::CandleError;

/// A model on a device: everything that stays the same from call to call.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) config: ModelConfig,
    pub(super) activation: Activation,
    pub(super) gpu: Gpu,
    pub(super) kernels: Kernels,
    pub(super) weights: Weights,
    /// Products of cuBLAS enqueued so far.
    pub(super) products: Cell<u64>,
}

/// Which kernels a step uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    /// One row: each product with the steps around it in one kernel.
    One,
    /// Up to eight rows in 16 bits: the same on tensor cores, all but RMS norms in bf16 apart.
    Few,
    /// cuBLAS, and kernels between its products.
    Many,
}

/// Where a call's keys and values go.
#[derive(Clone, Copy, Debug)]
pub(super) struct At {
    /// A step's numbers in device memory; without it the next three hold.
    pub(super) step: Option<Region>,
    pub(super) cache: Region,
    pub(super) capacity: usize,
    pub(super) start: usize,
    pub(super) batch: usize,
}

impl Engine {
    pub(super) fn path(&self, batch: usize) -> Path {
        let ModelConfig { hidden, intermediate, .. } = self.config;
        let few = [hidden, intermediate, self.config.q_dim()].into_iter().all(|k| self.kernels.takes_few(k));
        match batch {
            1 => Path::One,
            2..=FEW_ROWS if few => Path::Few,
            _ => Path::Many,
        }
    }

    /// One decode step: tokens and position are read from device memory, scores and the next tokens are left there.
    pub(super) fn step(&self, work: &StepWork, at: &At) -> Result<(), CandleError> {
        if work.path != Path::One {
            let op = Embed {
                tokens: work.tokens,
                table: self.weights.embedding,
                positions: self.weights.positions,
                x: work.x.region(),
                place: self.place(at, 0),
                len: 1,
                width: self.config.hidden,
            };
            // SAFETY: tokens and positions were checked against the model before they were copied to the device.
            unsafe { self.kernels.embed(&op) }?;
        }
        for layer in 0..self.config.layers {
            self.queries(layer, work, at)?;
            self.after_queries(layer, work, at)?;
        }
        self.head(work, at.step)
    }

    /// Norm, product, rotation: queries to `work.q`, keys and values to the cache.
    fn queries(&self, layer: usize, work: &StepWork, at: &At) -> Result<(), CandleError> {
        let (config, weights) = (&self.config, &self.weights.layers[layer]);
        let place = self.place(at, layer);
        let rotation = Rotation { heads: config.heads, frequencies: self.weights.frequencies, place };
        let Linear { weight, bias, n, k } = weights.qkv;
        let to = if config.qk_norm { work.qkv.region() } else { work.q.region() };
        match work.path {
            Path::One => {
                let embedding = (layer == 0).then(|| Embedding {
                    table: self.weights.embedding,
                    positions: self.weights.positions,
                    tokens: work.tokens,
                    residual: work.x.region(),
                    place,
                });
                let finish = if config.qk_norm { Finish::Store } else { Finish::Rotate(rotation) };
                let x = work.x.region();
                let op = Matvec { weights: weight, bias, x, embedding, norm: Some(weights.attn_norm), y: to, n, k, finish };
                // SAFETY: all regions are this model's and live as long as its stream.
                unsafe { self.kernels.matvec(&op) }?;
            }
            Path::Few => {
                let finish = if config.qk_norm { FewFinish::Store } else { FewFinish::Rotate(rotation) };
                // The first layer's rows come from the embedding, which leaves nothing ahead.
                self.few_normed(weights.qkv, work, weights.attn_norm, layer > 0, to, finish)?;
            }
            Path::Many => {
                let add = layer.checked_sub(1).and_then(|before| self.weights.layers[before].down.bias);
                self.norm(work, weights.attn_norm, add)?;
                self.product(weights.qkv, work.normed.region(), work.qkv.region(), work.batch, Sum::Narrow)?;
            }
        }
        if work.path != Path::Many && !config.qk_norm {
            return Ok(());
        }
        let wide_in = work.path != Path::Many;
        let op = RotateAppend {
            qkv: work.qkv.region(),
            wide_in,
            bias: if wide_in { None } else { bias },
            q_norm: weights.q_norm,
            k_norm: weights.k_norm,
            eps: weights.attn_norm.eps,
            frequencies: self.weights.frequencies,
            q: Some(work.q.region()),
            wide_out: true,
            last: None,
            place,
            len: 1,
            heads: config.heads,
        };
        // SAFETY: as above.
        Ok(unsafe { self.kernels.rotate_append(&op) }?)
    }

    /// Attention and feed-forward layer of one position per sequence, whose queries are in `work.q` and whose residual stream
    /// is in `work.x`.
    pub(super) fn after_queries(&self, layer: usize, work: &StepWork, at: &At) -> Result<(), CandleError> {
        let (config, weights) = (&self.config, &self.weights.layers[layer]);
        self.attention(layer, work, at)?;
        let (attended, x) = (work.attended.region(), work.x.region());
        match work.path {
            Path::One => self.one(weights.o, attended, None, x, Finish::Add)?,
            Path::Few => self.few_onto(weights.o, attended, work, weights.mlp_norm)?,
            Path::Many => self.product(weights.o, attended, x, work.batch, Sum::Onto)?,
        }
        let gated = config.mlp == Mlp::Gated;
        let inner = Linear { n: config.intermediate, ..weights.gate_up };
        let hidden = work.inner.region();
        match work.path {
            Path::One => {
                let finish = if gated { Finish::Gated(self.activation) } else { Finish::Plain(self.activation) };
                self.one(inner, x, Some(weights.mlp_norm), hidden, finish)?;
                self.one(weights.down, hidden, None, x, Finish::Add)
            }
            Path::Few => {
                let finish = if gated { FewFinish::Gated(self.activation) } else { FewFinish::Plain(self.activation) };
                self.few_normed(inner, work, weights.mlp_norm, true, hidden, finish)?;
                let next = self.weights.layers.get(layer + 1).map_or(self.weights.final_norm, |next| next.attn_norm);
                self.few_onto(weights.down, hidden, work, next)
            }
            Path::Many => {
                self.norm(work, weights.mlp_norm, weights.o.bias)?;
                self.product(weights.gate_up, work.normed.region(), work.wide.region(), work.batch, Sum::Narrow)?;
                self.activate(weights.gate_up, work.wide.region(), hidden, work.batch)?;
                self.product(weights.down, hidden, x, work.batch, Sum::Onto)
            }
        }
    }

    fn attention(&self, layer: usize, work: &StepWork, at: &At) -> Result<(), CandleError> {
        let config = &self.config;
        let (q, out, place) = (work.q.region(), work.attended.region(), self.place(at, layer));
        let (heads, window, scale, narrow) = (config.heads, config.sliding_window, config.attention_scale(), work.path != Path::One);
        if !FLASH_HEAD_DIMS.contains(&config.head_dim) {
            let op = AttentionGeneral { q, out, narrow, place, len: 1, heads, window, scale };
            // SAFETY: all regions are this model's and live as long as its stream.
            return Ok(unsafe { self.kernels.attention_general(&op) }?);
        }
        let (partial, tickets, splits) = (work.partial.region(), work.tickets.region(), work.splits);
        let op = AttentionDecode { q, out, narrow, partial, tickets, place, heads, window, scale, splits };
        // SAFETY: as above.
        Ok(unsafe { self.kernels.attention_decode(&op) }?)
    }

    /// Scores of the rows in `work.x`, and their highest; with `advance` the step in device memory moves on.
    pub(super) fn head(&self, work: &StepWork, advance: Option<Region>) -> Result<(), CandleError> {
        let (vocab, weights) = (self.config.vocab, &self.weights);
        let layer = Linear { weight: weights.head, bias: None, n: vocab, k: self.config.hidden };
        let (scores, ticket) = (work.scores.region(), work.ticket);
        match work.path {
            Path::One => {
                let head = Head { tokens: work.tokens, best: work.best, ticket, advance };
                return self.one(layer, work.x.region(), Some(weights.final_norm), scores, Finish::Head(head));
            }
            Path::Few => {
                self.few_normed(layer, work, weights.final_norm, true, scores, FewFinish::Store)?;
            }
            Path::Many => {
                self.norm(work, weights.final_norm, weights.layers[self.config.layers - 1].down.bias)?;
                self.product(layer, work.normed.region(), scores, work.batch, Sum::Wide)?;
            }
        }
        let op = PickTokens { scores, tokens: work.tokens, ticket, advance, batch: work.batch, vocab };
        // SAFETY: all regions are this model's and live as long as its stream; a step has room for its tokens.
        Ok(unsafe { self.kernels.pick_tokens(&op) }?)
    }

    pub(super) const fn place(&self, at: &At, layer: usize) -> Place {
        let ModelConfig { kv_heads, head_dim, .. } = self.config;
        let At { step, cache, capacity, start, batch } = *at;
        Place { step, cache, capacity, start, batch, kv_heads, head_dim, layer }
    }

    fn one(&self, linear: Linear, x: Region, norm: Option<Norm>, y: Region, finish: Finish) -> Result<(), CandleError> {
        let Linear { weight: weights, bias, n, k } = linear;
        let op = Matvec { weights, bias, x, embedding: None, norm, y, n, k, finish };
        // SAFETY: all regions are this model's and live as long as its stream.
        Ok(unsafe { self.kernels.matvec(&op) }?)
    }

    /// A product of a norm of the residual stream. What a product before it may have left of the norm is `ahead`.
    fn few_normed(
        &self,
        linear: Linear,
        work: &StepWork,
        norm: Norm,
        ahead: bool,
        y: Region,
        finish: FewFinish,
    ) -> Result<(), CandleError> {
        let division = if ahead && self.divides(norm) {
            Some(Division { squares: work.squares.region(), eps: norm.eps })
        } else {
            self.norm(work, norm, None)?;
            None
        };
        self.few(linear, work.normed.region(), division, y, work.batch, finish)
    }

    /// A product onto the residual stream, which the norm `next` reads.
    fn few_onto(&self, linear: Linear, x: Region, work: &StepWork, next: Norm) -> Result<(), CandleError> {
        let ahead = Ahead { gain: next.gain, out: work.normed.region(), squares: work.squares.region() };
        self.few(linear, x, None, work.x.region(), work.batch, FewFinish::Add(self.divides(next).then_some(ahead)))
    }

    fn few(
        &self,
        linear: Linear,
        x: Region,
        division: Option<Division>,
        y: Region,
        batch: usize,
        finish: FewFinish,
    ) -> Result<(), CandleError> {
        let Linear { weight: weights, bias, n, k } = linear;
        let op = MatvecFew { weights, bias, x, division, y, batch, n, k, finish };
        // SAFETY: as above.
        Ok(unsafe { self.kernels.matvec_few(&op) }?)
    }

    /// Whether few rows have this norm done by the products around it. Before its division, values may be too large for f16.
    fn divides(&self, norm: Norm) -> bool {
        self.kernels.format() == Format::Bf16 && norm.kind == NormKind::Rms
    }

    fn norm(&self, work: &StepWork, norm: Norm, add: Option<Region>) -> Result<(), CandleError> {
        self.norm_rows(work.x.region(), work.normed.region(), work.batch, norm, add)
    }

    pub(super) fn norm_rows(&self, x: Region, out: Region, rows: usize, norm: Norm, add: Option<Region>) -> Result<(), CandleError> {
        let op = NormRows { x, add, norm, out, rows, width: self.config.hidden };
        // SAFETY: as above.
        Ok(unsafe { self.kernels.norm(&op) }?)
    }

    pub(super) fn activate(&self, linear: Linear, x: Region, out: Region, rows: usize) -> Result<(), CandleError> {
        let (width, gated) = (self.config.intermediate, self.config.mlp == Mlp::Gated);
        let op = Activate { x, bias: linear.bias, out, rows, width, gated, activation: self.activation };
        // SAFETY: as above.
        Ok(unsafe { self.kernels.activate(&op) }?)
    }

    /// A product through cuBLAS. Biases are added by what reads it.
    pub(super) fn product(&self, linear: Linear, x: Region, out: Region, rows: usize, sum: Sum) -> Result<(), CandleError> {
        let format = self.kernels.format();
        let (to, accumulate) = match sum {
            Sum::Narrow => (format, false),
            Sum::Wide => (Format::F32, false),
            Sum::Onto => (Format::F32, true),
        };
        self.products.set(self.products.get() + 1);
        self.gpu.matmul(&Product { weights: linear.weight, x, out, rows, n: linear.n, k: linear.k, to, accumulate }, format)
    }
}

/// Where a product's sums go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sum {
    /// To a matrix in the weights' format.
    Narrow,
    /// To an f32 matrix.
    Wide,
    /// Onto what an f32 matrix holds.
    Onto,
}
