//! Causal attention of new queries over a KV cache, with an online softmax.
//!
//! The work is cut into tasks of (sequence, key-value head, some queries, some keys). The query heads that share a
//! key-value head are attended together, so each key and value is read once for all of them. Two kernels do the tasks:
//! [`few`] for a decode step, where reading the cache is the cost, and [`panel`] for a prompt, where arithmetic is.
//! Where queries alone give few tasks, the keys are split too and the parts combined; how they are split depends on the
//! shape only, so the result does not depend on the number of threads.
//!
//! A masked key has weight 0, which still multiplies its value: a NaN or infinity in a key or value makes all
//! queries of its call that share a block with it NaN, earlier positions included.

mod few;
mod panel;

use std::ops::Range;

use crate::disjoint::Disjoint;
use crate::element::Element;
use crate::scratch::Scratch;
use crate::shape::AttentionShape;
use crate::simd::dispatch;
use crate::team::Team;

/// Queries of one key-value head up to this many go to [`few`].
const FEW: usize = 8;
/// Keys in a part for [`panel`] at most, when the keys are split; one for [`few`] is a block.
const PANEL_KEYS: usize = 1024;
/// With fewer tasks than this the keys are split as well.
const ENOUGH_TASKS: usize = 16;
/// Stands for "no key seen": finite, so that the difference of two is not NaN, and below any real score.
const NO_SCORE: f32 = -1e30;

/// Computes `softmax(scale * q · kᵀ + mask) · v` for each query head.
///
/// `q` and `out` are `[batch, query_len, heads, head_dim]`, `k` and `v` are `[batch, kv_heads, capacity, head_dim]`, all
/// row-major. The keys and values of the new positions must be in the cache already ([`append_kv`](crate::append_kv)).
/// Query `i` is at position `start + i` and attends positions `0..=start + i`, or the last `window` of these.
/// Query head `h` uses key-value head `h / (heads / kv_heads)`.
///
/// # Panics
/// When `heads` is not a multiple of `kv_heads`, when the positions exceed `capacity`, when `window` is `Some(0)`, or
/// when the length of a slice is not the product of its dimensions.
///
/// ```
/// use std::num::NonZeroUsize;
/// use phase_kernels::{AttentionShape, Team, attention};
///
/// let team = Team::new(NonZeroUsize::MIN)?;
/// let shape = AttentionShape {
///     batch: 1, query_len: 1, heads: 1, kv_heads: 1, head_dim: 2, capacity: 4, start: 1, window: None,
/// };
/// let k = [1.0_f32; 8];
/// let v = [1.0_f32, 10.0, 3.0, 30.0, 0.0, 0.0, 0.0, 0.0];
/// let mut out = [0.0; 2];
/// attention(&team, &[0.3, -0.7], &k, &v, &mut out, &shape, 1.0);
/// assert_eq!(out, [2.0, 20.0]);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn attention<E: Element>(team: &Team, q: &[f32], k: &[E], v: &[E], out: &mut [f32], shape: &AttentionShape, scale: f32) {
    shape.check();
    assert_eq!(q.len(), shape.queries().len(), "attention: q is [batch, query_len, heads, head_dim]");
    assert_eq!(out.len(), q.len(), "attention: out is [batch, query_len, heads, head_dim]");
    assert_eq!(k.len(), shape.cache_len(), "attention: k is [batch, kv_heads, capacity, head_dim]");
    assert_eq!(v.len(), k.len(), "attention: v is [batch, kv_heads, capacity, head_dim]");
    if out.is_empty() {
        return;
    }
    let plan = Plan::new(shape);
    let width = shape.head_dim + 2;
    let part_len = plan.tile_rows * width;
    let parts_len = if plan.splits == 1 { 0 } else { plan.tasks() * part_len };
    let mut parts = Scratch::take(parts_len);
    let parts = Disjoint::new(&mut parts);
    let out = Disjoint::new(out);
    team.run(plan.tasks(), |index| {
        let task = plan.task(index, q, k, v, scale);
        let sink = if plan.splits == 1 {
            Sink::Out(&out)
        } else {
            // SAFETY: each task has a part of its own.
            Sink::Part(unsafe { parts.slice(index * part_len..(index + 1) * part_len) })
        };
        if plan.few {
            dispatch(team.level(), few::Few { task, sink });
        } else {
            dispatch(team.level(), panel::Panel { task, sink });
        }
    });
    if plan.splits > 1 {
        team.run(plan.groups(), |group| {
            let first = group * plan.splits * part_len;
            // SAFETY: the tasks are over, and each group reads its own parts.
            let parts = unsafe { parts.slice(first..first + plan.splits * part_len) };
            combine(&plan.task(group * plan.splits, q, k, v, scale), parts, part_len, &out);
        });
    }
}

/// How the work is cut.
struct Plan<'a> {
    shape: &'a AttentionShape,
    few: bool,
    /// Query rows (position-major, then the heads of one group) in a tile.
    tile_rows: usize,
    tiles: usize,
    split_keys: usize,
    splits: usize,
}

impl<'a> Plan<'a> {
    fn new(shape: &'a AttentionShape) -> Self {
        let rows = shape.query_len * shape.group();
        let few = rows <= FEW;
        let tile_rows = rows.min(if few { FEW } else { panel::TILE });
        let tiles = rows.div_ceil(tile_rows);
        let positions = shape.start + shape.query_len;
        let span = shape.window.map_or(positions, |window| positions.min(window.saturating_add(tile_rows)));
        let enough = tiles * shape.kv_heads * shape.batch >= ENOUGH_TASKS;
        let most = match (few, enough) {
            (true, _) => few::BLOCK,
            (false, false) => PANEL_KEYS,
            (false, true) => usize::MAX,
        };
        let splits = span.div_ceil(most);
        Self { shape, few, tile_rows, tiles, split_keys: span.div_ceil(splits), splits }
    }

    fn groups(&self) -> usize {
        self.tiles * self.shape.kv_heads * self.shape.batch
    }

    fn tasks(&self) -> usize {
        self.groups() * self.splits
    }

    /// The last tile comes first: it has the most keys, and a long task must not be the last one begun.
    fn task<'t, E: Element>(&self, index: usize, q: &'t [f32], k: &'t [E], v: &'t [E], scale: f32) -> Task<'t, E>
    where
        'a: 't,
    {
        let shape = self.shape;
        let (group, split) = (index / self.splits, index % self.splits);
        let (unit, tile) = (group % (shape.kv_heads * shape.batch), group / (shape.kv_heads * shape.batch));
        let tile = self.tiles - 1 - tile;
        let (batch, kv_head) = (unit / shape.kv_heads, unit % shape.kv_heads);
        let all = shape.query_len * shape.group();
        let rows = tile * self.tile_rows..all.min((tile + 1) * self.tile_rows);
        let first = shape.visible(rows.start / shape.group()).start;
        let end = shape.visible((rows.end - 1) / shape.group()).end;
        let from = end.min(first.saturating_add(split.saturating_mul(self.split_keys)));
        let to = end.min(from.saturating_add(self.split_keys));
        let cache = unit * shape.capacity * shape.head_dim..(unit + 1) * shape.capacity * shape.head_dim;
        Task { shape, scale, batch, kv_head, rows, keys: from..to, q, k: &k[cache.clone()], v: &v[cache] }
    }
}

/// Some query rows of one sequence and key-value head, over some of its keys.
struct Task<'a, E> {
    shape: &'a AttentionShape,
    scale: f32,
    batch: usize,
    kv_head: usize,
    /// Row `i * group + g` is query `i` of the `g`-th head that uses `kv_head`.
    rows: Range<usize>,
    keys: Range<usize>,
    q: &'a [f32],
    /// `[capacity, head_dim]`, as `v`.
    k: &'a [E],
    v: &'a [E],
}

impl<E> Task<'_, E> {
    /// Where a query row lies in `q` and `out`.
    #[inline(always)]
    fn at(&self, row: usize) -> Range<usize> {
        let shape = self.shape;
        let (query, member) = (row / shape.group(), row % shape.group());
        let head = self.kv_head * shape.group() + member;
        let start = ((self.batch * shape.query_len + query) * shape.heads + head) * shape.head_dim;
        start..start + shape.head_dim
    }

    /// The keys of this task that a query row may see.
    #[inline(always)]
    fn visible(&self, row: usize) -> Range<usize> {
        let visible = self.shape.visible(row / self.shape.group());
        let end = visible.end.min(self.keys.end);
        visible.start.max(self.keys.start).min(end)..end
    }
}

/// Where a task leaves its rows.
enum Sink<'a> {
    /// The only part: divided by its sum of weights, in place.
    Out(&'a Disjoint<'a, f32>),
    /// One of several: `[rows, head_dim + 2]`, the weighted sum of values, then the largest score, then the sum of weights.
    Part(&'a mut [f32]),
}

impl Sink<'_> {
    /// Takes row number `index` of the task; `values(d)` is element `d` of its weighted sum.
    #[inline(always)]
    fn put<E>(&mut self, task: &Task<'_, E>, index: usize, best: f32, sum: f32, values: impl Fn(usize) -> f32) {
        let dim = task.shape.head_dim;
        match self {
            Sink::Out(out) => {
                // SAFETY: a row belongs to one task only, as there is one split.
                let out = unsafe { out.slice(task.at(task.rows.start + index)) };
                let factor = 1.0 / sum;
                for (d, out) in out.iter_mut().enumerate() {
                    *out = values(d) * factor;
                }
            }
            Sink::Part(part) => {
                let part = &mut part[index * (dim + 2)..(index + 1) * (dim + 2)];
                for (d, out) in part[..dim].iter_mut().enumerate() {
                    *out = values(d);
                }
                part[dim] = best;
                part[dim + 1] = sum;
            }
        }
    }
}

fn combine<E>(task: &Task<'_, E>, parts: &[f32], part_len: usize, out: &Disjoint<'_, f32>) {
    let dim = task.shape.head_dim;
    for (index, row) in task.rows.clone().enumerate() {
        let splits = || parts.chunks_exact(part_len).map(|part| &part[index * (dim + 2)..(index + 1) * (dim + 2)]);
        let best = splits().fold(NO_SCORE, |best, part| best.max(part[dim]));
        // SAFETY: a row belongs to one group only.
        let out = unsafe { out.slice(task.at(row)) };
        out.fill(0.0);
        let mut sum = 0.0;
        for part in splits() {
            let weight = (part[dim] - best).exp();
            sum += weight * part[dim + 1];
            for (out, value) in out.iter_mut().zip(part) {
                *out += weight * value;
            }
        }
        let factor = 1.0 / sum;
        for out in out {
            *out *= factor;
        }
    }
}

#[cfg(test)]
mod tests;
