//! Products of a few rows of activations with a weight matrix: every weight is read from memory once.
//!
//! The rows of the matrix are split among the team in chunks of consecutive memory, and a thread walks [`STREAMS`] places
//! of its chunk at once: the prefetcher of a core follows each, and together they reach what one alone does not
//! (Zen 3 with two threads: 45 to 50 GB/s from memory against 30 to 37 when each thread reads front to back, which is also what a
//! naive measurement takes for the machine's bandwidth; the `bandwidth` example prints both).
//!
//! The rows at these places are multiplied with all rows of activations while they are in the first-level cache, so up to
//! four or so rows of activations cost little more than one. For a prompt use a library's matrix product, which also
//! blocks for the caches that this one ignores.
//!
//! Each output is summed in one fixed order that depends on `k` alone: not on the threads, nor on `n`, `m` or the
//! position in the batch.

use crate::disjoint::Disjoint;
use crate::element::{Element, Matrix};
use crate::simd::{Kernel, LANES, Simd, dispatch};
use crate::team::Team;

/// Places of a chunk read at once, and so rows multiplied at a time.
const STREAMS: usize = 4;
/// Weights in a task at least, in bytes: a claim costs about a hundred nanoseconds, reading this much some microseconds.
const TASK_BYTES: usize = 64 * 1024;
/// Tasks for each thread where there is enough work. More would even out threads that are held up, but each task begins
/// with its streams cold: 8 cost 5 to 20 percent of the bandwidth.
const TASKS_PER_THREAD: usize = 2;

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
    even.max(TASK_BYTES / row_bytes.max(1)).max(1).next_multiple_of(STREAMS)
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
        let stride = self.count / STREAMS;
        for row in 0..stride {
            let mut rows = [&self.w[..0]; STREAMS];
            for (i, slot) in rows.iter_mut().enumerate() {
                *slot = self.row(i * stride + row);
            }
            self.group(simd, rows, row, stride);
        }
        for row in STREAMS * stride..self.count {
            for act in 0..self.m {
                self.tile::<S, 1, 1>(simd, [self.row(row)], row, 0, act);
            }
        }
    }
}

impl<E: Element> Chunk<'_, E> {
    #[inline(always)]
    fn row(&self, row: usize) -> &[E] {
        &self.w[row * self.k..(row + 1) * self.k]
    }

    /// The rows `row`, `row + stride`, ... of the chunk with all activations.
    #[inline(always)]
    fn group<S: Simd>(&self, simd: S, rows: [&[E]; STREAMS], row: usize, stride: usize) {
        // Three at a time with a conversion between would not fit the sixteen registers.
        let most = if E::as_f32(self.w).is_some() { 3 } else { 2 };
        let mut act = 0;
        while act < self.m {
            match most.min(self.m - act) {
                3 => self.tile::<S, STREAMS, 3>(simd, rows, row, stride, act),
                2 => self.tile::<S, STREAMS, 2>(simd, rows, row, stride, act),
                _ => self.tile::<S, STREAMS, 1>(simd, rows, row, stride, act),
            }
            act += most;
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const R: usize, const M: usize>(&self, simd: S, rows: [&[E]; R], row: usize, stride: usize, act: usize) {
        let mut x = [&self.x[..0]; M];
        for (a, slot) in x.iter_mut().enumerate() {
            *slot = &self.x[(act + a) * self.k..(act + a + 1) * self.k];
        }
        let sums = dots::<S, E, R, M>(simd, rows, x);
        for (a, sums) in sums.iter().enumerate() {
            for (r, sum) in sums.iter().enumerate() {
                let at = self.first + row + r * stride;
                // SAFETY: this output belongs to a row of this chunk only, and no other slice of it is alive.
                let y = unsafe { self.y.slice((act + a) * self.n + at..(act + a) * self.n + at + 1) };
                y[0] = sum + self.bias.map_or(0.0, |bias| bias[at]);
            }
        }
    }
}

/// The inner products of `R` rows of weights, at most four, with `M` rows of activations, all of one length.
#[inline(always)]
fn dots<S: Simd, E: Element, const R: usize, const M: usize>(simd: S, w: [&[E]; R], x: [&[f32]; M]) -> [[f32; R]; M] {
    let k = x[0].len();
    let steps = k / LANES;
    let w_steps: [&[[E; LANES]]; R] = w.map(|w| &w.as_chunks().0[..steps]);
    let x_steps: [&[[f32; LANES]]; M] = x.map(|x| &x.as_chunks().0[..steps]);
    let mut sums = [[simd.splat(0.0); R]; M];
    for i in 0..steps {
        let mut x = [simd.splat(0.0); M];
        for a in 0..M {
            x[a] = simd.load(&x_steps[a][i]);
        }
        for r in 0..R {
            let w = E::load(simd, &w_steps[r][i]);
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
                let mut last = [E::default(); LANES];
                last[..rest.len()].copy_from_slice(&w[r][rest.clone()]);
                sums[a][r] = simd.mul_add(E::load(simd, &last), x, sums[a][r]);
            }
        }
    }
    let mut out = [[0.0; R]; M];
    for (out, sums) in out.iter_mut().zip(&sums) {
        let mut four = [simd.splat(0.0); 4];
        four[..R].copy_from_slice(sums);
        out.copy_from_slice(&simd.sum4(four)[..R]);
    }
    out
}

#[cfg(test)]
mod tests;
