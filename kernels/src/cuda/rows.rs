//! Steps between a library's matrix products, for any number of rows.

use super::{
    Activation, CudaError, Kernels, Norm, Place, Region,
    args::{ActivateArgs, EmbedArgs, LastArgs, NormArgs, PickArgs, ReadArgs, RotateArgs},
    launch::{Grid, narrow},
    matvec::{check_width, holding},
};

/// Activations from the embeddings of tokens.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "plain buffers, and callers write it out")]
pub struct Embed {
    /// `[rows]` `u32`, each below the number of embeddings.
    pub tokens: Region,
    /// `[vocab, width]` in the weights' format.
    pub table: Region,
    /// `[max_context, width]` in the weights' format, added for learned positions.
    pub positions: Option<Region>,
    /// `[rows, width]` f32.
    pub x: Region,
    /// Where positions come from; a row is at `start + row % len`.
    pub place: Place,
    /// Rows of a sequence.
    pub len: usize,
    /// Elements of a row.
    pub width: usize,
}

/// Normalisation of rows.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "plain buffers, and callers write it out")]
pub struct NormRows {
    /// `[rows, width]` f32.
    pub x: Region,
    /// `[width]` f32, added to every row of `x` first.
    pub add: Option<Region>,
    /// The norm.
    pub norm: Norm,
    /// `[rows, width]` in the weights' format.
    pub out: Region,
    /// Rows.
    pub rows: usize,
    /// Elements of a row, a multiple of 4.
    pub width: usize,
}

/// Bias, head norms and rotation of queries and keys; keys and values go to the cache.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "plain buffers, and callers write it out")]
pub struct RotateAppend {
    /// `[batch * len, (heads + 2 kv_heads) * head_dim]` in the weights' format, or f32 when `wide_in`.
    pub qkv: Region,
    /// Whether `qkv` is f32.
    pub wide_in: bool,
    /// As long as a row of `qkv`, f32.
    pub bias: Option<Region>,
    /// RMS norm of each query head, `[head_dim]` f32.
    pub q_norm: Option<Region>,
    /// RMS norm of each key head, `[head_dim]` f32.
    pub k_norm: Option<Region>,
    /// Added to the variance of both.
    pub eps: f32,
    /// `[head_dim / 2]` f32: the angle is position times frequency; without them nothing is rotated.
    pub frequencies: Option<Region>,
    /// `[batch * len, heads * head_dim]` in the weights' format, or f32 when `wide_out`; `None` when nobody asks for them.
    pub q: Option<Region>,
    /// Whether `q` is f32.
    pub wide_out: bool,
    /// `[batch, heads * head_dim]` f32: the queries of each sequence's last position.
    pub last: Option<Region>,
    /// Where keys and values go.
    pub place: Place,
    /// New positions of a sequence.
    pub len: usize,
    /// Query heads.
    pub heads: usize,
}

/// The non-linearity of a feed-forward layer.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "plain buffers, and callers write it out")]
pub struct Activate {
    /// `[rows, 2 * width]` gates before ups when `gated`, else `[rows, width]`, in the weights' format.
    pub x: Region,
    /// As long as a row of `x`, f32.
    pub bias: Option<Region>,
    /// `[rows, width]` in the weights' format.
    pub out: Region,
    /// Rows.
    pub rows: usize,
    /// Elements of a row of `out`, a multiple of those in 16 bytes.
    pub width: usize,
    /// Whether there are gates.
    pub gated: bool,
    /// Which one.
    pub activation: Activation,
}

/// Each sequence's last row.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "plain buffers, and callers write it out")]
pub struct LastRows {
    /// `[batch, len, width]` f32.
    pub x: Region,
    /// `[batch, width]` f32.
    pub out: Region,
    /// Sequences.
    pub batch: usize,
    /// Rows of a sequence.
    pub len: usize,
    /// Elements of a row.
    pub width: usize,
}

/// The highest score of each row.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "plain buffers, and callers write it out")]
pub struct PickTokens {
    /// `[batch, vocab]` f32.
    pub scores: Region,
    /// `[batch]` `u32`: the place of the highest score of each row, the lowest among equals.
    pub tokens: Region,
    /// One `u32`, zero before the first launch.
    pub ticket: Region,
    /// A [`Step`](super::Step) to move on by one.
    pub advance: Option<Region>,
    /// Rows.
    pub batch: usize,
    /// Scores of a row.
    pub vocab: usize,
}

impl Kernels {
    /// Looks tokens up.
    ///
    /// # Errors
    /// [`CudaError::Shape`] for buffers that don't hold what the dimensions say, [`CudaError::Driver`].
    ///
    /// # Safety
    /// All regions are memory of this stream's device that stays until the kernel has run, and tokens and positions are inside
    /// their tables.
    pub unsafe fn embed(&self, op: &Embed) -> Result<(), CudaError> {
        let element = self.format().size_bytes();
        let rows = op.place.batch * op.len;
        let args = EmbedArgs {
            tokens: op.tokens.holding("tokens", rows * 4)?,
            embedding: op.table.holding("embedding", op.width * element)?,
            positions: holding(op.positions, "positions", op.width * element)?,
            x: op.x.holding("x", rows * op.width * 4)?,
            place: op.place.args(op.len, element)?,
            len: narrow("len", op.len)?,
            width: narrow("width", op.width)?,
        };
        // SAFETY: the regions hold what the dimensions say, as checked above; the rest is the caller's promise.
        unsafe { self.launch_rows("embed", [narrow("rows", rows)?, 1, 1], &args) }
    }

    /// Normalises rows.
    ///
    /// # Errors
    /// [`CudaError::Shape`], [`CudaError::Driver`].
    ///
    /// # Safety
    /// All regions are memory of this stream's device that stays until the kernel has run.
    pub unsafe fn norm(&self, op: &NormRows) -> Result<(), CudaError> {
        check_width("width", op.width, 4)?;
        let args = NormArgs {
            x: op.x.holding("x", op.rows * op.width * 4)?,
            add: holding(op.add, "add", op.width * 4)?,
            gain: op.norm.gain.holding("gain", op.width * 4)?,
            shift: holding(op.norm.shift, "shift", op.width * 4)?,
            out: op.out.holding("out", op.rows * op.width * self.format().size_bytes())?,
            width: narrow("width", op.width)?,
            norm: op.norm.kind as u32,
            eps: op.norm.eps,
        };
        let kind = if op.width <= NARROW { "norm" } else { "norm_wide" };
        // SAFETY: the regions hold what the dimensions say, as checked above; the rest is the caller's promise.
        unsafe { self.launch_rows(kind, [narrow("rows", op.rows)?, 1, 1], &args) }
    }

    /// Rotates queries and keys, and appends keys and values to the cache. Fastest where half a head is a multiple of 16 bytes.
    ///
    /// # Errors
    /// [`CudaError::Shape`], [`CudaError::Driver`].
    ///
    /// # Safety
    /// As [`norm`](Self::norm).
    pub unsafe fn rotate_append(&self, op: &RotateAppend) -> Result<(), CudaError> {
        let element = self.format().size_bytes();
        let Place { batch, kv_heads, head_dim, .. } = op.place;
        let (rows, width) = (batch * op.len, (op.heads + 2 * kv_heads) * head_dim);
        let queries = op.heads * head_dim;
        let args = RotateArgs {
            qkv: op.qkv.holding("qkv", rows * width * if op.wide_in { 4 } else { element })?,
            bias: holding(op.bias, "bias", width * 4)?,
            q_norm: holding(op.q_norm, "q_norm", head_dim * 4)?,
            k_norm: holding(op.k_norm, "k_norm", head_dim * 4)?,
            frequencies: holding(op.frequencies, "frequencies", head_dim / 2 * 4)?,
            q: holding(op.q, "q", rows * queries * if op.wide_out { 4 } else { element })?,
            last: holding(op.last, "last", batch * queries * 4)?,
            place: op.place.args(op.len, element)?,
            len: narrow("len", op.len)?,
            heads: narrow("heads", op.heads)?,
            wide_in: u32::from(op.wide_in),
            wide_out: u32::from(op.wide_out),
            lanes: 0,
            eps: op.eps,
        };
        // Both halves of a head are read and written 16 bytes at a time where they can be.
        let addresses = [args.qkv, args.bias, args.q_norm, args.k_norm, args.q, args.last, args.place.cache];
        let whole = head_dim.is_multiple_of(2 * 16 / element) && addresses.iter().all(|address| address % 16 == 0);
        let (kind, at_a_time) = if whole { ("rotate_append", 16 / element) } else { ("rotate_append_any", 1) };
        let lanes = (head_dim / 2 / at_a_time).next_power_of_two().min(32);
        let args = RotateArgs { lanes: narrow("head_dim", lanes)?, ..args };
        let groups = (op.heads + 2 * kv_heads).div_ceil(APPEND_THREADS / lanes);
        let blocks = [narrow("rows", rows)?, narrow("heads", groups)?, 1];
        let grid = Grid { blocks, threads: narrow("threads", APPEND_THREADS)?, shared_bytes: 0 };
        // SAFETY: the regions hold what the dimensions say, as checked above; the rest is the caller's promise.
        unsafe { self.launch(&format!("{kind}_{}", self.format().as_str()), &grid, &args) }
    }

    /// Applies the non-linearity.
    ///
    /// # Errors
    /// [`CudaError::Shape`], [`CudaError::Driver`].
    ///
    /// # Safety
    /// As [`norm`](Self::norm).
    pub unsafe fn activate(&self, op: &Activate) -> Result<(), CudaError> {
        let element = self.format().size_bytes();
        check_width("width", op.width, 16 / element)?;
        let inputs = op.width * if op.gated { 2 } else { 1 };
        let args = ActivateArgs {
            x: op.x.holding("x", op.rows * inputs * element)?,
            bias: holding(op.bias, "bias", inputs * 4)?,
            out: op.out.holding("out", op.rows * op.width * element)?,
            width: narrow("width", op.width)?,
            gated: u32::from(op.gated),
            activation: op.activation as u32,
        };
        let blocks = [narrow("width", op.width.div_ceil(256 * 16 / element))?, narrow("rows", op.rows)?, 1];
        // SAFETY: the regions hold what the dimensions say, as checked above; the rest is the caller's promise.
        unsafe { self.launch_rows("activate", blocks, &args) }
    }

    /// Copies each sequence's last row.
    ///
    /// # Errors
    /// [`CudaError::Shape`], [`CudaError::Driver`].
    ///
    /// # Safety
    /// As [`norm`](Self::norm).
    pub unsafe fn last_rows(&self, op: &LastRows) -> Result<(), CudaError> {
        let args = LastArgs {
            x: op.x.holding("x", op.batch * op.len * op.width * 4)?,
            out: op.out.holding("out", op.batch * op.width * 4)?,
            len: narrow("len", op.len)?,
            width: narrow("width", op.width)?,
        };
        let grid = Grid { blocks: [narrow("batch", op.batch)?, 1, 1], threads: 256, shared_bytes: 0 };
        // SAFETY: the regions hold what the dimensions say, as checked above; the rest is the caller's promise.
        unsafe { self.launch("last_rows", &grid, &args) }
    }

    /// Picks the highest-scored token of each row.
    ///
    /// # Errors
    /// [`CudaError::Shape`], [`CudaError::Driver`].
    ///
    /// # Safety
    /// As [`norm`](Self::norm); a step that is moved on has room for the tokens.
    pub unsafe fn pick_tokens(&self, op: &PickTokens) -> Result<(), CudaError> {
        let args = PickArgs {
            scores: op.scores.holding("scores", op.batch * op.vocab * 4)?,
            tokens: op.tokens.holding("tokens", op.batch * 4)?,
            ticket: op.ticket.holding("ticket", 4)?,
            advance: holding(op.advance, "the step", size_of::<super::Step>())?,
            vocab: narrow("vocab", op.vocab)?,
        };
        let grid = Grid { blocks: [narrow("batch", op.batch)?, 1, 1], threads: 1024, shared_bytes: 0 };
        // SAFETY: the regions hold what the dimensions say, as checked above; the rest is the caller's promise.
        unsafe { self.launch("pick_tokens", &grid, &args) }
    }

    /// Reads memory and does nothing with it: its time is the floor of every kernel that must read as much.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    ///
    /// # Safety
    /// As [`norm`](Self::norm).
    pub unsafe fn read_memory(&self, from: Region, out: Region) -> Result<(), CudaError> {
        let args = ReadArgs { from: from.address(), out: out.holding("out", 4)?, quads: (from.bytes() / 16) as u64 };
        let grid = Grid { blocks: [8 * self.processors(), 1, 1], threads: 256, shared_bytes: 0 };
        // SAFETY: the kernel reads whole quads inside the region; the rest is the caller's promise.
        unsafe { self.launch("read_memory", &grid, &args) }
    }

    /// # Safety
    /// As [`launch`](Self::launch).
    unsafe fn launch_rows<A>(&self, kind: &str, blocks: [u32; 3], args: &A) -> Result<(), CudaError> {
        // SAFETY: the caller's promise.
        unsafe { self.launch(&format!("{kind}_{}", self.format().as_str()), &Grid { blocks, threads: 256, shared_bytes: 0 }, args) }
    }
}

/// Widest row whose norm has every thread keep two quads.
const NARROW: usize = 2048;
/// Threads of a block that appends, as the kernels are compiled.
const APPEND_THREADS: usize = 64;
