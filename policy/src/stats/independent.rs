//! Comparing two runs: their blocks have no pairs, so the intervals are those of two independent samples.

use super::{BlockMedian, RatioInterval, real_size, student::student_t_quantile};

/// The ratio of `ours` to `theirs` where blocks have no partners: geometric means of the block medians, with Welch's
/// interval on their logarithms (unequal variances, Welch-Satterthwaite degrees of freedom). `blocks` is the smaller number.
/// `None` below 2 blocks on a side, for a time that is not positive and finite, or for a confidence outside of 0..1.
///
/// ```
/// use phase_policy::stats::{BlockMedian, Verdict, independent_ratio};
/// let blocks = |times: [f64; 4]| (0..).zip(times).map(|(b, t)| BlockMedian::new(b, 20, t)).collect::<Vec<_>>();
/// let ratio = independent_ratio(&blocks([9.0, 9.1, 8.9, 9.0]), &blocks([10.0, 10.1, 9.9, 10.0]), 0.95).ok_or("too few blocks")?;
/// assert_eq!(ratio.verdict(0.02), Verdict::Faster);
/// # Ok::<(), &str>(())
/// ```
pub fn independent_ratio(ours: &[BlockMedian], theirs: &[BlockMedian], confidence: f64) -> Option<RatioInterval> {
    if ours.len() < 2 || theirs.len() < 2 || !(confidence > 0.0 && confidence < 1.0) {
        return None;
    }
    let (x, vx, dx) = moments(ours);
    let (y, vy, dy) = moments(theirs);
    let variance = vx + vy;
    let half = if variance > 0.0 {
        let degrees = variance.powi(2) / (vx.powi(2) / dx + vy.powi(2) / dy);
        student_t_quantile(0.5 + confidence / 2.0, degrees)? * variance.sqrt()
    } else {
        0.0
    };
    let log = x - y;
    let blocks = ours.len().min(theirs.len());
    let interval = RatioInterval { ratio: log.exp(), low: (log - half).exp(), high: (log + half).exp(), confidence, blocks };
    interval.check().is_ok().then_some(interval)
}

/// Mean of the logarithms, the variance of that mean, and its degrees of freedom.
fn moments(blocks: &[BlockMedian]) -> (f64, f64, f64) {
    let n = real_size(blocks.len());
    let logs = || blocks.iter().map(|b| b.median_ns.ln());
    let mean = logs().sum::<f64>() / n;
    (mean, logs().map(|l| (l - mean).powi(2)).sum::<f64>() / (n - 1.0) / n, n - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Verdict;

    fn blocks(logs: &[f64]) -> Vec<BlockMedian> {
        (0..).zip(logs).map(|(b, l)| BlockMedian::new(b, 10, l.exp())).collect()
    }

    #[test]
    fn equals_a_calculation_by_hand() {
        // Two samples of 3 with variance 0.01: standard error sqrt(2 * 0.01 / 3) = 0.0816497, 4 degrees, t = 2.776445.
        let r = independent_ratio(&blocks(&[0.0, 0.1, 0.2]), &blocks(&[0.5, 0.6, 0.7]), 0.95).unwrap();
        for (got, log) in [(r.ratio, -0.5), (r.low, -0.5 - 0.226_696), (r.high, -0.5 + 0.226_696)] {
            assert!((got.ln() - log).abs() < 1e-5, "{got} should be exp({log})");
        }
        assert_eq!(independent_ratio(&blocks(&[0.0; 3]), &blocks(&[f64::NEG_INFINITY; 3]), 0.95), None);
        assert_eq!(independent_ratio(&blocks(&[0.0; 1]), &blocks(&[0.0; 3]), 0.95), None);
    }

    #[test]
    fn equal_constants_are_equivalent() {
        assert_eq!(independent_ratio(&blocks(&[1.0; 3]), &blocks(&[1.0; 3]), 0.95).unwrap().verdict(0.02), Verdict::Equivalent);
    }
}
