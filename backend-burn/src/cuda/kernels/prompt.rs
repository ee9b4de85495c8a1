//! Attention of a prompt in 16 bits on tensor cores: scores never leave the registers, keys and values pass through two stages
//! of shared memory.

use cubecl::prelude::{barrier::copy_async, *};

use super::words::{commit_copies, follow, load_matrices, mma, pack, power, vec2, vec4, wait_copies};

/// Query positions of a cube, and keys of a stage.
pub(crate) const SIDE: usize = 64;
/// Units of a cube: four planes of 16 query positions.
pub(crate) const UNITS: u32 = 128;

/// Head sizes that [`attend_tiles()`] has been tested with.
pub(crate) const HEAD_DIMS: [usize; 2] = [64, 128];

/// Attends with every position of a prompt whose keys and values are in the cache already.
///
/// Cubes `(ceil(len / SIDE), heads, batch)`. `q` and `out` are `[batch, len, heads, head_dim]` in words of two numbers, a cache
/// `[batch, kv_heads, capacity, head_dim]` in vectors of eight. `scale` includes the logarithm of e to base 2.
#[cube(launch_unchecked)]
pub(crate) fn attend_tiles(
    q: &[u32],
    keys: &[Vector<u32, Const<4>>],
    values: &[Vector<u32, Const<4>>],
    out: &mut [u32],
    len: u32,
    capacity: u32,
    start: u32,
    window: u32,
    scale: f32,
    #[comptime] heads: usize,
    #[comptime] kv_heads: usize,
    #[comptime] head_dim: usize,
    #[comptime] bf16: bool,
) {
    follow();
    let wide = comptime!(head_dim / 8);
    let pitch = comptime!(head_dim / 8 + 1);
    let chunks = comptime!(head_dim / 16);
    let mut key_stages = Shared::<[Vector<u32, Const<4>>]>::new_aligned_slice(comptime!(2 * SIDE * (head_dim / 8 + 1)), 16usize);
    let mut value_stages = Shared::<[Vector<u32, Const<4>>]>::new_aligned_slice(comptime!(2 * SIDE * (head_dim / 8 + 1)), 16usize);

    // The cubes with the most keys come first.
    let first = ((len - 1) / comptime!(SIDE as u32) - CUBE_POS_X) * comptime!(SIDE as u32);
    let sequence = CUBE_POS_Z;
    let head = CUBE_POS_Y;
    let kv_head = head / (comptime!(heads / kv_heads) as u32);
    let cache = ((sequence * (kv_heads as u32) + kv_head) as usize) * (capacity as usize) * wide;
    let last = start + min(first + comptime!(SIDE as u32 - 1), len - 1);
    let mut from = 0u32;
    if start + first >= window {
        from = start + first + 1 - window;
    }
    let from = from / comptime!(SIDE as u32);
    let end = last / comptime!(SIDE as u32) + 1;

    let unit = UNIT_POS_PLANE as usize;
    let group = UNIT_POS_PLANE / 4;
    let lane = UNIT_POS_PLANE % 4;
    let upper = first + PLANE_POS * 16 + group;
    let lower = upper + 8;
    let upper_at = ((sequence * len + min(upper, len - 1)) as usize * heads + head as usize) * comptime!(head_dim / 2) + lane as usize;
    let lower_at = ((sequence * len + min(lower, len - 1)) as usize * heads + head as usize) * comptime!(head_dim / 2) + lane as usize;
    let mut query = Array::<Vector<u32, Const<4>>>::new(chunks);
    #[unroll]
    for i in 0..chunks {
        query[i] = vec4(
            q[upper_at + comptime!(i * 8)],
            q[lower_at + comptime!(i * 8)],
            q[upper_at + comptime!(i * 8 + 4)],
            q[lower_at + comptime!(i * 8 + 4)],
        );
    }

    let mut sums = Array::<Vector<f32, Const<4>>>::new(comptime!(head_dim / 8));
    #[unroll]
    for i in 0..comptime!(head_dim / 8) {
        sums[i] = Vector::<f32, Const<4>>::new(0.0f32);
    }
    let mut upper_most = f32::new(-1e30);
    let mut lower_most = f32::new(-1e30);
    let mut upper_total = 0.0f32;
    let mut lower_total = 0.0f32;

    copy_stage(keys, &mut key_stages, cache, from, last, 0usize, head_dim);
    copy_stage(values, &mut value_stages, cache, from, last, 0usize, head_dim);
    commit_copies();
    let mut tile = from;
    while tile < end {
        let stage = ((tile - from) % 2) as usize * comptime!(SIDE * (head_dim / 8 + 1));
        let other = ((tile - from + 1) % 2) as usize * comptime!(SIDE * (head_dim / 8 + 1));
        if tile + 1 < end {
            copy_stage(keys, &mut key_stages, cache, tile + 1, last, other, head_dim);
            copy_stage(values, &mut value_stages, cache, tile + 1, last, other, head_dim);
        }
        commit_copies();
        wait_copies(1usize);
        sync_cube();

        let mut scores = Array::<Vector<f32, Const<4>>>::new(8usize);
        #[unroll]
        for i in 0..8usize {
            scores[i] = Vector::<f32, Const<4>>::new(0.0f32);
        }
        let key_at = stage + (unit % 8 + unit / 16 * 8) * pitch + unit / 8 % 2;
        #[unroll]
        for j in 0..4usize {
            #[unroll]
            for i in 0..chunks {
                let b = load_matrices(&key_stages, key_at + comptime!(j * 16 * (head_dim / 8 + 1) + i * 2), false);
                scores[j * 2] = mma(query[i], vec2(b.extract(0usize), b.extract(1usize)), scores[j * 2], bf16);
                scores[j * 2 + 1] = mma(query[i], vec2(b.extract(2usize), b.extract(3usize)), scores[j * 2 + 1], bf16);
            }
        }

        let mut upper_high = upper_most;
        let mut lower_high = lower_most;
        #[unroll]
        for i in 0..8usize {
            let mut masked = Vector::<f32, Const<4>>::empty();
            #[unroll]
            for k in 0..2usize {
                let key = tile * comptime!(SIDE as u32) + comptime!(i as u32 * 8 + k as u32) + lane * 2;
                let mut above = scores[i].extract(k) * scale;
                let mut below = scores[i].extract(k + 2) * scale;
                if key > start + upper || key + window <= start + upper {
                    above = f32::new(-1e30);
                }
                if key > start + lower || key + window <= start + lower {
                    below = f32::new(-1e30);
                }
                upper_high = max(upper_high, above);
                lower_high = max(lower_high, below);
                masked.insert(k, above);
                masked.insert(k + 2, below);
            }
            scores[i] = masked;
        }
        upper_high = max(upper_high, plane_shuffle_xor(upper_high, 1u32));
        upper_high = max(upper_high, plane_shuffle_xor(upper_high, 2u32));
        lower_high = max(lower_high, plane_shuffle_xor(lower_high, 1u32));
        lower_high = max(lower_high, plane_shuffle_xor(lower_high, 2u32));
        let upper_keep = power(upper_most - upper_high);
        let lower_keep = power(lower_most - lower_high);
        upper_most = upper_high;
        lower_most = lower_high;
        upper_total *= upper_keep;
        lower_total *= lower_keep;
        let mut keep = Vector::<f32, Const<4>>::empty();
        keep.insert(0usize, upper_keep);
        keep.insert(1usize, upper_keep);
        keep.insert(2usize, lower_keep);
        keep.insert(3usize, lower_keep);
        #[unroll]
        for i in 0..comptime!(head_dim / 8) {
            sums[i] = sums[i] * keep;
        }

        let value_at = stage + (unit % 16) * pitch + unit / 16;
        #[unroll]
        for j in 0..4usize {
            let mut weights = Vector::<u32, Const<4>>::empty();
            #[unroll]
            for half in 0..2usize {
                let score = scores[j * 2 + half];
                let (a, b) = (power(score.extract(0usize) - upper_most), power(score.extract(1usize) - upper_most));
                let (c, d) = (power(score.extract(2usize) - lower_most), power(score.extract(3usize) - lower_most));
                upper_total += a + b;
                lower_total += c + d;
                weights.insert(half * 2, pack(a, b, bf16));
                weights.insert(half * 2 + 1, pack(c, d, bf16));
            }
            #[unroll]
            for i in 0..chunks {
                let b = load_matrices(&value_stages, value_at + comptime!(j * 16 * (head_dim / 8 + 1) + i * 2), true);
                sums[i * 2] = mma(weights, vec2(b.extract(0usize), b.extract(1usize)), sums[i * 2], bf16);
                sums[i * 2 + 1] = mma(weights, vec2(b.extract(2usize), b.extract(3usize)), sums[i * 2 + 1], bf16);
            }
        }
        // The next round's copies go where this one has read.
        sync_cube();
        tile += 1u32;
    }

    upper_total += plane_shuffle_xor(upper_total, 1u32);
    upper_total += plane_shuffle_xor(upper_total, 2u32);
    lower_total += plane_shuffle_xor(lower_total, 1u32);
    lower_total += plane_shuffle_xor(lower_total, 2u32);
    #[unroll]
    for i in 0..comptime!(head_dim / 8) {
        let sum = sums[i];
        if upper < len {
            out[upper_at + comptime!(i * 4)] = pack(sum.extract(0usize) / upper_total, sum.extract(1usize) / upper_total, bf16);
        }
        if lower < len {
            out[lower_at + comptime!(i * 4)] = pack(sum.extract(2usize) / lower_total, sum.extract(3usize) / lower_total, bf16);
        }
    }
}

/// Copies the keys or values of a tile to shared memory; those beyond the last are the last again.
#[cube]
fn copy_stage(
    from: &[Vector<u32, Const<4>>],
    to: &mut Shared<[Vector<u32, Const<4>>]>,
    cache: usize,
    tile: u32,
    last: u32,
    stage: usize,
    #[comptime] head_dim: usize,
) {
    let wide = comptime!(head_dim / 8);
    #[unroll]
    for i in 0..comptime!(head_dim / 16) {
        let index = comptime!(i * 128) + UNIT_POS as usize;
        let row = index / wide;
        let within = index % wide;
        let position = min(tile * comptime!(SIDE as u32) + row as u32, last) as usize;
        let source = cache + position * wide + within;
        let target = stage + row * comptime!(head_dim / 8 + 1) + within;
        copy_async(&from[source..source + 1], &mut to[target..target + 1], 4u32);
    }
}
