//! What a router compares: times, weighted times, or energies.

use crate::{rules::Standing, stats::RatioInterval};
use phase_core::{Energy, MacroMethod};

/// What "better" means.
#[derive(Clone, Debug)]
pub(super) enum Scale {
    /// Less time, each backend's weighted by its price over the default's: all 1 when time itself counts.
    Time(Vec<f64>),
    /// Less energy.
    Energy,
}

impl Scale {
    /// A standing in time as one in what counts.
    #[inline]
    pub(super) fn weigh(&self, backend: usize, standing: Standing) -> Standing {
        match (self, standing) {
            (Self::Time(weights), Standing::Measured(ratio)) => Standing::Measured(ratio.scaled(weights[backend])),
            _ => standing,
        }
    }
}

/// An energy with its bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Joules {
    value: f64,
    low: f64,
    high: f64,
}

impl Joules {
    /// What may enter a decision: every status that has bounds. The response energy of an isolated call is not what it takes
    /// in a busy device, and is left out.
    pub(super) fn of(energy: &Energy) -> Option<Self> {
        match energy {
            Energy::MacroWindow { method: MacroMethod::GuardedShot, .. } => None,
            Energy::Measured { joules, low, high }
            | Energy::Interpolated { joules, low, high }
            | Energy::MacroWindow { joules, low, high, .. } => Some(Self { value: joules.0, low: low.0, high: high.0 }),
            _ => None,
        }
    }

    pub(super) fn value(self) -> f64 {
        self.value
    }

    /// One call of this and `steps` of the other.
    #[inline]
    pub(super) fn and(self, other: Self, steps: f64) -> Self {
        Self { value: self.value + steps * other.value, low: self.low + steps * other.low, high: self.high + steps * other.high }
    }

    /// How this stands against the default's energy: both at their ends at once.
    #[inline]
    pub(super) fn standing(self, default: Self, like: &RatioInterval) -> Standing {
        if !(default.low > 0.0 && self.low > 0.0) {
            return Standing::NoEnergy;
        }
        let [ratio, low, high] = [self.value / default.value, self.low / default.high, self.high / default.low];
        Standing::Measured(RatioInterval { ratio, low, high, ..*like })
    }
}
