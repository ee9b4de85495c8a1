//! What lies between the products: embedding, norms, rotation, picking a token.

use cubecl::prelude::*;

use super::words::follow;

/// Units of the kernels here.
pub(crate) const UNITS: u32 = 256;

/// Sum over the cube's units, given to all of them. `scratch` has an element a plane.
#[cube]
pub(super) fn cube_sum(value: f32, scratch: &mut Shared<[f32]>, #[comptime] planes: usize) -> f32 {
    let sum = plane_sum(value);
    sync_cube();
    if UNIT_POS_PLANE == 0 {
        scratch[PLANE_POS as usize] = sum;
    }
    sync_cube();
    let mut all = 0.0f32;
    #[unroll]
    for plane in 0..planes {
        all += scratch[plane];
    }
    all
}

/// One cube a row: the token's embedding, and its position's where positions are learned.
#[cube(launch_unchecked)]
pub(crate) fn embed<E: Float>(
    tokens: &[u32],
    table: &[E],
    positions: &[E],
    control: &[u32],
    x: &mut [f32],
    first_token: u32,
    len: u32,
    width: u32,
    start: u32,
    #[comptime] learned: bool,
    #[comptime] stepping: bool,
) {
    follow();
    let row = CUBE_POS_X;
    let token = tokens[(first_token + row) as usize];
    let mut position = start + row % len;
    if comptime!(stepping) {
        position = control[0];
    }
    let mut at = UNIT_POS;
    while at < width {
        let mut value = f32::cast_from(table[(token as usize) * (width as usize) + at as usize]);
        if comptime!(learned) {
            value += f32::cast_from(positions[(position as usize) * (width as usize) + at as usize]);
        }
        x[(row * width + at) as usize] = value;
        at += CUBE_DIM_X;
    }
}

/// One cube a row: `out = norm(x) * gain (+ shift)`.
#[cube(launch_unchecked)]
pub(crate) fn norm<E: Float>(x: &[f32], gain: &[f32], shift: &[f32], out: &mut [E], width: u32, eps: f32, #[comptime] layer: bool) {
    follow();
    let mut scratch = Shared::<[f32]>::new_slice(8usize);
    let row = (CUBE_POS_X * width) as usize;
    let mut mean = 0.0f32;
    if comptime!(layer) {
        let mut sum = 0.0f32;
        let mut at = UNIT_POS;
        while at < width {
            sum += x[row + at as usize];
            at += CUBE_DIM_X;
        }
        mean = cube_sum(sum, &mut scratch, 8usize) / f32::cast_from(width);
    }
    let mut squares = 0.0f32;
    let mut at = UNIT_POS;
    while at < width {
        let value = x[row + at as usize] - mean;
        squares += value * value;
        at += CUBE_DIM_X;
    }
    let variance = cube_sum(squares, &mut scratch, 8usize) / f32::cast_from(width);
    let factor = f32::new(1.0) / (variance + eps).sqrt();
    let mut at = UNIT_POS;
    while at < width {
        let mut value = (x[row + at as usize] - mean) * factor * gain[at as usize];
        if comptime!(layer) {
            value += shift[at as usize];
        }
        out[row + at as usize] = E::cast_from(value);
        at += CUBE_DIM_X;
    }
}

/// Both numbers of a pair, turned by their position's angle.
#[cube]
pub(super) fn turned(low: f32, high: f32, pair: u32, position: u32, frequencies: &[f32], #[comptime] rotate: bool) -> (f32, f32) {
    if comptime!(rotate) {
        let angle = f32::cast_from(position) * frequencies[pair as usize];
        let (sin, cos) = (angle.sin(), angle.cos());
        (low * cos - high * sin, high * cos + low * sin)
    } else {
        (low, high)
    }
}

/// One cube a row: rotated queries to `q`, rotated keys and values to the cache.
///
/// `qkv` is `[rows, (heads + 2 kv_heads) head_dim]`, `q` is `[rows, heads, head_dim]`, a cache is
/// `[batch, kv_heads, capacity, head_dim]`.
#[cube(launch_unchecked)]
pub(crate) fn rotate_append<E: Float>(
    qkv: &[f32],
    frequencies: &[f32],
    q_gain: &[f32],
    k_gain: &[f32],
    control: &[u32],
    q: &mut [E],
    keys: &mut [E],
    values: &mut [E],
    len: u32,
    capacity: u32,
    start: u32,
    eps: f32,
    #[comptime] heads: u32,
    #[comptime] kv_heads: u32,
    #[comptime] head_dim: u32,
    #[comptime] rotate: bool,
    #[comptime] normed: bool,
    #[comptime] stepping: bool,
) {
    follow();
    let half = comptime!(head_dim / 2);
    let all = comptime!(heads + 2 * kv_heads);
    let row = CUBE_POS_X;
    let sequence = row / len;
    let mut position = start + row % len;
    if comptime!(stepping) {
        position = control[0];
    }
    let mut head = PLANE_POS;
    while head < all {
        let from = (row * all + head) * head_dim;
        if head >= comptime!(heads + kv_heads) {
            let to = ((sequence * kv_heads + head - comptime!(heads + kv_heads)) * capacity + position) * head_dim;
            let mut at = UNIT_POS_PLANE;
            while at < head_dim {
                values[(to + at) as usize] = E::cast_from(qkv[(from + at) as usize]);
                at += 32u32;
            }
        } else {
            let mut factor = f32::new(1.0);
            if comptime!(normed) {
                let mut squares = 0.0f32;
                let mut at = UNIT_POS_PLANE;
                while at < head_dim {
                    let value = qkv[(from + at) as usize];
                    squares += value * value;
                    at += 32u32;
                }
                factor = f32::new(1.0) / (plane_sum(squares) / f32::cast_from(head_dim) + eps).sqrt();
            }
            let mut pair = UNIT_POS_PLANE;
            while pair < half {
                let mut low = qkv[(from + pair) as usize];
                let mut high = qkv[(from + pair + half) as usize];
                if comptime!(normed) {
                    if head < heads {
                        low *= factor * q_gain[pair as usize];
                        high *= factor * q_gain[(pair + half) as usize];
                    } else {
                        low *= factor * k_gain[pair as usize];
                        high *= factor * k_gain[(pair + half) as usize];
                    }
                }
                let (low, high) = turned(low, high, pair, position, frequencies, rotate);
                if head < heads {
                    let to = (row * heads + head) * head_dim + pair;
                    q[to as usize] = E::cast_from(low);
                    q[(to + half) as usize] = E::cast_from(high);
                } else {
                    let to = ((sequence * kv_heads + head - heads) * capacity + position) * head_dim + pair;
                    keys[to as usize] = E::cast_from(low);
                    keys[(to + half) as usize] = E::cast_from(high);
                }
                pair += 32u32;
            }
        }
        head += 8u32;
    }
}

/// One cube a sequence: the last of its `len` rows.
#[cube(launch_unchecked)]
pub(crate) fn last_rows(from: &[f32], to: &mut [f32], len: u32, width: u32) {
    follow();
    let row = (CUBE_POS_X + 1) * len - 1;
    let mut at = UNIT_POS;
    while at < width {
        to[(CUBE_POS_X * width + at) as usize] = from[(row * width + at) as usize];
        at += CUBE_DIM_X;
    }
}

/// Whether one score beats another: higher, or equal and of a lower token.
#[cube]
fn beats(score: f32, token: u32, best: f32, best_token: u32) -> bool {
    score > best || (score == best && token < best_token)
}

/// The highest-scored token of a plane's units; ties go to the lowest.
#[cube]
fn plane_best(score: f32, token: u32) -> (f32, u32) {
    let mut best = score;
    let mut best_token = token;
    #[unroll]
    for bit in 0..5u32 {
        let mask = comptime!(1u32 << bit);
        let other = plane_shuffle_xor(best, mask);
        let other_token = plane_shuffle_xor(best_token, mask);
        if beats(other, other_token, best, best_token) {
            best = other;
            best_token = other_token;
        }
    }
    (best, best_token)
}

/// Cubes `(blocks, batch)`: the highest-scored token of each sequence goes to the control's tokens and to `picked`; then the
/// position and the index in the control move on.
///
/// The last cube to come does the end for all. `control` is position, index, nothing, nothing, tokens.
#[cube(launch_unchecked)]
pub(crate) fn pick(
    scores: &[f32],
    best: &mut [f32],
    best_tokens: &mut [u32],
    ticket: &mut [Atomic<u32>],
    control: &mut [u32],
    picked: &mut [u32],
    vocab: u32,
    batch: u32,
    #[comptime] blocks: u32,
) {
    follow();
    let mut plane_scores = Shared::<[f32]>::new_slice(8usize);
    let mut plane_tokens = Shared::<[u32]>::new_slice(8usize);
    let mut last = Shared::<[u32]>::new_slice(1usize);
    let row = CUBE_POS_Y;
    let mut score = f32::new(f32::NEG_INFINITY);
    let mut token = 0xffff_ffffu32;
    let mut at = CUBE_POS_X * CUBE_DIM_X + UNIT_POS;
    while at < vocab {
        let value = scores[(row as usize) * (vocab as usize) + at as usize];
        if beats(value, at, score, token) {
            score = value;
            token = at;
        }
        at += blocks * CUBE_DIM_X;
    }
    let (score, token) = plane_best(score, token);
    if UNIT_POS_PLANE == 0 {
        plane_scores[PLANE_POS as usize] = score;
        plane_tokens[PLANE_POS as usize] = token;
    }
    sync_cube();
    if UNIT_POS == 0 {
        let mut score = plane_scores[0];
        let mut token = plane_tokens[0];
        #[unroll]
        for plane in 1..8usize {
            if beats(plane_scores[plane], plane_tokens[plane], score, token) {
                score = plane_scores[plane];
                token = plane_tokens[plane];
            }
        }
        best[(row * blocks + CUBE_POS_X) as usize] = score;
        best_tokens[(row * blocks + CUBE_POS_X) as usize] = token;
    }
    sync_storage();
    if UNIT_POS == 0 {
        last[0] = ticket[0].fetch_add(1u32);
    }
    sync_cube();
    if last[0] == blocks * batch - 1 {
        sync_storage();
        let index = control[1];
        let mut sequence = PLANE_POS;
        while sequence < batch {
            let mut score = f32::new(f32::NEG_INFINITY);
            let mut token = 0xffff_ffffu32;
            let mut block = UNIT_POS_PLANE;
            while block < blocks {
                let (other, other_token) = (best[(sequence * blocks + block) as usize], best_tokens[(sequence * blocks + block) as usize]);
                if beats(other, other_token, score, token) {
                    score = other;
                    token = other_token;
                }
                block += 32u32;
            }
            let (_, mut token) = plane_best(score, token);
            // No score beats a row of NaN, and the next step looks the token up.
            if token == 0xffff_ffffu32 {
                token = 0u32;
            }
            if UNIT_POS_PLANE == 0 {
                control[(4 + sequence) as usize] = token;
                picked[(index * batch + sequence) as usize] = token;
            }
            sequence += 8u32;
        }
        sync_cube();
        if UNIT_POS == 0 {
            ticket[0].store(0u32);
            control[0] += 1u32;
            control[1] = index + 1u32;
        }
    }
}
