//! The feed-forward layer: one product in, an activation, one product out.

use phase_kernels::{gelu_tanh, silu_mul};
use phase_model::{Activation, Mlp, ModelConfig};

use super::{
    Work,
    ops::{Ops, for_each_part},
};
use crate::{CandleError, evidence::Kernel, weights::LayerWeights};

/// Leaves `down(..)` of the normed rows in `work.update`.
pub(super) fn feed_forward(
    ops: &mut Ops,
    config: &ModelConfig,
    weights: &LayerWeights,
    work: &mut Work,
    rows: usize,
) -> Result<(), CandleError> {
    let inner = config.intermediate;
    let len = rows * inner;
    let Work { normed, gate, up, update, .. } = work;
    ops.product(normed, rows, &weights.gate_up, 0..inner, gate)?;
    if config.mlp == Mlp::Gated {
        ops.product(normed, rows, &weights.gate_up, inner..2 * inner, up)?;
        ops.counts.add(Kernel::Activation);
        let up = up.read(len)?;
        gate.write(len, |gate| match config.activation {
            Activation::Silu => silu_mul(&ops.team, gate, &up),
            other => {
                activate(ops, other, gate);
                for_each_part(gate, Some(&up), |gate, up| gate.iter_mut().zip(up).for_each(|(gate, up)| *gate *= up));
            }
        })?;
    } else {
        ops.counts.add(Kernel::Activation);
        gate.write(len, |gate| activate(ops, config.activation, gate))?;
    }
    ops.product(gate, rows, &weights.down, 0..config.hidden, update)
}

fn activate(ops: &Ops, activation: Activation, x: &mut [f32]) {
    let each = |x: &mut [f32], f: fn(f32) -> f32| for_each_part(x, None, |x, _| x.iter_mut().for_each(|x| *x = f(*x)));
    match activation {
        Activation::Gelu => each(x, |x| 0.5 * x * (1.0 + candle_core::cpu::erf::erf_f32(x * std::f32::consts::FRAC_1_SQRT_2))),
        Activation::GeluTanh => gelu_tanh(&ops.team, x),
        // Written so that NaN stays NaN.
        Activation::Relu => each(x, |x| if x < 0.0 { 0.0 } else { x }),
        Activation::Silu => each(x, |x| x / (1.0 + (-x).exp())),
        other => unreachable!("{other:?} was refused when the model was loaded"),
    }
}
