//! How much a series of calls is worth when neighbours resemble each other.

use super::real_size;

/// Longest distance between calls that is looked at.
const LAGS: usize = 200;

/// The number of independent calls that series of calls are worth: `n / (1 + 2 sum rho)` over the autocorrelations up to the
/// first pair of them that is not positive (Geyer, 1992), each series around its own mean. At least 1 of
/// any, at most the number of calls, which it is for series without variance.
///
/// ```
/// use phase_policy::stats::effective_size;
/// let alone: Vec<f64> = (0..1000).map(|i| f64::from(i * 7919 % 1009)).collect();
/// let runs: Vec<f64> = (0..1000).map(|i| f64::from(i / 20 * 7919 % 1009)).collect();
/// assert!(effective_size(&[alone]) > 800 && effective_size(&[runs]) < 100);
/// ```
pub fn effective_size(series: &[Vec<f64>]) -> usize {
    let n: usize = series.iter().map(Vec::len).sum();
    let centred: Vec<Vec<f64>> = series
        .iter()
        .map(|calls| {
            let mean = calls.iter().sum::<f64>() / real_size(calls.len().max(1));
            calls.iter().map(|t| t - mean).collect()
        })
        .collect();
    let product = |lag: usize| centred.iter().map(|c| c.iter().zip(c.iter().skip(lag)).map(|(a, b)| a * b).sum::<f64>()).sum::<f64>();
    let variance = product(0);
    if !(variance > 0.0 && variance.is_finite()) {
        return n;
    }
    let mut sum = 0.0;
    for lag in (1..LAGS).step_by(2) {
        let pair = (product(lag) + product(lag + 1)) / variance;
        if pair <= 0.0 {
            break;
        }
        sum += pair;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and n")]
    let worth = (real_size(n) / (1.0 + 2.0 * sum)) as usize;
    worth.clamp(1, n.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{
        prelude::*,
        test_runner::{RngAlgorithm, TestRng},
    };

    /// An autoregressive series: neighbours correlate by `rho`, and n calls are worth n (1 - rho) / (1 + rho).
    fn autoregressive(rng: &mut TestRng, n: usize, rho: f64) -> Vec<f64> {
        let mut last = 0.0;
        let mut normal = || (0..12).map(|_| f64::from(rng.next_u32()) / f64::from(u32::MAX)).sum::<f64>() - 6.0;
        (0..n)
            .map(|_| {
                last = rho * last + (1.0 - rho * rho).sqrt() * normal();
                last
            })
            .collect()
    }

    #[test]
    fn known_correlations_are_recovered() {
        let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        for (rho, low, high) in [(0.0, 0.85, 1.0), (0.5, 0.26, 0.41), (0.8, 0.08, 0.15)] {
            let series: Vec<_> = (0..5).map(|_| autoregressive(&mut rng, 4000, rho)).collect();
            let share = real_size(effective_size(&series)) / 20_000.0;
            assert!((low..=high).contains(&share), "{rho}: {share}");
        }
    }

    #[test]
    fn short_and_constant_series_are_worth_what_they_are() {
        assert_eq!((effective_size(&[vec![1.0; 50]]), effective_size(&[vec![2.0]])), (50, 1));
        assert_eq!(effective_size(&[]), 0);
        assert_eq!(effective_size(&[vec![f64::NAN; 5]]), 5);
    }
}
