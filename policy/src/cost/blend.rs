//! Averages: always of time or money per token, never of rates.

use super::{Bounded, OutOfRange};
use serde::{Deserialize, Serialize};

/// A mean cost and the token shares it was formed with: TR119 published 4,608 and 7,992 $ for the same data, because one
/// weighted prompt and generated tokens 2:1 and the other 1:1, and neither number said which.
///
/// ```
/// use phase_policy::cost::{Blend, Bounded};
/// // TR123's chat mix: 67% prompt tokens, 33% generated ones.
/// let chat = Blend::new([(67.0, Bounded::exact(0.1279)?), (33.0, Bounded::exact(1.204)?)]).ok_or("no tokens")?;
/// assert!((chat.usd_per_1m.value() - 0.4830).abs() < 1e-4);
/// assert_eq!(chat.shares, [0.67, 0.33]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Blend {
    /// The mean.
    pub usd_per_1m: Bounded,
    /// Share of each part in all tokens, in the order they were given.
    pub shares: Vec<f64>,
}

impl Blend {
    /// The mean of costs per token, weighted by tokens. `None` without a part, or for weights that are negative, not
    /// finite or all 0.
    pub fn new(parts: impl IntoIterator<Item = (f64, Bounded)>) -> Option<Self> {
        let parts: Vec<_> = parts.into_iter().collect();
        let shares = shares(parts.iter().map(|(tokens, _)| *tokens))?;
        let usd_per_1m = weighted(shares.iter().copied().zip(parts.iter().map(|(_, usd)| *usd))).ok()?;
        Some(Self { usd_per_1m, shares })
    }
}

/// Weights that add up to 1.
pub(crate) fn shares(weights: impl Iterator<Item = f64>) -> Option<Vec<f64>> {
    let weights: Vec<_> = weights.collect();
    let total: f64 = weights.iter().sum();
    let sane = weights.iter().all(|w| w.is_finite() && *w >= 0.0) && total > 0.0 && total.is_finite();
    sane.then(|| weights.iter().map(|w| w / total).collect())
}

/// The sum of each part times its share.
pub(crate) fn weighted(parts: impl Iterator<Item = (f64, Bounded)>) -> Result<Bounded, OutOfRange> {
    parts.map(|(share, part)| part.times(share)).try_fold(Bounded::exact(0.0)?, |sum, part| Ok(sum + part?))
}

/// Tokens a second over scenarios that get equal numbers of tokens: `1e6 / mean(1e6 / rate)`. The mean of the rates
/// themselves weights the fast scenarios most and is always higher. `None` without a rate, or for one that is not
/// positive and finite.
///
/// ```
/// // TR119, onnxruntime-gpu, generate, five scenarios: 233 tokens/s, where the mean of the rates says 312.
/// let rate = phase_policy::cost::mean_rate(&[537.5, 508.7, 168.4, 172.7, 170.6]).ok_or("no rate")?;
/// assert!((rate - 233.4).abs() < 0.1);
/// # Ok::<(), &str>(())
/// ```
pub fn mean_rate(tokens_per_s: &[f64]) -> Option<f64> {
    let sane = !tokens_per_s.is_empty() && tokens_per_s.iter().all(|r| r.is_finite() && *r > 0.0);
    let seconds: f64 = tokens_per_s.iter().map(|r| 1.0 / r).sum();
    let rate = crate::stats::real_size(tokens_per_s.len()) / seconds;
    (sane && rate.is_finite() && rate > 0.0).then_some(rate)
}

/// Tokens a second of a client that thinks between requests: `tokens / (busy_s + think_s)`. Per-request rates times
/// clients gave TR129 454 tokens/s on a device that does 207. `None` unless all are finite, the tokens and the busy time
/// positive, and the pause not negative.
pub fn sustained_rate(tokens: f64, busy_s: f64, think_s: f64) -> Option<f64> {
    let rate = tokens / (busy_s + think_s);
    (tokens > 0.0 && busy_s > 0.0 && think_s >= 0.0 && rate.is_finite() && rate > 0.0).then_some(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_weights_and_rates_have_no_mean() {
        let one = Bounded::exact(1.0).unwrap();
        for weights in [vec![], vec![0.0, 0.0], vec![1.0, -1.0], vec![f64::NAN], vec![f64::INFINITY]] {
            assert_eq!(Blend::new(weights.iter().map(|w| (*w, one))), None, "{weights:?}");
        }
        for rates in [vec![], vec![1.0, 0.0], vec![f64::NAN], vec![-1.0]] {
            assert_eq!(mean_rate(&rates), None, "{rates:?}");
        }
        assert_eq!([sustained_rate(0.0, 1.0, 0.0), sustained_rate(1.0, 0.0, 0.0), sustained_rate(1.0, 1.0, f64::NAN)], [None; 3]);
    }

    #[test]
    fn a_blend_in_dollars_is_a_harmonic_mean_in_rates() {
        let usd = |rate: f64| Bounded::exact(crate::cost::usd_per_1m(rate, 1.0).unwrap()).unwrap();
        let blend = Blend::new([(1.0, usd(100.0)), (1.0, usd(300.0))]).unwrap();
        assert!((blend.usd_per_1m.value() - usd(150.0).value()).abs() < 1e-12, "150, not the mean 200");
    }
}
