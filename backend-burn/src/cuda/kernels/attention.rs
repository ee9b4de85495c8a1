//! Attention of one new position a sequence, split over the positions; and attention of any shape.

use cubecl::prelude::*;

use super::{
    rows::turned,
    words::{Format, element, follow, pack, rounded},
};

/// What is fixed when the decode kernel is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Heads {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Query heads of one key head that a cube takes together; divides `heads / kv_heads`.
    pub(crate) group: usize,
    /// Shares of the positions.
    pub(crate) splits: usize,
    pub(crate) rotate: bool,
    pub(crate) normed: bool,
    /// Of the cache and of the output.
    pub(crate) format: Format,
}

impl Heads {
    /// Whether [`attend_one()`] takes heads of this size, with so many elements in 16 bytes.
    pub(crate) const fn fits(head_dim: usize, per_vector: usize) -> bool {
        head_dim.is_multiple_of(2 * per_vector) && (head_dim / per_vector).is_power_of_two() && head_dim / per_vector <= 32
    }

    /// `f32` that the partial results of a batch need.
    pub(crate) const fn partial(&self, batch: usize) -> usize {
        batch * self.heads * self.splits * (self.head_dim + 2)
    }
}

/// Rotates the new queries, keys and values, appends the latter two to the cache, and attends.
///
/// Cubes `(splits, heads / group, batch)` of eight planes. `qkv` is `[batch, (heads + 2 kv_heads) head_dim]` f32, `out` is
/// `[batch, heads, head_dim]`, a cache `[batch, kv_heads, capacity, head_dim]`; `control[0]` is the new position. The last
/// cube of a group to come puts the shares together. Cubes of the same key head write the same to the cache.
#[cube(launch_unchecked)]
pub(crate) fn attend_one<E: Float>(
    qkv: &[f32],
    frequencies: &[f32],
    q_gain: &[f32],
    k_gain: &[f32],
    control: &[u32],
    keys: &mut [Vector<u32, Const<4>>],
    values: &mut [Vector<u32, Const<4>>],
    partial: &mut [f32],
    tickets: &mut [Atomic<u32>],
    out: &mut [E],
    capacity: u32,
    window: u32,
    scale: f32,
    eps: f32,
    #[comptime] shape: Heads,
) {
    follow();
    let Heads { heads, kv_heads, head_dim, group, splits, format, .. } = comptime!(shape);
    let per = comptime!(shape.format.per_vector());
    let lanes = comptime!(head_dim / per);
    let slots = comptime!(32 / lanes);
    let groups = comptime!(heads / group);
    let per_kv = comptime!(heads / kv_heads / group);

    let split = CUBE_POS_X;
    let sequence = CUBE_POS_Z;
    let first_head = CUBE_POS_Y * (group as u32);
    let kv_head = CUBE_POS_Y / (per_kv as u32);
    let plane = PLANE_POS as usize;
    let unit = UNIT_POS_PLANE as usize;
    let position = control[0];
    let row = (sequence * (comptime!((heads + 2 * kv_heads) * head_dim) as u32)) as usize;
    let cache = ((sequence * (kv_heads as u32) + kv_head) as usize) * (capacity as usize) * lanes;

    let mut from = 0u32;
    if position >= window {
        from = position + 1 - window;
    }
    let seen = position + 1 - from;
    // No share is shorter than 32 positions: few cubes are quicker than many that have nothing to do.
    let share = max((seen + (splits as u32) - 1) / (splits as u32), 32u32);
    let begin = min(from + split * share, position + 1);
    let end = min(begin + share, position + 1);

    // Queries of this cube, then the new key.
    let mut turned_q = Shared::<[f32]>::new_slice(comptime!((group + 1) * head_dim));
    let mut head = plane;
    while head < comptime!(group + 1) {
        let mut source = row + (first_head as usize + head) * head_dim;
        if head == group {
            source = row + (comptime!(heads) + kv_head as usize) * head_dim;
        }
        let mut factor = f32::new(1.0);
        if comptime!(shape.normed) {
            let mut squares = 0.0f32;
            let mut at = unit;
            while at < head_dim {
                squares += qkv[source + at] * qkv[source + at];
                at += 32usize;
            }
            factor = f32::new(1.0) / (plane_sum(squares) / (head_dim as f32) + eps).sqrt();
        }
        let half = comptime!(head_dim / 2);
        let mut pair = unit;
        while pair < half {
            let mut low = qkv[source + pair];
            let mut high = qkv[source + pair + half];
            if comptime!(shape.normed) {
                if head < group {
                    low *= factor * q_gain[pair];
                    high *= factor * q_gain[pair + half];
                } else {
                    low *= factor * k_gain[pair];
                    high *= factor * k_gain[pair + half];
                }
            }
            let (low, high) = turned(low, high, pair as u32, position, frequencies, comptime!(shape.rotate));
            // Queries are rounded as a prompt's are, which pass through memory.
            let mut factor = scale;
            if head == group {
                factor = f32::new(1.0);
            }
            turned_q[head * head_dim + pair] = rounded(low, format) * factor;
            turned_q[head * head_dim + pair + half] = rounded(high, format) * factor;
            pair += 32usize;
        }
        head += 8usize;
    }
    sync_cube();
    if begin <= position && position < end {
        if plane < 2 && unit < lanes {
            let mut vector = Vector::<u32, Const<4>>::empty();
            let from = comptime!(group * head_dim) + unit * per;
            let from_value = row + (comptime!(heads + kv_heads) + kv_head as usize) * head_dim + unit * per;
            #[unroll]
            for i in 0..4usize {
                if comptime!(format == Format::F32) {
                    let mut value = turned_q[from + i];
                    if plane == 1 {
                        value = qkv[from_value + i];
                    }
                    vector.insert(i, u32::reinterpret(value));
                } else {
                    let mut first = turned_q[from + i * 2];
                    let mut second = turned_q[from + i * 2 + 1];
                    if plane == 1 {
                        first = qkv[from_value + i * 2];
                        second = qkv[from_value + i * 2 + 1];
                    }
                    vector.insert(i, pack(first, second, comptime!(format == Format::Bf16)));
                }
            }
            if plane == 0 {
                keys[cache + (position as usize) * lanes + unit] = vector;
            } else {
                values[cache + (position as usize) * lanes + unit] = vector;
            }
        }
        sync_storage();
    }

    // Each slot of a plane goes through positions of its own.
    let lane = unit % lanes;
    let slot = unit / lanes;
    let mut query = Array::<f32>::new(comptime!(group * per));
    let mut sums = Array::<f32>::new(comptime!(group * per));
    let mut most = Array::<f32>::new(group);
    let mut total = Array::<f32>::new(group);
    #[unroll]
    for head in 0..group {
        most[head] = f32::new(-1e30);
        total[head] = 0.0f32;
        #[unroll]
        for i in 0..per {
            query[head * per + i] = turned_q[head * head_dim + lane * per + i];
            sums[head * per + i] = 0.0f32;
        }
    }
    let stride = comptime!((8 * slots) as u32);
    let mut at = begin;
    while at < end {
        let here = at + (plane * slots + slot) as u32;
        let place = cache + (min(here, position) as usize) * lanes + lane;
        let key = keys[place];
        let value = values[place];
        #[unroll]
        for head in 0..group {
            let mut score = 0.0f32;
            #[unroll]
            for i in 0..per {
                score += query[head * per + i] * element(key, i, format);
            }
            #[unroll]
            for bit in 0..5usize {
                if comptime!(1usize << bit < lanes) {
                    score += plane_shuffle_xor(score, comptime!(1u32 << bit as u32));
                }
            }
            if here < end {
                let higher = max(most[head], score);
                let keep = (most[head] - higher).exp();
                let weight = (score - higher).exp();
                most[head] = higher;
                total[head] = total[head] * keep + weight;
                #[unroll]
                for i in 0..per {
                    sums[head * per + i] = sums[head * per + i] * keep + weight * element(value, i, format);
                }
            }
        }
        at += stride;
    }

    // Slots of a plane, then planes of the cube.
    let mut plane_most = Shared::<[f32]>::new_slice(comptime!(8 * group));
    let mut plane_total = Shared::<[f32]>::new_slice(comptime!(8 * group));
    let mut plane_sums = Shared::<[f32]>::new_slice(comptime!(8 * group * head_dim));
    #[unroll]
    for head in 0..group {
        let mut higher = most[head];
        #[unroll]
        for bit in 0..5usize {
            if comptime!(1usize << bit >= lanes) {
                higher = max(higher, plane_shuffle_xor(higher, comptime!(1u32 << bit as u32)));
            }
        }
        let keep = (most[head] - higher).exp();
        let mut sum = total[head] * keep;
        #[unroll]
        for bit in 0..5usize {
            if comptime!(1usize << bit >= lanes) {
                sum += plane_shuffle_xor(sum, comptime!(1u32 << bit as u32));
            }
        }
        if unit == 0 {
            plane_most[plane * group + head] = higher;
            plane_total[plane * group + head] = sum;
        }
        #[unroll]
        for i in 0..per {
            let mut value = sums[head * per + i] * keep;
            #[unroll]
            for bit in 0..5usize {
                if comptime!(1usize << bit >= lanes) {
                    value += plane_shuffle_xor(value, comptime!(1u32 << bit as u32));
                }
            }
            if slot == 0 {
                plane_sums[(plane * group + head) * head_dim + lane * per + i] = value;
            }
        }
    }
    sync_cube();

    let record = comptime!(head_dim + 2);
    let mut element = UNIT_POS as usize;
    while element < comptime!(group * head_dim) {
        let head = element / head_dim;
        let within = element % head_dim;
        let mut higher = plane_most[head];
        #[unroll]
        for other in 1..8usize {
            higher = max(higher, plane_most[other * group + head]);
        }
        let mut sum = 0.0f32;
        let mut all = 0.0f32;
        #[unroll]
        for other in 0..8usize {
            let keep = (plane_most[other * group + head] - higher).exp();
            sum += plane_sums[(other * group + head) * head_dim + within] * keep;
            all += plane_total[other * group + head] * keep;
        }
        let query_head = (sequence * (heads as u32) + first_head) as usize + head;
        if comptime!(splits == 1) {
            out[query_head * head_dim + within] = E::cast_from(sum / all);
        } else {
            let to = (query_head * splits + split as usize) * record;
            partial[to + within] = sum;
            if within == 0 {
                partial[to + head_dim] = higher;
                partial[to + head_dim + 1] = all;
            }
        }
        element += 256usize;
    }

    if comptime!(splits > 1) {
        let mut last = Shared::<[u32]>::new_slice(1usize);
        let ticket = (sequence * (groups as u32) + CUBE_POS_Y) as usize;
        sync_storage();
        if UNIT_POS == 0 {
            last[0] = tickets[ticket].fetch_add(1u32);
        }
        sync_cube();
        if last[0] == comptime!(splits as u32 - 1) {
            sync_storage();
            let mut element = UNIT_POS as usize;
            while element < comptime!(group * head_dim) {
                let head = element / head_dim;
                let within = element % head_dim;
                let query_head = (sequence * (heads as u32) + first_head) as usize + head;
                let from = query_head * splits * record;
                let mut higher = f32::new(-1e30);
                #[unroll]
                for other in 0..splits {
                    higher = max(higher, partial[from + other * record + head_dim]);
                }
                let mut sum = 0.0f32;
                let mut all = 0.0f32;
                #[unroll]
                for other in 0..splits {
                    let keep = (partial[from + other * record + head_dim] - higher).exp();
                    sum += partial[from + other * record + within] * keep;
                    all += partial[from + other * record + head_dim + 1] * keep;
                }
                out[query_head * head_dim + within] = E::cast_from(sum / all);
                element += 256usize;
            }
            if UNIT_POS == 0 {
                tickets[ticket].store(0u32);
            }
        }
    }
}

/// Attention of any number of new positions and any head size up to 256: one plane a query, slow.
///
/// Cubes of eight planes over `rows * heads` queries. `q` and `out` are `[rows, heads, head_dim]`, a sequence's `len` rows one
/// behind the other, keys and values in the cache already.
#[cube(launch_unchecked)]
pub(crate) fn attend_any<E: Float>(
    q: &[E],
    control: &[u32],
    keys: &[E],
    values: &[E],
    out: &mut [E],
    queries: u32,
    len: u32,
    capacity: u32,
    start: u32,
    window: u32,
    scale: f32,
    #[comptime] heads: usize,
    #[comptime] kv_heads: usize,
    #[comptime] head_dim: usize,
    #[comptime] stepping: bool,
) {
    follow();
    let parts = comptime!(head_dim.div_ceil(32));
    let query = CUBE_POS_X * 8 + PLANE_POS;
    if query < queries {
        let head = query % (heads as u32);
        let row = query / (heads as u32);
        let sequence = row / len;
        let mut position = start + row % len;
        if comptime!(stepping) {
            position = control[0];
        }
        let kv_head = head / (comptime!(heads / kv_heads) as u32);
        let cache = ((sequence * (kv_heads as u32) + kv_head) as usize) * (capacity as usize) * head_dim;
        let place = (query as usize) * head_dim;
        let mut from = 0u32;
        if position >= window {
            from = position + 1 - window;
        }
        let mut sums = Array::<f32>::new(parts);
        #[unroll]
        for part in 0..parts {
            sums[part] = 0.0f32;
        }
        let mut most = f32::new(-1e30);
        let mut total = 0.0f32;
        // A unit scores a position of its own; then all units go through the 32 of them together.
        while from <= position {
            let here = from + UNIT_POS_PLANE;
            let mut score = f32::new(-1e30);
            if here <= position {
                let key = cache + (here as usize) * head_dim;
                let mut sum = 0.0f32;
                let mut at = 0usize;
                while at < head_dim {
                    sum += f32::cast_from(q[place + at]) * f32::cast_from(keys[key + at]);
                    at += 1usize;
                }
                score = sum * scale;
            }
            let higher = max(most, plane_max(score));
            let keep = (most - higher).exp();
            let mut weight = 0.0f32;
            if here <= position {
                weight = (score - higher).exp();
            }
            most = higher;
            total = total * keep + plane_sum(weight);
            #[unroll]
            for part in 0..parts {
                sums[part] *= keep;
            }
            let count = min(position + 1 - from, 32u32);
            let mut other = 0u32;
            while other < count {
                let share = plane_shuffle(weight, other);
                let value = cache + ((from + other) as usize) * head_dim;
                #[unroll]
                for part in 0..parts {
                    let at = part * 32 + UNIT_POS_PLANE as usize;
                    if at < head_dim {
                        sums[part] += share * f32::cast_from(values[value + at]);
                    }
                }
                other += 1u32;
            }
            from += 32u32;
        }
        #[unroll]
        for part in 0..parts {
            let at = part * 32 + UNIT_POS_PLANE as usize;
            if at < head_dim {
                out[place + at] = E::cast_from(sums[part] / total);
            }
        }
    }
}
