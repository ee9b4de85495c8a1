//! One decision. Everything here runs on every request.

use super::{
    Router, Workload,
    tables::{Estimate, Place},
};
use crate::{
    rules::{self, Candidate, Class, CompileAdvice, Liveness, Outside, Reason, Selection, Standing, Warmth, select},
    stats::{RatioInterval, real_size},
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
    pub(super) places: [Option<Place<'r>>; 2],
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
    /// The best backend in prefill.
    pub prefill: Choice<'r>,
    /// The best backend in decode.
    pub decode: Choice<'r>,
    /// Times on the routed backend; `None` outside of what was measured, or under another boundary.
    pub predicted: Option<Prediction>,
    /// What to warm before routing there.
    pub warmup: WarmupAdvice,
    /// Whether to compile.
    pub compile: CompileAdvice,
}

impl Decision<'_> {
    /// Energy of the request on the routed backend, from cells measured at its very prompt length and in its context
    /// bucket. Never interpolated.
    pub fn energy(&self) -> Energy {
        let [prefill, decode] = [0, 1].map(|phase| self.energy_of(phase));
        rules::request_energy(prefill, decode, real_size(self.workload.decode_steps()))
    }

    fn energy_of(&self, phase: usize) -> Option<&Energy> {
        let place = self.places[phase].as_ref().filter(|_| self.predicted.is_some())?;
        let cell = &self.router.policy.cells()[place.nearest.arms[self.chosen].as_ref()?.cell];
        let Shape { new_tokens, .. } = cell.key.shape;
        let Workload { prompt_tokens, .. } = self.workload;
        let here = match cell.contexts {
            Some(c) if cell.key.phase == Phase::Decode => {
                let last = prompt_tokens + self.workload.decode_steps().saturating_sub(1);
                c.min <= prompt_tokens && last <= c.max
            }
            _ => new_tokens == prompt_tokens,
        };
        here.then_some(&cell.energy)
    }

    /// All of it as JSON, with the policy's digest. Allocates.
    ///
    /// # Panics
    /// Never: a decision has only string keys.
    pub fn to_json(&self) -> serde_json::Value {
        let mut json = serde_json::to_value(self).expect("a decision has string keys");
        json["energy"] = serde_json::to_value(self.energy()).expect("an energy has string keys");
        json["policy_digest"] = self.router.policy.digest().into();
        json
    }
}

impl fmt::Debug for Decision<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { router: _, places: _, chosen: _, workload, class, decode_fraction, route, prefill, decode, predicted, warmup, compile } =
            self;
        f.debug_struct("Decision")
            .field("workload", workload)
            .field("class", class)
            .field("decode_fraction", decode_fraction)
            .field("route", route)
            .field("prefill", prefill)
            .field("decode", decode)
            .field("predicted", predicted)
            .field("warmup", warmup)
            .field("compile", compile)
            .finish()
    }
}

/// Where one phase of a request falls.
type Placed<'r> = Option<Result<Place<'r>, Outside>>;

pub(super) fn decide(router: &Router, workload: Workload) -> Decision<'_> {
    let constants = router.policy.constants();
    let Workload { batch, prompt_tokens, new_tokens } = workload;
    let steps = workload.decode_steps();
    let (prefill, decode) = if batch == 0 || prompt_tokens == 0 {
        (Some(Err(Outside::Empty)), Some(Err(Outside::Empty)))
    } else {
        let last = prompt_tokens.saturating_add(steps.saturating_sub(1));
        let mean = f64::midpoint(real_size(prompt_tokens), real_size(last));
        let prefill = router.tables.prefill.place(batch, prompt_tokens, prompt_tokens, real_size(prompt_tokens), constants);
        (prefill, router.tables.decode.place(batch, prompt_tokens, last, mean, constants))
    };
    let places = [prefill.and_then(Result::ok), decode.and_then(Result::ok)];
    let sums = Sums { places, steps: real_size(steps) };
    let default = sums.predict(0);
    let decode_fraction = default.map(|p| p.decode_ns / p.total.ns);
    let class = Class::of(batch, new_tokens, decode_fraction, constants);
    let selection = route(router, class, prefill, decode, &sums);
    let chosen = selection.index;
    let predicted = if router.tables.liveness[chosen] == Liveness::Changed { None } else { sums.predict(chosen) };
    let warmth =
        |place: Option<Place<'_>>| place.and_then(|p| p.nearest.arms[chosen].as_ref().map(|arm| arm.warmth)).unwrap_or(Warmth::NotMeasured);
    Decision {
        router,
        places,
        chosen,
        workload,
        class,
        decode_fraction,
        route: choice(router, selection, None),
        prefill: best(router, prefill),
        decode: best(router, decode),
        predicted: predicted.map(|p| p.public(steps)),
        warmup: WarmupAdvice { prefill: warmth(places[0]), decode: warmth(places[1]) },
        compile: rules::compile_advice(),
    }
}

pub(super) fn decide_phase(router: &Router, phase: Phase, shape: Shape) -> Choice<'_> {
    let constants = router.policy.constants();
    let Shape { batch, new_tokens, context } = shape;
    let (table, length) = match phase {
        Phase::Prefill => (&router.tables.prefill, new_tokens),
        Phase::Decode => (&router.tables.decode, context),
        _ => return decide(router, Workload::new(batch, context, new_tokens)).route,
    };
    let placed = if batch == 0 || new_tokens == 0 {
        Some(Err(Outside::Empty))
    } else if phase == Phase::Prefill && context > 0 {
        Some(Err(Outside::LaterTurn))
    } else {
        table.place(batch, length, length, real_size(length), constants)
    };
    best(router, placed)
}

fn choice<'r>(router: &'r Router, Selection { index, against, reason }: Selection, bucket: Option<Shape>) -> Choice<'r> {
    let name = |index: usize| &router.tables.backends[index];
    Choice { backend: name(index), against: against.map(name), reason, bucket }
}

/// The best backend at one phase.
fn best<'r>(router: &'r Router, placed: Placed<'r>) -> Choice<'r> {
    let place = match placed {
        None => return choice(router, Selection::default_safe(Reason::NoCell), None),
        Some(Err(outside)) => return choice(router, Selection::default_safe(Reason::OutsideEnvelope(outside)), None),
        Some(Ok(place)) => place,
    };
    let bucket = Some(place.nearest.shape);
    if place.nearest.arms[0].is_none() {
        return choice(router, Selection::default_safe(Reason::NoCell), bucket);
    }
    let candidates = challengers(router).filter_map(|(index, liveness)| {
        let standing = place.nearest.arms[index].as_ref()?.standing?;
        Some(Candidate { index, ns: place.estimate(index)?.ns, standing, liveness })
    });
    choice(router, chosen(router, candidates), bucket)
}

/// The backend for a whole request.
fn route<'r>(router: &'r Router, class: Class, prefill: Placed<'r>, decode: Placed<'r>, sums: &Sums<'r>) -> Selection {
    let rope = router.policy.constants().rope;
    let needed = if sums.steps > 0.0 { [prefill, decode] } else { [prefill, prefill] };
    for placed in needed {
        match placed {
            None => return Selection::default_safe(Reason::NoCell),
            Some(Err(outside)) => return Selection::default_safe(Reason::OutsideEnvelope(outside)),
            Some(Ok(_)) => {}
        }
    }
    let Some(default) = sums.predict(0) else { return Selection::default_safe(Reason::NoCell) };
    let candidates = challengers(router).filter_map(|(index, liveness)| {
        let (prefill, total) = sums.standings(index, &default)?;
        let standing = if class == Class::PrefillHeavy { rules::prefill_heavy_standing(prefill, total, rope) } else { total };
        Some(Candidate { index, ns: sums.predict(index)?.total.ns, standing, liveness })
    });
    chosen(router, candidates)
}

fn challengers(router: &Router) -> impl Iterator<Item = (usize, Liveness)> {
    router.tables.liveness.iter().copied().enumerate().skip(1)
}

fn chosen(router: &Router, candidates: impl Iterator<Item = Candidate>) -> Selection {
    let constants = router.policy.constants();
    select(candidates, router.tables.liveness[0], constants.rope, constants.min_blocks)
}

/// Both phases of a request, to be added up.
struct Sums<'r> {
    places: [Option<Place<'r>>; 2],
    steps: f64,
}

struct Predicted {
    prefill: Estimate,
    step: Option<Estimate>,
    decode_ns: f64,
    total: Estimate,
}

impl Predicted {
    fn public(self, decode_steps: usize) -> Prediction {
        Prediction { prefill: self.prefill, decode_step: self.step, decode_steps, total: self.total }
    }
}

impl Sums<'_> {
    fn predict(&self, backend: usize) -> Option<Predicted> {
        let prefill = self.places[0].as_ref()?.estimate(backend)?;
        if self.steps == 0.0 {
            return Some(Predicted { prefill, step: None, decode_ns: 0.0, total: prefill });
        }
        let step = self.places[1].as_ref()?.estimate(backend)?;
        let decode = step.times(self.steps);
        Some(Predicted { prefill, step: Some(step), decode_ns: decode.ns, total: prefill.plus(decode) })
    }

    /// How a challenger stands in prefill and over the whole request.
    fn standings(&self, backend: usize, default: &Predicted) -> Option<(Standing, Standing)> {
        let at = |place: Option<&Place<'_>>| place?.nearest.arms[backend].as_ref()?.standing;
        let prefill = at(self.places[0].as_ref())?;
        if self.steps == 0.0 {
            return Some((prefill, prefill));
        }
        let decode = at(self.places[1].as_ref())?;
        let total = match (prefill, decode) {
            (Standing::Measured(p), Standing::Measured(d)) => Standing::Measured(total_ratio(p, d, default)),
            (Standing::Measured(_), other) | (other, _) => other,
        };
        Some((prefill, total))
    }
}

/// The ratio of whole requests: `w p + (1 - w) d`, where `w` is prefill's share of the default's time and `p`, `d` are
/// the phases' ratios. Exact for the point; for the ends it takes both phases at their end at once, so that it holds
/// whatever their correlation.
fn total_ratio(prefill: RatioInterval, decode: RatioInterval, default: &Predicted) -> RatioInterval {
    let w = default.prefill.ns / default.total.ns;
    let mix = |p: f64, d: f64| w * p + (1.0 - w) * d;
    RatioInterval {
        ratio: mix(prefill.ratio, decode.ratio),
        low: mix(prefill.low, decode.low),
        high: mix(prefill.high, decode.high),
        confidence: prefill.confidence.min(decode.confidence),
        blocks: prefill.blocks.min(decode.blocks),
    }
}
