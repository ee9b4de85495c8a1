//! What a decision expects of its request: to be kept until the request is done, and then held against what it took.

use super::{
    Decision,
    decide::{found, places, predict_by_index},
    estimate::Estimate,
    request::Request,
};
use crate::{rules::Liveness, stats::real_size};

/// The parts of an [`Estimate`] that can be held against one request, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "plain numbers")]
pub struct Expected {
    /// The prediction.
    pub ns: f64,
    /// Where the median lies, low and high.
    pub interval: Option<[f64; 2]>,
    /// 99% upper bound of the 95th percentile.
    pub p95_upper_ns: Option<f64>,
}

/// What was expected of one request on the routed backend. It owns no memory and outlives its router.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Expectation {
    pub(crate) policy: u64,
    pub(crate) backend: u32,
    /// Decode steps.
    pub(crate) steps: u32,
    /// The prefill call.
    pub prefill: Expected,
    /// One decode step at the request's mean context; `None` when it takes none.
    pub decode_step: Option<Expected>,
    /// What the best other backend that runs is predicted to take for the whole request; `None` where none is predicted.
    pub best_other_ns: Option<f64>,
}

impl Expected {
    fn of(e: &Estimate) -> Self {
        Self { ns: e.ns, interval: e.interval.map(|i| [i.low, i.high]), p95_upper_ns: e.p95_upper_ns }
    }

    /// One of this and `times` of the other.
    #[inline]
    fn and(&self, other: &Self, times: f64) -> Self {
        let both = |a: Option<f64>, b: Option<f64>| a.zip(b).map(|(a, b)| a + times * b);
        let ends = self.interval.zip(other.interval);
        Self {
            ns: self.ns + times * other.ns,
            interval: ends.map(|([a, b], [c, d])| [a + times * c, b + times * d]),
            p95_upper_ns: both(self.p95_upper_ns, other.p95_upper_ns),
        }
    }
}

impl Expectation {
    /// For a request that ended after another number of decode steps than it asked for. Of the other backends nothing is said
    /// then.
    #[must_use]
    pub fn with_decode_steps(mut self, steps: u32) -> Self {
        if steps != self.steps {
            (self.steps, self.best_other_ns) = (steps, None);
        }
        self
    }

    /// The whole request.
    #[inline]
    pub fn total(&self) -> Expected {
        match &self.decode_step {
            Some(step) if self.steps > 0 => self.prefill.and(step, f64::from(self.steps)),
            _ => self.prefill,
        }
    }
}

impl Decision<'_> {
    /// What to hold against the request when it is done; `None` where nothing is predicted. Worked out when it is asked for;
    /// allocates nothing.
    pub fn expectation(&self) -> Option<Expectation> {
        let Self { router, chosen, workload, .. } = *self;
        let prediction = predict_by_index(router, chosen, workload).ok()?;
        let (prefill, decode) = places(router, workload);
        let request = Request { prefill: found(&prefill), decode: found(&decode), steps: real_size(workload.decode_steps()) };
        let others = router.tables.liveness.iter().enumerate().filter(|(i, live)| *i != chosen && **live == Liveness::Live);
        let best = others.filter_map(|(i, _)| Some(request.ns(i)?.total())).min_by(f64::total_cmp);
        Some(Expectation {
            policy: router.short_digest(),
            backend: u32::try_from(chosen).ok()?,
            steps: u32::try_from(prediction.decode_steps).ok()?,
            prefill: Expected::of(&prediction.prefill),
            decode_step: prediction.decode_step.as_ref().map(Expected::of),
            best_other_ns: best,
        })
    }
}
