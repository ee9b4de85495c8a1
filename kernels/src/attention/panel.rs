//! Many query rows: vectors run across rows, so the softmax needs no sums inside a vector, and both products are
//! register tiles of six keys (or six elements of the head) by sixteen rows.
//!
//! Queries are transposed once per task and the output once at its end; keys and values are used as the cache has them.

use super::{NO_SCORE, Sink, Task};
use crate::element::{Element, Widen};
use crate::scratch::Scratch;
use crate::simd::{Kernel, LANES, Simd};

/// Query rows in a panel: two vectors.
const WIDE: usize = 2 * LANES;
/// Query rows in a task: enough for the widening of a block to be cheap beside its use.
pub(super) const TILE: usize = 4 * WIDE;
/// Keys in a block: keys, values and scores of a block fit the first-level cache at a head of 64.
const BLOCK: usize = 48;

pub(super) struct Panel<'a, E> {
    pub(super) task: Task<'a, E>,
    pub(super) sink: Sink<'a>,
}

impl<E: Element> Kernel for Panel<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { task, mut sink } = self;
        let dim = task.shape.head_dim;
        let panels = task.rows.len().div_ceil(WIDE);
        let wide = if E::as_f32(task.k).is_some() { 0 } else { BLOCK * dim };
        let mut work = Scratch::take(2 * panels * dim * WIDE + 2 * wide + BLOCK * WIDE);
        let (q, rest) = work.split_at_mut(panels * dim * WIDE);
        let (values, rest) = rest.split_at_mut(panels * dim * WIDE);
        let (k_wide, rest) = rest.split_at_mut(wide);
        let (v_wide, scores) = rest.split_at_mut(wide);
        let scores = scores.as_chunks_mut::<WIDE>().0;
        let q = q.as_chunks_mut::<WIDE>().0;
        let values = values.as_chunks_mut::<WIDE>().0;
        transpose(&task, q);
        values.fill([0.0; WIDE]);
        let mut states = [State::EMPTY; TILE / WIDE];
        for (panel, state) in states[..panels].iter_mut().enumerate() {
            state.see(&task, panel);
        }
        let mut first = task.keys.start;
        while first < task.keys.end {
            let end = task.keys.end.min(first + BLOCK);
            let k = block(simd, task.k, first * dim..end * dim, k_wide);
            let v = block(simd, task.v, first * dim..end * dim, v_wide);
            for (panel, state) in states[..panels].iter_mut().enumerate() {
                let from = first.max(state.first);
                let to = end.min(state.end);
                if from >= to {
                    continue;
                }
                let keys = (from - first) * dim..(to - first) * dim;
                let scores = &mut scores[..to - from];
                let q = &q[panel * dim..(panel + 1) * dim];
                let values = &mut values[panel * dim..(panel + 1) * dim];
                score(simd, &k[keys.clone()], q, scores);
                let factor = state.weigh(simd, from, scores);
                accumulate(simd, &v[keys], scores, factor, values);
            }
            first = end;
        }
        for index in 0..task.rows.len() {
            let (panel, lane) = (index / WIDE, index % WIDE);
            let values = &values[panel * dim..(panel + 1) * dim];
            let state = &states[panel];
            sink.put(&task, index, state.best[lane], state.sum[lane], |d| values[d][lane]);
        }
    }
}

/// Scaled queries as `[panel, head_dim, WIDE]`; rows past the last are zero.
#[inline(always)]
fn transpose<E>(task: &Task<'_, E>, q: &mut [[f32; WIDE]]) {
    let dim = task.shape.head_dim;
    if !task.rows.len().is_multiple_of(WIDE) {
        let last = q.len() - dim;
        q[last..].fill([0.0; WIDE]);
    }
    for (index, row) in task.rows.clone().enumerate() {
        let (panel, lane) = (index / WIDE, index % WIDE);
        for (to, from) in q[panel * dim..(panel + 1) * dim].iter_mut().zip(&task.q[task.at(row)]) {
            to[lane] = from * task.scale;
        }
    }
}

/// The elements of `range` in f32: themselves, or widened into `wide`.
#[inline(always)]
fn block<'a, S: Simd, E: Element>(simd: S, cache: &'a [E], range: std::ops::Range<usize>, wide: &'a mut [f32]) -> &'a [f32] {
    let src = &cache[range];
    if let Some(src) = E::as_f32(src) {
        return src;
    }
    let dst = &mut wide[..src.len()];
    Widen { src, dst: &mut *dst }.run(simd);
    dst
}

/// The running softmax of a panel, and which keys its rows see.
#[derive(Clone, Copy)]
struct State {
    best: [f32; WIDE],
    sum: [f32; WIDE],
    /// Row by row the first key seen and the one after the last, as floats (exact below 2^24) to compare vectors.
    from: [f32; WIDE],
    to: [f32; WIDE],
    /// The keys seen by any row, and the part of these seen by all.
    first: usize,
    end: usize,
    all_from: usize,
    all_to: usize,
}

impl State {
    const EMPTY: Self =
        Self { best: [NO_SCORE; WIDE], sum: [0.0; WIDE], from: [0.0; WIDE], to: [0.0; WIDE], first: 0, end: 0, all_from: 0, all_to: 0 };

    fn see<E>(&mut self, task: &Task<'_, E>, panel: usize) {
        let rows = task.rows.start + panel * WIDE..task.rows.end.min(task.rows.start + (panel + 1) * WIDE);
        (self.first, self.end) = (usize::MAX, 0);
        (self.all_from, self.all_to) = (0, usize::MAX);
        for lane in 0..WIDE {
            // Lanes past the last row repeat it: they are computed and thrown away.
            let keys = task.visible((rows.start + lane).min(rows.end - 1));
            self.from[lane] = keys.start as f32;
            self.to[lane] = keys.end as f32;
            if !keys.is_empty() {
                self.first = self.first.min(keys.start);
                self.end = self.end.max(keys.end);
            }
            self.all_from = self.all_from.max(keys.start);
            self.all_to = self.all_to.min(keys.end);
        }
    }

    /// Turns the scores of keys from `first` on into weights; returns the factors for what was summed before.
    #[inline(always)]
    fn weigh<S: Simd>(&mut self, simd: S, first: usize, scores: &mut [[f32; WIDE]]) -> [f32; WIDE] {
        let mut factors = [0.0; WIDE];
        let masked = first < self.all_from || first + scores.len() > self.all_to;
        for half in 0..2 {
            let old = simd.load(lanes(&self.best, half));
            if masked {
                let (from, to) = (simd.load(lanes(&self.from, half)), simd.load(lanes(&self.to, half)));
                let out = simd.splat(f32::NEG_INFINITY);
                for (i, row) in scores.iter_mut().enumerate() {
                    let key = simd.splat((first + i) as f32);
                    let score = simd.if_less(key, to, simd.load(lanes(row, half)), out);
                    simd.store(simd.if_less(key, from, out, score), lanes_mut(row, half));
                }
            }
            let mut best = old;
            for row in scores.iter() {
                // In this order a NaN score is forgotten here, and remembered by its own weight below.
                best = simd.max(simd.load(lanes(row, half)), best);
            }
            let mut sum = simd.splat(0.0);
            for row in scores.iter_mut() {
                let weight = simd.exp(simd.sub(simd.load(lanes(row, half)), best));
                sum = simd.add(sum, weight);
                simd.store(weight, lanes_mut(row, half));
            }
            let factor = simd.exp(simd.sub(old, best));
            let sum = simd.mul_add(simd.load(lanes(&self.sum, half)), factor, sum);
            simd.store(sum, lanes_mut(&mut self.sum, half));
            simd.store(best, lanes_mut(&mut self.best, half));
            simd.store(factor, lanes_mut(&mut factors, half));
        }
        factors
    }
}

/// Fills `scores` (`[keys, WIDE]`) from `k` (`[keys, head_dim]`) and `q` (`[head_dim, WIDE]`).
#[inline(always)]
fn score<S: Simd>(simd: S, k: &[f32], q: &[[f32; WIDE]], scores: &mut [[f32; WIDE]]) {
    let mut key = 0;
    while key < scores.len() {
        let left = scores.len() - key;
        let (k, scores) = (&k[key * q.len()..], &mut scores[key..]);
        key += match left {
            6.. => score_tile::<S, 6>(simd, k, q, scores),
            3..6 => score_tile::<S, 3>(simd, k, q, scores),
            _ => score_tile::<S, 1>(simd, k, q, scores),
        };
    }
}

#[inline(always)]
fn score_tile<S: Simd, const R: usize>(simd: S, k: &[f32], q: &[[f32; WIDE]], scores: &mut [[f32; WIDE]]) -> usize {
    let mut rows: [&[f32]; R] = [&[]; R];
    for (r, row) in rows.iter_mut().enumerate() {
        *row = &k[r * q.len()..(r + 1) * q.len()];
    }
    let mut sums = [[simd.splat(0.0); 2]; R];
    for (d, q) in q.iter().enumerate() {
        let (low, high) = (simd.load(lanes(q, 0)), simd.load(lanes(q, 1)));
        for r in 0..R {
            let k = simd.splat(rows[r][d]);
            sums[r][0] = simd.mul_add(k, low, sums[r][0]);
            sums[r][1] = simd.mul_add(k, high, sums[r][1]);
        }
    }
    for (sums, scores) in sums.iter().zip(scores) {
        simd.store(sums[0], lanes_mut(scores, 0));
        simd.store(sums[1], lanes_mut(scores, 1));
    }
    R
}

/// `values = values * factor + v · weights`, with `values` as `[head_dim, WIDE]` and `v` as `[keys, head_dim]`.
#[inline(always)]
fn accumulate<S: Simd>(simd: S, v: &[f32], weights: &[[f32; WIDE]], factor: [f32; WIDE], values: &mut [[f32; WIDE]]) {
    let mut d = 0;
    while d < values.len() {
        d += match values.len() - d {
            6.. => accumulate_tile::<S, 6>(simd, v, d, weights, &factor, values),
            4..6 => accumulate_tile::<S, 4>(simd, v, d, weights, &factor, values),
            2..4 => accumulate_tile::<S, 2>(simd, v, d, weights, &factor, values),
            _ => accumulate_tile::<S, 1>(simd, v, d, weights, &factor, values),
        };
    }
}

#[inline(always)]
fn accumulate_tile<S: Simd, const R: usize>(
    simd: S,
    v: &[f32],
    d: usize,
    weights: &[[f32; WIDE]],
    factor: &[f32; WIDE],
    values: &mut [[f32; WIDE]],
) -> usize {
    let dim = values.len();
    let values = &mut values[d..d + R];
    let (low, high) = (simd.load(lanes(factor, 0)), simd.load(lanes(factor, 1)));
    let mut sums = [[low; 2]; R];
    for r in 0..R {
        sums[r][0] = simd.mul(simd.load(lanes(&values[r], 0)), low);
        sums[r][1] = simd.mul(simd.load(lanes(&values[r], 1)), high);
    }
    for (weights, v) in weights.iter().zip(v.chunks_exact(dim)) {
        let v = &v[d..d + R];
        let (low, high) = (simd.load(lanes(weights, 0)), simd.load(lanes(weights, 1)));
        for r in 0..R {
            let v = simd.splat(v[r]);
            sums[r][0] = simd.mul_add(v, low, sums[r][0]);
            sums[r][1] = simd.mul_add(v, high, sums[r][1]);
        }
    }
    for (sums, values) in sums.iter().zip(values) {
        simd.store(sums[0], lanes_mut(values, 0));
        simd.store(sums[1], lanes_mut(values, 1));
    }
    R
}

#[inline(always)]
fn lanes(x: &[f32; WIDE], half: usize) -> &[f32; LANES] {
    &x.as_chunks().0[half]
}

#[inline(always)]
fn lanes_mut(x: &mut [f32; WIDE], half: usize) -> &mut [f32; LANES] {
    &mut x.as_chunks_mut().0[half]
}
