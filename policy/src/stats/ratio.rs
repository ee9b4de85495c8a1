//! Comparing two backends: paired by block, on the logarithm of the ratio of times.

use super::{real_size, student::student_t_quantile};
use serde::{Deserialize, Serialize};
use std::{cmp::Ordering, fmt};

/// What one replication block says about one cell.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct BlockMedian {
    /// The block.
    pub block: u32,
    /// Successful calls in it.
    pub n: u64,
    /// Their median.
    pub median_ns: f64,
}

impl BlockMedian {
    /// The median of `n` calls in `block`.
    pub const fn new(block: u32, n: u64, median_ns: f64) -> Self {
        Self { block, n, median_ns }
    }
}

/// One time over another, with an interval: below 1 the first is faster.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RatioInterval {
    /// Geometric mean over the blocks.
    pub ratio: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Confidence of the interval.
    pub confidence: f64,
    /// Blocks in which both were measured.
    pub blocks: usize,
}

impl RatioInterval {
    /// The same comparison seen from the other side.
    #[must_use]
    pub fn inverse(self) -> Self {
        Self { ratio: 1.0 / self.ratio, low: 1.0 / self.high, high: 1.0 / self.low, ..self }
    }

    /// The standard error of the logarithm; `None` for a confidence or a number of blocks that no comparison has.
    pub(crate) fn standard_error(&self) -> Option<f64> {
        Some((self.high / self.ratio).ln() / self.quantile(self.confidence)?)
    }

    /// The same comparison at another confidence.
    #[must_use]
    pub(crate) fn at(self, confidence: f64) -> Self {
        let Some((error, t)) = self.standard_error().zip(self.quantile(confidence)) else { return self };
        let half = (error * t).exp();
        Self { low: self.ratio / half, high: self.ratio * half, confidence, ..self }
    }

    fn quantile(&self, confidence: f64) -> Option<f64> {
        student_t_quantile(0.5 + confidence / 2.0, real_size(self.blocks.checked_sub(1)?))
    }

    /// That many times the ratio.
    #[must_use]
    #[inline]
    pub(crate) fn scaled(self, by: f64) -> Self {
        Self { ratio: self.ratio * by, low: self.low * by, high: self.high * by, ..self }
    }

    /// Where the interval lies against the region of practical equivalence `1/(1 + rope) ..= 1 + rope`.
    ///
    /// ```
    /// use phase_policy::stats::{BlockMedian, Verdict, paired_ratio};
    /// let blocks = |times: [f64; 4]| (0..).zip(times).map(|(b, t)| BlockMedian::new(b, 20, t)).collect::<Vec<_>>();
    /// let ratio = paired_ratio(&blocks([9.0, 9.1, 8.9, 9.0]), &blocks([10.0, 10.1, 9.9, 10.0]), 0.95).ok_or("too few blocks")?;
    /// assert_eq!(ratio.verdict(0.02), Verdict::Faster);
    /// # Ok::<(), &str>(())
    /// ```
    pub fn verdict(self, rope: f64) -> Verdict {
        Edges::of(rope).verdict(self.low, self.high)
    }

    /// The first thing wrong with it, in words.
    pub(crate) fn check(&self) -> Result<(), String> {
        let Self { ratio, low, high, confidence, blocks } = *self;
        // A comparison with NaN is false, so these also refuse NaN.
        let ordered = 0.0 < low && low <= ratio && ratio <= high && high < f64::INFINITY;
        let fair = 0.0 < confidence && confidence < 1.0 && blocks >= 2;
        if ordered && fair { Ok(()) } else { Err(format!("ratio {ratio} [{low}, {high}] at confidence {confidence} over {blocks} blocks")) }
    }
}

impl fmt::Display for RatioInterval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ratio, low, high, confidence, blocks } = self;
        // Two digits at most, and none where there are none.
        let percent = (confidence * 1e4).round() / 100.0;
        write!(f, "{ratio:.3} [{low:.3}, {high:.3} at {percent}% over {blocks} blocks]")
    }
}

/// The region of practical equivalence, worked out once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Edges {
    bottom: f64,
    top: f64,
}

impl Edges {
    pub(crate) fn of(rope: f64) -> Self {
        Self { bottom: 1.0 / (1.0 + rope), top: 1.0 + rope }
    }

    #[inline]
    pub(crate) fn verdict(self, low: f64, high: f64) -> Verdict {
        let Self { bottom, top } = self;
        if high < bottom {
            Verdict::Faster
        } else if low > top {
            Verdict::Slower
        } else if low >= bottom && high <= top {
            Verdict::Equivalent
        } else {
            Verdict::Ambiguous
        }
    }
}

/// What an interval says about the first of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "an interval lies below, above, inside or across the region")]
pub enum Verdict {
    /// Too uncertain: the interval crosses an edge of the region of practical equivalence.
    Ambiguous,
    /// Surely no difference that matters.
    Equivalent,
    /// Surely faster by more than the region.
    Faster,
    /// Surely slower by more than the region.
    Slower,
}

/// The ratio of `ours` to `theirs`: in each block that both have, the log of the ratio of the block's medians; a t
/// interval over the blocks. `None` below 2 common blocks, for a time that is not positive and finite, or for a
/// confidence outside of 0..1. Both must be ordered by block.
pub fn paired_ratio(ours: &[BlockMedian], theirs: &[BlockMedian], confidence: f64) -> Option<RatioInterval> {
    let logs: Vec<f64> = common_blocks(ours, theirs).map(|(a, b)| (a.median_ns / b.median_ns).ln()).collect();
    let n = logs.len();
    if n < 2 || !(confidence > 0.0 && confidence < 1.0) || logs.iter().any(|l| !l.is_finite()) {
        return None;
    }
    let mean = logs.iter().sum::<f64>() / real_size(n);
    let variance = logs.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / real_size(n - 1);
    let half = student_t_quantile(0.5 + confidence / 2.0, real_size(n - 1))? * (variance / real_size(n)).sqrt();
    let interval = RatioInterval { ratio: mean.exp(), low: (mean - half).exp(), high: (mean + half).exp(), confidence, blocks: n };
    interval.check().is_ok().then_some(interval)
}

/// Pairs of one block.
pub(crate) fn common_blocks<'a>(
    ours: &'a [BlockMedian],
    theirs: &'a [BlockMedian],
) -> impl Iterator<Item = (&'a BlockMedian, &'a BlockMedian)> {
    let mut rest = theirs.iter().peekable();
    ours.iter().filter_map(move |a| {
        while rest.next_if(|b| b.block < a.block).is_some() {}
        rest.peek().copied().filter(|b| b.block.cmp(&a.block) == Ordering::Equal).map(|b| (a, b))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{prelude::*, test_runner::TestRng};

    fn blocks(times: &[f64]) -> Vec<BlockMedian> {
        (0..).zip(times).map(|(b, t)| BlockMedian::new(b, 10, *t)).collect()
    }

    #[test]
    fn equals_a_calculation_by_hand() {
        // Logs -0.1, -0.2, -0.3: mean -0.2, sd 0.1, t(0.975, 2) = 4.302653, half 4.302653 * 0.1 / sqrt(3) = 0.248414.
        let ours: Vec<_> = [-0.1_f64, -0.2, -0.3].iter().map(|l| l.exp()).collect();
        let r = paired_ratio(&blocks(&ours), &blocks(&[1.0; 3]), 0.95).unwrap();
        for (got, log) in [(r.ratio, -0.2), (r.low, -0.448_414), (r.high, 0.048_414)] {
            assert!((got.ln() - log).abs() < 1e-5, "{got} should be exp({log})");
        }
        assert_eq!((r.blocks, r.verdict(0.02)), (3, Verdict::Ambiguous));
    }

    #[test]
    fn only_common_blocks_count() {
        let pick = |ids: &[u32]| ids.iter().map(|b| BlockMedian::new(*b, 1, f64::from(*b + 1))).collect::<Vec<_>>();
        let pairs: Vec<_> = common_blocks(&pick(&[0, 2, 3, 7]), &pick(&[1, 2, 5, 7, 9])).map(|(a, _)| a.block).collect();
        assert_eq!(pairs, [2, 7]);
        assert_eq!(paired_ratio(&pick(&[0, 1]), &pick(&[1, 2]), 0.95), None);
        assert_eq!(paired_ratio(&blocks(&[1.0, f64::NAN]), &blocks(&[1.0, 1.0]), 0.95), None);
        assert_eq!(paired_ratio(&blocks(&[1.0, 0.0]), &blocks(&[1.0, 1.0]), 0.95), None);
    }

    #[test]
    fn verdicts_at_the_edges() {
        let r = |low, high| RatioInterval { ratio: 1.0, low, high, confidence: 0.95, blocks: 3 };
        assert_eq!(r(0.9, 0.98).verdict(0.02), Verdict::Faster);
        assert_eq!(r(0.9, 0.99).verdict(0.02), Verdict::Ambiguous);
        assert_eq!(r(0.99, 1.01).verdict(0.02), Verdict::Equivalent);
        assert_eq!(r(1.03, 1.2).verdict(0.02), Verdict::Slower);
        assert_eq!(r(0.9, 1.2).verdict(0.02), Verdict::Ambiguous);
    }

    /// Twelve uniforms make a normal good enough for coverage.
    fn normal(rng: &mut TestRng) -> f64 {
        (0..12).map(|_| f64::from(rng.next_u32()) / f64::from(u32::MAX)).sum::<f64>() - 6.0
    }

    #[test]
    fn the_interval_covers_the_truth_as_often_as_it_says() {
        let mut rng = TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha);
        for n in [3, 5, 10] {
            let (trials, truth) = (4000, 0.97_f64);
            let hits = (0..trials).filter(|_| {
                // A shared block effect of 20% must cancel; 3% of the pair's own remains.
                let (ours, theirs): (Vec<_>, Vec<_>) = (0..n)
                    .map(|_| {
                        let block = 1e6 * (0.2 * normal(&mut rng)).exp();
                        (block * truth * (0.03 * normal(&mut rng)).exp(), block)
                    })
                    .unzip();
                let r = paired_ratio(&blocks(&ours), &blocks(&theirs), 0.95).unwrap();
                r.low <= truth && truth <= r.high
            });
            let coverage = f64::from(u32::try_from(hits.count()).unwrap()) / f64::from(trials);
            assert!((0.938..0.962).contains(&coverage), "{n} blocks: {coverage}");
        }
    }

    proptest! {
        #[test]
        fn swapping_the_two_inverts_the_ratio(pairs in prop::collection::vec((1.0..1e9_f64, 1.0..1e9_f64), 3..20)) {
            let (a, b): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            let (ab, ba) = (paired_ratio(&blocks(&a), &blocks(&b), 0.95).unwrap(), paired_ratio(&blocks(&b), &blocks(&a), 0.95).unwrap());
            let close = |x: f64, y: f64| (x / y - 1.0).abs() < 1e-9;
            let inverse = ba.inverse();
            prop_assert!(close(ab.ratio, inverse.ratio) && close(ab.low, inverse.low) && close(ab.high, inverse.high));
            prop_assert!(ab.low <= ab.ratio && ab.ratio <= ab.high);
            let mirrored = match ab.verdict(0.02) { Verdict::Faster => Verdict::Slower, Verdict::Slower => Verdict::Faster, v => v };
            prop_assert_eq!(ab.inverse().verdict(0.02), mirrored);
        }

        #[test]
        fn more_confidence_is_a_wider_interval(pairs in prop::collection::vec((1.0..1e3_f64, 1.0..1e3_f64), 3..20), unit in -30..30_i32) {
            let factor = 2.0_f64.powi(unit);
            let (a, b): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            let scaled = |v: &[f64]| blocks(&v.iter().map(|x| x * factor).collect::<Vec<_>>());
            let (wide, narrow) = (paired_ratio(&blocks(&a), &blocks(&b), 0.99).unwrap(), paired_ratio(&blocks(&a), &blocks(&b), 0.9).unwrap());
            prop_assert!(wide.low <= narrow.low && narrow.high <= wide.high);
            prop_assert_eq!(paired_ratio(&scaled(&a), &scaled(&b), 0.9).unwrap(), narrow);
        }
    }
}
