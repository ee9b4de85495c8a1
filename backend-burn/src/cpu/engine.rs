//! One pass of new positions through the layers.

use burn::tensor::Device;
use phase_core::{KvCache, TokenId};
use phase_kernels::Team;
use phase_model::{ModelConfig, RopeTables, rope_tables};

use super::{
    attend::{Attend, Chunk},
    plan::Plan,
    products::{KERNELS, Products},
    rows::{self, Spread},
    storage::Buffer,
    weights::ModelWeights,
};
use crate::{BurnCache, BurnConfig, BurnError};

/// Weights and working memory.
#[derive(Debug)]
pub(crate) struct Engine {
    model: ModelConfig,
    plan: Plan,
    weights: ModelWeights,
    rope: Option<RopeTables>,
    prefill_rows: usize,
    team: Team,
    products: Products,
    attend: Attend,
    /// The residual stream, `[rows, hidden]`.
    x: Vec<f32>,
    buffers: Buffers,
}

/// What products read and write, reused from pass to pass.
#[derive(Debug)]
struct Buffers {
    normed: Buffer,
    qkv: Buffer,
    attended: Buffer,
    /// Gate and up of each row side by side, or up alone.
    up: Buffer,
    activated: Buffer,
    /// What is added to the residual stream.
    delta: Buffer,
}

impl Engine {
    pub(super) fn new(model: &ModelConfig, weights: ModelWeights, team: Team, config: &BurnConfig) -> Result<Self, BurnError> {
        let buffer = Buffer::new;
        Ok(Self {
            model: model.clone(),
            plan: Plan::new(model)?,
            weights,
            rope: None,
            prefill_rows: config.rows(),
            team,
            products: Products::new(Device::flex(), config.direct_rows),
            attend: Attend::new(model),
            x: Vec::new(),
            buffers: Buffers { normed: buffer(), qkv: buffer(), attended: buffer(), up: buffer(), activated: buffer(), delta: buffer() },
        })
    }

    pub(crate) fn weights(&self) -> &ModelWeights {
        &self.weights
    }

    pub(crate) fn products(&self) -> &Products {
        &self.products
    }

    pub(super) fn reserve_positions(&mut self, positions: usize) -> Result<(), BurnError> {
        if self.rope.as_ref().is_none_or(|tables| tables.positions < positions) {
            self.rope = rope_tables(&self.model, 0..positions)?;
        }
        Ok(())
    }

    pub(super) fn forward(
        &mut self,
        cache: &mut BurnCache,
        tokens: &[TokenId],
        batch: usize,
        spread: Spread,
        out: &mut [f32],
    ) -> Result<(), BurnError> {
        let len = tokens.len() / batch;
        let step = (self.prefill_rows / batch).max(1);
        let (past, capacity) = (cache.len(), cache.capacity());
        for first in (0..len).step_by(step) {
            let chunk = Chunk { batch, past: past + first, new: step.min(len - first), capacity, spread, last: first + step >= len };
            self.embed(tokens.chunks_exact(len).map(|row| &row[first..first + chunk.new]), chunk);
            for layer in 0..self.model.layers {
                self.layer(layer, cache, chunk)?;
            }
            if chunk.last {
                self.head(chunk, out)?;
            }
        }
        cache.len += len;
        Ok(())
    }

    fn embed<'t>(&mut self, rows: impl Iterator<Item = &'t [TokenId]>, chunk: Chunk) {
        let hidden = self.model.hidden;
        self.x.resize(chunk.rows() * hidden, 0.0);
        let mut x = self.x.chunks_exact_mut(hidden);
        for row in rows {
            for ((token, position), x) in row.iter().zip(chunk.past..).zip(&mut x) {
                self.weights.embedding.matrix.row(token.0 as usize, x);
                if let Some(positions) = &self.weights.positions {
                    rows::add(Spread::Caller, x, &positions[position * hidden..(position + 1) * hidden]);
                }
            }
        }
    }

    fn layer(&mut self, index: usize, cache: &mut BurnCache, chunk: Chunk) -> Result<(), BurnError> {
        let Self { plan, rope, team, products, attend, x, .. } = self;
        let Buffers { normed, qkv, attended, up, activated, delta } = &mut self.buffers;
        let layer = &self.weights.layers[index];
        let hidden = self.model.hidden;
        let mut rows = chunk.rows();

        plan.norm(team, &layer.attn_norm, x, normed.get_mut(rows * hidden));
        products.linear(team, &layer.qkv, normed, rows, qkv)?;
        attend.run(team, layer, rope.as_ref(), chunk, qkv, cache.layer(index)?, attended);
        products.saw(KERNELS, "attention f32");
        if index + 1 == self.model.layers {
            if !chunk.last {
                return Ok(());
            }
            // Nothing reads what the last layer would give at the other positions.
            keep_last(x, hidden, chunk);
            keep_last(attended.get_mut(rows * self.model.q_dim()), self.model.q_dim(), chunk);
            rows = chunk.batch;
        }
        let stream = rows * hidden;
        let x = &mut x[..stream];
        products.linear(team, &layer.o, attended, rows, delta)?;
        rows::add(chunk.spread, x, delta.get(stream));

        plan.norm(team, &layer.mlp_norm, x, normed.get_mut(stream));
        products.linear(team, &layer.up, normed, rows, up)?;
        plan.activate(team, chunk.spread, up, activated, rows);
        products.linear(team, &layer.down, activated, rows, delta)?;
        rows::add(chunk.spread, x, delta.get(stream));
        Ok(())
    }

    /// Scores of each sequence's last position, which is all that the last layer left.
    fn head(&mut self, chunk: Chunk, out: &mut [f32]) -> Result<(), BurnError> {
        let Self { plan, weights, team, products, x, buffers, .. } = self;
        let hidden = self.model.hidden;
        let stream = chunk.batch * hidden;
        plan.norm(team, &weights.final_norm, &x[..stream], buffers.normed.get_mut(stream));
        products.head(team, weights.head(), &buffers.normed, chunk.batch, out)
    }
}

/// Moves the row of each sequence's last position to the front.
fn keep_last(values: &mut [f32], width: usize, chunk: Chunk) {
    for sequence in 0..chunk.batch {
        let row = (sequence + 1) * chunk.new - 1;
        values.copy_within(row * width..(row + 1) * width, sequence * width);
    }
}
