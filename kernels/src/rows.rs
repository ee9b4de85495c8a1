//! Row-wise steps between the products: norms and activations, in f32.
//!
//! For one token a library's operation costs more than its arithmetic here, so each of these is one pass that allocates
//! nothing and opens a parallel region only for large inputs. Residual additions are left to the caller.

use crate::disjoint::Disjoint;
use crate::simd::{Kernel, LANES, Simd, dispatch};
use crate::team::Team;

/// Elements in a task: some microseconds of work, and fewer in all stay on the calling thread.
const TASK: usize = 16 * 1024;

/// Divides each row of `x` by its root mean square, and multiplies by `weight`.
///
/// `x` and `out` are `[rows, weight.len()]`: `out = x / sqrt(mean(x²) + eps) * weight`.
///
/// # Panics
/// When the lengths of `x` and `out` differ or are not a multiple of that of `weight`.
///
/// ```
/// use std::num::NonZeroUsize;
/// use phase_kernels::{Team, rms_norm};
///
/// let team = Team::new(NonZeroUsize::MIN)?;
/// let mut out = [0.0; 2];
/// rms_norm(&team, &[3.0, 3.0], &[1.0, 2.0], 0.0, &mut out);
/// assert_eq!(out, [1.0, 2.0]);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn rms_norm(team: &Team, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    check("rms_norm", x, weight.len(), out);
    for_each_row(team, out, weight.len(), |row, out| {
        let x = &x[row * weight.len()..(row + 1) * weight.len()];
        dispatch(team.level(), Norm { x, center: false, weight, bias: None, eps, out });
    });
}

/// Shifts each row of `x` to mean 0 and scales it to variance 1, then multiplies by `weight` and adds `bias`.
///
/// `x` and `out` are `[rows, weight.len()]`, `bias` is `[weight.len()]`:
/// `out = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias`, with the variance of the whole population.
///
/// # Panics
/// When the lengths of `x` and `out` differ or are not a multiple of that of `weight`, or when that of `bias` is another.
pub fn layer_norm(team: &Team, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    check("layer_norm", x, weight.len(), out);
    assert_eq!(bias.len(), weight.len(), "layer_norm: bias is as long as weight");
    for_each_row(team, out, weight.len(), |row, out| {
        let x = &x[row * weight.len()..(row + 1) * weight.len()];
        dispatch(team.level(), Norm { x, center: true, weight, bias: Some(bias), eps, out });
    });
}

/// Replaces `gate` by `silu(gate) * up`, with `silu(x) = x / (1 + e^-x)`: the gated activation of Llama and Qwen.
///
/// # Panics
/// When the lengths differ.
pub fn silu_mul(team: &Team, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "silu_mul: gate is as long as up");
    for_each_part(team, gate, 1, |first, gate| {
        let up = &up[first..first + gate.len()];
        dispatch(team.level(), SiluMul { gate, up });
    });
}

/// Replaces `x` by `0.5 x (1 + tanh(sqrt(2 / π) (x + 0.044715 x³)))`: GPT-2's `gelu_new`.
pub fn gelu_tanh(team: &Team, x: &mut [f32]) {
    for_each_part(team, x, 1, |_, x| dispatch(team.level(), GeluTanh { x }));
}

fn check(name: &str, x: &[f32], dim: usize, out: &[f32]) {
    assert_eq!(x.len(), out.len(), "{name}: as many elements in as out");
    assert!(dim > 0 && x.len().is_multiple_of(dim), "{name}: rows of {dim} elements do not fill {}", x.len());
}

/// Calls `body(row, slice)` for each row of `len` elements.
pub(crate) fn for_each_row(team: &Team, x: &mut [f32], len: usize, body: impl Fn(usize, &mut [f32]) + Sync) {
    for_each_part(team, x, len, |first, part| {
        for (i, row) in part.chunks_exact_mut(len).enumerate() {
            body(first / len + i, row);
        }
    });
}

/// Calls `body(first element, part)` for parts of whole rows of `len` elements.
fn for_each_part(team: &Team, x: &mut [f32], len: usize, body: impl Fn(usize, &mut [f32]) + Sync) {
    let part = TASK.next_multiple_of(len);
    let total = x.len();
    let x = Disjoint::new(x);
    team.run(total.div_ceil(part), |task| {
        let first = task * part;
        // SAFETY: the parts do not overlap.
        body(first, unsafe { x.slice(first..total.min(first + part)) });
    });
}

struct Norm<'a, 'b> {
    x: &'a [f32],
    center: bool,
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    eps: f32,
    out: &'b mut [f32],
}

impl Kernel for Norm<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { x, center, weight, bias, eps, out } = self;
        let count = x.len() as f32;
        let (steps, tail) = x.as_chunks::<LANES>();
        let mut mean = 0.0;
        if center {
            let mut sum = simd.splat(0.0);
            for x in steps {
                sum = simd.add(sum, simd.load(x));
            }
            mean = (simd.sum(sum) + tail.iter().sum::<f32>()) / count;
        }
        let shift = simd.splat(mean);
        let mut squares = simd.splat(0.0);
        for x in steps {
            let x = simd.sub(simd.load(x), shift);
            squares = simd.mul_add(x, x, squares);
        }
        let tail: f32 = tail.iter().map(|x| (x - mean) * (x - mean)).sum();
        let factor = 1.0 / ((simd.sum(squares) + tail) / count + eps).sqrt();
        for (i, out) in out.iter_mut().enumerate() {
            *out = (x[i] - mean) * factor * weight[i] + bias.map_or(0.0, |bias| bias[i]);
        }
    }
}

struct SiluMul<'a, 'b> {
    gate: &'b mut [f32],
    up: &'a [f32],
}

impl Kernel for SiluMul<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (gate, gate_tail) = self.gate.as_chunks_mut::<LANES>();
        let (up, up_tail) = self.up.as_chunks::<LANES>();
        for (gate, up) in gate.iter_mut().zip(up) {
            simd.store(silu_mul_lanes(simd, simd.load(gate), simd.load(up)), gate);
        }
        let (mut gate, mut up) = ([0.0; LANES], [0.0; LANES]);
        gate[..gate_tail.len()].copy_from_slice(gate_tail);
        up[..up_tail.len()].copy_from_slice(up_tail);
        simd.store(silu_mul_lanes(simd, simd.load(&gate), simd.load(&up)), &mut gate);
        gate_tail.copy_from_slice(&gate[..gate_tail.len()]);
    }
}

#[inline(always)]
fn silu_mul_lanes<S: Simd>(simd: S, gate: S::V, up: S::V) -> S::V {
    let denominator = simd.add(simd.splat(1.0), simd.exp(simd.sub(simd.splat(0.0), gate)));
    simd.mul(simd.div(gate, denominator), up)
}

struct GeluTanh<'a> {
    x: &'a mut [f32],
}

impl Kernel for GeluTanh<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (x, tail) = self.x.as_chunks_mut::<LANES>();
        for x in x {
            simd.store(gelu_tanh_lanes(simd, simd.load(x)), x);
        }
        let mut last = [0.0; LANES];
        last[..tail.len()].copy_from_slice(tail);
        simd.store(gelu_tanh_lanes(simd, simd.load(&last)), &mut last);
        tail.copy_from_slice(&last[..tail.len()]);
    }
}

/// With `0.5 (1 + tanh y) = 1 / (1 + e^-2y)`.
#[inline(always)]
fn gelu_tanh_lanes<S: Simd>(simd: S, x: S::V) -> S::V {
    let minus_two = simd.splat(-2.0 * 0.797_884_6);
    let inner = simd.mul(x, simd.mul_add(simd.mul(x, x), simd.splat(0.044_715), simd.splat(1.0)));
    simd.div(x, simd.add(simd.splat(1.0), simd.exp(simd.mul(minus_two, inner))))
}

#[cfg(test)]
mod tests;
