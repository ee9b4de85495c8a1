//! Statistics that assume little: order statistics for one sample, a t interval on paired log-ratios for two, change
//! points for steady states. No outlier is removed from a statistic of times.

mod correlation;
mod holm;
mod independent;
mod ordered;
mod ratio;
mod steady;
mod student;

pub use correlation::effective_size;
pub use holm::holm;
pub use independent::independent_ratio;
pub use ordered::{Interval, Ordered, needed_for_quantile};
pub use ratio::{BlockMedian, RatioInterval, Verdict, paired_ratio};
pub(crate) use ratio::{Edges, common_blocks};
pub use steady::{NEEDED as NEEDED_FOR_STEADY_STATE, SAME, Steadiness, SteadyState, steady_state};
pub use student::student_t_quantile;

/// Counts as real numbers: exact, because no count here comes near 2^53.
#[expect(clippy::cast_precision_loss, reason = "counts and nanoseconds of phases are far below 2^53")]
pub(crate) fn real(count: u64) -> f64 {
    count as f64
}

/// As [`real`], for sizes.
#[expect(clippy::cast_precision_loss, reason = "token counts are far below 2^53")]
pub(crate) fn real_size(count: usize) -> f64 {
    count as f64
}
