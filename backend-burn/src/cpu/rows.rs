//! Row-wise steps that phase-kernels leaves to its caller.

use rayon::prelude::*;

/// On which threads rows are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spread {
    /// On the calling one: there are too few rows to wake another.
    Caller,
    /// On those of the rayon pool that the caller is in.
    Pool,
}

/// Elements in one task: enough to outweigh handing it over.
const TASK: usize = 32 * 1024;

/// Calls `body` with each row of `out`, `width` long, and the row of `x`, which has as many.
pub(super) fn zip(spread: Spread, out: &mut [f32], width: usize, x: &[f32], x_width: usize, body: impl Fn(&mut [f32], &[f32]) + Sync) {
    let each = |out: &mut [f32], x: &[f32]| out.chunks_exact_mut(width).zip(x.chunks_exact(x_width)).for_each(|(out, x)| body(out, x));
    let rows = (TASK / width).max(1);
    match spread {
        Spread::Caller => each(out, x),
        Spread::Pool => out.par_chunks_mut(rows * width).zip(x.par_chunks(rows * x_width)).for_each(|(out, x)| each(out, x)),
    }
}

/// `x += y`.
pub(super) fn add(spread: Spread, x: &mut [f32], y: &[f32]) {
    let sum = |x: &mut [f32], y: &[f32]| x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
    match spread {
        Spread::Caller => sum(x, y),
        Spread::Pool => x.par_chunks_mut(TASK).zip(y.par_chunks(TASK)).for_each(|(x, y)| sum(x, y)),
    }
}

/// `max(x, 0)`; NaN stays NaN.
pub(super) fn relu(x: &mut [f32]) {
    for x in x {
        if *x < 0.0 {
            *x = 0.0;
        }
    }
}

/// GELU through the error function.
pub(super) fn gelu(x: &mut [f32]) {
    for x in x {
        let wide = f64::from(*x);
        *x = super::rounded(0.5 * wide * (1.0 + erf(wide * std::f64::consts::FRAC_1_SQRT_2)));
    }
}

/// The error function by Abramowitz and Stegun's formula 7.1.26, whose error is below 1.5e-7: one rounding of an f32.
fn erf(x: f64) -> f64 {
    const A: [f64; 5] = [0.254_829_592, -0.284_496_736, 1.421_413_741, -1.453_152_027, 1.061_405_429];
    let t = 1.0 / (1.0 + 0.327_591_1 * x.abs());
    let series = A.iter().rev().fold(0.0, |sum, a| (sum + a) * t);
    (1.0 - series * (-x * x).exp()).copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gelu_matches_the_values_of_torch() {
        let mut x = [-3.0, -1.0, -0.1, 0.0, 0.5, 2.0];
        gelu(&mut x);
        let want = [-0.004_049_69, -0.158_655_26, -0.046_017_22, 0.0, 0.345_731_23, 1.954_499_7];
        for (got, want) in x.iter().zip(want) {
            assert!((got - want).abs() < 1e-6, "{got} against {want}");
        }
    }

    #[test]
    fn rows_meet_their_partners_however_they_are_spread() {
        for spread in [Spread::Caller, Spread::Pool] {
            let x: Vec<f32> = (0..40_000u16).map(f32::from).collect();
            let mut out = vec![0.0; 20_000];
            zip(spread, &mut out, 2, &x, 4, |out, x| out.copy_from_slice(&x[2..]));
            assert_eq!(&out[..4], [2.0, 3.0, 6.0, 7.0]);
            assert_eq!(&out[19_998..], [39_998.0, 39_999.0]);
        }
    }
}
