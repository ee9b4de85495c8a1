//! A few query rows: vectors run along the head, and the cache is read once for all rows.

use super::{NO_SCORE, Sink, Task};
use crate::element::Element;
use crate::scratch::Scratch;
use crate::simd::{Kernel, LANES, Simd};

/// Keys whose scores are kept at a time.
const BLOCK: usize = 32;

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
        let padded = task.shape.head_dim.next_multiple_of(LANES);
        let mut work = Scratch::take(rows * (2 * padded + BLOCK));
        let (q, rest) = work.split_at_mut(rows * padded);
        let (values, scores) = rest.split_at_mut(rows * padded);
        for (row, q) in task.rows.clone().zip(q.chunks_exact_mut(padded)) {
            q.fill(0.0);
            for (to, from) in q.iter_mut().zip(&task.q[task.at(row)]) {
                *to = from * task.scale;
            }
        }
        values.fill(0.0);
        let mut state = [State { best: NO_SCORE, sum: 0.0 }; super::FEW];
        let mut first = task.keys.start;
        while first < task.keys.end {
            let count = BLOCK.min(task.keys.end - first);
            score(simd, &task, q, padded, first, count, scores);
            for (index, row) in task.rows.clone().enumerate() {
                let scores = &mut scores[index * BLOCK..(index + 1) * BLOCK];
                let visible = task.visible(row);
                scores[..visible.start.saturating_sub(first).min(count)].fill(f32::NEG_INFINITY);
                scores[visible.end.saturating_sub(first).min(count)..].fill(f32::NEG_INFINITY);
                let values = &mut values[index * padded..(index + 1) * padded];
                state[index].weigh(simd, scores, values);
            }
            accumulate(simd, &task, scores, padded, first, count, values);
            first += count;
        }
        for index in 0..rows {
            let State { best, sum } = state[index];
            let values = &values[index * padded..(index + 1) * padded];
            sink.put(&task, index, best, sum, |d| values[d]);
        }
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
        let best = scores.iter().fold(self.best, |best, &score| if score > best { score } else { best });
        let factor = (self.best - best).exp();
        let shift = simd.splat(best);
        let mut sum = simd.splat(0.0);
        for scores in scores.as_chunks_mut::<LANES>().0 {
            let weights = simd.exp(simd.sub(simd.load(scores), shift));
            sum = simd.add(sum, weights);
            simd.store(weights, scores);
        }
        self.sum = self.sum * factor + simd.sum(sum);
        self.best = best;
        if factor < 1.0 {
            for value in values {
                *value *= factor;
            }
        }
    }
}

/// Fills `scores` (`[rows, BLOCK]`) for `count` keys from `first` on.
#[inline(always)]
fn score<S: Simd, E: Element>(simd: S, task: &Task<'_, E>, q: &[f32], padded: usize, first: usize, count: usize, scores: &mut [f32]) {
    let dim = task.shape.head_dim;
    let mut key = 0;
    while key < count {
        // The last four overlap the ones before, so that there is one kernel; fewer than four keys repeat the last.
        let base = if count >= 4 { key.min(count - 4) } else { 0 };
        let mut keys = [&task.k[..0]; 4];
        for (i, slot) in keys.iter_mut().enumerate() {
            let position = first + (base + i).min(count - 1);
            *slot = &task.k[position * dim..(position + 1) * dim];
        }
        let rows = task.rows.len();
        let mut row = 0;
        while row < rows {
            if row + 2 <= rows {
                dots::<S, E, 2>(simd, keys, &q[row * padded..], padded, &mut scores[row * BLOCK + base..]);
                row += 2;
            } else {
                dots::<S, E, 1>(simd, keys, &q[row * padded..], padded, &mut scores[row * BLOCK + base..]);
                row += 1;
            }
        }
        key = base + 4;
    }
}

/// The inner products of four keys with `R` query rows; the scores of a row lie `BLOCK` apart.
#[inline(always)]
fn dots<S: Simd, E: Element, const R: usize>(simd: S, keys: [&[E]; 4], q: &[f32], padded: usize, scores: &mut [f32]) {
    let whole = keys[0].len() / LANES;
    let mut q_steps: [&[[f32; LANES]]; R] = [&[]; R];
    for (r, steps) in q_steps.iter_mut().enumerate() {
        *steps = &q[r * padded..(r + 1) * padded].as_chunks().0[..whole];
    }
    let mut k_steps: [&[[E; LANES]]; 4] = [&[]; 4];
    for (steps, key) in k_steps.iter_mut().zip(keys) {
        *steps = &key.as_chunks().0[..whole];
    }
    let mut sums = [[simd.splat(0.0); 4]; R];
    let mut step = [simd.splat(0.0); 4];
    for i in 0..whole {
        for j in 0..4 {
            step[j] = E::load(simd, &k_steps[j][i]);
        }
        for r in 0..R {
            let q = simd.load(&q_steps[r][i]);
            for j in 0..4 {
                sums[r][j] = simd.mul_add(step[j], q, sums[r][j]);
            }
        }
    }
    if whole * LANES < keys[0].len() {
        for j in 0..4 {
            step[j] = load_part(simd, &keys[j][whole * LANES..]);
        }
        for r in 0..R {
            let q = simd.load(&q[r * padded..(r + 1) * padded].as_chunks().0[whole]);
            for j in 0..4 {
                sums[r][j] = simd.mul_add(step[j], q, sums[r][j]);
            }
        }
    }
    for r in 0..R {
        scores[r * BLOCK..r * BLOCK + 4].copy_from_slice(&simd.sum4(sums[r]));
    }
}

/// Adds the values of a block to `values` (`[rows, padded]`) by their weights.
#[inline(always)]
fn accumulate<S: Simd, E: Element>(
    simd: S,
    task: &Task<'_, E>,
    weights: &[f32],
    padded: usize,
    first: usize,
    count: usize,
    values: &mut [f32],
) {
    let dim = task.shape.head_dim;
    let v = &task.v[first * dim..(first + count) * dim];
    let rows = task.rows.len();
    let mut row = 0;
    while row < rows {
        let weights = &weights[row * BLOCK..];
        let values = &mut values[row * padded..];
        if row + 2 <= rows {
            accumulate_rows::<S, E, 2>(simd, v, dim, weights, padded, values);
            row += 2;
        } else {
            accumulate_rows::<S, E, 1>(simd, v, dim, weights, padded, values);
            row += 1;
        }
    }
}

#[inline(always)]
fn accumulate_rows<S: Simd, E: Element, const R: usize>(simd: S, v: &[E], dim: usize, weights: &[f32], padded: usize, values: &mut [f32]) {
    let mut d = 0;
    while d + 4 * LANES <= dim {
        columns::<S, E, R, 4>(simd, v, dim, d, weights, padded, values);
        d += 4 * LANES;
    }
    while d < dim {
        columns::<S, E, R, 1>(simd, v, dim, d, weights, padded, values);
        d += LANES;
    }
}

/// `C` vectors of the head from element `d` on, for `R` rows.
#[inline(always)]
fn columns<S: Simd, E: Element, const R: usize, const C: usize>(
    simd: S,
    v: &[E],
    dim: usize,
    d: usize,
    weights: &[f32],
    padded: usize,
    values: &mut [f32],
) {
    let mut sums = [[simd.splat(0.0); C]; R];
    for r in 0..R {
        let from = values[r * padded + d..][..C * LANES].as_chunks().0;
        for c in 0..C {
            sums[r][c] = simd.load(&from[c]);
        }
    }
    let mut rows_of_weights: [&[f32]; R] = [&[]; R];
    for r in 0..R {
        rows_of_weights[r] = &weights[r * BLOCK..(r + 1) * BLOCK];
    }
    let width = (dim - d).min(C * LANES);
    for (j, v) in v.chunks_exact(dim).take(BLOCK).enumerate() {
        let v = &v[d..d + width];
        let mut loaded = [simd.splat(0.0); C];
        if width == C * LANES {
            let v = v.as_chunks().0;
            for c in 0..C {
                loaded[c] = E::load(simd, &v[c]);
            }
        } else {
            loaded[0] = load_part(simd, v);
        }
        for r in 0..R {
            let weight = simd.splat(rows_of_weights[r][j]);
            for c in 0..C {
                sums[r][c] = simd.mul_add(weight, loaded[c], sums[r][c]);
            }
        }
    }
    for r in 0..R {
        let to = values[r * padded + d..][..C * LANES].as_chunks_mut().0;
        for c in 0..C {
            simd.store(sums[r][c], &mut to[c]);
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
