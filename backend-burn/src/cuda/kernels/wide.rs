//! A product of many rows in 16 bits on `wgmma`, through four stages of shared memory.

use cubecl::prelude::*;

use super::{
    few::finish_one,
    finish::{Finish, activate},
    warpgroup::{DEEP, declare_sums, describe, fetch, multiply, show_copies, sum, swizzled, wait_products, weight_row},
    words::{commit_copies, follow, wait_copies},
};

/// Rows of a cube's tile.
pub(crate) const HEIGHT: usize = 128;
/// Columns that a cube's tile can have.
pub(crate) const WIDTHS: [usize; 2] = [128, 256];
const STAGES: usize = 4;
/// Stages under way: one is read by the products of now, and one maybe still by those before.
const AHEAD: usize = STAGES - 2;
/// Units of a cube: two groups of 64 rows each.
pub(crate) const UNITS: u32 = 256;

/// `x · weightsᵀ`: `x` is `[rows, k]`, `weights` `[n, k]` (`[2 n, k]` where gated), k a multiple of 64, in vectors of eight.
///
/// Cubes `(ceil(rows / HEIGHT), ceil(columns / width))`, where gated columns come in eights: gates, then what they gate.
#[cube(launch_unchecked)]
pub(crate) fn wide_tiles<E: Float>(
    x: &[Vector<u32, Const<4>>],
    weights: &[Vector<u32, Const<4>>],
    bias: &[f32],
    wide: &mut [f32],
    narrow: &mut [E],
    rows: u32,
    n: u32,
    vectors: u32,
    #[comptime] bf16: bool,
    #[comptime] width: usize,
    #[comptime] biased: bool,
    #[comptime] finish: Finish,
) {
    declare_sums(comptime!(width / 2));
    follow();
    let gated = comptime!(finish.is_gated());
    let mut left = Shared::<[Vector<u32, Const<4>>]>::new_aligned_slice(comptime!(STAGES * HEIGHT * DEEP), 1024usize);
    let mut right = Shared::<[Vector<u32, Const<4>>]>::new_aligned_slice(comptime!(STAGES * width * DEEP), 1024usize);
    let first_row = CUBE_POS_X * comptime!(HEIGHT as u32);
    let first_column = CUBE_POS_Y * comptime!(width as u32);

    // Each unit copies a vector of every 32nd row. Rows of `x` that are not there are not copied: nothing is stored for them.
    let copy_row = UNIT_POS / 8;
    let copy_at = UNIT_POS % 8;
    let from_x = ((first_row + copy_row) * vectors + copy_at) as usize;
    let mut from_weights = Array::<usize>::new(comptime!(width / 32));
    #[unroll]
    for i in 0..comptime!(width / 32) {
        let row = weight_row(first_column + copy_row + comptime!(i as u32 * 32), n, gated);
        from_weights[i] = (row * vectors + copy_at) as usize;
    }
    let to = swizzled(copy_row, copy_at);
    let steps = (vectors as usize) / DEEP;

    #[unroll]
    for stage in 0..AHEAD {
        if stage < steps {
            #[unroll]
            for i in 0..comptime!(HEIGHT / 32) {
                if first_row + copy_row + comptime!(i as u32 * 32) < rows {
                    let source = from_x + comptime!(i * 32) * (vectors as usize) + comptime!(stage * DEEP);
                    fetch(x, source, &mut left, to + comptime!((stage * HEIGHT + i * 32) * DEEP));
                }
            }
            #[unroll]
            for i in 0..comptime!(width / 32) {
                fetch(weights, from_weights[i] + comptime!(stage * DEEP), &mut right, to + comptime!((stage * width + i * 32) * DEEP));
            }
        }
        commit_copies();
    }

    let group = (PLANE_POS / 4) as usize;
    let a = describe(&left, group * comptime!(64 * DEEP));
    let b = describe(&right, 0usize);
    let mut step = 0usize;
    while step < steps {
        wait_copies(comptime!(AHEAD - 1));
        show_copies();
        sync_cube();
        let stage = step % STAGES;
        multiply(a + (stage * comptime!(HEIGHT * DEEP)) as u64, b + (stage * comptime!(width * DEEP)) as u64, width, bf16);
        let next = step + AHEAD;
        if next < steps {
            let stage = next % STAGES;
            #[unroll]
            for i in 0..comptime!(HEIGHT / 32) {
                if first_row + copy_row + comptime!(i as u32 * 32) < rows {
                    let source = from_x + comptime!(i * 32) * (vectors as usize) + next * DEEP;
                    fetch(x, source, &mut left, to + stage * comptime!(HEIGHT * DEEP) + comptime!(i * 32 * DEEP));
                }
            }
            #[unroll]
            for i in 0..comptime!(width / 32) {
                fetch(weights, from_weights[i] + next * DEEP, &mut right, to + stage * comptime!(width * DEEP) + comptime!(i * 32 * DEEP));
            }
        }
        commit_copies();
        // What the stage after the next is copied into is then read no more.
        wait_products(1usize);
        step += 1usize;
    }
    wait_products(0usize);

    let lane = UNIT_POS_PLANE % 4;
    #[unroll]
    for half in 0..2usize {
        let row = first_row + PLANE_POS * 16 + UNIT_POS_PLANE / 4 + comptime!(half as u32 * 8);
        if row < rows {
            #[unroll]
            for j in 0..comptime!(if finish.is_gated() { width / 16 } else { width / 8 }) {
                #[unroll]
                for k in 0..2usize {
                    if comptime!(gated) {
                        let column = first_column / 2 + comptime!(j as u32 * 8 + k as u32) + lane * 2;
                        if column < n {
                            let mut gate = sum(comptime!(j * 8 + half * 2 + k));
                            let mut up = sum(comptime!(j * 8 + 4 + half * 2 + k));
                            if comptime!(biased) {
                                gate += bias[column as usize];
                                up += bias[(column + n) as usize];
                            }
                            let place = (row as usize) * (n as usize) + column as usize;
                            narrow[place] = E::cast_from(activate(gate, comptime!(finish.activation())) * up);
                        }
                    } else {
                        let column = first_column + comptime!(j as u32 * 8 + k as u32) + lane * 2;
                        if column < n {
                            let value = sum(comptime!(j * 4 + half * 2 + k));
                            let place = (row as usize) * (n as usize) + column as usize;
                            finish_one::<E>(bias, wide, narrow, value, place, column, biased, finish);
                        }
                    }
                }
            }
        }
    }
}
