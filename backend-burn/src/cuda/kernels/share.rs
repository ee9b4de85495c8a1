//! A product of few rows on `wgmma`: weights stream through shared memory, and so does the input, once a cube.
//!
//! Several cubes share an output's k. Each leaves its sums, and the last to come adds them, always in the same order.

use cubecl::prelude::*;

use super::{
    few::finish_two,
    finish::Finish,
    warpgroup::{DEEP, declare_sums, describe, fetch, multiply, show_copies, sum, swizzled, wait_products, weight_row},
    words::{commit_copies, follow, wait_copies},
};

/// What is fixed when the kernel is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Part {
    pub(crate) bf16: bool,
    /// Rows of `x`, a multiple of eight.
    pub(crate) rows: usize,
    /// Groups of four planes, each with 64 outputs.
    pub(crate) groups: usize,
    /// Cubes that share an output's k.
    pub(crate) shares: usize,
    pub(crate) biased: bool,
    pub(crate) finish: Finish,
}

impl Part {
    /// How a product of `outputs` sums a row, over `k`, is cut for a device with so many processors: each takes two cubes.
    pub(crate) fn cut(outputs: usize, k: usize, processors: usize) -> (usize, usize) {
        let groups = if outputs.div_ceil(128) * 10 >= processors * 9 { 2 } else { 1 };
        let tiles = outputs.div_ceil(64 * groups);
        (groups, (2 * processors / tiles.max(1)).clamp(1, (k / 128).max(1)))
    }

    /// Bytes of a cube's sums, all shares' of all tiles together.
    pub(crate) const fn partial(outputs: usize, groups: usize, shares: usize, rows: usize) -> usize {
        if shares == 1 { 0 } else { outputs.next_multiple_of(64 * groups) * shares * rows * 4 }
    }

    /// Stages of shared memory, so that two cubes fit a processor.
    const fn stages(&self) -> usize {
        if self.groups == 1 { 6 } else { 4 }
    }

    pub(crate) const fn units(&self) -> u32 {
        // One or two groups.
        if self.groups == 1 { 128 } else { 256 }
    }
}

/// `x · weightsᵀ` for up to `part.rows` rows: `weights` is `[n, k]` (`[2 n, k]` where gated), `x` `[rows, k]`, k a multiple of 64, in
/// vectors of eight.
///
/// Cubes `(ceil(outputs / (64 groups)), shares)`. `partial` has a sum of each unit's in every cube, `tickets` a zero for every tile.
#[cube(launch_unchecked)]
pub(crate) fn share<E: Float>(
    weights: &[Vector<u32, Const<4>>],
    x: &[Vector<u32, Const<4>>],
    bias: &[f32],
    wide: &mut [f32],
    narrow: &mut [E],
    partial: &mut [f32],
    tickets: &mut [Atomic<u32>],
    n: u32,
    vectors: u32,
    rows: u32,
    #[comptime] part: Part,
) {
    let Part { bf16, groups, shares, biased, finish, .. } = comptime!(part);
    let columns = comptime!(part.rows);
    let gated = comptime!(finish.is_gated());
    let height = comptime!(groups * 64);
    let units = comptime!(part.units() as usize);
    // Rows that a pass of the cube's units copies.
    let pass = comptime!(groups * 16);
    let passes = comptime!(part.rows.div_ceil(groups * 16));
    let sums = comptime!(part.rows / 2);
    // Of the stages one is read by the products of now, and one maybe still by those before.
    let stages = comptime!(part.stages());
    let ahead = comptime!(part.stages() - 2);
    declare_sums(sums);

    let mut left = Shared::<[Vector<u32, Const<4>>]>::new_aligned_slice(comptime!(part.stages() * groups * 64 * DEEP), 1024usize);
    let mut right = Shared::<[Vector<u32, Const<4>>]>::new_aligned_slice(comptime!(part.stages() * part.rows * DEEP), 1024usize);
    let copy_row = UNIT_POS / 8;
    let copy_at = UNIT_POS % 8;
    let first = CUBE_POS_X * comptime!(groups as u32 * 64);

    // Shares differ by a step at most.
    let all = vectors / 8;
    let begin = CUBE_POS_Y * all / comptime!(shares as u32);
    let steps = ((CUBE_POS_Y + 1) * all / comptime!(shares as u32) - begin) as usize;
    let mut from_weights = Array::<usize>::new(4usize);
    #[unroll]
    for i in 0..4usize {
        let row = weight_row(first + copy_row + comptime!((i * groups * 16) as u32), n, gated);
        from_weights[i] = (row * vectors + begin * 8 + copy_at) as usize;
    }
    let mut from_x = Array::<usize>::new(passes);
    #[unroll]
    for i in 0..passes {
        // Rows beyond the last read it again, and nothing is stored for them.
        let row = min(copy_row + comptime!((i * groups * 16) as u32), rows - 1);
        from_x[i] = (row * vectors + begin * 8 + copy_at) as usize;
    }
    let to = swizzled(copy_row, copy_at);

    // Weights depend on no kernel, so the first are asked for before the one in front has ended.
    #[unroll]
    for stage in 0..ahead {
        if stage < steps {
            #[unroll]
            for i in 0..4usize {
                fetch(
                    weights,
                    from_weights[i] + comptime!(stage * DEEP),
                    &mut left,
                    to + comptime!((stage * groups * 64 + i * groups * 16) * DEEP),
                );
            }
        }
    }
    follow();
    #[unroll]
    for stage in 0..ahead {
        if stage < steps {
            #[unroll]
            for i in 0..passes {
                if copy_row + comptime!((i * groups * 16) as u32) < columns as u32 {
                    fetch(x, from_x[i] + comptime!(stage * DEEP), &mut right, to + comptime!((stage * part.rows + i * groups * 16) * DEEP));
                }
            }
        }
        commit_copies();
    }

    let a = describe(&left, ((PLANE_POS / 4) as usize) * comptime!(64 * DEEP));
    let b = describe(&right, 0usize);
    let mut step = 0usize;
    while step < steps {
        wait_copies(comptime!(ahead - 1));
        show_copies();
        sync_cube();
        let stage = step % stages;
        multiply(a + (stage * height * DEEP) as u64, b + (stage * columns * DEEP) as u64, columns, bf16);
        let next = step + ahead;
        if next < steps {
            let stage = next % stages;
            #[unroll]
            for i in 0..4usize {
                fetch(weights, from_weights[i] + next * DEEP, &mut left, to + (stage * height + i * pass) * DEEP);
            }
            #[unroll]
            for i in 0..passes {
                if copy_row + comptime!((i * groups * 16) as u32) < columns as u32 {
                    fetch(x, from_x[i] + next * DEEP, &mut right, to + (stage * columns + i * pass) * DEEP);
                }
            }
        }
        commit_copies();
        // What the stage after the next is copied into is then read no more.
        wait_products(1usize);
        step += 1usize;
    }
    wait_products(0usize);

    let mut acc = Array::<f32>::new(sums);
    #[unroll]
    for i in 0..sums {
        acc[i] = sum(i);
    }
    let mut mine = true;
    if comptime!(shares > 1) {
        let tile = CUBE_POS_X as usize;
        let unit = UNIT_POS as usize;
        let base = tile * shares;
        #[unroll]
        for i in 0..sums {
            partial[((base + CUBE_POS_Y as usize) * sums + i) * units + unit] = acc[i];
        }
        let mut last = Shared::<[u32]>::new_slice(1usize);
        sync_storage();
        sync_cube();
        if UNIT_POS == 0 {
            last[0] = tickets[tile].fetch_add(1u32);
        }
        sync_cube();
        mine = last[0] == comptime!(shares as u32 - 1);
        if mine {
            sync_storage();
            #[unroll]
            for i in 0..sums {
                acc[i] = 0.0f32;
            }
            for other in 0..shares {
                #[unroll]
                for i in 0..sums {
                    acc[i] += partial[((base + other) * sums + i) * units + unit];
                }
            }
            if UNIT_POS == 0 {
                tickets[tile].store(0u32);
            }
        }
    }

    if mine {
        let plane_row = first + PLANE_POS * 16;
        let mut base = plane_row;
        if comptime!(gated) {
            base = plane_row / 2;
        }
        let column = base + UNIT_POS_PLANE / 4;
        #[unroll]
        for tile in 0..comptime!(part.rows / 8) {
            #[unroll]
            for i in 0..2usize {
                let row = comptime!(tile as u32 * 8 + i as u32) + UNIT_POS_PLANE % 4 * 2;
                if row < rows && column < n {
                    finish_two::<E>(bias, wide, narrow, acc[tile * 4 + i], acc[tile * 4 + i + 2], row, column, n, gated, biased, finish);
                }
            }
        }
    }
}
