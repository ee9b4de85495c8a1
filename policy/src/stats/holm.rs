//! Many comparisons at once: Holm's step-down correction, on intervals.

use super::{RatioInterval, real_size, student::student_t_upper_tail};

/// Widens the intervals of a family so that the chance that any of them lies wholly beyond the tie region `1/(1 + rope) ..=
/// 1 + rope` where there is no such difference is at most `1 - confidence` over the whole family (Holm, 1979): with `m`
/// comparisons the surest one is held to `(1 - confidence) / m`, the next to `(1 - confidence) / (m - 1)`, and so on until
/// one fails; the others stay at the level that it failed. [`RatioInterval::confidence`] says what each was held to.
///
/// ```
/// use phase_policy::stats::{BlockMedian, holm, paired_ratio};
/// let blocks = |times: [f64; 4]| (0..).zip(times).map(|(b, t)| BlockMedian::new(b, 20, t)).collect::<Vec<_>>();
/// let ratio = paired_ratio(&blocks([9.0, 9.1, 8.9, 9.0]), &blocks([10.0, 10.1, 9.9, 10.0]), 0.95).ok_or("too few blocks")?;
/// let mut family = [ratio; 5];
/// holm(&mut family.iter_mut().collect::<Vec<_>>(), 0.02, 0.95);
/// assert!((family[0].confidence - 0.99).abs() < 1e-12 && family[0].high > ratio.high);
/// # Ok::<(), &str>(())
/// ```
pub fn holm(family: &mut [&mut RatioInterval], rope: f64, confidence: f64) {
    let alpha = 1.0 - confidence;
    let mut order: Vec<(f64, usize)> = family.iter().map(|r| p_value(r, rope)).zip(0..).collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut stuck = None;
    for (rank, (p, index)) in order.into_iter().enumerate() {
        let level = stuck.unwrap_or_else(|| alpha / real_size(family.len() - rank));
        if p > level {
            stuck = Some(level);
        }
        *family[index] = family[index].at(1.0 - level);
    }
}

/// The chance of an interval so far beyond the region where the ratio lies on its edge, counted on both sides.
fn p_value(ratio: &RatioInterval, rope: f64) -> f64 {
    let beyond = ratio.ratio.ln().abs() - rope.ln_1p();
    let Some(error) = ratio.standard_error() else { return 1.0 };
    if error <= 0.0 {
        return if beyond > 0.0 { 0.0 } else { 1.0 };
    }
    2.0 * student_t_upper_tail(beyond / error, real_size(ratio.blocks - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{BlockMedian, Verdict, paired_ratio};
    use proptest::{
        prelude::*,
        test_runner::{RngAlgorithm, TestRng},
    };

    fn normal(rng: &mut TestRng) -> f64 {
        (0..12).map(|_| f64::from(rng.next_u32()) / f64::from(u32::MAX)).sum::<f64>() - 6.0
    }

    /// Two arms of `blocks` blocks with 1% noise each, the first one `ratio` times as slow.
    fn pair(rng: &mut TestRng, blocks: u32, ratio: f64) -> RatioInterval {
        let mut arm = |of: f64| (0..blocks).map(|b| BlockMedian::new(b, 9, of * (0.01 * normal(rng)).exp())).collect::<Vec<_>>();
        paired_ratio(&arm(ratio), &arm(1.0), 0.95).unwrap()
    }

    /// How often at least one of 20 comparisons on the very edge of the tie region is called a difference.
    fn false_families(correct: bool) -> f64 {
        let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let trials = 400;
        let wrong = (0..trials).filter(|_| {
            let mut family: Vec<_> = (0..20).map(|_| pair(&mut rng, 10, 1.0 / 1.02)).collect();
            if correct {
                holm(&mut family.iter_mut().collect::<Vec<_>>(), 0.02, 0.95);
            }
            family.iter().any(|r| r.verdict(0.02) == Verdict::Faster)
        });
        f64::from(u32::try_from(wrong.count()).unwrap()) / f64::from(trials)
    }

    #[test]
    fn a_family_errs_as_seldom_as_one_comparison() {
        let (with, without) = (false_families(true), false_families(false));
        assert!(with <= 0.05, "{with}");
        assert!(without > 0.2, "{without}: the test is too weak to show that the correction is needed");
    }

    #[test]
    fn intervals_and_steps_agree_and_large_differences_survive() {
        let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let mut family: Vec<_> = [0.5, 0.9, 0.97, 1.0, 1.0, 2.0].map(|of| pair(&mut rng, 5, of)).to_vec();
        let single: Vec<_> = family.iter().map(|r| p_value(r, 0.02)).collect();
        holm(&mut family.iter_mut().collect::<Vec<_>>(), 0.02, 0.95);
        for (ratio, p) in family.iter().zip(single) {
            let rejected = matches!(ratio.verdict(0.02), Verdict::Faster | Verdict::Slower);
            assert_eq!(rejected, p <= 1.0 - ratio.confidence, "{ratio}");
        }
        assert_eq!((family[0].verdict(0.02), family[5].verdict(0.02)), (Verdict::Faster, Verdict::Slower));
        assert!(family.iter().all(|r| r.confidence >= 0.95 && r.check().is_ok()));
    }

    #[test]
    fn one_comparison_and_none_are_left_alone() {
        let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let before = pair(&mut rng, 5, 0.9);
        let mut one = before;
        holm(&mut [&mut one], 0.02, 0.95);
        assert!((one.high / before.high - 1.0).abs() < 1e-9 && (one.confidence - 0.95).abs() < 1e-12);
        holm(&mut [], 0.02, 0.95);
    }
}
