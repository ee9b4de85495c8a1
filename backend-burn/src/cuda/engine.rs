//! What a decode step is made of: kernels, enqueued and not waited for.

use half::{bf16, f16};
use phase_kernels::cuda::Region;
use phase_model::{Mlp, ModelConfig};

use super::{
    compile::Target,
    device::{Buffer, Gpu},
    kernels::{
        attention::{Heads, attend_any::AttendAny, attend_one::AttendOne},
        few::{MOST_NORMED, Shape, few::Few},
        finish::{Activation, Finish},
        plain::{ROWS, product::Product},
        prompt::{self, attend_tiles::AttendTiles},
        rows::{self, embed::Embed, last_rows::LastRows, norm::Norm as NormKernel, pick::Pick, rotate_append::RotateAppend},
        share::{Part, share::Share},
        tile::{self, tiles::Tiles},
        wide::{self, wide_tiles::WideTiles},
        words::Format,
    },
    launch::{
        Arg::{self, Buffer as B, F32, U32},
        Kernels, buffer as b,
    },
    step::{CONTROL, StepWork},
    weights::{Linear, Norm, Weights},
};
use crate::BurnError;

/// A model on a device: everything that stays the same from call to call.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) config: ModelConfig,
    pub(super) format: Format,
    pub(super) activation: Activation,
    pub(super) weights: Weights,
    pub(super) kernels: Kernels,
    /// What stands where a kernel has a parameter that it does not use.
    pub(super) nothing: Buffer,
    pub(super) gpu: Gpu,
}

/// Where a call's keys and values go.
#[derive(Clone, Copy, Debug)]
pub(super) struct At {
    /// `[layers, 2, batch, kv_heads, capacity, head_dim]`.
    pub(super) cache: Region,
    /// Position, index, nothing, nothing, tokens.
    pub(super) control: Region,
    /// `[steps, batch]` `u32`.
    pub(super) picked: Region,
    pub(super) capacity: usize,
    pub(super) batch: usize,
}

/// New positions of every sequence, beginning at `start`; a step's position is in the control.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) len: usize,
    pub(super) stepping: bool,
}

/// A decode step's.
const STEP: Span = Span { start: 0, len: 1, stepping: true };

/// Cubes that look for the highest score of a sequence.
pub(super) const PICK_BLOCKS: usize = 64;

/// Runs the body with `$element` for the Rust type of a format.
macro_rules! typed {
    ($format:expr, $element:ident => $body:expr) => {
        match $format {
            Format::F32 => {
                type $element = f32;
                $body
            }
            Format::F16 => {
                type $element = f16;
                $body
            }
            Format::Bf16 => {
                type $element = bf16;
                $body
            }
        }
    };
}

/// A kernel of this type, its buffers and scalars as they are always compiled, and what is fixed at compile time.
macro_rules! kernel {
    ($units:expr, $kernel:ident $(::<$element:ty>)?; $($fixed:expr),*) => {
        |target: &Target| $kernel$(::<$element>)?::new(Target::settings($units), target.device.clone(), target.runtime.clone(), $($fixed),*)
    };
}

impl Engine {
    /// How attention of one position is cut; none for head sizes that only the general kernel takes.
    pub(super) fn heads(&self, batch: usize) -> Option<Heads> {
        let ModelConfig { heads, kv_heads, head_dim, qk_norm, .. } = self.config;
        if !Heads::fits(head_dim, self.format.per_vector()) {
            return None;
        }
        let group = (1..=4usize).rev().find(|group| (heads / kv_heads).is_multiple_of(*group)).unwrap_or(1);
        let cubes = (batch * heads / group).max(1);
        let splits = (2 * self.gpu.processors).div_ceil(cubes).clamp(1, 16);
        Some(Heads { heads, kv_heads, head_dim, group, splits, rotate: self.rotates(), normed: qk_norm, format: self.format })
    }

    const fn rotates(&self) -> bool {
        self.weights.frequencies.is_some()
    }

    const fn bf16(&self) -> bool {
        matches!(self.format, Format::Bf16)
    }

    fn or_nothing(&self, region: Option<Region>) -> Arg {
        B(region.unwrap_or(self.nothing.region()))
    }

    /// Keys and values of a layer.
    pub(super) fn layer(&self, at: &At, layer: usize) -> (Region, Region) {
        let bytes = at.batch * self.config.kv_dim() * at.capacity * self.format.size_bytes();
        let part = |index: usize| Region::new(at.cache.address() + (index * bytes) as u64, bytes);
        (part(2 * layer), part(2 * layer + 1))
    }

    /// One decode step: tokens and position are read from device memory, scores and the next tokens are left there.
    pub(super) fn step(&self, work: &StepWork, at: &At) -> Result<(), BurnError> {
        self.embed(at.control, CONTROL, work.x.region(), work.batch, STEP, at.control)?;
        for (index, layer) in self.weights.layers.iter().enumerate() {
            let finish = Finish::Store;
            self.step_product(work, layer.qkv, work.x.region(), Some(layer.attn_norm), work.qkv.region(), finish)?;
            self.after_queries(index, work, at)?;
        }
        self.head(work, at)
    }

    /// Rotation, attention and feed-forward layer of one position per sequence, whose queries, keys and values are in
    /// `work.qkv` and whose residual stream is in `work.x`.
    pub(super) fn after_queries(&self, index: usize, work: &StepWork, at: &At) -> Result<(), BurnError> {
        let layer = &self.weights.layers[index];
        let (attended, x, inner) = (work.attended.region(), work.x.region(), work.inner.region());
        if let Some(heads) = work.heads {
            self.attend_one(index, work, at, heads)?;
        } else {
            self.rotate_append(index, work.qkv.region(), work.q.region(), at, STEP)?;
            self.attend_any(index, work.q.region(), attended, at, STEP)?;
        }
        self.step_product(work, layer.o, attended, None, x, Finish::Add)?;
        let gate_up = Linear { n: self.config.intermediate, ..layer.gate_up };
        self.step_product(work, gate_up, x, Some(layer.mlp_norm), inner, self.inner_finish())?;
        self.step_product(work, layer.down, inner, None, x, Finish::Add)
    }

    pub(super) fn inner_finish(&self) -> Finish {
        if self.config.mlp == Mlp::Gated { Finish::Gated(self.activation) } else { Finish::Plain(self.activation) }
    }

    /// Scores of the rows in `work.x`, and their highest.
    pub(super) fn head(&self, work: &StepWork, at: &At) -> Result<(), BurnError> {
        let (vocab, hidden) = (self.config.vocab, self.config.hidden);
        let linear = Linear { weight: self.weights.head, bias: None, n: vocab, k: hidden };
        self.step_product(work, linear, work.x.region(), Some(self.weights.final_norm), work.scores.region(), Finish::Store)?;
        let args = [
            B(work.scores.region()),
            B(work.best.region()),
            B(work.best_tokens.region()),
            B(work.ticket.region()),
            B(at.control),
            B(at.picked),
            U32(narrow(vocab)),
            U32(narrow(work.batch)),
        ];
        let blocks = narrow(PICK_BLOCKS);
        let make = kernel!(rows::UNITS, Pick; b(), b(), b(), b(), b(), b(), (), (), blocks);
        // SAFETY: all regions are this model's or this cache's and live as long as the stream.
        unsafe { self.kernels.launch(make, (), rows::UNITS, [PICK_BLOCKS, work.batch, 1], &args) }
    }

    /// A product of few rows, of `x` normed first where there is a norm (then `x` is f32, else in the model's format).
    fn step_product(
        &self,
        work: &StepWork,
        linear: Linear,
        x: Region,
        norm: Option<Norm>,
        to: Region,
        finish: Finish,
    ) -> Result<(), BurnError> {
        let rows = work.batch;
        let few = self.format != Format::F32 && linear.k.is_multiple_of(32);
        let fused = few && rows == 1 && linear.k <= MOST_NORMED;
        let (x, norm) = match norm {
            Some(norm) if !fused => {
                self.norm(x, work.normed.region(), rows, norm)?;
                (work.normed.region(), None)
            }
            norm => (x, norm),
        };
        if few && rows > 8 && linear.k.is_multiple_of(64) {
            return self.share(work, linear, x, to, finish);
        }
        if few { self.few(linear, x, norm, to, rows, finish) } else { self.plain(linear, x, to, rows, finish) }
    }

    fn few(&self, linear: Linear, x: Region, norm: Option<Norm>, to: Region, rows: usize, finish: Finish) -> Result<(), BurnError> {
        let Linear { weight, bias, n, k } = linear;
        let tiles = rows.div_ceil(8).next_power_of_two();
        let height = if matches!(finish, Finish::Gated(_)) { 8 } else { 16 };
        let steps = k / 32;
        let outputs = n.div_ceil(height);
        // Enough planes to have all of the memory's bandwidth in flight, with as few that share an output as will do.
        let divides = |shares: &usize| steps.is_multiple_of(*shares);
        let enough = 15 * self.gpu.processors;
        let shares = [1, 2, 4, 8].into_iter().filter(divides).find(|shares| outputs * shares >= enough);
        let shares = shares.unwrap_or_else(|| [8, 4, 2, 1].into_iter().find(divides).unwrap_or(1));
        let most = if tiles <= 2 { 4 } else { 2 };
        let unroll = [4, 2, 1].into_iter().find(|unroll| *unroll <= most && (steps / shares).is_multiple_of(*unroll)).unwrap_or(1);
        let normed = if norm.is_some() { k / 2 } else { 0 };
        let layer = norm.is_some_and(|norm| norm.shift.is_some());
        let shape = Shape { bf16: self.bf16(), tiles, shares, unroll, normed, layer, biased: bias.is_some(), finish };
        let (wide, narrow_to) = self.outputs(to, finish);
        let args = [
            B(weight),
            B(x),
            B(x),
            self.or_nothing(norm.map(|norm| norm.gain)),
            self.or_nothing(norm.and_then(|norm| norm.shift)),
            self.or_nothing(bias),
            wide,
            narrow_to,
            U32(narrow(n)),
            U32(narrow(k / 8)),
            U32(narrow(rows)),
            F32(norm.map_or(0.0, |norm| norm.eps)),
        ];
        let cubes = [outputs.div_ceil(8 / shares), 1, 1];
        typed!(self.format, E => {
            let make = kernel!(rows::UNITS, Few::<E>; b(), b(), b(), b(), b(), b(), b(), b(), (), (), (), (), shape);
            // SAFETY: all regions are this model's and live as long as its stream, with room for these rows.
            unsafe { self.kernels.launch(make, shape, rows::UNITS, cubes, &args) }
        })
    }

    fn share(&self, work: &StepWork, linear: Linear, x: Region, to: Region, finish: Finish) -> Result<(), BurnError> {
        let Linear { weight, bias, n, k } = linear;
        let outputs = columns(n, finish);
        let (groups, shares) = Part::cut(outputs, k, self.gpu.processors);
        let part = Part { bf16: self.bf16(), rows: padded(work.batch), groups, shares, biased: bias.is_some(), finish };
        let (wide, narrow_to) = self.outputs(to, finish);
        let args = [
            B(weight),
            B(x),
            self.or_nothing(bias),
            wide,
            narrow_to,
            B(work.shares.region()),
            B(work.share_tickets.region()),
            U32(narrow(n)),
            U32(narrow(k / 8)),
            U32(narrow(work.batch)),
        ];
        let cubes = [outputs.div_ceil(64 * groups), shares, 1];
        typed!(self.format, E => {
            let make = kernel!(part.units(), Share::<E>; b(), b(), b(), b(), b(), b(), b(), (), (), (), part);
            // SAFETY: as above; the work's sums and tickets have room for every product of its rows.
            unsafe { self.kernels.launch(make, part, part.units(), cubes, &args) }
        })
    }

    /// Bytes of sums, and tiles, of the largest product of `rows` rows of a step.
    pub(super) fn share_room(&self, rows: usize) -> (usize, usize) {
        let head = Linear { weight: self.weights.head, bias: None, n: self.config.vocab, k: self.config.hidden };
        let layers = self.weights.layers.iter().flat_map(|layer| [layer.qkv, layer.o, layer.gate_up, layer.down]);
        let rooms = layers.chain([head]).map(|linear| {
            let outputs = linear.n.next_multiple_of(16);
            let (groups, shares) = Part::cut(outputs, linear.k, self.gpu.processors);
            (Part::partial(outputs, groups, shares, padded(rows)), outputs.div_ceil(64 * groups))
        });
        rooms.fold((0, 0), |most, room| (most.0.max(room.0), most.1.max(room.1)))
    }

    /// A product of any shape.
    pub(super) fn plain(&self, linear: Linear, x: Region, to: Region, rows: usize, finish: Finish) -> Result<(), BurnError> {
        let Linear { weight, bias, n, k } = linear;
        let biased = bias.is_some();
        let (wide, narrow_to) = self.outputs(to, finish);
        let args = [B(weight), B(x), self.or_nothing(bias), wide, narrow_to, U32(narrow(n)), U32(narrow(k)), U32(narrow(rows))];
        let cubes = [n.div_ceil(8), rows.div_ceil(ROWS), 1];
        typed!(self.format, E => {
            let make = kernel!(rows::UNITS, Product::<E>; b(), b(), b(), b(), b(), (), (), (), finish, biased);
            // SAFETY: as above.
            unsafe { self.kernels.launch(make, (finish, biased), rows::UNITS, cubes, &args) }
        })
    }

    /// A product of many rows in 16 bits.
    pub(super) fn tiles(&self, linear: Linear, x: Region, to: Region, rows: usize, finish: Finish) -> Result<(), BurnError> {
        let Linear { weight, bias, n, k } = linear;
        let (bf16, biased) = (self.bf16(), bias.is_some());
        let (wide, narrow_to) = self.outputs(to, finish);
        let args = [B(x), B(weight), self.or_nothing(bias), wide, narrow_to, U32(narrow(rows)), U32(narrow(n)), U32(narrow(k / 8))];
        let columns = columns(n, finish);
        if !k.is_multiple_of(64) {
            let cubes = [rows.div_ceil(tile::SIDE), columns.div_ceil(tile::SIDE), 1];
            return typed!(self.format, E => {
                let make = kernel!(tile::UNITS, Tiles::<E>; b(), b(), b(), b(), b(), (), (), (), bf16, biased, finish);
                // SAFETY: as above.
                unsafe { self.kernels.launch(make, (biased, finish), tile::UNITS, cubes, &args) }
            });
        }
        let row_tiles = rows.div_ceil(wide::HEIGHT);
        // A round of cubes takes as long as its tiles are wide; narrow tiles read more for each product.
        let cost = |width: usize| (row_tiles * columns.div_ceil(width)).div_ceil(self.gpu.processors) * (width + 24);
        let best = wide::WIDTHS.into_iter().min_by_key(|width| cost(*width)).unwrap_or(wide::WIDTHS[0]);
        // What is prepared serves prompts of every length.
        for width in wide::WIDTHS.into_iter().filter(|width| *width == best || self.kernels.preparing()) {
            let cubes = [row_tiles, columns.div_ceil(width), 1];
            typed!(self.format, E => {
                let make = kernel!(wide::UNITS, WideTiles::<E>; b(), b(), b(), b(), b(), (), (), (), bf16, width, biased, finish);
                // SAFETY: as above.
                unsafe { self.kernels.launch(make, (biased, finish, width), wide::UNITS, cubes, &args) }
            })?;
        }
        Ok(())
    }

    /// The f32 output and the one in the model's format; the one that `finish` does not write is nothing.
    fn outputs(&self, to: Region, finish: Finish) -> (Arg, Arg) {
        let nothing = B(self.nothing.region());
        match finish {
            Finish::Store | Finish::Add => (B(to), nothing),
            Finish::Plain(_) | Finish::Gated(_) => (nothing, B(to)),
        }
    }

    /// Embeds the tokens behind the first `first` words of `tokens`.
    pub(super) fn embed(&self, tokens: Region, first: usize, x: Region, rows: usize, span: Span, control: Region) -> Result<(), BurnError> {
        let (learned, stepping) = (self.weights.positions.is_some(), span.stepping);
        let args = [
            B(tokens),
            B(self.weights.embedding),
            self.or_nothing(self.weights.positions),
            B(control),
            B(x),
            U32(narrow(first)),
            U32(narrow(span.len)),
            U32(narrow(self.config.hidden)),
            U32(narrow(span.start)),
        ];
        typed!(self.format, E => {
            let make = kernel!(rows::UNITS, Embed::<E>; b(), b(), b(), b(), b(), (), (), (), (), learned, stepping);
            // SAFETY: as above; tokens and positions were checked against the model.
            unsafe { self.kernels.launch(make, (learned, stepping), rows::UNITS, [rows, 1, 1], &args) }
        })
    }

    pub(super) fn norm(&self, x: Region, out: Region, rows: usize, norm: Norm) -> Result<(), BurnError> {
        let layer = norm.shift.is_some();
        let args = [B(x), B(norm.gain), self.or_nothing(norm.shift), B(out), U32(narrow(self.config.hidden)), F32(norm.eps)];
        typed!(self.format, E => {
            let make = kernel!(rows::UNITS, NormKernel::<E>; b(), b(), b(), b(), (), (), layer);
            // SAFETY: as above.
            unsafe { self.kernels.launch(make, layer, rows::UNITS, [rows, 1, 1], &args) }
        })
    }

    /// Rotates queries to `q`, and keys and values into the cache.
    pub(super) fn rotate_append(&self, index: usize, qkv: Region, q: Region, at: &At, span: Span) -> Result<(), BurnError> {
        let layer = &self.weights.layers[index];
        let ModelConfig { heads, kv_heads, head_dim, qk_norm, .. } = self.config;
        let (heads, kv_heads, head_dim) = (narrow(heads), narrow(kv_heads), narrow(head_dim));
        let (rotate, stepping) = (self.rotates(), span.stepping);
        let (keys, values) = self.layer(at, index);
        let args = [
            B(qkv),
            self.or_nothing(self.weights.frequencies),
            self.or_nothing(layer.q_norm),
            self.or_nothing(layer.k_norm),
            B(at.control),
            B(q),
            B(keys),
            B(values),
            U32(narrow(span.len)),
            U32(narrow(at.capacity)),
            U32(narrow(span.start)),
            F32(layer.attn_norm.eps),
        ];
        let cubes = [at.batch * span.len, 1, 1];
        typed!(self.format, E => {
            let make = kernel!(rows::UNITS, RotateAppend::<E>; b(), b(), b(), b(), b(), b(), b(), b(), (), (), (), (),
                heads, kv_heads, head_dim, rotate, qk_norm, stepping);
            // SAFETY: as above, and the cache has room for these positions.
            unsafe { self.kernels.launch(make, stepping, rows::UNITS, cubes, &args) }
        })
    }

    fn attend_one(&self, index: usize, work: &StepWork, at: &At, heads: Heads) -> Result<(), BurnError> {
        let layer = &self.weights.layers[index];
        let (keys, values) = self.layer(at, index);
        let args = [
            B(work.qkv.region()),
            self.or_nothing(self.weights.frequencies),
            self.or_nothing(layer.q_norm),
            self.or_nothing(layer.k_norm),
            B(at.control),
            B(keys),
            B(values),
            B(work.partial.region()),
            B(work.tickets.region()),
            B(work.attended.region()),
            U32(narrow(at.capacity)),
            U32(self.window()),
            F32(self.config.attention_scale()),
            F32(layer.attn_norm.eps),
        ];
        let cubes = [heads.splits, heads.heads / heads.group, at.batch];
        typed!(self.format, E => {
            let make = kernel!(rows::UNITS, AttendOne::<E>; b(), b(), b(), b(), b(), b(), b(), b(), b(), b(), (), (), (), (), heads);
            // SAFETY: as above.
            unsafe { self.kernels.launch(make, heads, rows::UNITS, cubes, &args) }
        })
    }

    /// Attention of a prompt on tensor cores.
    pub(super) fn attend_tiles(&self, index: usize, q: Region, out: Region, at: &At, span: Span) -> Result<(), BurnError> {
        let ModelConfig { heads, kv_heads, head_dim, .. } = self.config;
        let (keys, values) = self.layer(at, index);
        let bf16 = self.bf16();
        let args = [
            B(q),
            B(keys),
            B(values),
            B(out),
            U32(narrow(span.len)),
            U32(narrow(at.capacity)),
            U32(narrow(span.start)),
            // Sums of it and a position must not wrap.
            U32(self.window().min(1 << 30)),
            F32(self.config.attention_scale() * std::f32::consts::LOG2_E),
        ];
        let cubes = [span.len.div_ceil(prompt::SIDE), heads, at.batch];
        let make = kernel!(prompt::UNITS, AttendTiles; b(), b(), b(), b(), (), (), (), (), (), heads, kv_heads, head_dim, bf16);
        // SAFETY: as above.
        unsafe { self.kernels.launch(make, (), prompt::UNITS, cubes, &args) }
    }

    pub(super) fn attend_any(&self, index: usize, q: Region, out: Region, at: &At, span: Span) -> Result<(), BurnError> {
        let ModelConfig { heads, kv_heads, head_dim, .. } = self.config;
        let (keys, values) = self.layer(at, index);
        let queries = at.batch * span.len * heads;
        let stepping = span.stepping;
        let args = [
            B(q),
            B(at.control),
            B(keys),
            B(values),
            B(out),
            U32(narrow(queries)),
            U32(narrow(span.len)),
            U32(narrow(at.capacity)),
            U32(narrow(span.start)),
            U32(self.window()),
            F32(self.config.attention_scale()),
        ];
        let cubes = [queries.div_ceil(8), 1, 1];
        typed!(self.format, E => {
            let make = kernel!(rows::UNITS, AttendAny::<E>; b(), b(), b(), b(), b(), (), (), (), (), (), (), heads, kv_heads, head_dim, stepping);
            // SAFETY: as above.
            unsafe { self.kernels.launch(make, stepping, rows::UNITS, cubes, &args) }
        })
    }

    /// The last of each sequence's `len` rows.
    pub(super) fn last_rows(&self, from: Region, to: Region, len: usize, width: usize, batch: usize) -> Result<(), BurnError> {
        let args = [B(from), B(to), U32(narrow(len)), U32(narrow(width))];
        let make = kernel!(rows::UNITS, LastRows; b(), b(), (), ());
        // SAFETY: as above.
        unsafe { self.kernels.launch(make, (), rows::UNITS, [batch, 1, 1], &args) }
    }

    pub(super) fn window(&self) -> u32 {
        self.config.sliding_window.map_or(u32::MAX, narrow)
    }
}

/// Sums of a row: gated columns come in eights, gates and then what they gate.
const fn columns(n: usize, finish: Finish) -> usize {
    if matches!(finish, Finish::Gated(_)) { n.next_multiple_of(8) * 2 } else { n }
}

/// Rows of a step's product as its kernels are compiled for them.
const fn padded(rows: usize) -> usize {
    rows.div_ceil(8).next_power_of_two() * 8
}

/// A dimension as kernels take it. All of them are of a checked configuration or a checked call.
pub(super) fn narrow(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
