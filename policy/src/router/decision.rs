//! The answer to one request, and what is worked out of it when it is asked for.

use super::{
    Router, Workload,
    decide::{Placed, best, energy_of, found, places, predict_by_index},
    estimate::Estimate,
    request::Request,
    rest::Rest,
    tables::Side,
};
use crate::{
    rules::{Class, CompileAdvice, Liveness, Reason, Warmth},
    stats::real_size,
};
use phase_core::{BackendId, Energy, Phase, Shape};
use serde::Serialize;
use std::fmt;

/// A backend, and why.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Choice<'r> {
    /// The backend.
    pub backend: &'r BackendId,
    /// The backend it was held against, where one explains the choice.
    pub against: Option<&'r BackendId>,
    /// Why.
    #[serde(flatten)]
    pub reason: Reason,
    /// The measured bucket that decided; `None` for a whole request, which is decided by both phases' buckets.
    pub bucket: Option<Shape>,
}

/// Predicted times on the routed backend.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Prediction {
    /// The prefill call.
    pub prefill: Estimate,
    /// One decode step at the request's mean context; `None` when it takes none.
    pub decode_step: Option<Estimate>,
    /// How many of them.
    pub decode_steps: usize,
    /// Prefill and all decode steps. Sampling and streaming are not in it.
    pub total: Estimate,
}

/// What is known of the first call on the routed backend.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WarmupAdvice {
    /// In prefill.
    pub prefill: Warmth,
    /// In decode.
    pub decode: Warmth,
}

/// The answer to one request. It borrows from its router and owns no memory.
#[derive(Clone, Copy, Serialize)]
#[non_exhaustive]
pub struct Decision<'r> {
    #[serde(skip)]
    pub(super) router: &'r Router,
    #[serde(skip)]
    pub(super) sides: [Option<&'r Side>; 2],
    #[serde(skip)]
    pub(super) chosen: usize,
    /// What was asked.
    pub workload: Workload,
    /// What kind of request it is.
    pub class: Class,
    /// Predicted share of decode in phase time on the default-safe backend; `None` where it was not measured.
    pub decode_fraction: Option<f64>,
    /// The backend for the whole request.
    pub route: Choice<'r>,
    /// Whether to compile. Where it says so, route and predicted times are those of compiled calls.
    pub compile: CompileAdvice,
    /// Whether the routed backend keeps the limits.
    pub limits: Limits,
    /// Whether the routed backend counts as cold: see [`Router::decide_after`].
    pub rest: Rest,
}

/// Whether a route keeps the router's limits, by upper bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Limits {
    /// It keeps all of them.
    Kept,
    /// It may not, and no other backend that runs is known to.
    Missed,
    /// No bound is known: outside of what was measured, or too few calls for the percentile.
    NotKnown,
    /// There are none.
    Unset,
}

impl<'r> Decision<'r> {
    pub(crate) const fn router(&self) -> &'r Router {
        self.router
    }

    /// The best backend in prefill by itself, in the bucket that decides. Worked out when it is asked for.
    pub fn prefill(&self) -> Choice<'r> {
        best(self.router, &places(self.router, self.workload).0)
    }

    /// The best backend in decode by itself, in the bucket that decides. Worked out when it is asked for.
    pub fn decode(&self) -> Choice<'r> {
        best(self.router, &places(self.router, self.workload).1)
    }

    /// What to warm before routing there, in the buckets that decide.
    pub fn warmup(&self) -> WarmupAdvice {
        let [prefill, decode] =
            self.sides.map(|side| side.and_then(|s| s.arms[self.chosen].as_ref()).map_or(Warmth::NotMeasured, |arm| arm.warmth));
        WarmupAdvice { prefill, decode }
    }

    /// Whether the request's calls in `phase` would be compiled ones on `backend`.
    pub(crate) fn is_compiled(&self, backend: &BackendId, phase: Phase) -> bool {
        let side = self.sides[usize::from(phase == Phase::Decode)];
        let index = self.router.tables.backends.iter().position(|id| id == backend);
        side.zip(index).and_then(|(side, index)| side.arms[index].as_ref()).is_some_and(|arm| arm.compiled)
    }

    /// Energy of the request on the routed backend, from cells measured at its very prompt length and in its context
    /// bucket. Never interpolated.
    pub fn energy(&self) -> Energy {
        let sides = if self.predicted().is_some() { self.sides } else { [None; 2] };
        energy_of(self.router, sides, self.chosen, self.workload)
    }

    /// Times on the routed backend; `None` outside of what was measured, or under another boundary. Worked out when it is
    /// asked for.
    pub fn predicted(&self) -> Option<Prediction> {
        predict_by_index(self.router, self.chosen, self.workload).ok()
    }

    /// Backends to try, in order, if the routed one fails. Allocates nothing.
    pub fn fallbacks(&self) -> Fallbacks<'r> {
        fallbacks(self)
    }

    /// Ids of the cells that it rests on: of every backend, in the buckets that decide. Allocates.
    pub fn evidence(&self) -> Vec<String> {
        let arms = self.sides.iter().flatten().flat_map(|side| &side.arms).flatten();
        arms.map(|arm| self.router.policy.cells()[arm.cell].key.id()).collect()
    }

    /// All of it as JSON, with the ids of its evidence and the policy's digest. Allocates.
    ///
    /// # Panics
    /// Never: a decision has only string keys.
    pub fn to_json(&self) -> serde_json::Value {
        let mut json = serde_json::to_value(self).expect("a decision has string keys");
        for (name, choice) in [("prefill", self.prefill()), ("decode", self.decode())] {
            json[name] = serde_json::to_value(choice).expect("a choice has string keys");
        }
        json["warmup"] = serde_json::to_value(self.warmup()).expect("an advice has string keys");
        json["predicted"] = serde_json::to_value(self.predicted()).expect("a prediction has string keys");
        json["energy"] = serde_json::to_value(self.energy()).expect("an energy has string keys");
        json["evidence"] = self.evidence().into();
        json["runs"] = self.router.policy.runs().into();
        json["fallbacks"] = self.fallbacks().map(BackendId::as_str).collect::<Vec<_>>().into();
        json["policy_digest"] = self.router.policy.digest().into();
        json
    }
}

impl fmt::Debug for Decision<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { router: _, sides: _, chosen: _, workload, class, decode_fraction, route, compile, limits, rest } = self;
        f.debug_struct("Decision")
            .field("workload", workload)
            .field("class", class)
            .field("decode_fraction", decode_fraction)
            .field("route", route)
            .field("prefill", &self.prefill())
            .field("decode", &self.decode())
            .field("predicted", &self.predicted())
            .field("warmup", &self.warmup())
            .field("compile", compile)
            .field("limits", limits)
            .field("rest", rest)
            .finish()
    }
}

/// Backends to try after the routed one, best first: the default-safe one, then the others by what counts on them. Those
/// that don't run here, or run under another boundary, are not among them.
#[derive(Clone, Debug)]
pub struct Fallbacks<'r> {
    router: &'r Router,
    places: (Placed<'r>, Placed<'r>),
    steps: f64,
    chosen: usize,
    last: Option<(bool, f64, usize)>,
}

impl<'r> Iterator for Fallbacks<'r> {
    type Item = &'r BackendId;

    fn next(&mut self) -> Option<&'r BackendId> {
        let Self { router, places, steps, chosen, last } = self;
        let request = Request { prefill: found(&places.0), decode: found(&places.1), steps: *steps };
        let order = |a: &(bool, f64, usize), b: &(bool, f64, usize)| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2));
        let live = router.tables.liveness.iter().enumerate().filter(|(index, live)| **live == Liveness::Live && index != chosen);
        let keys = live.map(|(index, _)| (index != 0, request.counts(router, index).unwrap_or(f64::INFINITY), index));
        let next = keys.filter(|key| last.is_none_or(|last| order(&last, key).is_lt())).min_by(order)?;
        *last = Some(next);
        Some(&router.tables.backends[next.2])
    }
}

pub(super) fn fallbacks<'r>(decision: &Decision<'r>) -> Fallbacks<'r> {
    let Decision { router, workload, chosen, .. } = *decision;
    Fallbacks { router, places: places(router, workload), steps: real_size(workload.decode_steps()), chosen, last: None }
}
