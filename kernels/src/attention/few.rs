//! A few query rows: vectors run along the head, and the cache is read once for all rows.

use super::{NO_SCORE, Sink, Task};
use crate::element::Element;
use crate::scratch::Scratch;
use crate::simd::{Kernel, LANES, Simd};

/// Keys whose scores are kept at a time: with fewer, the prefetcher has hardly begun when a block ends (64 cost a third
/// more time); with more, a short context has too few tasks for the threads.
pub(super) const BLOCK: usize = 256;
/// Keys scored at a time, from places of the block that the prefetcher follows separately.
const STREAMS: usize = 4;

pub(super) struct Few<'a, E> {
    pub(super) task: Task<'a, E>,
    pub(super) sink: Sink<'a>,
}

impl<E: Element> Kernel for Few<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { task, mut sink } = self;
        let rows = task.rows.len();
        let dim = task.shape.head_dim;
        let padded = dim.next_multiple_of(LANES);
        let mut work = Scratch::take(rows * (2 * padded + BLOCK));
        let (q, rest) = work.split_at_mut(rows * padded);
        let (values, scores) = rest.split_at_mut(rows * padded);
        for (row, q) in task.rows.clone().zip(q.chunks_exact_mut(padded)) {
            q[dim..].fill(0.0);
            for (to, from) in q.iter_mut().zip(&task.q[task.at(row)]) {
                *to = from * task.scale;
            }
        }
        values.fill(0.0);
        let mut state = [State { best: NO_SCORE, sum: 0.0 }; super::FEW];
        let mut first = task.keys.start;
        while first < task.keys.end {
            let count = BLOCK.min(task.keys.end - first);
            let block = Block {
                k: &task.k[first * dim..(first + count) * dim],
                v: &task.v[first * dim..(first + count) * dim],
                dim,
                padded,
                count,
            };
            let mut row = 0;
            while row < rows {
                let (q, scores) = (&q[row * padded..], &mut scores[row * BLOCK..]);
                match rows_at_once(rows - row) {
                    3 => block.score::<S, 3>(simd, q, scores),
                    2 => block.score::<S, 2>(simd, q, scores),
                    _ => block.score::<S, 1>(simd, q, scores),
                }
                row += rows_at_once(rows - row);
            }
            for (index, row) in task.rows.clone().enumerate() {
                let scores = &mut scores[index * BLOCK..(index + 1) * BLOCK];
                let visible = task.visible(row);
                scores[..visible.start.saturating_sub(first).min(count)].fill(f32::NEG_INFINITY);
                scores[visible.end.saturating_sub(first).min(count)..].fill(f32::NEG_INFINITY);
                state[index].weigh(simd, scores, &mut values[index * padded..(index + 1) * padded]);
            }
            let mut row = 0;
            while row < rows {
                let (weights, values) = (&scores[row * BLOCK..], &mut values[row * padded..]);
                match rows_at_once(rows - row) {
                    3 => block.accumulate::<S, 3>(simd, weights, values),
                    2 => block.accumulate::<S, 2>(simd, weights, values),
                    _ => block.accumulate::<S, 1>(simd, weights, values),
                }
                row += rows_at_once(rows - row);
            }
            first += count;
        }
        for index in 0..rows {
            let State { best, sum } = state[index];
            let values = &values[index * padded..(index + 1) * padded];
            sink.put(&task, index, best, sum, |d| values[d]);
        }
    }
}

/// Three rows at a time fill the registers, but one alone leaves the multipliers waiting.
#[inline(always)]
fn rows_at_once(left: usize) -> usize {
    match left {
        3 | 5.. => 3,
        2 | 4 => 2,
        _ => 1,
    }
}

#[derive(Clone, Copy)]
struct State {
    best: f32,
    sum: f32,
}

impl State {
    /// Turns scores into weights, and rescales what was summed under a smaller best score.
    #[inline(always)]
    fn weigh<S: Simd>(&mut self, simd: S, scores: &mut [f32], values: &mut [f32]) {
        let scores = scores.as_chunks_mut::<LANES>().0;
        let mut best = simd.splat(self.best);
        for scores in scores.iter() {
            // In this order a NaN score is forgotten here, and remembered by its own weight below.
            best = simd.max(simd.load(scores), best);
        }
        let mut lanes = [0.0; LANES];
        simd.store(best, &mut lanes);
        let best = lanes.into_iter().fold(self.best, f32::max);
        let shift = simd.splat(best);
        let mut sum = simd.splat(0.0);
        for scores in scores.iter_mut() {
            let weights = simd.exp(simd.sub(simd.load(scores), shift));
            sum = simd.add(sum, weights);
            simd.store(weights, scores);
        }
        let factor = (self.best - best).exp();
        self.sum = self.sum * factor + simd.sum(sum);
        self.best = best;
        if factor < 1.0 {
            for value in values {
                *value *= factor;
            }
        }
    }
}

/// Consecutive keys and values, `[count, dim]` each.
struct Block<'a, E> {
    k: &'a [E],
    v: &'a [E],
    dim: usize,
    /// The length of a row of queries or of summed values: `dim` and zeros after it.
    padded: usize,
    count: usize,
}

impl<E: Element> Block<'_, E> {
    /// The scores of `R` query rows, which lie `BLOCK` apart.
    #[inline(always)]
    fn score<S: Simd, const R: usize>(&self, simd: S, q: &[f32], scores: &mut [f32]) {
        let stride = self.count / STREAMS;
        let len = stride * self.dim;
        let mut streams = [0; STREAMS].map(|_| self.k[..0].chunks_exact(self.dim));
        for (i, stream) in streams.iter_mut().enumerate() {
            *stream = self.k[i * len..(i + 1) * len].chunks_exact(self.dim);
        }
        for key in 0..stride {
            let mut keys = [&self.k[..0]; STREAMS];
            for (key, stream) in keys.iter_mut().zip(&mut streams) {
                *key = stream.next().unwrap_or_default();
            }
            let sums = self.dots::<S, R, STREAMS>(simd, keys, q);
            for (r, sums) in sums.iter().enumerate() {
                for (i, sum) in sums.iter().enumerate() {
                    scores[r * BLOCK + i * stride + key] = *sum;
                }
            }
        }
        for key in STREAMS * stride..self.count {
            let sums = self.dots::<S, R, 1>(simd, [&self.k[key * self.dim..(key + 1) * self.dim]], q);
            for (r, sums) in sums.iter().enumerate() {
                scores[r * BLOCK + key] = sums[0];
            }
        }
    }

    /// The inner products of `K` keys, at most four, with `R` query rows.
    #[inline(always)]
    fn dots<S: Simd, const R: usize, const K: usize>(&self, simd: S, keys: [&[E]; K], q: &[f32]) -> [[f32; K]; R] {
        let whole = self.dim / LANES;
        let mut q_steps: [&[[f32; LANES]]; R] = [&[]; R];
        for (r, steps) in q_steps.iter_mut().enumerate() {
            *steps = &q[r * self.padded..(r + 1) * self.padded].as_chunks().0[..whole];
        }
        let mut k_steps: [&[[E; LANES]]; K] = [&[]; K];
        for (steps, key) in k_steps.iter_mut().zip(keys) {
            *steps = &key.as_chunks().0[..whole];
        }
        let mut sums = [[simd.splat(0.0); K]; R];
        let mut q_step = [simd.splat(0.0); R];
        for i in 0..whole {
            for r in 0..R {
                q_step[r] = simd.load(&q_steps[r][i]);
            }
            for j in 0..K {
                let k = E::load(simd, &k_steps[j][i]);
                for r in 0..R {
                    sums[r][j] = simd.mul_add(k, q_step[r], sums[r][j]);
                }
            }
        }
        if whole * LANES < self.dim {
            for (j, key) in keys.iter().enumerate() {
                let k = load_part(simd, &key[whole * LANES..]);
                for r in 0..R {
                    let q = simd.load(&q[r * self.padded..(r + 1) * self.padded].as_chunks().0[whole]);
                    sums[r][j] = simd.mul_add(k, q, sums[r][j]);
                }
            }
        }
        let mut out = [[0.0; K]; R];
        for (out, sums) in out.iter_mut().zip(&sums) {
            let mut four = [simd.splat(0.0); 4];
            four[..K].copy_from_slice(sums);
            out.copy_from_slice(&simd.sum4(four)[..K]);
        }
        out
    }

    /// Adds the values to `values` (`R` rows of `padded`) by their weights (`R` rows of `BLOCK`).
    #[inline(always)]
    fn accumulate<S: Simd, const R: usize>(&self, simd: S, weights: &[f32], values: &mut [f32]) {
        let mut d = 0;
        while d + 4 * LANES <= self.dim {
            self.columns::<S, R, 4>(simd, d, weights, values);
            d += 4 * LANES;
        }
        while d < self.dim {
            self.columns::<S, R, 1>(simd, d, weights, values);
            d += LANES;
        }
    }

    /// `C` vectors of the head from element `d` on.
    #[inline(always)]
    fn columns<S: Simd, const R: usize, const C: usize>(&self, simd: S, d: usize, weights: &[f32], values: &mut [f32]) {
        let width = (self.dim - d).min(C * LANES);
        let mut sums = [[simd.splat(0.0); C]; R];
        let mut weight_rows: [&[f32]; R] = [&[]; R];
        for r in 0..R {
            let from = values[r * self.padded + d..][..C * LANES].as_chunks().0;
            for c in 0..C {
                sums[r][c] = simd.load(&from[c]);
            }
            weight_rows[r] = &weights[r * BLOCK..r * BLOCK + self.count];
        }
        let mut weight = [simd.splat(0.0); R];
        for (j, v) in self.v.chunks_exact(self.dim).take(self.count).enumerate() {
            let v = &v[d..d + width];
            for r in 0..R {
                weight[r] = simd.splat(weight_rows[r][j]);
            }
            let steps = v.as_chunks().0;
            for c in 0..C {
                let v = if width == C * LANES { E::load(simd, &steps[c]) } else { load_part(simd, v) };
                for r in 0..R {
                    sums[r][c] = simd.mul_add(weight[r], v, sums[r][c]);
                }
            }
        }
        for r in 0..R {
            let to = values[r * self.padded + d..][..C * LANES].as_chunks_mut().0;
            for c in 0..C {
                simd.store(sums[r][c], &mut to[c]);
            }
        }
    }
}

/// Fewer than [`LANES`] elements, and zeros after them.
#[inline(always)]
fn load_part<S: Simd, E: Element>(simd: S, part: &[E]) -> S::V {
    let mut whole = [E::default(); LANES];
    whole[..part.len()].copy_from_slice(part);
    E::load(simd, &whole)
}
