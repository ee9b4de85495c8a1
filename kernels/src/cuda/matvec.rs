//! Products of one row, or of two to eight, with what comes before and after them.

use super::{
    Activation, CudaError, Format, Kernels, NormKind, Place, Region,
    args::{FewArgs, MatvecArgs, PlaceArgs},
    launch::{Grid, SHARED_BYTES, narrow},
};

/// Most rows that [`Kernels::matvec_few`] takes.
pub const FEW_ROWS: usize = 8;

/// Normalisation of a row of activations.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "what a norm is")]
pub struct Norm {
    /// Which one.
    pub kind: NormKind,
    /// Weights, f32.
    pub gain: Region,
    /// Biases of a layer norm, f32.
    pub shift: Option<Region>,
    /// Added to the variance.
    pub eps: f32,
}

/// Takes a model's first activations from the embedding of a token, and keeps them.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "plain buffers, and callers write it out")]
pub struct Embedding {
    /// `[vocab, k]` in the weights' format.
    pub table: Region,
    /// `[max_context, k]` in the weights' format, added for learned positions.
    pub positions: Option<Region>,
    /// The token, one `u32`.
    pub tokens: Region,
    /// Where the activations are kept, `[k]` f32.
    pub residual: Region,
    /// Where the position comes from.
    pub place: Place,
}

/// What follows the product of queries, keys and values.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "plain buffers, and callers write it out")]
pub struct Rotation {
    /// Query heads.
    pub heads: usize,
    /// `[head_dim / 2]` f32: the angle is position times frequency; without them nothing is rotated.
    pub frequencies: Option<Region>,
    /// Where keys and values go.
    pub place: Place,
}

/// What follows the product of the output layer.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "plain buffers, and callers write it out")]
pub struct Head {
    /// Where the picked token goes, one `u32`.
    pub tokens: Region,
    /// One `u64`, zero before the first launch.
    pub best: Region,
    /// One `u32`, zero before the first launch.
    pub ticket: Region,
    /// A [`Step`](super::Step) to move on by one.
    pub advance: Option<Region>,
}

/// What happens to the sums of [`Kernels::matvec`].
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_enums, reason = "one kernel each")]
pub enum Finish {
    /// `y = sums`.
    Store,
    /// Rotated queries to `y`, keys and values to the cache.
    Rotate(Rotation),
    /// `y += sums`.
    Add,
    /// `y = activation(gate) * up`: the matrix has `n` rows of gates above `n` rows of ups.
    Gated(Activation),
    /// `y = activation(sums)`.
    Plain(Activation),
    /// `y = sums`, and the row of the highest is picked, the lowest among equals.
    Head(Head),
}

/// One product of a matrix with one row of activations.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "plain buffers, and callers write it out")]
pub struct Matvec {
    /// `[n, k]`, or `[2 n, k]` for [`Finish::Gated`].
    pub weights: Region,
    /// As long as the matrix has rows, f32.
    pub bias: Option<Region>,
    /// `[k]` f32; not looked at with an `embedding`.
    pub x: Region,
    /// Where the first layer gets its input.
    pub embedding: Option<Embedding>,
    /// Normalisation of `x`; none for [`Finish::Add`], needed otherwise.
    pub norm: Option<Norm>,
    /// `[n]` f32; only the queries for [`Finish::Rotate`].
    pub y: Region,
    /// Outputs.
    pub n: usize,
    /// Inputs: a multiple of the elements in 16 bytes.
    pub k: usize,
    /// What happens to the sums.
    pub finish: Finish,
}

/// What a sum leaves for a product that reads it through an RMS norm: the norm without its division.
///
/// Values are as large as `y` times the gains: beyond 65,504 they have no place in f16, and bf16 holds them all.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "plain buffers, and callers write it out")]
pub struct Ahead {
    /// Weights of that norm, `[n]` f32.
    pub gain: Region,
    /// `y` times the gains, `[batch, n]` in the weights' format.
    pub out: Region,
    /// Shares of the sums of `y`'s squares, `[batch, n.div_ceil(16)]` f32.
    pub squares: Region,
}

/// Says that rows come from an [`Ahead`]: the product divides its sums by the root of the mean square.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "what is left of a norm")]
pub struct Division {
    /// As [`Ahead::squares`], `[batch, k.div_ceil(16)]` f32.
    pub squares: Region,
    /// Added to the mean square.
    pub eps: f32,
}

/// What happens to the sums of [`Kernels::matvec_few`].
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_enums, reason = "one kernel each")]
pub enum FewFinish {
    /// `y = sums`, f32.
    Store,
    /// Rotated queries to `y` (f32), keys and values to the cache.
    Rotate(Rotation),
    /// `y += sums`, f32, and what the next product reads of it.
    Add(Option<Ahead>),
    /// `y = activation(gate) * up` in the weights' format.
    Gated(Activation),
    /// `y = activation(sums)` in the weights' format.
    Plain(Activation),
}

/// One product of a matrix with two to eight rows of activations.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "plain buffers, and callers write it out")]
pub struct MatvecFew {
    /// `[n, k]`, or `[2 n, k]` for [`FewFinish::Gated`].
    pub weights: Region,
    /// As long as the matrix has rows, f32.
    pub bias: Option<Region>,
    /// `[batch, k]` in the weights' format.
    pub x: Region,
    /// What an RMS norm of `x` still lacks.
    pub division: Option<Division>,
    /// `[batch, n]`; only the queries for [`FewFinish::Rotate`].
    pub y: Region,
    /// Rows, at most [`FEW_ROWS`].
    pub batch: usize,
    /// Outputs.
    pub n: usize,
    /// Inputs, a multiple of 8.
    pub k: usize,
    /// What happens to the sums.
    pub finish: FewFinish,
}

impl Kernels {
    /// Multiplies a matrix with one row.
    ///
    /// # Errors
    /// [`CudaError::Shape`] for buffers that don't hold what the dimensions say, [`CudaError::Driver`].
    ///
    /// # Safety
    /// All regions are memory of this stream's device that stays until the kernel has run.
    pub unsafe fn matvec(&self, op: &Matvec) -> Result<(), CudaError> {
        let element = self.format().size_bytes();
        let (n, k) = (op.n, op.k);
        check_width("k", k, 16 / element)?;
        let rows = if matches!(op.finish, Finish::Gated(_)) { 2 * n } else { n };
        let mut args = MatvecArgs {
            w: op.weights.holding("weights", rows * k * element)?,
            bias: holding(op.bias, "bias", rows * 4)?,
            n: narrow("n", n)?,
            k: narrow("k", k)?,
            ..MatvecArgs::default()
        };
        if let Some(Embedding { table, positions, tokens, residual, place }) = op.embedding {
            args.embedding = table.holding("embedding", k * element)?;
            args.positions = holding(positions, "positions", k * element)?;
            args.tokens = tokens.holding("tokens", 4)?;
            args.residual = residual.holding("residual", k * 4)?;
            args.place = place.args(1, element)?;
        } else {
            args.x = op.x.holding("x", k * 4)?;
        }
        if let Some(norm) = op.norm {
            args.gain = norm.gain.holding("gain", k * 4)?;
            args.shift = holding(norm.shift, "shift", k * 4)?;
            args.eps = norm.eps;
        }
        let needs_norm = !matches!(op.finish, Finish::Add);
        if needs_norm != op.norm.is_some() || (op.norm.is_some_and(|norm| norm.kind == NormKind::Layer) && args.shift == 0) {
            return Err(CudaError::Shape {
                what: "norms of a product",
                found: usize::from(op.norm.is_some()),
                expected: usize::from(needs_norm),
            });
        }
        let mut outputs = n;
        let (kind, groups) = match op.finish {
            Finish::Store => ("store", n.div_ceil(2)),
            Finish::Rotate(rotation) => {
                outputs = rotation.check(n)?;
                (args.place, args.heads, args.frequencies) = rotation.args(1, element)?;
                ("rotate", n / 2)
            }
            Finish::Add => ("add", n),
            Finish::Gated(activation) => {
                args.activation = activation as u32;
                ("gated", n)
            }
            Finish::Plain(activation) => {
                args.activation = activation as u32;
                ("plain", n.div_ceil(2))
            }
            Finish::Head(head) => {
                args.tokens = head.tokens.holding("tokens", 4)?;
                args.best = head.best.holding("best", 8)?;
                args.ticket = head.ticket.holding("ticket", 4)?;
                args.advance = holding(head.advance, "the step", size_of::<super::Step>())?;
                ("head", n.div_ceil(2))
            }
        };
        args.y = op.y.holding("y", outputs * 4)?;
        // Lanes past the end of a row multiply zeros.
        let shared = k.div_ceil(32 * 16 / element) * (32 * 16 / element) * 4;
        let grid = self.one_wave("matvec", groups.div_ceil(WARPS), shared)?;
        let norm = if op.norm.is_some_and(|norm| norm.kind == NormKind::Layer) { "layer_" } else { "" };
        // SAFETY: the regions hold what the dimensions say, as checked above; the rest is the caller's promise.
        unsafe { self.launch(&format!("matvec_{kind}_{norm}{}", self.format().as_str()), &grid, &args) }
    }

    /// Whether [`matvec_few`](Self::matvec_few) can take rows of `k` inputs: they must fit into shared memory.
    #[must_use]
    pub const fn takes_few(&self, k: usize) -> bool {
        !matches!(self.format(), Format::F32) && few_shared_bytes(k, 16) <= LONG_SHARED_BYTES
    }

    /// Multiplies a matrix with two to eight rows of 16-bit activations.
    ///
    /// # Errors
    /// As [`matvec`](Self::matvec).
    ///
    /// # Safety
    /// As [`matvec`](Self::matvec).
    pub unsafe fn matvec_few(&self, op: &MatvecFew) -> Result<(), CudaError> {
        let element = self.format().size_bytes();
        let (n, k, batch) = (op.n, op.k, op.batch);
        check_width("k", k, 8)?;
        if batch == 0 || batch > FEW_ROWS {
            return Err(CudaError::Shape { what: "batch", found: batch, expected: FEW_ROWS });
        }
        if !self.takes_few(k) {
            return Err(CudaError::Shape { what: "shared memory", found: few_shared_bytes(k, 16), expected: LONG_SHARED_BYTES });
        }
        let rows = if matches!(op.finish, FewFinish::Gated(_)) { 2 * n } else { n };
        let mut args = FewArgs {
            w: op.weights.holding("weights", rows * k * element)?,
            bias: holding(op.bias, "bias", rows * 4)?,
            x: op.x.holding("x", batch * k * element)?,
            n: narrow("n", n)?,
            k: narrow("k", k)?,
            batch: narrow("batch", batch)?,
            ..FewArgs::default()
        };
        if let Some(Division { squares, eps }) = op.division {
            (args.squares, args.eps) = (squares.holding("squares", batch * k.div_ceil(16) * 4)?, eps);
        }
        let (kind, pairs, bytes) = match op.finish {
            FewFinish::Store => ("store", n.div_ceil(2), n * 4),
            FewFinish::Rotate(rotation) => {
                let outputs = rotation.check(n)?;
                (args.place, args.heads, args.frequencies) = rotation.args(1, element)?;
                ("rotate", n / 2, outputs * 4)
            }
            FewFinish::Add(ahead) => {
                if let Some(Ahead { gain, out, squares }) = ahead {
                    args.gain = gain.holding("gain", n * 4)?;
                    args.ahead = out.holding("the next x", batch * n * element)?;
                    args.seen = squares.holding("squares", batch * n.div_ceil(16) * 4)?;
                }
                ("add", n.div_ceil(2), n * 4)
            }
            FewFinish::Gated(activation) => {
                args.activation = activation as u32;
                ("gated", n, n * element)
            }
            FewFinish::Plain(activation) => {
                args.activation = activation as u32;
                ("plain", n.div_ceil(2), n * element)
            }
        };
        args.y = op.y.holding("y", batch * bytes)?;
        let tiles = pairs.div_ceil(8);
        let format = self.format().as_str();
        let (name, grid) = if tiles <= self.processors() as usize && few_shared_bytes(k, 16) <= FEW_SHARED_BYTES {
            let blocks = [narrow("n", tiles)?.max(1), 1, 1];
            (format!("few_{kind}_wide_{format}"), Grid { blocks, threads: 512, shared_bytes: narrow("k", few_shared_bytes(k, 16))? })
        } else if few_shared_bytes(k, WARPS) > FEW_SHARED_BYTES {
            let grid = self.one_wave("matvec_few", tiles, few_shared_bytes(k, 16))?;
            (format!("few_{kind}_long_{format}"), Grid { threads: 512, ..grid })
        } else {
            (format!("few_{kind}_{format}"), self.one_wave("matvec_few", tiles, few_shared_bytes(k, WARPS))?)
        };
        // SAFETY: the regions hold what the dimensions say, as checked above; the rest is the caller's promise.
        unsafe { self.launch(&name, &grid, &args) }
    }

    /// As many blocks as run at a time, or fewer: blocks that wait for others to end would start with nothing under way.
    fn one_wave(&self, what: &'static str, blocks: usize, shared: usize) -> Result<Grid, CudaError> {
        let shared_bytes = narrow(what, shared)?;
        let each = if shared_bytes + 4096 <= SHARED_BYTES.unsigned_abs() / 2 { 2 } else { 1 };
        let blocks = narrow(what, blocks)?.clamp(1, each * self.processors());
        Ok(Grid { blocks: [blocks, 1, 1], threads: 256, shared_bytes })
    }
}

impl Rotation {
    /// Checks the number of outputs, and gives how many of them are queries.
    const fn check(&self, n: usize) -> Result<usize, CudaError> {
        let expected = (self.heads + 2 * self.place.kv_heads) * self.place.head_dim;
        if n == expected {
            Ok(self.heads * self.place.head_dim)
        } else {
            Err(CudaError::Shape { what: "n of queries, keys and values", found: n, expected })
        }
    }

    fn args(&self, new: usize, element: usize) -> Result<(PlaceArgs, u32, u64), CudaError> {
        let frequencies = holding(self.frequencies, "frequencies", self.place.head_dim / 2 * 4)?;
        Ok((self.place.args(new, element)?, narrow("heads", self.heads)?, frequencies))
    }
}

pub(super) fn holding(region: Option<Region>, what: &'static str, bytes: usize) -> Result<u64, CudaError> {
    region.map_or(Ok(0), |region| region.holding(what, bytes))
}

pub(super) const fn check_width(what: &'static str, found: usize, multiple: usize) -> Result<(), CudaError> {
    if found > 0 && found.is_multiple_of(multiple) { Ok(()) } else { Err(CudaError::Shape { what, found, expected: multiple }) }
}

/// Rows of x, padded to whole turns of all warps and shifted by half of the banks each.
const fn few_shared_bytes(k: usize, warps: usize) -> usize {
    FEW_ROWS * (k.div_ceil(64 * warps) * warps * 128 + 64)
}

const WARPS: usize = 8;
/// What is left of a block's shared memory beside its sums.
const FEW_SHARED_BYTES: usize = 227 * 1024 - 5 * 1024;
/// As that, beside a quarter of the sums of 16 warps.
const LONG_SHARED_BYTES: usize = 227 * 1024 - 2 * 1024;
