//! A prompt: products of many rows with kernels between them, last positions through the head.

use phase_core::PromptBatch;
use phase_kernels::cuda::Region;

use super::{
    device::Buffer,
    engine::{At, Engine, Span},
    kernels::{finish::Finish, prompt::HEAD_DIMS, words::Format},
    step::StepWork,
    weights::Linear,
};
use crate::BurnError;

/// Activations of a piece of a prompt.
#[derive(Debug)]
pub(super) struct PromptWork {
    pub(super) rows: usize,
    pub(super) tokens: Buffer,
    /// The residual stream, f32.
    x: Buffer,
    normed: Buffer,
    /// f32.
    qkv: Buffer,
    q: Buffer,
    attended: Buffer,
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
    pub(super) fn new(engine: &Engine, rows: usize) -> Result<Self, BurnError> {
        let (config, gpu) = (&engine.config, &engine.gpu);
        let element = engine.format.size_bytes();
        let buffer = |width: usize, element: usize| gpu.buffer("a prompt's activations", rows * width * element);
        Ok(Self {
            rows,
            tokens: buffer(1, 4)?,
            x: buffer(config.hidden, 4)?,
            normed: buffer(config.hidden, element)?,
            qkv: buffer(config.q_dim() + 2 * config.kv_dim(), 4)?,
            q: buffer(config.q_dim(), element)?,
            attended: buffer(config.q_dim(), element)?,
            inner: buffer(config.intermediate, element)?,
        })
    }

    /// Copies a piece's tokens to the device.
    pub(super) fn upload(&self, engine: &Engine, prompt: PromptBatch<'_>, piece: Piece) -> Result<(), BurnError> {
        let tokens = prompt.rows().flat_map(|row| &row[piece.done..piece.done + piece.len]);
        let tokens: Vec<u32> = tokens.map(|token| token.0).collect();
        engine.gpu.upload(bytemuck::cast_slice(&tokens), self.tokens.region())
    }
}

impl Engine {
    /// Writes a piece's keys and values to the cache; the last piece leaves scores and tokens in `step`. The control's position
    /// is the piece's last.
    pub(super) fn piece(&self, work: &PromptWork, step: &StepWork, at: &At, span: Span, last: bool) -> Result<(), BurnError> {
        let (config, weights) = (&self.config, &self.weights);
        let rows = at.batch * span.len;
        let (x, normed, qkv) = (work.x.region(), work.normed.region(), work.qkv.region());
        self.embed(work.tokens.region(), 0, x, rows, span, at.control)?;
        for (index, layer) in weights.layers.iter().enumerate() {
            self.norm(x, normed, rows, layer.attn_norm)?;
            self.prompt_product(layer.qkv, normed, qkv, rows, Finish::Store)?;
            self.rotate_append(index, qkv, work.q.region(), at, span)?;
            if index + 1 == config.layers {
                break;
            }
            self.attend(index, work, at, span)?;
            self.prompt_product(layer.o, work.attended.region(), x, rows, Finish::Add)?;
            self.norm(x, normed, rows, layer.mlp_norm)?;
            let gate_up = Linear { n: config.intermediate, ..layer.gate_up };
            self.prompt_product(gate_up, normed, work.inner.region(), rows, self.inner_finish())?;
            self.prompt_product(layer.down, work.inner.region(), x, rows, Finish::Add)?;
        }
        if !last {
            return Ok(());
        }
        // Only the last positions matter from here on. Their keys and values are written once more, the same.
        self.last_rows(x, step.x.region(), span.len, config.hidden, at.batch)?;
        self.last_rows(qkv, step.qkv.region(), span.len, config.q_dim() + 2 * config.kv_dim(), at.batch)?;
        self.after_queries(config.layers - 1, step, at)?;
        self.head(step, at)
    }

    fn prompt_product(&self, linear: Linear, x: Region, to: Region, rows: usize, finish: Finish) -> Result<(), BurnError> {
        if self.format != Format::F32 && linear.k.is_multiple_of(32) {
            self.tiles(linear, x, to, rows, finish)
        } else {
            self.plain(linear, x, to, rows, finish)
        }
    }

    fn attend(&self, index: usize, work: &PromptWork, at: &At, span: Span) -> Result<(), BurnError> {
        let (q, out) = (work.q.region(), work.attended.region());
        if self.format != Format::F32 && HEAD_DIMS.contains(&self.config.head_dim) {
            self.attend_tiles(index, q, out, at, span)
        } else {
            self.attend_any(index, q, out, at, span)
        }
    }
}
