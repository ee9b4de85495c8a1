//! The decoder's operations, each counted: products through candle for many rows and through `phase-kernels` for few.

use std::ops::Range;

use candle_core::{DType, Tensor};
use half::{bf16, f16};
use phase_kernels::{AttentionShape, HeadShape, Matrix, Team, append_kv, attention, layer_norm, matvec, rms_norm, rotary, widen};
use phase_model::{ModelConfig, RopeTables};
use rayon::prelude::*;

use crate::{
    CandleError,
    cache::LayerCache,
    evidence::{Counts, Kernel},
    memory::{Buffer, Stored, read, write},
    weights::{Linear, NormWeights},
};

/// Up to this many rows candle's product is the slower one: by 2.1 at 9 rows, by 1.1 to 1.4 at 64.
const FEW_ROWS: usize = 64;
/// Weights widened to f32 at a time: the block is still in the last-level cache when it is multiplied.
const WIDE_ELEMENTS: usize = 1 << 20;
/// Elements in a task of a row-wise loop.
const PART: usize = 16 * 1024;

#[derive(Debug)]
pub(super) struct Ops {
    pub(super) team: Team,
    pub(super) counts: Counts,
    wide: Buffer,
    eps: f32,
}

impl Ops {
    #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is what the reference does")]
    pub(super) fn new(team: Team, config: &ModelConfig) -> Result<Self, CandleError> {
        Ok(Self { team, counts: Counts::default(), wide: Buffer::new()?, eps: config.norm_eps as f32 })
    }

    pub(super) const fn is_few(&self, rows: usize) -> bool {
        rows <= FEW_ROWS
    }

    /// Copies rows of `table` to `out`, one below the other.
    pub(super) fn rows(&mut self, table: &Tensor, rows: impl Iterator<Item = usize>, out: &mut [f32]) -> Result<(), CandleError> {
        let width = table.dims()[1];
        self.counts.add(Kernel::Widen);
        with_matrix(table, |matrix| {
            for (row, out) in rows.zip(out.chunks_exact_mut(width)) {
                widen(&self.team, part_of(matrix, row * width..(row + 1) * width), out);
            }
        })
    }

    /// `x += update`.
    pub(super) fn add(&self, x: &mut [f32], update: &Buffer) -> Result<(), CandleError> {
        let update = update.read(x.len())?;
        for_each_part(x, Some(&update), |x, update| x.iter_mut().zip(update).for_each(|(x, update)| *x += update));
        Ok(())
    }

    pub(super) fn norm(&mut self, x: &[f32], rows: usize, norm: &NormWeights, out: &mut Buffer) -> Result<(), CandleError> {
        self.counts.add(Kernel::Norm);
        let weight = read::<f32>(&norm.weight)?;
        let len = rows * weight.len();
        match &norm.bias {
            None => out.write(len, |out| rms_norm(&self.team, &x[..len], &weight, self.eps, out)),
            Some(bias) => {
                let bias = read::<f32>(bias)?;
                out.write(len, |out| layer_norm(&self.team, &x[..len], &weight, &bias, self.eps, out))
            }
        }
    }

    /// Normalises each head on its own, where the model does.
    pub(super) fn norm_heads(
        &mut self,
        x: &mut Buffer,
        shape: HeadShape,
        norm: Option<&NormWeights>,
        spare: &mut Buffer,
    ) -> Result<(), CandleError> {
        let Some(norm) = norm else { return Ok(()) };
        let from = x.read(shape.len())?;
        self.norm(&from, shape.len() / shape.head_dim, norm, spare)?;
        drop(from);
        std::mem::swap(x, spare);
        Ok(())
    }

    pub(super) fn rotate(
        &mut self,
        x: &mut Buffer,
        shape: HeadShape,
        tables: Option<&RopeTables>,
        start: usize,
    ) -> Result<(), CandleError> {
        let Some(tables) = tables else { return Ok(()) };
        self.counts.add(Kernel::Rotary);
        x.write(shape.len(), |x| rotary(&self.team, x, &tables.cos, &tables.sin, shape, start))
    }

    pub(super) fn append(
        &mut self,
        new: &Buffer,
        cache: &Tensor,
        shape: HeadShape,
        capacity: usize,
        start: usize,
    ) -> Result<(), CandleError> {
        self.counts.add(Kernel::AppendKv);
        let new = new.read(shape.len())?;
        match cache.dtype() {
            DType::F16 => write(cache, |cache: &mut [f16]| append_kv(&self.team, &new, cache, shape, capacity, start)),
            DType::BF16 => write(cache, |cache: &mut [bf16]| append_kv(&self.team, &new, cache, shape, capacity, start)),
            _ => write(cache, |cache: &mut [f32]| append_kv(&self.team, &new, cache, shape, capacity, start)),
        }
    }

    pub(super) fn attention(
        &mut self,
        q: &Buffer,
        cache: &LayerCache,
        out: &mut Buffer,
        shape: &AttentionShape,
        scale: f32,
    ) -> Result<(), CandleError> {
        self.counts.add(Kernel::Attention);
        match cache.k.dtype() {
            DType::F16 => self.attention_in::<f16>(q, cache, out, shape, scale),
            DType::BF16 => self.attention_in::<bf16>(q, cache, out, shape, scale),
            _ => self.attention_in::<f32>(q, cache, out, shape, scale),
        }
    }

    fn attention_in<E: Stored>(
        &self,
        q: &Buffer,
        cache: &LayerCache,
        out: &mut Buffer,
        shape: &AttentionShape,
        scale: f32,
    ) -> Result<(), CandleError> {
        let len = shape.queries().len();
        let (q, k, v) = (q.read(len)?, read::<E>(&cache.k)?, read::<E>(&cache.v)?);
        out.write(len, |out| attention(&self.team, &q, &k, &v, out, shape, scale))
    }

    /// Multiplies `rows` rows of `x` with the rows `part` of a linear layer.
    pub(super) fn product(
        &mut self,
        x: &Buffer,
        rows: usize,
        linear: &Linear,
        part: Range<usize>,
        out: &mut Buffer,
    ) -> Result<(), CandleError> {
        let (n, k) = (part.len(), linear.weight.dims()[1]);
        if self.is_few(rows) {
            return out.write(rows * n, |out| self.matvec(x, rows, linear, part, out))?;
        }
        if linear.weight.dtype() == DType::F32 || n * k <= WIDE_ELEMENTS {
            out.adopt(&self.matmul(&x.matrix(rows, k)?, &linear.weight, part.clone())?)?;
        } else {
            out.write(rows * n, |out| self.matmul_blocks(x, rows, &linear.weight, part.clone(), out))??;
        }
        let Some(bias) = &linear.bias else { return Ok(()) };
        let bias = &read::<f32>(bias)?[part];
        out.write(rows * n, |out| {
            let add = |row: &mut [f32]| row.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
            out.par_chunks_exact_mut(n).with_min_len(PART.div_ceil(n)).for_each(add);
        })
    }

    /// As [`product`](Self::product) with a whole layer without bias, into the caller's memory.
    pub(super) fn product_into(&mut self, x: &Buffer, rows: usize, linear: &Linear, out: &mut [f32]) -> Result<(), CandleError> {
        let part = 0..linear.weight.dims()[0];
        if self.is_few(rows) {
            return self.matvec(x, rows, linear, part, out);
        }
        self.matmul_blocks(x, rows, &linear.weight, part, out)
    }

    fn matvec(&mut self, x: &Buffer, rows: usize, linear: &Linear, part: Range<usize>, out: &mut [f32]) -> Result<(), CandleError> {
        self.counts.add(Kernel::Matvec);
        let (n, k) = (part.len(), linear.weight.dims()[1]);
        let x = x.read(rows * k)?;
        let bias = linear.bias.as_ref().map(read::<f32>).transpose()?;
        let bias = bias.as_ref().map(|bias| &bias[part.clone()]);
        with_matrix(&linear.weight, |matrix| {
            matvec(&self.team, part_of(matrix, part.start * k..part.end * k), n, k, &x, rows, bias, out);
        })
    }

    /// candle's product, in pieces of as many rows of weights as are widened at a time.
    fn matmul_blocks(&mut self, x: &Buffer, rows: usize, weight: &Tensor, part: Range<usize>, out: &mut [f32]) -> Result<(), CandleError> {
        let (n, k) = (part.len(), weight.dims()[1]);
        let lhs = x.matrix(rows, k)?;
        let step = (WIDE_ELEMENTS / k).max(1);
        for first in (0..n).step_by(step) {
            let count = step.min(n - first);
            let from = part.start + first;
            let product = self.matmul(&lhs, weight, from..from + count)?;
            let product = read::<f32>(&product)?;
            for (row, product) in product.chunks_exact(count).enumerate() {
                out[row * n + first..][..count].copy_from_slice(product);
            }
        }
        Ok(())
    }

    /// candle's product, in f32: its kernels for 16-bit weights are slower than widening them first.
    fn matmul(&mut self, lhs: &Tensor, weight: &Tensor, part: Range<usize>) -> Result<Tensor, CandleError> {
        let (n, k) = (part.len(), weight.dims()[1]);
        let rhs = if weight.dtype() == DType::F32 {
            weight.narrow(0, part.start, n).map_err(CandleError::candle("view weights"))?
        } else {
            self.counts.add(Kernel::Widen);
            let team = &self.team;
            self.wide
                .write(n * k, |wide| with_matrix(weight, |matrix| widen(team, part_of(matrix, part.start * k..part.end * k), wide)))??;
            self.wide.matrix(n, k)?
        };
        self.counts.add(Kernel::Matmul);
        rhs.t().and_then(|rhs| lhs.matmul(&rhs)).map_err(CandleError::candle("multiply"))
    }
}

/// Calls `body` for equal parts of both slices, on the threads of the pool it is called in.
pub(super) fn for_each_part(x: &mut [f32], y: Option<&[f32]>, body: impl Fn(&mut [f32], &[f32]) + Send + Sync) {
    match y {
        _ if x.len() <= PART => body(x, y.unwrap_or_default()),
        None => x.par_chunks_mut(PART).for_each(|x| body(x, &[])),
        Some(y) => x.par_chunks_mut(PART).zip(y.par_chunks(PART)).for_each(|(x, y)| body(x, y)),
    }
}

fn with_matrix<R>(tensor: &Tensor, body: impl FnOnce(Matrix<'_>) -> R) -> Result<R, CandleError> {
    Ok(match tensor.dtype() {
        DType::F16 => body(Matrix::F16(&read::<f16>(tensor)?)),
        DType::BF16 => body(Matrix::Bf16(&read::<bf16>(tensor)?)),
        _ => body(Matrix::F32(&read::<f32>(tensor)?)),
    })
}

fn part_of(matrix: Matrix<'_>, elements: Range<usize>) -> Matrix<'_> {
    match matrix {
        Matrix::Bf16(all) => Matrix::Bf16(&all[elements]),
        Matrix::F16(all) => Matrix::F16(&all[elements]),
        Matrix::F32(all) => Matrix::F32(&all[elements]),
        _ => unreachable!("`with_matrix` makes these three"),
    }
}
