//! What is asked for, by share: the mix a plan is weighted with, and against which live traffic is held.

use super::Trace;
use crate::{Workload, cost};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Part {
    /// Its share of requests.
    pub share: f64,
    /// What it asks for.
    #[serde(flatten)]
    pub workload: Workload,
}

/// Requests by shape. The shares add up to 1, and no shape occurs twice.
///
/// ```
/// use phase_policy::capacity::Mix;
/// let mix = Mix::parse("256x128:80, 2048x256:20")?;
/// assert!((mix.mean_tokens() - (0.8 * 384.0 + 0.2 * 2304.0)).abs() < 1e-9);
/// assert!(Mix::parse("256x128:0").is_err());
/// # Ok::<(), phase_policy::capacity::MixError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Part>", into = "Vec<Part>")]
pub struct Mix(Vec<Part>);

impl Mix {
    /// Weights, of any scale, by what is asked for.
    ///
    /// # Errors
    /// Without a part, for weights that are negative, not finite or all 0, or for a request without sequences or prompt.
    pub fn new(parts: impl IntoIterator<Item = (f64, Workload)>) -> Result<Self, MixError> {
        let mut merged: BTreeMap<(usize, usize, usize), f64> = BTreeMap::new();
        for (weight, Workload { batch, prompt_tokens, new_tokens }) in parts {
            if batch == 0 || prompt_tokens == 0 {
                return Err(MixError::Empty { batch, prompt_tokens });
            }
            if !(weight.is_finite() && weight >= 0.0) {
                return Err(MixError::Weight { weight });
            }
            *merged.entry((batch, prompt_tokens, new_tokens)).or_default() += weight;
        }
        merged.retain(|_, weight| *weight > 0.0);
        let shares = cost::shares(merged.values().copied()).ok_or(MixError::NoParts)?;
        let workloads = merged.into_keys().map(|(batch, prompt, new)| Workload::new(batch, prompt, new));
        Ok(Self(shares.into_iter().zip(workloads).map(|(share, workload)| Part { share, workload }).collect()))
    }

    /// Reads `PROMPTxNEW:WEIGHT`, or `BATCHxPROMPTxNEW:WEIGHT`, separated by commas. The weight may be left out; it is 1.
    ///
    /// # Errors
    /// The part that can't be read, or what [`new`](Self::new) refuses.
    pub fn parse(text: &str) -> Result<Self, MixError> {
        let part = |text: &str| -> Option<(f64, Workload)> {
            let (shape, weight) = text.split_once(':').unwrap_or((text, "1"));
            let numbers = shape.split('x').map(|n| n.trim().parse::<usize>().ok()).collect::<Option<Vec<_>>>()?;
            let workload = match numbers[..] {
                [prompt, new] => Workload::new(1, prompt, new),
                [batch, prompt, new] => Workload::new(batch, prompt, new),
                _ => return None,
            };
            Some((weight.trim().parse().ok()?, workload))
        };
        let parts: Result<Vec<_>, _> =
            text.split(',').map(|p| part(p.trim()).ok_or_else(|| MixError::Part { text: p.trim().to_owned() })).collect();
        Self::new(parts?)
    }

    /// The shapes of a trace, each by its share.
    ///
    /// # Errors
    /// As [`new`](Self::new): a trace of requests without a prompt.
    pub fn of_trace(trace: &Trace) -> Result<Self, MixError> {
        Self::new(trace.arrivals().iter().map(|a| (1.0, a.workload)))
    }

    /// The parts, ordered by shape.
    pub fn parts(&self) -> &[Part] {
        &self.0
    }

    /// Mean tokens of a request, prompt and generated, over all its sequences.
    pub fn mean_tokens(&self) -> f64 {
        let real = crate::stats::real_size;
        let tokens = |w: Workload| real(w.batch) * (real(w.prompt_tokens) + real(w.new_tokens));
        self.0.iter().map(|p| p.share * tokens(p.workload)).sum()
    }
}

impl TryFrom<Vec<Part>> for Mix {
    type Error = MixError;

    fn try_from(parts: Vec<Part>) -> Result<Self, MixError> {
        let mix = Self::new(parts.iter().map(|p| (p.share, p.workload)))?;
        // Shares that were written keep every digit: a document's digest is over them.
        let same = |(a, b): (&Part, &Part)| a.workload == b.workload && (a.share - b.share).abs() < 1e-9;
        Ok(if parts.len() == mix.0.len() && parts.iter().zip(&mix.0).all(same) { Self(parts) } else { mix })
    }
}

impl From<Mix> for Vec<Part> {
    fn from(mix: Mix) -> Self {
        mix.0
    }
}

/// A mix that makes no sense.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MixError {
    /// A request that asks for nothing.
    #[error("a request of batch {batch} and {prompt_tokens} prompt tokens asks for nothing")]
    Empty {
        /// Sequences.
        batch: usize,
        /// Prompt tokens.
        prompt_tokens: usize,
    },
    /// There is nothing in it.
    #[error("the mix has no part with a positive weight")]
    NoParts,
    /// A part that can't be read.
    #[error("`{text}` is not of the form PROMPTxNEW:WEIGHT or BATCHxPROMPTxNEW:WEIGHT")]
    Part {
        /// The part.
        text: String,
    },
    /// A weight that is none.
    #[error("a weight of {weight}: it must be 0 or more")]
    Weight {
        /// The weight.
        weight: f64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn equal_shapes_are_merged_and_shares_add_up() {
        let mix = Mix::parse("8x4,1x8x4:3,2x8x4:0").unwrap();
        assert_eq!(mix.parts().len(), 1);
        assert!((mix.parts()[0].share - 1.0).abs() < 1e-12);
        let json = serde_json::to_string(&mix).unwrap();
        assert_eq!(json, r#"[{"share":1.0,"batch":1,"prompt_tokens":8,"new_tokens":4}]"#);
        assert_eq!(serde_json::from_str::<Mix>(&json).unwrap(), mix);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, wanted) in [
            ("", "is not of the form"),
            ("8", "`8` is not"),
            ("1x2x3x4", "is not"),
            ("8x4:one", "is not"),
            ("8x4:-1", "a weight of -1"),
            ("8x4:NaN", "a weight of NaN"),
            ("0x4", "asks for nothing"),
            ("8x4:0", "no part"),
        ] {
            let error = Mix::parse(text).unwrap_err().to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
        assert!(serde_json::from_str::<Mix>("[]").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9x:,. ae-]{0,40}") {
            if let Ok(mix) = Mix::parse(&text) {
                let total: f64 = mix.parts().iter().map(|p| p.share).sum();
                prop_assert!((total - 1.0).abs() < 1e-9 && mix.mean_tokens().is_finite());
            }
        }
    }
}
