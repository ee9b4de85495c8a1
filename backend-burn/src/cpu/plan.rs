//! The model's structure, reduced to what this decoder implements.

use phase_kernels::{Team, gelu_tanh, layer_norm, rms_norm, silu_mul};
use phase_model::{Activation, Mlp, ModelConfig, Norm, Position};

use super::{
    rows::{self, Spread},
    storage::Buffer,
    weights::NormWeights,
};
use crate::BurnError;

/// How the steps between the products are done.
#[derive(Debug)]
pub(super) struct Plan {
    norm: NormKind,
    eps: f32,
    activation: ActivationKind,
    gated: bool,
    /// Width of the feed-forward layer.
    inner: usize,
}

#[derive(Debug)]
enum NormKind {
    Layer,
    Rms,
}

#[derive(Debug)]
enum ActivationKind {
    Gelu,
    GeluTanh,
    Relu,
    Silu,
}

impl Plan {
    /// # Errors
    /// [`BurnError::Unsupported`] for what was added to phase-model after this was written.
    pub(super) fn new(config: &ModelConfig) -> Result<Self, BurnError> {
        let unknown = |what: String| BurnError::Unsupported { what };
        if !matches!(config.position, Position::Learned | Position::Rope(_)) {
            return Err(unknown(format!("position {:?}", config.position)));
        }
        Ok(Self {
            norm: match config.norm {
                Norm::Layer => NormKind::Layer,
                Norm::Rms => NormKind::Rms,
                other => return Err(unknown(format!("norm {other:?}"))),
            },
            eps: super::rounded(config.norm_eps),
            activation: match config.activation {
                Activation::Gelu => ActivationKind::Gelu,
                Activation::GeluTanh => ActivationKind::GeluTanh,
                Activation::Relu => ActivationKind::Relu,
                Activation::Silu => ActivationKind::Silu,
                other => return Err(unknown(format!("activation {other:?}"))),
            },
            gated: match config.mlp {
                Mlp::Gated => true,
                Mlp::Plain => false,
                other => return Err(unknown(format!("feed-forward layer {other:?}"))),
            },
            inner: config.intermediate,
        })
    }

    pub(super) fn norm(&self, team: &Team, norm: &NormWeights, x: &[f32], out: &mut [f32]) {
        match (&self.norm, &norm.bias) {
            (NormKind::Layer, Some(bias)) => layer_norm(team, x, &norm.weight, bias, self.eps, out),
            // phase-model gives every layer norm a bias and no RMS norm one.
            _ => rms_norm(team, x, &norm.weight, self.eps, out),
        }
    }

    /// `out = activation(gate) * up` or `activation(up)` for `rows` rows.
    pub(super) fn activate(&self, team: &Team, spread: Spread, up: &Buffer, out: &mut Buffer, rows: usize) {
        let inner = self.inner;
        let out = out.get_mut(rows * inner);
        if !self.gated {
            rows::zip(spread, out, inner, up.get(rows * inner), inner, |out, x| {
                out.copy_from_slice(x);
                self.apply(team, out);
            });
            return;
        }
        rows::zip(spread, out, inner, up.get(rows * 2 * inner), 2 * inner, |out, x| {
            let (gate, up) = x.split_at(inner);
            out.copy_from_slice(gate);
            if let ActivationKind::Silu = self.activation {
                silu_mul(team, out, up);
            } else {
                self.apply(team, out);
                out.iter_mut().zip(up).for_each(|(out, up)| *out *= up);
            }
        });
    }

    fn apply(&self, team: &Team, x: &mut [f32]) {
        match self.activation {
            ActivationKind::Gelu => rows::gelu(x),
            ActivationKind::GeluTanh => gelu_tanh(team, x),
            ActivationKind::Relu => rows::relu(x),
            ActivationKind::Silu => x.iter_mut().for_each(|x| *x /= 1.0 + (-*x).exp()),
        }
    }
}
