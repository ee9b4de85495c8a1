//! Service-level objectives: upper limits on the times a request may take.

use crate::router::Prediction;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Which share of requests must keep a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "the percentiles that cells have bounds for")]
pub enum Percentile {
    /// Half of them: the upper end of the median's interval must keep it.
    #[default]
    P50,
    /// 95%: takes 90 calls a cell.
    P95,
    /// 99%: takes 459 calls a cell.
    P99,
}

impl Percentile {
    /// As a share.
    pub const fn share(self) -> f64 {
        match self {
            Self::P50 => 0.5,
            Self::P95 => 0.95,
            Self::P99 => 0.99,
        }
    }
}

impl fmt::Display for Percentile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::P50 => "p50",
            Self::P95 => "p95",
            Self::P99 => "p99",
        })
    }
}

/// Limits in nanoseconds. A limit that is `None` is none.
///
/// ```
/// use phase_policy::{Percentile, Slo};
/// let slo: Slo = "ttft=500ms, tpot=60ms, total=10s, p95".parse()?;
/// assert_eq!((slo.ttft_ns, slo.percentile), (Some(5e8), Percentile::P95));
/// assert_eq!(slo.to_string(), "ttft=500ms,tpot=60ms,total=10s,p95");
/// # Ok::<(), phase_policy::SloError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Slo {
    /// Start to first token. A prediction knows prefill and no queue, tokenizer or network.
    pub ttft_ns: Option<f64>,
    /// One decode step.
    pub tpot_ns: Option<f64>,
    /// Start to last token.
    pub total_ns: Option<f64>,
    /// Which share of requests must keep the limits.
    pub percentile: Percentile,
}

impl Slo {
    /// Whether there is no limit at all.
    pub const fn is_none(&self) -> bool {
        self.ttft_ns.is_none() && self.tpot_ns.is_none() && self.total_ns.is_none()
    }

    /// Whether `prediction` keeps every limit, by upper bounds. `None` when a bound that is asked for is not known.
    #[inline]
    pub fn keeps(&self, prediction: &Prediction) -> Option<bool> {
        let Self { ttft_ns, tpot_ns, total_ns, percentile } = *self;
        let parts = [(ttft_ns, Some(&prediction.prefill)), (tpot_ns, prediction.decode_step.as_ref()), (total_ns, Some(&prediction.total))];
        for (limit, estimate) in parts {
            if let Some((limit, estimate)) = limit.zip(estimate)
                && estimate.upper_ns(percentile)? > limit
            {
                return Some(false);
            }
        }
        Some(true)
    }
}

impl FromStr for Slo {
    type Err = SloError;

    fn from_str(text: &str) -> Result<Self, SloError> {
        let mut slo = Self::default();
        for part in text.split(',').map(str::trim) {
            let wrong = || SloError { text: part.to_owned() };
            match part {
                "p50" => slo.percentile = Percentile::P50,
                "p95" => slo.percentile = Percentile::P95,
                "p99" => slo.percentile = Percentile::P99,
                _ => {
                    let (name, value) = part.split_once('=').ok_or_else(wrong)?;
                    let limit = Some(nanoseconds(value.trim()).ok_or_else(wrong)?);
                    match name.trim() {
                        "ttft" => slo.ttft_ns = limit,
                        "tpot" => slo.tpot_ns = limit,
                        "total" => slo.total_ns = limit,
                        _ => return Err(wrong()),
                    }
                }
            }
        }
        Ok(slo)
    }
}

fn nanoseconds(text: &str) -> Option<f64> {
    let units = [("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9)];
    let (number, factor) = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    let value = number.trim().parse::<f64>().ok()? * factor;
    (value.is_finite() && value > 0.0).then_some(value)
}

impl fmt::Display for Slo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ttft_ns, tpot_ns, total_ns, percentile } = *self;
        for (name, limit) in [("ttft", ttft_ns), ("tpot", tpot_ns), ("total", total_ns)] {
            match limit {
                Some(ns) if ns >= 1e9 => write!(f, "{name}={}s,", ns / 1e9)?,
                Some(ns) => write!(f, "{name}={}ms,", ns / 1e6)?,
                None => {}
            }
        }
        write!(f, "{percentile}")
    }
}

/// A limit that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no limit: write ttft=500ms, tpot=60ms, total=10s, and p50, p95 or p99, separated by commas")]
#[non_exhaustive]
pub struct SloError {
    /// What can't be read.
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_limit_is_named() {
        for bad in ["", "ttft", "ttft=5", "ttft=-5ms", "ttft=NaNs", "ttft=0s", "ttft=infs", "itl=5ms", "p98", "ttft=5ms;p99"] {
            assert!(bad.parse::<Slo>().is_err(), "{bad}");
        }
        assert!("p99".parse::<Slo>().unwrap().is_none());
        assert_eq!("total=1500us".parse::<Slo>().unwrap().total_ns, Some(1.5e6));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-z0-9=., -]{0,30}") {
            if let Ok(slo) = text.parse::<Slo>() {
                prop_assert_eq!(slo.to_string().parse::<Slo>().unwrap().percentile, slo.percentile);
            }
        }
    }
}
