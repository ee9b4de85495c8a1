//! Small and big models: which one a request is worth.

use super::{Decision, Router, Workload};
use crate::cost;
use serde::Serialize;

/// One model, with its own policy.
#[derive(Clone, Debug)]
pub struct ModelTier {
    name: String,
    router: Router,
    usd_per_hour: f64,
    success: f64,
}

/// Models by what a success costs on them.
///
/// With a value of failure, a request goes where `usd + (1 - p) * failure_usd` is least: the premium of a big model is paid
/// when failures cost more. Without one, it goes where `usd / p` is least: failures are tried again. A dearer tier is chosen
/// only when the upper end of what it takes lies below the lower end of the cheaper one's.
#[derive(Clone, Debug)]
pub struct TieredRouter {
    tiers: Vec<ModelTier>,
    failure_usd: Option<f64>,
}

/// A tier that makes no sense.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TierError {
    /// There is none.
    #[error("a tiered router takes at least one tier")]
    NoTiers,
    /// A number out of its range.
    #[error("{what} must be {wanted}, and is {found}")]
    Number {
        /// Which.
        what: String,
        /// What it must be.
        wanted: &'static str,
        /// What it is.
        found: f64,
    },
}

/// Which model, and on which backend.
#[derive(Clone, Copy, Debug, Serialize)]
#[non_exhaustive]
pub struct TierDecision<'r> {
    /// The tier's name.
    pub tier: &'r str,
    /// Why.
    pub reason: TierReason,
    /// What it takes in US dollars, failures included; `None` without a prediction.
    pub expected_usd: Option<f64>,
    /// The decision inside the tier.
    pub decision: Decision<'r>,
}

/// Why a tier was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TierReason {
    /// It takes less than every other, beyond the intervals.
    Cheapest,
    /// It is the first one, and no other is known to take less.
    First,
    /// Nothing is known of this request in any tier; the last one, the most able, takes it.
    NothingKnown,
}

impl ModelTier {
    /// A model routed by `router`, on machines at `usd_per_hour`, whose answers are good with probability `success`: a
    /// quality evaluation's number, not ours.
    pub fn new(name: impl Into<String>, router: Router, usd_per_hour: f64, success: f64) -> Self {
        Self { name: name.into(), router, usd_per_hour, success }
    }

    /// What the request takes here, with its bounds, in the order low, value, high.
    fn expected(&self, decision: &Decision<'_>, failure_usd: Option<f64>) -> Option<[f64; 3]> {
        let total = decision.predicted()?.total;
        let seconds = cost::seconds(total.ns, total.interval).ok()?;
        let usd = [seconds.low(), seconds.value(), seconds.high()].map(|s| s / 3600.0 * self.usd_per_hour);
        Some(match failure_usd {
            Some(failure) => usd.map(|usd| usd + (1.0 - self.success) * failure),
            None => usd.map(|usd| usd / self.success),
        })
    }
}

impl TieredRouter {
    /// Tiers from the least to the most able; requests of which nothing is known go to the last one.
    ///
    /// # Errors
    /// Without a tier; for a price that is negative or not finite, or a probability outside of `0 < p <= 1`.
    pub fn new(tiers: Vec<ModelTier>) -> Result<Self, TierError> {
        if tiers.is_empty() {
            return Err(TierError::NoTiers);
        }
        for ModelTier { name, usd_per_hour, success, .. } in &tiers {
            let wrong = |what: &str, wanted, found| TierError::Number { what: format!("the {what} of `{name}`"), wanted, found };
            if !(usd_per_hour.is_finite() && *usd_per_hour >= 0.0) {
                return Err(wrong("price", "0 or more", *usd_per_hour));
            }
            if !(*success > 0.0 && *success <= 1.0) {
                return Err(wrong("success probability", "above 0 and at most 1", *success));
            }
        }
        Ok(Self { tiers, failure_usd: None })
    }

    /// Every tier's name and router.
    pub(crate) fn routers(&self) -> impl Iterator<Item = (&str, &Router)> {
        self.tiers.iter().map(|t| (t.name.as_str(), &t.router))
    }

    /// With what a failed request costs.
    ///
    /// # Errors
    /// For a value that is negative or not finite.
    pub fn with_failure_usd(mut self, usd: f64) -> Result<Self, TierError> {
        if !(usd.is_finite() && usd >= 0.0) {
            return Err(TierError::Number { what: "the cost of a failure".to_owned(), wanted: "0 or more", found: usd });
        }
        self.failure_usd = Some(usd);
        Ok(self)
    }

    /// Which model takes the request. Neither locks nor allocates.
    pub fn decide(&self, workload: &Workload) -> TierDecision<'_> {
        let mut best: Option<(&ModelTier, Decision<'_>, [f64; 3], TierReason)> = None;
        for tier in &self.tiers {
            let decision = tier.router.decide(workload);
            let Some(usd) = tier.expected(&decision, self.failure_usd) else { continue };
            best = Some(match best {
                None => (tier, decision, usd, TierReason::First),
                // Beyond the intervals, not by the estimates.
                Some((_, _, [low, ..], _)) if usd[2] < low => (tier, decision, usd, TierReason::Cheapest),
                Some(before) => before,
            });
        }
        match best {
            Some((tier, decision, [_, usd, _], reason)) => TierDecision { tier: &tier.name, reason, expected_usd: Some(usd), decision },
            None => {
                let last = &self.tiers[self.tiers.len() - 1];
                let decision = last.router.decide(workload);
                TierDecision { tier: &last.name, reason: TierReason::NothingKnown, expected_usd: None, decision }
            }
        }
    }
}
