//! One decision. Everything here runs on every request.

use super::{
    Choice, Decision, LastCalls, Limits, Prediction, Rest, Router, Workload,
    estimate::Unpredicted,
    place::Place,
    request::Request,
    rest::{cooled, rest},
    tables::Side,
};
use crate::{
    rules::{self, Class, CompileAdvice, CompileReason, Liveness, Outside, Reason, Selection},
    stats::real_size,
};
use phase_core::{BackendId, Energy, NoData, Phase, Shape};

/// Where one phase of a request falls.
pub(super) type Placed<'r> = Option<Result<Place<'r>, Outside>>;

/// Decides for whom nobody has said when backends were last called.
#[inline]
pub(super) fn decide<'r>(router: &'r Router, workload: Workload, incumbent: Option<&BackendId>) -> Decision<'r> {
    decide_with(router, workload, incumbent, None)
}

#[inline]
pub(super) fn decide_with<'r>(
    router: &'r Router,
    workload: Workload,
    incumbent: Option<&BackendId>,
    calls: Option<(&LastCalls, u64)>,
) -> Decision<'r> {
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
    let (selection, limits) = if router.slo.is_none() { (selection, Limits::Unset) } else { request.within_limits(router, selection) };
    let selection = incumbent.and_then(|id| request.keep(router, selection, id)).unwrap_or(selection);
    let (selection, rest) = match calls {
        None => (selection, Rest::Unset),
        Some((calls, now_ns)) => {
            let idle = |index: usize| calls.idle_ns(&router.tables.backends[index], now_ns);
            let selection = cooled(router, &request, selection, idle).unwrap_or(selection);
            (selection, rest(router, &request, selection.index, idle(selection.index)))
        }
    };
    let chosen = selection.index;
    let sides = [request.prefill, request.decode].map(|place| place.map(|p| p.side));
    let compile = |place: Option<&Place<'_>>| place.map_or(CompileReason::NoEvidence, |p| p.compile(chosen));
    Decision {
        router,
        sides,
        chosen,
        workload,
        class,
        decode_fraction,
        route: choice(router, selection, None),
        compile: CompileAdvice::of(compile(request.prefill), compile(request.decode)),
        limits,
        rest,
    }
}

/// What a request takes on one backend.
pub(super) fn predict(router: &Router, backend: &BackendId, workload: Workload) -> Result<Prediction, Unpredicted> {
    let index = router.tables.backends.iter().position(|b| b == backend).ok_or(Unpredicted::UnknownBackend)?;
    predict_by_index(router, index, workload)
}

pub(super) fn predict_by_index(router: &Router, index: usize, workload: Workload) -> Result<Prediction, Unpredicted> {
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
    let sides = [found(&prefill), found(&decode)].map(|place| place.map(|p| p.side));
    index.map_or(Energy::NoData { reason: NoData::NotRecorded }, |index| energy_of(router, sides, index, workload))
}

pub(super) fn energy_of(router: &Router, sides: [Option<&Side>; 2], backend: usize, workload: Workload) -> Energy {
    let places = sides.map(|side| Some(side?.arms[backend].as_ref()?.cell));
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

/// Where both phases of a request fall.
#[inline]
pub(super) fn places(router: &Router, workload: Workload) -> (Placed<'_>, Placed<'_>) {
    let Workload { batch, prompt_tokens, .. } = workload;
    if batch == 0 || prompt_tokens == 0 {
        return (Some(Err(Outside::Empty)), Some(Err(Outside::Empty)));
    }
    let last = prompt_tokens.saturating_add(workload.decode_steps().saturating_sub(1));
    let length = real_size(prompt_tokens);
    let prefill = router.tables.prefill.place(batch, (prompt_tokens, prompt_tokens), length);
    let mean = f64::midpoint(length, real_size(last));
    (prefill, router.tables.decode.place(batch, (prompt_tokens, last), mean))
}

pub(super) fn decide_phase(router: &Router, phase: Phase, shape: Shape) -> Choice<'_> {
    match phase {
        Phase::Prefill | Phase::Decode => best(router, &call(router, phase, shape)),
        _ => decide(router, Workload::new(shape.batch, shape.context, shape.new_tokens), None).route,
    }
}

/// Where one call falls; none but prefill and decode has a place.
pub(super) fn call(router: &Router, phase: Phase, shape: Shape) -> Placed<'_> {
    let Shape { batch, new_tokens, context } = shape;
    let (table, length) = match phase {
        Phase::Prefill => (&router.tables.prefill, new_tokens),
        Phase::Decode => (&router.tables.decode, context),
        _ => return None,
    };
    if batch == 0 || new_tokens == 0 {
        Some(Err(Outside::Empty))
    } else if phase == Phase::Prefill && context > 0 {
        Some(Err(Outside::LaterTurn))
    } else {
        table.place(batch, (length, length), real_size(length))
    }
}

#[inline]
fn choice(router: &Router, Selection { index, against, reason }: Selection, bucket: Option<Shape>) -> Choice<'_> {
    let name = |index: usize| &router.tables.backends[index];
    Choice { backend: name(index), against: against.map(name), reason, bucket }
}

/// The best backend at one phase.
#[inline]
pub(super) fn best<'r>(router: &'r Router, placed: &Placed<'r>) -> Choice<'r> {
    match placed {
        None => choice(router, Selection::default_safe(Reason::NoCell), None),
        Some(Err(outside)) => choice(router, Selection::default_safe(Reason::OutsideEnvelope(*outside)), None),
        Some(Ok(place)) => choice(router, place.side.best, Some(place.shape)),
    }
}

pub(super) fn found<'p, 'r>(placed: &'p Placed<'r>) -> Option<&'p Place<'r>> {
    placed.as_ref()?.as_ref().ok()
}
