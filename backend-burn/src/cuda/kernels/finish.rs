//! What becomes of a product's sums.

use cubecl::prelude::*;

/// What becomes of a product's sums. Biases are added first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Finish {
    /// Stored in f32.
    Store,
    /// Added to what the f32 output holds.
    Add,
    /// The activation of the sums, stored in the weights' format.
    Plain(Activation),
    /// The activation of the first half of the sums, times the second half, stored in the weights' format.
    Gated(Activation),
}

/// Non-linearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// GELU through the error function.
    Gelu,
    /// GELU through the hyperbolic tangent.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

impl Finish {
    pub(super) const fn is_gated(self) -> bool {
        matches!(self, Self::Gated(_))
    }

    pub(super) const fn is_narrow(self) -> bool {
        matches!(self, Self::Gated(_) | Self::Plain(_))
    }

    pub(super) const fn adds(self) -> bool {
        matches!(self, Self::Add)
    }

    pub(super) const fn activation(self) -> Activation {
        match self {
            Self::Plain(activation) | Self::Gated(activation) => activation,
            Self::Store | Self::Add => Activation::Relu,
        }
    }
}

#[cube]
pub(super) fn activate(x: f32, #[comptime] activation: Activation) -> f32 {
    match comptime!(activation) {
        Activation::Silu => x / (1.0f32 + (-x).exp()),
        Activation::Gelu => 0.5f32 * x * (1.0f32 + Erf::erf(x * 0.707_106_77f32)),
        Activation::GeluTanh => {
            let inner = 0.797_884_6f32 * (x + 0.044_715f32 * x * x * x);
            // tanh through the exponential, which is exact enough at both ends.
            x - x / (1.0f32 + (2.0f32 * inner).exp())
        }
        Activation::Relu => max(x, f32::new(0.0)),
    }
}
