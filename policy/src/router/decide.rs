//! One decision. Everything here runs on every request.

use super::{
    Router, Workload,
    estimate::{Estimate, Unpredicted},
    scale::{Joules, Scale},
    tables::{Place, Row},
};
use crate::{
    rules::{self, Candidate, Class, CompileAdvice, CompileReason, Liveness, Outside, Reason, Selection, Standing, Warmth, select},
    stats::{RatioInterval, real_size},
};
use phase_core::{BackendId, Energy, NoData, Phase, Shape};
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
    pub(super) rows: [Option<&'r Row>; 2],
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
    /// The best backend in prefill, in the bucket that decides.
    pub prefill: Choice<'r>,
    /// The best backend in decode, in the bucket that decides.
    pub decode: Choice<'r>,
    /// What to warm before routing there.
    pub warmup: WarmupAdvice,
    /// Whether to compile.
    pub compile: CompileAdvice,
    /// Whether the routed backend keeps the limits.
    pub limits: Limits,
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
    /// Energy of the request on the routed backend, from cells measured at its very prompt length and in its context
    /// bucket. Never interpolated.
    pub fn energy(&self) -> Energy {
        let rows = if self.predicted().is_some() { self.rows } else { [None; 2] };
        energy_of(self.router, rows, self.chosen, self.workload)
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
        let arms = self.rows.iter().flatten().flat_map(|row| &row.arms).flatten();
        arms.map(|arm| self.router.policy.cells()[arm.cell].key.id()).collect()
    }

    /// All of it as JSON, with the ids of its evidence and the policy's digest. Allocates.
    ///
    /// # Panics
    /// Never: a decision has only string keys.
    pub fn to_json(&self) -> serde_json::Value {
        let mut json = serde_json::to_value(self).expect("a decision has string keys");
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
        let Self { router: _, rows: _, chosen: _, workload, class, decode_fraction, route, prefill, decode, warmup, compile, limits } =
            self;
        f.debug_struct("Decision")
            .field("workload", workload)
            .field("class", class)
            .field("decode_fraction", decode_fraction)
            .field("route", route)
            .field("prefill", prefill)
            .field("decode", decode)
            .field("predicted", &self.predicted())
            .field("warmup", warmup)
            .field("compile", compile)
            .field("limits", limits)
            .finish()
    }
}

/// Where one phase of a request falls.
type Placed<'r> = Option<Result<Place<'r>, Outside>>;

pub(super) fn decide<'r>(router: &'r Router, workload: Workload, incumbent: Option<&BackendId>) -> Decision<'r> {
    let constants = router.policy.constants();
    let Workload { batch, new_tokens, .. } = workload;
    let steps = workload.decode_steps();
    let (prefill, decode) = places(router, workload);
    let request = Request { prefill: found(&prefill), decode: found(&decode), steps: real_size(steps) };
    let default = request.ns(0);
    let decode_fraction = default.map(|ns| ns.decode / ns.total());
    let class = Class::of(batch, new_tokens, decode_fraction, constants);
    let selection = match (&prefill, &decode) {
        (Some(Err(outside)), _) => Selection::default_safe(Reason::OutsideEnvelope(*outside)),
        (_, Some(Err(outside))) if steps > 0 => Selection::default_safe(Reason::OutsideEnvelope(*outside)),
        _ => default.map_or(Selection::default_safe(Reason::NoCell), |default| request.route(router, class, default)),
    };
    let (selection, limits) =
        if router.slo.is_none() { (selection, Limits::Unset) } else { request.within_limits(router, selection, steps) };
    let selection = incumbent.and_then(|id| request.keep(router, selection, id, steps)).unwrap_or(selection);
    let chosen = selection.index;
    let rows = [request.prefill, request.decode].map(|place| place.map(|p| p.nearest));
    let warmth = |row: Option<&Row>| row.and_then(|r| r.arms[chosen].as_ref()).map_or(Warmth::NotMeasured, |arm| arm.warmth);
    let compile = |place: Option<&Place<'_>>| place.map_or(CompileReason::NoEvidence, |p| p.compile(chosen));
    Decision {
        router,
        rows,
        chosen,
        workload,
        class,
        decode_fraction,
        route: choice(router, selection, None),
        prefill: best(router, &prefill),
        decode: best(router, &decode),
        warmup: WarmupAdvice { prefill: warmth(rows[0]), decode: warmth(rows[1]) },
        compile: CompileAdvice::of(compile(request.prefill), compile(request.decode)),
        limits,
    }
}

/// What a request takes on one backend.
pub(super) fn predict(router: &Router, backend: &BackendId, workload: Workload) -> Result<Prediction, Unpredicted> {
    let index = router.tables.backends.iter().position(|b| b == backend).ok_or(Unpredicted::UnknownBackend)?;
    predict_by_index(router, index, workload)
}

fn predict_by_index(router: &Router, index: usize, workload: Workload) -> Result<Prediction, Unpredicted> {
    if router.tables.liveness[index] == Liveness::Changed {
        return Err(Unpredicted::BoundaryChanged);
    }
    let (prefill, decode) = places(router, workload);
    let steps = workload.decode_steps();
    match (&prefill, &decode) {
        (Some(Err(outside)), _) => return Err(Unpredicted::Outside(*outside)),
        (_, Some(Err(outside))) if steps > 0 => return Err(Unpredicted::Outside(*outside)),
        _ => {}
    }
    let request = Request { prefill: found(&prefill), decode: found(&decode), steps: real_size(steps) };
    request.predict(index, steps).ok_or(Unpredicted::NoCell)
}

/// Energy of a request on one backend, where both phases were measured at its very lengths.
pub(super) fn energy(router: &Router, backend: &BackendId, workload: Workload) -> Energy {
    let index = router.tables.backends.iter().position(|b| b == backend).filter(|i| router.tables.liveness[*i] != Liveness::Changed);
    let (prefill, decode) = places(router, workload);
    let rows = [found(&prefill), found(&decode)].map(|place| place.map(|p| p.nearest));
    index.map_or(Energy::NoData { reason: NoData::NotRecorded }, |index| energy_of(router, rows, index, workload))
}

fn energy_of(router: &Router, rows: [Option<&Row>; 2], backend: usize, workload: Workload) -> Energy {
    let places = rows.map(|row| Some(row?.arms[backend].as_ref()?.cell));
    if let Some(reason) = places.iter().flatten().find_map(|place| *router.energy_voids.get(*place)?) {
        return Energy::NoData { reason };
    }
    let [prefill, decode] = places.map(|place| {
        let cell = &router.policy.cells()[place?];
        let Workload { prompt_tokens, .. } = workload;
        let here = match cell.contexts {
            Some(c) if cell.key.phase == Phase::Decode => {
                let last = prompt_tokens.saturating_add(workload.decode_steps().saturating_sub(1));
                c.min <= prompt_tokens && last <= c.max
            }
            _ => cell.key.shape.new_tokens == prompt_tokens,
        };
        here.then_some(&cell.energy)
    });
    rules::request_energy(prefill, decode, real_size(workload.decode_steps()))
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

/// Where both phases of a request fall.
#[inline]
fn places(router: &Router, workload: Workload) -> (Placed<'_>, Placed<'_>) {
    let constants = router.policy.constants();
    let Workload { batch, prompt_tokens, .. } = workload;
    if batch == 0 || prompt_tokens == 0 {
        return (Some(Err(Outside::Empty)), Some(Err(Outside::Empty)));
    }
    let last = prompt_tokens.saturating_add(workload.decode_steps().saturating_sub(1));
    let length = real_size(prompt_tokens);
    let prefill = router.tables.prefill.place(batch, (prompt_tokens, prompt_tokens), length, constants);
    let mean = f64::midpoint(length, real_size(last));
    (prefill, router.tables.decode.place(batch, (prompt_tokens, last), mean, constants))
}

pub(super) fn decide_phase(router: &Router, phase: Phase, shape: Shape) -> Choice<'_> {
    let constants = router.policy.constants();
    let Shape { batch, new_tokens, context } = shape;
    let (table, length) = match phase {
        Phase::Prefill => (&router.tables.prefill, new_tokens),
        Phase::Decode => (&router.tables.decode, context),
        _ => return decide(router, Workload::new(batch, context, new_tokens), None).route,
    };
    let placed = if batch == 0 || new_tokens == 0 {
        Some(Err(Outside::Empty))
    } else if phase == Phase::Prefill && context > 0 {
        Some(Err(Outside::LaterTurn))
    } else {
        table.place(batch, (length, length), real_size(length), constants)
    };
    best(router, &placed)
}

#[inline]
fn choice(router: &Router, Selection { index, against, reason }: Selection, bucket: Option<Shape>) -> Choice<'_> {
    let name = |index: usize| &router.tables.backends[index];
    Choice { backend: name(index), against: against.map(name), reason, bucket }
}

/// The best backend at one phase.
#[inline]
fn best<'r>(router: &'r Router, placed: &Placed<'r>) -> Choice<'r> {
    match placed {
        None => choice(router, Selection::default_safe(Reason::NoCell), None),
        Some(Err(outside)) => choice(router, Selection::default_safe(Reason::OutsideEnvelope(*outside)), None),
        Some(Ok(place)) => choice(router, place.nearest.best, Some(place.nearest.shape)),
    }
}

fn found<'p, 'r>(placed: &'p Placed<'r>) -> Option<&'p Place<'r>> {
    placed.as_ref()?.as_ref().ok()
}

/// Both phases of a request, to be added up.
#[derive(Clone, Copy)]
struct Request<'p, 'r> {
    prefill: Option<&'p Place<'r>>,
    decode: Option<&'p Place<'r>>,
    steps: f64,
}

/// What the phases of a request take.
#[derive(Clone, Copy)]
struct Nanos {
    prefill: f64,
    decode: f64,
}

impl Nanos {
    fn total(self) -> f64 {
        self.prefill + self.decode
    }
}

impl Request<'_, '_> {
    #[inline]
    fn ns(&self, backend: usize) -> Option<Nanos> {
        let prefill = self.prefill?.ns(backend)?;
        let decode = if self.steps > 0.0 { self.decode?.ns(backend)? * self.steps } else { 0.0 };
        Some(Nanos { prefill, decode })
    }

    fn predict(&self, backend: usize, decode_steps: usize) -> Option<Prediction> {
        let prefill = self.prefill?.estimate(backend)?;
        if decode_steps == 0 {
            return Some(Prediction { prefill, decode_step: None, decode_steps, total: prefill });
        }
        let step = self.decode?.estimate(backend)?;
        Some(Prediction { prefill, decode_step: Some(step), decode_steps, total: prefill.plus(step.times(self.steps)) })
    }

    /// The backend for the whole request.
    #[inline]
    fn route(&self, router: &Router, class: Class, default: Nanos) -> Selection {
        let constants = router.policy.constants();
        let prefill_share = default.prefill / default.total();
        let standing = |index| self.standing(router, index, class, prefill_share);
        let challengers = router.tables.liveness.iter().enumerate().skip(1);
        let candidates = challengers.filter_map(|(index, liveness)| {
            let verdict = standing(index)?.verdict(router.tables.edges);
            Some(Candidate { index, counts: self.counts(router, index)?, verdict, liveness: *liveness })
        });
        Selection::of(select(candidates, router.tables.liveness[0]), standing, constants.rope, constants.min_blocks)
    }

    /// What counts of the whole request on `backend`: time, weighted time or energy.
    #[inline]
    fn counts(&self, router: &Router, backend: usize) -> Option<f64> {
        match &router.tables.scale {
            Scale::Time(weights) => Some(self.ns(backend)?.total() * weights[backend]),
            Scale::Energy => Some(self.joules(backend).map_or(f64::INFINITY, Joules::value)),
        }
    }

    /// Energy of the whole request in the buckets that decide.
    fn joules(&self, backend: usize) -> Option<Joules> {
        let of = |place: Option<&Place<'_>>| place?.nearest.arms[backend].as_ref()?.energy;
        let prefill = of(self.prefill)?;
        if self.steps == 0.0 { Some(prefill) } else { Some(prefill.and(of(self.decode)?, self.steps)) }
    }

    /// How a challenger stands over the whole request.
    #[inline]
    fn standing(&self, router: &Router, backend: usize, class: Class, prefill_share: f64) -> Option<Standing> {
        let scale = &router.tables.scale;
        let prefill = *self.prefill?.standing(backend)?;
        let (prefill, total) = if self.steps == 0.0 {
            (prefill, prefill)
        } else {
            let decode = *self.decode?.standing(backend)?;
            let total = match (prefill, decode) {
                (Standing::Measured(p), Standing::Measured(d)) => Standing::Measured(total_ratio(p, d, prefill_share)),
                (Standing::Measured(_), other) | (other, _) => other,
            };
            (prefill, total)
        };
        if let (Scale::Energy, Standing::Measured(like)) = (scale, &total) {
            let both = self.joules(backend).zip(self.joules(0));
            return Some(both.map_or(Standing::NoEnergy, |(ours, theirs)| ours.standing(theirs, like)));
        }
        let (prefill, total) = (scale.weigh(backend, prefill), scale.weigh(backend, total));
        let gated = class == Class::PrefillHeavy && self.steps > 0.0;
        Some(if gated { rules::prefill_heavy_standing(prefill, total, router.policy.constants().rope) } else { total })
    }

    /// Whether a backend's times are its own: it neither fails too often nor runs elsewhere than it says.
    fn believable(&self, backend: usize) -> bool {
        let places = [self.prefill, self.decode].into_iter().flatten();
        let mut standings = places.filter_map(|place| place.standing(backend));
        !standings.any(|s| matches!(s, Standing::Failures { .. } | Standing::Misplaced { .. }))
    }

    /// The selection, or another backend where that one does not keep the limits.
    fn within_limits(&self, router: &Router, selection: Selection, steps: usize) -> (Selection, Limits) {
        // What can't be trusted keeps nothing.
        if matches!(selection.reason, Reason::BoundaryChanged | Reason::OutsideEnvelope(_) | Reason::NoCell | Reason::NotLive) {
            return (selection, Limits::NotKnown);
        }
        let keeps = |index| self.predict(index, steps).and_then(|p| router.slo.keeps(&p));
        let first = keeps(selection.index);
        if first == Some(true) {
            return (selection, Limits::Kept);
        }
        let live = router.tables.liveness.iter().enumerate().filter(|(_, liveness)| **liveness == Liveness::Live);
        let others = live.filter(|(index, _)| *index != selection.index && self.believable(*index) && keeps(*index) == Some(true));
        let best = others.filter_map(|(index, _)| Some((self.counts(router, index)?, index))).min_by(|a, b| a.0.total_cmp(&b.0));
        match best {
            Some((_, index)) => (Selection { index, against: Some(selection.index), reason: Reason::KeepsLimits }, Limits::Kept),
            None => (selection, if first == Some(false) { Limits::Missed } else { Limits::NotKnown }),
        }
    }

    /// The incumbent, where what was selected is not better by more than the hysteresis.
    fn keep(&self, router: &Router, selection: Selection, incumbent: &BackendId, steps: usize) -> Option<Selection> {
        let free = matches!(
            selection.reason,
            Reason::Winner { .. } | Reason::Tie { .. } | Reason::Ambiguous { .. } | Reason::TooFewBlocks { .. } | Reason::NoEnergy
        );
        let index = router.tables.backends.iter().position(|b| b == incumbent)?;
        if !free || index == selection.index || router.tables.liveness[index] != Liveness::Live {
            return None;
        }
        if !router.slo.is_none() && self.predict(index, steps).and_then(|p| router.slo.keeps(&p)) != Some(true) {
            return None;
        }
        let ratio = self.counts(router, selection.index)? / self.counts(router, index)?;
        let stays = ratio > 1.0 - router.policy.constants().hysteresis;
        stays.then_some(Selection { index, against: Some(selection.index), reason: Reason::Incumbent { ratio } })
    }
}

/// The ratio of whole requests: `w p + (1 - w) d`, where `w` is prefill's share of the default's time and `p`, `d` are
/// the phases' ratios. Exact for the point; for the ends it takes both phases at their end at once, so that it holds
/// whatever their correlation.
#[inline]
fn total_ratio(prefill: RatioInterval, decode: RatioInterval, w: f64) -> RatioInterval {
    let mix = |p: f64, d: f64| w * p + (1.0 - w) * d;
    RatioInterval {
        ratio: mix(prefill.ratio, decode.ratio),
        low: mix(prefill.low, decode.low),
        high: mix(prefill.high, decode.high),
        confidence: prefill.confidence.min(decode.confidence),
        blocks: prefill.blocks.min(decode.blocks),
    }
}
