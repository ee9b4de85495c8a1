//! Attention over a KV cache.

use super::{
    CudaError, Format, Kernels, Place, Region,
    args::{AttentionArgs, GeneralArgs, PrefillArgs},
    launch::{Grid, narrow},
};

/// Head sizes with fast kernels; all others go through [`Kernels::attention_general`].
pub const FLASH_HEAD_DIMS: [usize; 2] = [64, 128];

/// Attention of one new position per sequence, whose keys and values are in the cache already.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "plain buffers, and callers write it out")]
pub struct AttentionDecode {
    /// `[batch, heads, head_dim]` f32, rotated.
    pub q: Region,
    /// `[batch, heads, head_dim]`, f32 or, when `narrow`, the cache's format.
    pub out: Region,
    /// Whether `out` is in the cache's format.
    pub narrow: bool,
    /// Room for [`Kernels::partial_bytes`].
    pub partial: Region,
    /// Room for `batch * heads` `u32`, zero before the first launch.
    pub tickets: Region,
    /// Where the cache is; its `start` counts the positions before the new one.
    pub place: Place,
    /// Query heads.
    pub heads: usize,
    /// Positions a query sees, its own included.
    pub window: Option<usize>,
    /// Factor on the scores.
    pub scale: f32,
    /// Shares that the positions are split into.
    pub splits: usize,
}

/// Attention of a prompt whose keys and values are in the cache already.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "plain buffers, and callers write it out")]
pub struct AttentionPrefill {
    /// `[batch, len, heads, head_dim]` in the cache's format, rotated.
    pub q: Region,
    /// As `q`.
    pub out: Region,
    /// Where the cache is; its `start` counts the positions before the prompt.
    pub place: Place,
    /// New positions of a sequence.
    pub len: usize,
    /// Query heads.
    pub heads: usize,
    /// Positions a query sees, its own included.
    pub window: Option<usize>,
    /// Factor on the scores.
    pub scale: f32,
}

/// Attention of any shape.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "plain buffers, and callers write it out")]
pub struct AttentionGeneral {
    /// `[batch, len, heads, head_dim]` f32, rotated.
    pub q: Region,
    /// As `q`, f32 or, when `narrow`, the cache's format.
    pub out: Region,
    /// Whether `out` is in the cache's format.
    pub narrow: bool,
    /// Where the cache is; its `start` counts the positions before the new ones.
    pub place: Place,
    /// New positions of a sequence.
    pub len: usize,
    /// Query heads.
    pub heads: usize,
    /// Positions a query sees, its own included.
    pub window: Option<usize>,
    /// Factor on the scores.
    pub scale: f32,
}

impl Kernels {
    /// Bytes that [`AttentionDecode::partial`] needs.
    #[must_use]
    pub const fn partial_bytes(batch: usize, heads: usize, head_dim: usize, splits: usize) -> usize {
        batch * heads * splits * (head_dim + 2) * 4
    }

    /// Shares that fill the device when the context is long; the kernel takes fewer while it is short.
    #[must_use]
    pub fn splits(&self, batch: usize, heads: usize, kv_heads: usize) -> usize {
        let (_, chunks) = grouping(heads / kv_heads.max(1));
        let blocks = (batch * kv_heads * chunks).max(1);
        (2 * self.processors() as usize).div_ceil(blocks).clamp(1, MOST_SPLITS)
    }

    /// Attends with one query position per sequence.
    ///
    /// # Errors
    /// [`CudaError::Shape`] for buffers or head sizes that don't fit, [`CudaError::Driver`].
    ///
    /// # Safety
    /// All regions are memory of this stream's device that stays until the kernel has run.
    pub unsafe fn attention_decode(&self, op: &AttentionDecode) -> Result<(), CudaError> {
        let element = self.format().size_bytes();
        let Place { batch, kv_heads, head_dim, .. } = op.place;
        check_heads(op.heads, kv_heads)?;
        if !FLASH_HEAD_DIMS.contains(&head_dim) {
            return Err(CudaError::Shape { what: "head_dim", found: head_dim, expected: FLASH_HEAD_DIMS[0] });
        }
        let len = batch * op.heads * head_dim;
        let args = AttentionArgs {
            q: op.q.holding("q", len * 4)?,
            out: op.out.holding("out", len * if op.narrow { element } else { 4 })?,
            partial: op.partial.holding("partial", Self::partial_bytes(batch, op.heads, head_dim, op.splits))?,
            ticket: op.tickets.holding("tickets", batch * op.heads * 4)?,
            place: op.place.args(1, element)?,
            heads: narrow("heads", op.heads)?,
            window: window(op.window)?,
            narrow: u32::from(op.narrow),
            scale: op.scale,
        };
        if op.splits == 0 || op.splits > MOST_SPLITS {
            return Err(CudaError::Shape { what: "splits", found: op.splits, expected: MOST_SPLITS });
        }
        let (group, chunks) = grouping(op.heads / kv_heads);
        let blocks = [narrow("splits", op.splits)?, narrow("kv_heads", kv_heads * chunks)?, narrow("batch", batch)?];
        let grid = Grid { blocks, threads: 256, shared_bytes: 0 };
        // SAFETY: the regions hold what the dimensions say, as checked above; the rest is the caller's promise.
        unsafe { self.launch(&format!("attention_decode_{head_dim}_{group}_{}", self.format().as_str()), &grid, &args) }
    }

    /// Whether [`attention_prefill`](Self::attention_prefill) has heads of this size in this format.
    #[must_use]
    pub fn has_prefill(&self, head_dim: usize) -> bool {
        self.format() != Format::F32 && FLASH_HEAD_DIMS.contains(&head_dim)
    }

    /// Attends with every position of a prompt.
    ///
    /// # Errors
    /// As [`attention_decode`](Self::attention_decode).
    ///
    /// # Safety
    /// As [`attention_decode`](Self::attention_decode).
    pub unsafe fn attention_prefill(&self, op: &AttentionPrefill) -> Result<(), CudaError> {
        let element = self.format().size_bytes();
        let Place { batch, kv_heads, head_dim, .. } = op.place;
        check_heads(op.heads, kv_heads)?;
        if !self.has_prefill(head_dim) {
            return Err(CudaError::Shape { what: "head_dim in 16 bits", found: head_dim, expected: FLASH_HEAD_DIMS[0] });
        }
        let bytes = batch * op.len * op.heads * head_dim * element;
        let args = PrefillArgs {
            q: op.q.holding("q", bytes)?,
            out: op.out.holding("out", bytes)?,
            place: op.place.args(op.len, element)?,
            len: narrow("len", op.len)?,
            heads: narrow("heads", op.heads)?,
            window: window(op.window)?,
            scale: op.scale,
        };
        let blocks = [narrow("heads", op.heads)?, narrow("len", op.len.div_ceil(128))?, narrow("batch", batch)?];
        // Three times 64 keys and as many values.
        let grid = Grid { blocks, threads: 256, shared_bytes: narrow("head_dim", 3 * 2 * 64 * head_dim * element)? };
        // SAFETY: the regions hold what the dimensions say, as checked above; the rest is the caller's promise.
        unsafe { self.launch(&format!("attention_prefill_{head_dim}_{}", self.format().as_str()), &grid, &args) }
    }

    /// Attends with any number of positions and any head size.
    ///
    /// # Errors
    /// As [`attention_decode`](Self::attention_decode).
    ///
    /// # Safety
    /// As [`attention_decode`](Self::attention_decode).
    pub unsafe fn attention_general(&self, op: &AttentionGeneral) -> Result<(), CudaError> {
        let element = self.format().size_bytes();
        let Place { batch, kv_heads, head_dim, .. } = op.place;
        check_heads(op.heads, kv_heads)?;
        let len = batch * op.len * op.heads * head_dim;
        let args = GeneralArgs {
            q: op.q.holding("q", len * 4)?,
            out: op.out.holding("out", len * if op.narrow { element } else { 4 })?,
            place: op.place.args(op.len, element)?,
            len: narrow("len", op.len)?,
            heads: narrow("heads", op.heads)?,
            window: window(op.window)?,
            narrow: u32::from(op.narrow),
            scale: op.scale,
        };
        let blocks = narrow("queries", (batch * op.len * op.heads).div_ceil(8))?;
        let grid = Grid { blocks: [blocks, 1, 1], threads: 256, shared_bytes: 0 };
        // SAFETY: the regions hold what the dimensions say, as checked above; the rest is the caller's promise.
        unsafe { self.launch(&format!("attention_general_{}", self.format().as_str()), &grid, &args) }
    }
}

/// Query heads that a block serves, and how many such parts a key-value head's group has.
fn grouping(group: usize) -> (usize, usize) {
    let size = group.next_power_of_two().min(8);
    (size, group.div_ceil(size))
}

const fn check_heads(heads: usize, kv_heads: usize) -> Result<(), CudaError> {
    if kv_heads > 0 && heads > 0 && heads.is_multiple_of(kv_heads) {
        Ok(())
    } else {
        Err(CudaError::Shape { what: "heads", found: heads, expected: kv_heads })
    }
}

fn window(window: Option<usize>) -> Result<u32, CudaError> {
    match window {
        Some(0) => Err(CudaError::Shape { what: "the window", found: 0, expected: 1 }),
        // A window beyond every position is none.
        Some(window) => Ok(u32::try_from(window).unwrap_or(0)),
        None => Ok(0),
    }
}

/// Shares whose weights a block can add up.
const MOST_SPLITS: usize = 64;
