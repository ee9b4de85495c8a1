//! Splitting a batch's energy among its requests. A rule does that, not a sensor, so the result is not an
//! [`Energy`](phase_core::Energy).

use crate::JouleRange;
use serde::{Deserialize, Serialize};

/// How a batch's energy is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AllocationRule {
    /// The same for each request.
    Equal,
    /// In proportion to the tokens of each request.
    Tokens,
}

/// A request's share of a batch's energy under a rule. It is no measurement, and no sum of shares becomes one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Allocated {
    /// The share.
    pub energy: JouleRange,
    /// The rule that made it.
    pub rule: AllocationRule,
}

/// Divides `batch` among requests of `tokens` each. Empty for no requests; under [`AllocationRule::Tokens`] also where no
/// request has a token, because there is nothing to be in proportion to.
///
/// ```
/// use phase_energy::{AllocationRule, JouleRange, allocate};
/// let shares = allocate(JouleRange::new(90.0, 110.0), &[10, 30], AllocationRule::Tokens);
/// assert_eq!(shares[1].energy, JouleRange::new(67.5, 82.5));
/// ```
#[expect(clippy::cast_precision_loss, reason = "tokens of a batch are far below 2^53")]
pub fn allocate(batch: JouleRange, tokens: &[u64], rule: AllocationRule) -> Vec<Allocated> {
    let total = match rule {
        AllocationRule::Equal => tokens.len() as f64,
        AllocationRule::Tokens => tokens.iter().map(|t| *t as f64).sum(),
    };
    if total <= 0.0 {
        return Vec::new();
    }
    let part = |&t: &u64| match rule {
        AllocationRule::Equal => 1.0 / total,
        AllocationRule::Tokens => t as f64 / total,
    };
    tokens.iter().map(|t| Allocated { energy: JouleRange::new(batch.low_j * part(t), batch.high_j * part(t)), rule }).collect()
}
