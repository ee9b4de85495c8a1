//! A product of few rows at memory bandwidth: 16-bit weights go from memory straight into tensor cores' registers.
//!
//! The tensor core's inner index may be any order of k, as long as both sides have the same: a unit's 16 bytes of a weight
//! row feed two instructions, and so do 16 bytes of `x` at the same place.

use cubecl::prelude::*;

use super::{
    finish::{Finish, activate},
    rows::cube_sum,
    words::{follow, high, low, mma, pack, stream, vec2, vec4},
};

/// What is fixed when the kernel is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    pub(crate) bf16: bool,
    /// Groups of eight rows of `x`.
    pub(crate) tiles: usize,
    /// Planes that share an output's k.
    pub(crate) shares: usize,
    /// Steps of 32 k in flight; divides a share's steps.
    pub(crate) unroll: usize,
    /// Words of `x`'s one row that is normed here; 0 takes `x` as it is.
    pub(crate) normed: usize,
    pub(crate) layer: bool,
    pub(crate) biased: bool,
    pub(crate) finish: Finish,
}

/// `x · weightsᵀ` for up to `8 tiles` rows.
///
/// `weights` is `[n, k]` (`[2 n, k]` where gated) and `x` `[rows, k]`, each eight to a vector; with `normed` the input is
/// `raw`, f32. Cubes of eight planes, each with `8 / shares` times 16 outputs (8 where gated).
#[cube(launch_unchecked)]
pub(crate) fn few<E: Float>(
    weights: &[Vector<u32, Const<4>>],
    x: &[Vector<u32, Const<4>>],
    raw: &[f32],
    gain: &[f32],
    shift: &[f32],
    bias: &[f32],
    wide: &mut [f32],
    narrow: &mut [E],
    n: u32,
    vectors: u32,
    rows: u32,
    eps: f32,
    #[comptime] shape: Shape,
) {
    let Shape { bf16, tiles, shares, unroll, normed, biased, finish, .. } = comptime!(shape);
    let gated = comptime!(finish.is_gated());
    let height = comptime!(if finish.is_gated() { 8u32 } else { 16u32 });
    let planes = comptime!(8u32 / shares as u32);
    let sums = comptime!(tiles * 4);

    let plane = PLANE_POS;
    let share = plane % (shares as u32);
    let group = UNIT_POS_PLANE / 4;
    let lane = UNIT_POS_PLANE % 4;
    let tile = CUBE_POS_X * planes + plane / (shares as u32);
    let base = tile * height;

    // Rows beyond the last read it again, and nothing is stored for them.
    let upper = min(base + group, n - 1);
    let mut lower = min(base + group + 8, n - 1);
    if comptime!(gated) {
        lower = n + upper;
    }
    let upper = (upper as usize) * (vectors as usize) + lane as usize;
    let lower = (lower as usize) * (vectors as usize) + lane as usize;

    // Four vectors are 32 k. Weights depend on no kernel, so the first are asked for before the one in front has ended.
    let steps = vectors / 4 / (shares as u32);
    let mut step = share * steps;
    let end = step + steps;
    let mut a = Array::<Vector<u32, Const<4>>>::new(unroll);
    let mut b = Array::<Vector<u32, Const<4>>>::new(unroll);
    #[unroll]
    for i in 0..unroll {
        let at = ((step + i as u32) * 4) as usize;
        a[i] = stream(weights, upper + at);
        b[i] = stream(weights, lower + at);
    }
    follow();

    let mut input = Shared::<[Vector<u32, Const<4>>]>::new_slice(comptime!(if normed > 0 { normed / 4 } else { 1 }));
    if comptime!(normed > 0) {
        norm_row(raw, gain, shift, &mut input, vectors, eps, comptime!(shape));
    }

    let mut acc = Array::<Vector<f32, Const<4>>>::new(tiles);
    #[unroll]
    for tile in 0..tiles {
        acc[tile] = Vector::<f32, Const<4>>::new(0.0f32);
    }
    while step < end {
        let mut next_a = Array::<Vector<u32, Const<4>>>::new(unroll);
        let mut next_b = Array::<Vector<u32, Const<4>>>::new(unroll);
        if step + (unroll as u32) < end {
            #[unroll]
            for i in 0..unroll {
                let at = ((step + comptime!(unroll as u32 + i as u32)) * 4) as usize;
                next_a[i] = stream(weights, upper + at);
                next_b[i] = stream(weights, lower + at);
            }
        }
        #[unroll]
        for i in 0..unroll {
            let at = (step + i as u32) * 4 + lane;
            let first = vec4(a[i].extract(0usize), b[i].extract(0usize), a[i].extract(1usize), b[i].extract(1usize));
            let second = vec4(a[i].extract(2usize), b[i].extract(2usize), a[i].extract(3usize), b[i].extract(3usize));
            #[unroll]
            for tile in 0..tiles {
                let mut column = input[0];
                if comptime!(normed > 0) {
                    column = input[at as usize];
                } else {
                    let row = min((tile as u32) * 8 + group, rows - 1);
                    column = x[(row as usize) * (vectors as usize) + at as usize];
                }
                let sum = mma(first, vec2(column.extract(0usize), column.extract(1usize)), acc[tile], bf16);
                acc[tile] = mma(second, vec2(column.extract(2usize), column.extract(3usize)), sum, bf16);
            }
        }
        #[unroll]
        for i in 0..unroll {
            a[i] = next_a[i];
            b[i] = next_b[i];
        }
        step += unroll as u32;
    }

    if comptime!(shares > 1) {
        let mut partial = Shared::<[f32]>::new_slice(comptime!(8 * 32 * sums));
        #[unroll]
        for tile in 0..tiles {
            #[unroll]
            for i in 0..4usize {
                partial[((plane as usize) * sums + tile * 4 + i) * 32 + UNIT_POS_PLANE as usize] = acc[tile].extract(i);
            }
        }
        sync_cube();
        if share == 0 {
            #[unroll]
            for tile in 0..tiles {
                let mut all = Vector::<f32, Const<4>>::empty();
                #[unroll]
                for i in 0..4usize {
                    let mut sum = acc[tile].extract(i);
                    #[unroll]
                    for other in 1..shares {
                        sum += partial[((plane as usize + other) * sums + tile * 4 + i) * 32 + UNIT_POS_PLANE as usize];
                    }
                    all.insert(i, sum);
                }
                acc[tile] = all;
            }
        }
    }

    if share == 0 {
        #[unroll]
        for tile in 0..tiles {
            #[unroll]
            for i in 0..2usize {
                let row = (tile as u32) * 8 + lane * 2 + i as u32;
                let (first, second) = (acc[tile].extract(i), acc[tile].extract(i + 2));
                let column = base + group;
                if row < rows && column < n {
                    finish_two::<E>(bias, wide, narrow, first, second, row, column, n, gated, biased, finish);
                }
            }
        }
    }
}

/// Stores two sums of one row: of columns `column` and `column + 8`, or of a gate and what it gates.
#[cube]
pub(super) fn finish_two<E: Float>(
    bias: &[f32],
    wide: &mut [f32],
    narrow: &mut [E],
    first: f32,
    second: f32,
    row: u32,
    column: u32,
    n: u32,
    #[comptime] gated: bool,
    #[comptime] biased: bool,
    #[comptime] finish: Finish,
) {
    let place = (row as usize) * (n as usize) + column as usize;
    if comptime!(gated) {
        let mut gate = first;
        let mut up = second;
        if comptime!(biased) {
            gate += bias[column as usize];
            up += bias[(column + n) as usize];
        }
        narrow[place] = E::cast_from(activate(gate, comptime!(finish.activation())) * up);
    } else {
        finish_one::<E>(bias, wide, narrow, first, place, column, biased, finish);
        if column + 8 < n {
            finish_one::<E>(bias, wide, narrow, second, place + 8, column + 8, biased, finish);
        }
    }
}

#[cube]
pub(super) fn finish_one<E: Float>(
    bias: &[f32],
    wide: &mut [f32],
    narrow: &mut [E],
    sum: f32,
    place: usize,
    column: u32,
    #[comptime] biased: bool,
    #[comptime] finish: Finish,
) {
    let mut value = sum;
    if comptime!(biased) {
        value += bias[column as usize];
    }
    if comptime!(finish.is_narrow()) {
        narrow[place] = E::cast_from(activate(value, comptime!(finish.activation())));
    } else if comptime!(finish.adds()) {
        wide[place] += value;
    } else {
        wide[place] = value;
    }
}

/// The norm of one row, as 16-bit words in shared memory. Every cube does it again: that is less than a launch.
#[cube]
fn norm_row(
    raw: &[f32],
    gain: &[f32],
    shift: &[f32],
    input: &mut Shared<[Vector<u32, Const<4>>]>,
    vectors: u32,
    eps: f32,
    #[comptime] shape: Shape,
) {
    let mut scratch = Shared::<[f32]>::new_slice(8usize);
    let width = vectors * 8;
    let mut mean = 0.0f32;
    if comptime!(shape.layer) {
        let mut sum = 0.0f32;
        let mut at = UNIT_POS;
        while at < width {
            sum += raw[at as usize];
            at += 256u32;
        }
        mean = cube_sum(sum, &mut scratch, 8usize) / f32::cast_from(width);
    }
    let mut squares = 0.0f32;
    let mut at = UNIT_POS;
    while at < width {
        let value = raw[at as usize] - mean;
        squares += value * value;
        at += 256u32;
    }
    let factor = f32::new(1.0) / (cube_sum(squares, &mut scratch, 8usize) / f32::cast_from(width) + eps).sqrt();
    let mut vector = UNIT_POS;
    while vector < vectors {
        let mut words = Vector::<u32, Const<4>>::empty();
        #[unroll]
        for word in 0..4usize {
            let at = (vector * 8) as usize + word * 2;
            let mut first = (raw[at] - mean) * factor * gain[at];
            let mut second = (raw[at + 1] - mean) * factor * gain[at + 1];
            if comptime!(shape.layer) {
                first += shift[at];
                second += shift[at + 1];
            }
            words.insert(word, pack(first, second, comptime!(shape.bf16)));
        }
        input[vector as usize] = words;
        vector += 256u32;
    }
    sync_cube();
}

/// The widest row that [`Shape::normed`] takes: 32 KiB of shared memory.
pub(crate) const MOST_NORMED: usize = 16384;

/// Two 16-bit numbers of a word as f32, for tests of the packing.
#[cube(launch_unchecked)]
pub(crate) fn unpack(words: &[u32], out: &mut [f32], #[comptime] bf16: bool) {
    let at = ABSOLUTE_POS;
    out[at * 2] = low(words[at], bf16);
    out[at * 2 + 1] = high(words[at], bf16);
}
