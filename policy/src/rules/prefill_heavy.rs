//! "Route prefill-heavy cases by actual prefill winner": batched prefill can invert the ranking. The gate is ours: the
//! winner of prefill must not lose the whole request.

use super::Standing;
use crate::constants::Constants;

/// Whether a request is prefill-heavy.
pub(super) fn applies(batch: usize, new_tokens: usize, constants: &Constants) -> bool {
    batch > 1 && new_tokens <= constants.minimal_new_tokens
}

/// How a challenger stands in a prefill-heavy request, from how it stands in prefill and over the whole request.
pub(crate) fn standing(prefill: Standing, total: Standing, rope: f64) -> Standing {
    match (prefill, total) {
        (Standing::Measured(p), Standing::Measured(t)) if p.ratio < 1.0 && t.ratio > 1.0 + rope => total,
        (Standing::Measured(_), Standing::Measured(_)) => prefill,
        (Standing::Measured(_), _) => total,
        _ => prefill,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{BlockMedian, RatioInterval, paired_ratio};

    fn ratio(of: f64) -> RatioInterval {
        let blocks = |t: f64| (0..4).map(|b| BlockMedian::new(b, 1, t + f64::from(b))).collect::<Vec<_>>();
        paired_ratio(&blocks(of * 1e6), &blocks(1e6), 0.95).unwrap()
    }

    #[test]
    fn needs_a_batch_and_few_tokens() {
        let c = Constants::default();
        assert!(applies(2, 8, &c) && applies(8, 1, &c));
        assert!(!applies(1, 1, &c) && !applies(2, 9, &c));
    }

    #[test]
    fn a_prefill_winner_that_loses_the_request_does_not_win() {
        let (fast, slow) = (Standing::Measured(ratio(0.5)), Standing::Measured(ratio(1.5)));
        assert_eq!(standing(fast, fast, 0.02), fast);
        assert_eq!(standing(fast, Standing::Measured(ratio(1.01)), 0.02), fast);
        assert_eq!(standing(fast, slow, 0.02), slow);
        assert_eq!(standing(fast, Standing::TooFewBlocks { blocks: 1 }, 0.02), Standing::TooFewBlocks { blocks: 1 });
        assert_eq!(standing(slow, fast, 0.02), slow);
    }
}
