//! A product of many rows in 16 bits on tensor cores, through four stages of shared memory.

use cubecl::prelude::{barrier::copy_async, *};

use super::{
    few::finish_one,
    finish::{Finish, activate},
    words::{commit_copies, follow, load_matrices, mma, vec2, wait_copies},
};

/// Rows and columns of a cube's tile.
pub(crate) const SIDE: usize = 128;
/// k of a stage, in vectors of eight.
const DEEP: usize = 4;
/// Vectors between rows in shared memory: one more than there are, so that eight rows lie in different banks.
const PITCH: usize = DEEP + 1;
const STAGES: usize = 4;
/// Units of a cube: four planes of 64 x 64 outputs.
pub(crate) const UNITS: u32 = 128;

/// `x · weightsᵀ`: `x` is `[rows, k]`, `weights` `[n, k]` (`[2 n, k]` where gated), k a multiple of 32, in vectors of eight.
///
/// Cubes `(ceil(rows / SIDE), ceil(columns / SIDE))`, where gated columns come in eights: gates, then what they gate.
#[cube(launch_unchecked)]
pub(crate) fn tiles<E: Float>(
    x: &[Vector<u32, Const<4>>],
    weights: &[Vector<u32, Const<4>>],
    bias: &[f32],
    wide: &mut [f32],
    narrow: &mut [E],
    rows: u32,
    n: u32,
    vectors: u32,
    #[comptime] bf16: bool,
    #[comptime] biased: bool,
    #[comptime] finish: Finish,
) {
    follow();
    let gated = comptime!(finish.is_gated());
    let mut left = Shared::<[Vector<u32, Const<4>>]>::new_aligned_slice(comptime!(STAGES * SIDE * PITCH), 16usize);
    let mut right = Shared::<[Vector<u32, Const<4>>]>::new_aligned_slice(comptime!(STAGES * SIDE * PITCH), 16usize);
    let first_row = CUBE_POS_X * comptime!(SIDE as u32);
    let first_column = CUBE_POS_Y * comptime!(SIDE as u32);

    // Each unit copies a vector of every 32nd row. Rows of `x` that are not there are not copied: nothing is stored for them.
    let copy_row = UNIT_POS / 4;
    let copy_at = (UNIT_POS % 4) as usize;
    let mut from_x = Array::<usize>::new(4usize);
    let mut from_weights = Array::<usize>::new(4usize);
    #[unroll]
    for i in 0..4usize {
        let row = copy_row + comptime!(i as u32 * 32);
        from_x[i] = ((first_row + row) as usize) * (vectors as usize) + copy_at;
        let mut column = min(first_column + row, n - 1);
        if comptime!(gated) {
            let all = first_column + row;
            column = min(all / 16 * 8 + all % 8, n - 1) + (all / 8 % 2) * n;
        }
        from_weights[i] = (column as usize) * (vectors as usize) + copy_at;
    }
    let to = (copy_row as usize) * PITCH + copy_at;

    let steps = (vectors as usize) / DEEP;
    #[unroll]
    for stage in 0..comptime!(STAGES - 1) {
        if stage < steps {
            #[unroll]
            for i in 0..4usize {
                let at = comptime!(stage * SIDE * PITCH + i * 32 * PITCH) + to;
                if first_row + copy_row + comptime!(i as u32 * 32) < rows {
                    let source = from_x[i] + comptime!(stage * DEEP);
                    copy_async(&x[source..source + 1], &mut left[at..at + 1], 4u32);
                }
                let source = from_weights[i] + comptime!(stage * DEEP);
                copy_async(&weights[source..source + 1], &mut right[at..at + 1], 4u32);
            }
        }
        commit_copies();
    }

    let plane_row = ((PLANE_POS % 2) * 64) as usize;
    let plane_column = ((PLANE_POS / 2) * 64) as usize;
    let unit = UNIT_POS_PLANE as usize;
    // Rows that this unit names to the matrix loads: 16 rows by 16 k on the left, two times eight columns by 16 k on the right.
    let left_at = (plane_row + unit % 16) * PITCH + unit / 16;
    let right_at = (plane_column + unit % 8 + unit / 16 * 8) * PITCH + unit / 8 % 2;

    let mut acc = Array::<Vector<f32, Const<4>>>::new(32usize);
    #[unroll]
    for i in 0..32usize {
        acc[i] = Vector::<f32, Const<4>>::new(0.0f32);
    }

    let mut step = 0usize;
    while step < steps {
        wait_copies(comptime!(STAGES - 2));
        sync_cube();
        let next = step + comptime!(STAGES - 1);
        if next < steps {
            let stage = next % STAGES;
            #[unroll]
            for i in 0..4usize {
                let at = stage * comptime!(SIDE * PITCH) + comptime!(i * 32 * PITCH) + to;
                if first_row + copy_row + comptime!(i as u32 * 32) < rows {
                    let source = from_x[i] + next * DEEP;
                    copy_async(&x[source..source + 1], &mut left[at..at + 1], 4u32);
                }
                let source = from_weights[i] + next * DEEP;
                copy_async(&weights[source..source + 1], &mut right[at..at + 1], 4u32);
            }
        }
        commit_copies();

        let stage = (step % STAGES) * comptime!(SIDE * PITCH);
        #[unroll]
        for part in 0..2usize {
            let mut a = Array::<Vector<u32, Const<4>>>::new(4usize);
            #[unroll]
            for i in 0..4usize {
                a[i] = load_matrices(&left, stage + left_at + comptime!(i * 16 * PITCH + part * 2), false);
            }
            #[unroll]
            for j in 0..4usize {
                let b = load_matrices(&right, stage + right_at + comptime!(j * 16 * PITCH + part * 2), false);
                #[unroll]
                for i in 0..4usize {
                    acc[i * 8 + j * 2] = mma(a[i], vec2(b.extract(0usize), b.extract(1usize)), acc[i * 8 + j * 2], bf16);
                    acc[i * 8 + j * 2 + 1] = mma(a[i], vec2(b.extract(2usize), b.extract(3usize)), acc[i * 8 + j * 2 + 1], bf16);
                }
            }
        }
        step += 1usize;
    }

    let group = UNIT_POS_PLANE / 4;
    let lane = UNIT_POS_PLANE % 4;
    #[unroll]
    for i in 0..4usize {
        #[unroll]
        for half in 0..2usize {
            let row = first_row + plane_row as u32 + comptime!(i as u32 * 16 + half as u32 * 8) + group;
            if row < rows {
                #[unroll]
                for j in 0..comptime!(if finish.is_gated() { 4usize } else { 8 }) {
                    #[unroll]
                    for k in 0..2usize {
                        let at = comptime!(half * 2 + k);
                        if comptime!(gated) {
                            let column = (first_column + plane_column as u32) / 2 + comptime!(j as u32 * 8 + k as u32) + lane * 2;
                            if column < n {
                                let mut gate = acc[i * 8 + j * 2].extract(at);
                                let mut up = acc[i * 8 + j * 2 + 1].extract(at);
                                if comptime!(biased) {
                                    gate += bias[column as usize];
                                    up += bias[(column + n) as usize];
                                }
                                let place = (row as usize) * (n as usize) + column as usize;
                                narrow[place] = E::cast_from(activate(gate, comptime!(finish.activation())) * up);
                            }
                        } else {
                            let column = first_column + plane_column as u32 + comptime!(j as u32 * 8 + k as u32) + lane * 2;
                            if column < n {
                                let place = (row as usize) * (n as usize) + column as usize;
                                finish_one::<E>(bias, wide, narrow, acc[i * 8 + j].extract(at), place, column, biased, finish);
                            }
                        }
                    }
                }
            }
        }
    }
}
