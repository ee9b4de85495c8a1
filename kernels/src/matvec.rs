//! Products of a few rows of activations with a weight matrix: every weight is read from memory once.
//!
//! The rows of the matrix are split among the team in chunks of consecutive memory. A group of rows is multiplied with
//! all rows of activations while it is in the first-level cache, so up to eight or so rows of activations cost little
//! more than one. For a prompt use a library's matrix product, which also blocks for the caches that this one ignores.
//!
//! Each output is summed in one fixed order that depends on `k` alone: not on the threads, nor on `n`, `m` or the
//! position in the batch.

use crate::disjoint::Disjoint;
use crate::element::{Element, Matrix, Widen};
use crate::scratch::Scratch;
use crate::simd::{Kernel, LANES, Simd, dispatch};
use crate::team::Team;

/// Rows of weights multiplied at a time: enough independent sums to hide the latency of a fused multiply-add.
const ROWS: usize = 4;
/// Weights in a task at least, in bytes: a claim costs about a hundred nanoseconds, reading this much some microseconds.
const TASK_BYTES: usize = 32 * 1024;
/// Tasks for each thread where there is enough work: the last to finish is late by a part of one task.
const TASKS_PER_THREAD: usize = 8;
/// From this many rows of activations, 16-bit weights are widened once for all of them.
const WIDEN_FROM: usize = 3;

/// Computes `y = x · wᵀ + bias`, in f32.
///
/// `w` is `[n, k]` (a Hugging Face linear layer, `out x in`), `x` is `[m, k]`, `y` is `[m, n]` and `bias` is `[n]`, all
/// row-major. NaN and infinity propagate as in any sum of products.
///
/// # Panics
/// When the length of a slice is not the product of its dimensions.
///
/// ```
/// use std::num::NonZeroUsize;
/// use phase_kernels::{Matrix, Team, matvec};
///
/// let team = Team::new(NonZeroUsize::MIN)?;
/// let w = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
/// let mut y = [0.0; 2];
/// matvec(&team, Matrix::F32(&w), 2, 3, &[1.0, 0.0, -1.0], 1, Some(&[0.5, 0.0]), &mut y);
/// assert_eq!(y, [-1.5, -2.0]);
/// # Ok::<(), std::io::Error>(())
/// ```
#[expect(clippy::too_many_arguments, reason = "the three dimensions of a product and its four operands")]
pub fn matvec(team: &Team, w: Matrix<'_>, n: usize, k: usize, x: &[f32], m: usize, bias: Option<&[f32]>, y: &mut [f32]) {
    assert_eq!(w.len(), n * k, "matvec: w is [n, k]");
    assert_eq!(x.len(), m * k, "matvec: x is [m, k]");
    assert_eq!(y.len(), m * n, "matvec: y is [m, n]");
    assert!(bias.is_none_or(|bias| bias.len() == n), "matvec: bias is [n]");
    match w {
        Matrix::Bf16(w) => product(team, w, [n, k, m], x, bias, y),
        Matrix::F16(w) => product(team, w, [n, k, m], x, bias, y),
        Matrix::F32(w) => product(team, w, [n, k, m], x, bias, y),
    }
}

fn product<E: Element>(team: &Team, w: &[E], [n, k, m]: [usize; 3], x: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    let rows = rows_per_task(n, k * size_of::<E>(), team.threads());
    let y = Disjoint::new(y);
    team.run(n.div_ceil(rows), |task| {
        let first = task * rows;
        let count = rows.min(n - first);
        let chunk = Chunk { w: &w[first * k..(first + count) * k], k, n, m, first, count, x, bias, y: &y };
        dispatch(team.level(), chunk);
    });
}

fn rows_per_task(n: usize, row_bytes: usize, threads: usize) -> usize {
    let even = n.div_ceil(if threads == 1 { 1 } else { threads * TASKS_PER_THREAD });
    even.max(TASK_BYTES / row_bytes.max(1)).max(1).next_multiple_of(ROWS)
}

/// Consecutive rows of weights, with all activations.
struct Chunk<'a, E> {
    w: &'a [E],
    k: usize,
    n: usize,
    m: usize,
    first: usize,
    count: usize,
    x: &'a [f32],
    bias: Option<&'a [f32]>,
    y: &'a Disjoint<'a, f32>,
}

impl<E: Element> Kernel for Chunk<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let whole = self.count - self.count % ROWS;
        let m = self.m;
        if m >= WIDEN_FROM && E::as_f32(self.w).is_none() {
            let mut wide = Scratch::take(ROWS * self.k);
            for row in (0..self.count).step_by(ROWS) {
                let rows = ROWS.min(self.count - row);
                let wide = &mut wide[..rows * self.k];
                Widen { src: &self.w[row * self.k..(row + rows) * self.k], dst: wide }.run(simd);
                self.rows(simd, wide, row, rows, m);
            }
        } else {
            for row in (0..whole).step_by(ROWS) {
                self.rows(simd, &self.w[row * self.k..(row + ROWS) * self.k], row, ROWS, m);
            }
            if whole < self.count {
                self.rows(simd, &self.w[whole * self.k..], whole, self.count - whole, m);
            }
        }
    }
}

impl<E> Chunk<'_, E> {
    /// `count` rows of weights from row `row` of the chunk on, with all activations.
    #[inline(always)]
    fn rows<S: Simd, F: Element>(&self, simd: S, w: &[F], row: usize, count: usize, m: usize) {
        if count == ROWS {
            let mut act = 0;
            while act + 2 <= m {
                self.tile::<S, F, ROWS, 2>(simd, w, row, act);
                act += 2;
            }
            if act < m {
                self.tile::<S, F, ROWS, 1>(simd, w, row, act);
            }
        } else {
            for i in 0..count {
                let w = &w[i * self.k..(i + 1) * self.k];
                for act in 0..m {
                    self.tile::<S, F, 1, 1>(simd, w, row + i, act);
                }
            }
        }
    }

    #[inline(always)]
    fn tile<S: Simd, F: Element, const R: usize, const M: usize>(&self, simd: S, w: &[F], row: usize, act: usize) {
        let k = self.k;
        let w: [&[F]; R] = std::array::from_fn(|r| &w[r * k..(r + 1) * k]);
        let x: [&[f32]; M] = std::array::from_fn(|a| &self.x[(act + a) * k..(act + a + 1) * k]);
        let sums = dots::<S, F, R, M>(simd, w, x);
        for (a, sums) in sums.iter().enumerate() {
            let at = (act + a) * self.n + self.first + row;
            // SAFETY: these outputs belong to rows of this chunk only, and no other slice of them is alive.
            let y = unsafe { self.y.slice(at..at + R) };
            for (r, y) in y.iter_mut().enumerate() {
                *y = sums[r] + self.bias.map_or(0.0, |bias| bias[self.first + row + r]);
            }
        }
    }
}

/// The inner products of `R` rows of weights with `M` rows of activations, all of one length.
#[inline(always)]
fn dots<S: Simd, F: Element, const R: usize, const M: usize>(simd: S, w: [&[F]; R], x: [&[f32]; M]) -> [[f32; R]; M] {
    let k = x[0].len();
    let steps = k / LANES;
    let w_steps: [&[[F; LANES]]; R] = w.map(|w| &w.as_chunks().0[..steps]);
    let x_steps: [&[[f32; LANES]]; M] = x.map(|x| &x.as_chunks().0[..steps]);
    let mut sums = [[simd.splat(0.0); R]; M];
    for i in 0..steps {
        let mut x = [simd.splat(0.0); M];
        for a in 0..M {
            x[a] = simd.load(&x_steps[a][i]);
        }
        for r in 0..R {
            let w = F::load(simd, &w_steps[r][i]);
            for a in 0..M {
                sums[a][r] = simd.mul_add(w, x[a], sums[a][r]);
            }
        }
    }
    let rest = steps * LANES..k;
    if !rest.is_empty() {
        for a in 0..M {
            let mut last = [0.0; LANES];
            last[..rest.len()].copy_from_slice(&x[a][rest.clone()]);
            let x = simd.load(&last);
            for r in 0..R {
                let mut last = [F::default(); LANES];
                last[..rest.len()].copy_from_slice(&w[r][rest.clone()]);
                sums[a][r] = simd.mul_add(F::load(simd, &last), x, sums[a][r]);
            }
        }
    }
    let mut out = [[0.0; R]; M];
    for a in 0..M {
        for r in 0..R {
            out[a][r] = simd.sum(sums[a][r]);
        }
    }
    out
}

#[cfg(test)]
mod tests;
