//! A product of any shape and format, one plane an output: slow, and the reference of the fast ones.

use cubecl::prelude::*;

use super::{
    finish::{Finish, activate},
    words::follow,
};

/// Rows that share one reading of the weights.
pub(crate) const ROWS: usize = 8;

/// `x · weightsᵀ`: `weights` is `[n, k]` (`[2 n, k]` where gated), `x` is `[rows, k]`, sums are f32.
///
/// Cubes `(ceil(n / 8), ceil(rows / ROWS))` of eight planes. `wide` is the output of [`Finish::Store`] and [`Finish::Add`],
/// `narrow` that of the others, both `[rows, n]`.
#[cube(launch_unchecked)]
pub(crate) fn product<E: Float>(
    weights: &[E],
    x: &[E],
    bias: &[f32],
    wide: &mut [f32],
    narrow: &mut [E],
    n: u32,
    k: u32,
    rows: u32,
    #[comptime] finish: Finish,
    #[comptime] biased: bool,
) {
    follow();
    let gated = comptime!(finish.is_gated());
    let column = CUBE_POS_X * 8 + PLANE_POS;
    let first = CUBE_POS_Y * 8;
    if column < n {
        let mut sums = Array::<f32>::new(8usize);
        let mut gates = Array::<f32>::new(8usize);
        #[unroll]
        for row in 0..8usize {
            sums[row] = 0.0f32;
            gates[row] = 0.0f32;
        }
        let mut at = UNIT_POS_PLANE;
        while at < k {
            let weight = weights[(column as usize) * (k as usize) + at as usize];
            let mut other = weight;
            if comptime!(gated) {
                other = weights[((column + n) as usize) * (k as usize) + at as usize];
            }
            #[unroll]
            for row in 0..8usize {
                // Rows that are not there read the last one, and nothing is stored for them.
                let from = min(first + row as u32, rows - 1);
                let input = x[(from as usize) * (k as usize) + at as usize];
                let value = f32::cast_from(input);
                sums[row] += value * f32::cast_from(weight);
                if comptime!(gated) {
                    gates[row] += value * f32::cast_from(other);
                }
            }
            at += 32u32;
        }
        #[unroll]
        for row in 0..8usize {
            let mut sum = plane_sum(sums[row]);
            let to = first + row as u32;
            if comptime!(biased) {
                sum += bias[column as usize];
            }
            let place = (to as usize) * (n as usize) + column as usize;
            if comptime!(gated) {
                let mut up = plane_sum(gates[row]);
                if comptime!(biased) {
                    up += bias[(column + n) as usize];
                }
                if UNIT_POS_PLANE == 0 && to < rows {
                    narrow[place] = E::cast_from(activate(sum, comptime!(finish.activation())) * up);
                }
            } else if UNIT_POS_PLANE == 0 && to < rows {
                if comptime!(finish.is_narrow()) {
                    narrow[place] = E::cast_from(activate(sum, comptime!(finish.activation())));
                } else if comptime!(finish.adds()) {
                    wide[place] += sum;
                } else {
                    wide[place] = sum;
                }
            }
        }
    }
}
