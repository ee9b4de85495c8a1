//! Every threshold of the policy, with where it comes from. A compiled policy carries the values it was compiled with.

use serde::{Deserialize, Serialize};

/// New tokens from which a request counts as decode-heavy. Source: decision matrix of the TR117-TR122 whitepaper
/// (`gen_tokens >= 64`); TR121 measured a decode fraction of 0.98 there.
pub const DECODE_HEAVY_NEW_TOKENS: usize = 64;

/// Share of phase time above which a request counts as decode-heavy. Source: the same row (`decode_fraction > 0.9`).
pub const DECODE_HEAVY_FRACTION: f64 = 0.9;

/// Most new tokens that still count as "minimal" in the whitepaper's prefill-heavy row, which gives no number. 8 is the
/// shortest generation the reports ever measured (TR119, and the sweep 8/32/64/128 of TR121): what they call minimal
/// can't be less than what they tried.
pub const MINIMAL_NEW_TOKENS: usize = 8;

/// Cold time over steady time above which a warm pool or a pre-routing warm-up is required. Source: conclusive report
/// TR117-TR122, section 10.2 ("warmup > 10x").
pub const WARM_POOL_RATIO: f64 = 10.0;

/// Calls that warm a path for one shape: the first one and three more. Source: TR123 takes 3 warm-ups, twice the 1 to 2 of
/// the other reports; TR128 saw a rate rise over 143 requests, so that a path may still get faster after it.
pub const WARMUP_CALLS: u32 = 4;

/// Half-width of the region of practical equivalence: differences below it don't move a route. Ours.
pub const ROPE: f64 = 0.02;

/// Confidence of every interval. Ours.
pub const CONFIDENCE: f64 = 0.95;

/// Blocks two backends must share before their ratio has an interval. Ours: with fewer, a family of comparisons asks of
/// Student's t what the few blocks can't give (three blocks at 99.2% span 11 standard errors to each side, five span 4.9).
pub const MIN_BLOCKS: usize = 5;

/// Blocks that calls must come from before their percentiles are told. Ours: calls of one block resemble each other.
pub const MIN_TAIL_BLOCKS: usize = 3;

/// How far outside the measured lengths a request may lie, as a factor. Ours: one octave, the spacing of the context
/// buckets, so that a prediction never reaches further than a bucket does.
pub const ENVELOPE_FACTOR: f64 = 2.0;

/// Share of failed calls above which a cell can't win a route. Source: TR128's alert on an error rate above 0.1%.
pub const MAX_FAILURE_SHARE: f64 = 0.001;

/// Share by which another backend must be better before a route leaves the one that has it. Ours: more than the tie
/// region, so that two policies of one machine don't send traffic back and forth.
pub const HYSTERESIS: f64 = 0.05;

/// Confidence of upper bounds of percentiles: 90 calls for p95, 459 for p99. Ours.
pub const TAIL_CONFIDENCE: f64 = 0.99;

/// Age in seconds from which a policy's times are to be re-checked: 30 days. Ours.
pub const MAX_AGE_S: u64 = 30 * 24 * 3600;

/// How intervals allow for there being many comparisons in one policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Correction {
    /// Each interval stands for itself: with 20 comparisons of equals, one is called a difference more often than not. What
    /// policies were compiled with that do not say.
    #[default]
    None,
    /// Holm's correction over all comparisons of the policy: see [`holm`](crate::stats::holm).
    Holm,
}

impl Correction {
    /// Documents that don't say are written without it again, so that they keep their digest.
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// The constants one policy was compiled with and is read by.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Constants {
    /// [`DECODE_HEAVY_NEW_TOKENS`].
    pub decode_heavy_new_tokens: usize,
    /// [`DECODE_HEAVY_FRACTION`].
    pub decode_heavy_fraction: f64,
    /// [`MINIMAL_NEW_TOKENS`].
    pub minimal_new_tokens: usize,
    /// [`WARM_POOL_RATIO`].
    pub warm_pool_ratio: f64,
    /// [`ROPE`].
    pub rope: f64,
    /// [`CONFIDENCE`].
    pub confidence: f64,
    /// [`MIN_BLOCKS`].
    pub min_blocks: usize,
    /// [`ENVELOPE_FACTOR`].
    pub envelope_factor: f64,
    /// [`MAX_FAILURE_SHARE`].
    pub max_failure_share: f64,
    /// [`HYSTERESIS`].
    pub hysteresis: f64,
    /// How intervals allow for there being many comparisons; [`Correction::Holm`] by default.
    #[serde(default, skip_serializing_if = "Correction::is_none")]
    pub correction: Correction,
}

impl Default for Constants {
    fn default() -> Self {
        Self {
            decode_heavy_new_tokens: DECODE_HEAVY_NEW_TOKENS,
            decode_heavy_fraction: DECODE_HEAVY_FRACTION,
            minimal_new_tokens: MINIMAL_NEW_TOKENS,
            warm_pool_ratio: WARM_POOL_RATIO,
            rope: ROPE,
            confidence: CONFIDENCE,
            min_blocks: MIN_BLOCKS,
            envelope_factor: ENVELOPE_FACTOR,
            max_failure_share: MAX_FAILURE_SHARE,
            hysteresis: HYSTERESIS,
            correction: Correction::Holm,
        }
    }
}

impl Constants {
    /// The first value that makes no sense, in words.
    pub(crate) fn check(&self) -> Result<(), String> {
        let Self {
            decode_heavy_new_tokens,
            decode_heavy_fraction,
            minimal_new_tokens,
            warm_pool_ratio,
            rope,
            confidence,
            min_blocks,
            envelope_factor,
            max_failure_share,
            hysteresis,
            correction: _,
        } = *self;
        let checks = [
            ("decode_heavy_new_tokens", decode_heavy_new_tokens > minimal_new_tokens, "more than minimal_new_tokens"),
            ("decode_heavy_fraction", (0.0..=1.0).contains(&decode_heavy_fraction), "in 0..=1"),
            ("warm_pool_ratio", warm_pool_ratio.is_finite() && warm_pool_ratio >= 1.0, "at least 1"),
            ("rope", (0.0..1.0).contains(&rope), "in 0..1"),
            ("confidence", confidence > 0.0 && confidence < 1.0, "between 0 and 1"),
            ("min_blocks", min_blocks >= 2, "at least 2"),
            ("envelope_factor", envelope_factor.is_finite() && envelope_factor >= 1.0, "at least 1"),
            ("max_failure_share", (0.0..=1.0).contains(&max_failure_share), "in 0..=1"),
            ("hysteresis", (0.0..1.0).contains(&hysteresis), "in 0..1"),
        ];
        match checks.into_iter().find(|(_, ok, _)| !ok) {
            Some((name, _, wanted)) => Err(format!("`{name}` must be {wanted}")),
            None => Ok(()),
        }
    }
}
