//! From a policy, a load, objectives and prices to workers and money.
//!
//! Every backend of the policy, and the policy's own routing, is a candidate. A request outside of what was measured
//! is not priced: what share that is stands in the plan, and a plan that leaves out more than it may is refused.

mod candidate;
mod plot;
mod table;

pub use candidate::{Candidate, Priced, Refusal, Sizing};

use crate::{
    Router, Slo,
    capacity::{Mix, MixError, Trace},
    cost::{PriceBook, PriceError, TierKind},
};
use serde::Serialize;

/// What is asked of the workers.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Load<'a> {
    /// Requests by share at a mean rate. How they arrive is an assumption.
    Mix {
        /// What is asked for.
        mix: &'a Mix,
        /// Mean rate.
        requests_per_s: f64,
        /// Load of the busy time over the mean load.
        burst: f64,
        /// Variability of arrivals in the busy time: 1 for Poisson.
        ca2: f64,
    },
    /// Requests as they came: peak, burstiness and waits are taken from it.
    Trace(&'a Trace),
}

/// How to plan.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PlanOptions {
    /// Limits on latency.
    pub slo: Slo,
    /// Most of a worker's time that may be used when no limit on latency says so. Source: TR128.
    pub utilisation_cap: f64,
    /// Width of the window that is the busy time.
    pub peak_window_s: f64,
    /// Share of requests that may lie outside of what was measured; they are left out of every number.
    pub may_leave_out: f64,
    /// Tiers to price. A machine without one of them is named in the plan, and a tier that no machine has is an error. All that
    /// each machine has when empty.
    pub tiers: Vec<TierKind>,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self { slo: Slo::default(), utilisation_cap: 0.7, peak_window_s: 300.0, may_leave_out: 0.0, tiers: Vec::new() }
    }
}

impl PlanOptions {
    /// With limits on latency.
    #[must_use]
    pub fn with_slo(mut self, slo: Slo) -> Self {
        self.slo = slo;
        self
    }

    /// With a share of requests that may lie outside of what was measured.
    #[must_use]
    pub fn with_may_leave_out(mut self, share: f64) -> Self {
        self.may_leave_out = share;
        self
    }

    /// With the tiers to price.
    #[must_use]
    pub fn with_tiers(mut self, tiers: impl IntoIterator<Item = TierKind>) -> Self {
        self.tiers.extend(tiers);
        self
    }
}

/// What a load takes and costs, by candidate.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Plan {
    /// The policy it rests on.
    pub policy_digest: String,
    /// The price book.
    pub prices: String,
    /// Its date.
    pub prices_date: String,
    /// The limits.
    pub slo: Slo,
    /// The mix it is weighted with.
    pub mix: Mix,
    /// Mean rate.
    pub requests_per_s: f64,
    /// Rate of the busy time.
    pub peak_requests_per_s: f64,
    /// Busy over mean.
    pub burst: f64,
    /// Mean tokens of a request, prompt and generated.
    pub tokens_per_request: f64,
    /// Requests of a trace that got no answer and are not in it.
    pub unanswered: usize,
    /// Machines and tiers that were asked for and that the book does not price, in words.
    pub not_priced: Vec<String>,
    /// The policy's routing first, then each backend.
    pub candidates: Vec<Candidate>,
}

impl Plan {
    /// Makes a plan.
    ///
    /// # Errors
    /// A load without sense, or a price that is missing. What a candidate can't do is its [`Refusal`].
    pub fn new(router: &Router, load: Load<'_>, book: &PriceBook, options: &PlanOptions) -> Result<Self, PlanError> {
        let (mix, requests_per_s, peak, unanswered) = match load {
            Load::Mix { mix, requests_per_s, burst, ca2 } => {
                let sane = requests_per_s.is_finite() && requests_per_s > 0.0 && burst.is_finite() && burst >= 1.0;
                if !(sane && ca2.is_finite() && ca2 >= 0.0) {
                    return Err(PlanError::Load { requests_per_s, burst, ca2 });
                }
                (mix.clone(), requests_per_s, requests_per_s * burst, 0)
            }
            Load::Trace(trace) => {
                let mean = trace.requests_per_s().ok_or(PlanError::NoSpan)?;
                let peak = trace.peak_per_s(options.peak_window_s).ok_or(PlanError::NoSpan)?;
                (Mix::of_trace(trace)?, mean, peak.max(mean), trace.unanswered())
            }
        };
        let unit = |v: f64| (0.0..=1.0).contains(&v);
        if !(options.utilisation_cap > 0.0 && unit(options.utilisation_cap) && unit(options.may_leave_out)) {
            return Err(PlanError::Options);
        }
        let not_priced = missing(book, &options.tiers)?;
        let burst = peak / requests_per_s;
        let inputs = candidate::Inputs { router, load, mix: &mix, requests_per_s, peak, burst, book, options };
        let names = std::iter::once(None).chain(router.policy().backends().map(Some));
        let candidates = names.map(|name| Candidate::new(&inputs, name)).collect::<Result<_, _>>()?;
        Ok(Self {
            policy_digest: router.policy().digest().to_owned(),
            prices: book.name().to_owned(),
            prices_date: book.date().to_owned(),
            slo: options.slo,
            requests_per_s,
            peak_requests_per_s: peak,
            burst,
            tokens_per_request: mix.mean_tokens(),
            unanswered,
            not_priced,
            mix,
            candidates,
        })
    }

    /// The plan as a table in Markdown.
    pub fn table(&self) -> String {
        table::table(self)
    }

    /// Cost a month against load, from a quarter to four times this one, as an SVG picture: one line for each candidate, in
    /// the cheapest tier.
    pub fn svg(&self) -> String {
        plot::svg(self)
    }
}

/// What `tiers` asks for and the book does not have.
///
/// # Errors
/// A tier that no machine has.
fn missing(book: &PriceBook, tiers: &[TierKind]) -> Result<Vec<String>, PriceError> {
    let mut all = Vec::new();
    for kind in tiers {
        let errors: Vec<_> = book.machines().iter().filter_map(|m| m.tier(*kind).err()).collect();
        if errors.len() == book.machines().len() {
            return errors.into_iter().next().map_or(Ok(all), Err);
        }
        all.extend(errors.iter().map(ToString::to_string));
    }
    Ok(all)
}

/// A plan that can't be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A load without sense.
    #[error("{requests_per_s} requests/s, burst {burst}, variability {ca2}: they must be positive, at least 1, and 0 or more")]
    Load {
        /// Mean rate.
        requests_per_s: f64,
        /// Burst factor.
        burst: f64,
        /// Variability.
        ca2: f64,
    },
    /// A mix that makes no sense.
    #[error(transparent)]
    Mix(#[from] MixError),
    /// All requests of the trace came at once.
    #[error("the trace has no two requests at different times, and so no rate")]
    NoSpan,
    /// Options without sense.
    #[error("the utilisation cap must lie in 0..=1 and not be 0, and the share that may be left out in 0..=1")]
    Options,
    /// A price that is missing or makes no sense.
    #[error(transparent)]
    Price(#[from] PriceError),
    /// A number too large to be one.
    #[error(transparent)]
    Range(#[from] crate::cost::OutOfRange),
}
