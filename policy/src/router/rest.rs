//! What it means for a request that paths have stood idle, or were never called: the measured idle curves and cold calls.

use super::{Router, request::Request, scale::Scale};
use crate::{
    IdleCurve,
    rules::{Liveness, Reason, Selection, Warmth},
};
use phase_core::{BackendId, Phase};
use serde::Serialize;
use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

/// When each backend last ended a call in this process, by the application's clock. Shared between threads, which neither
/// lock nor wait.
///
/// ```
/// # use phase_core::{BackendId, MeasurementBoundary, Phase, Shape, StackInfo};
/// # use phase_policy::{Observation, Policy, PolicyOptions, ScenarioMatrix};
/// use phase_policy::{LastCalls, Rest, Router, Workload};
/// # let id = BackendId::new("a");
/// # let shape = Shape { batch: 1, new_tokens: 8, context: 0 };
/// # let seen = [Observation::new(id.clone(), Phase::Prefill, shape, 1_000).with_boundary("b")];
/// # let matrix = ScenarioMatrix::build(&seen, &[("b".to_owned(), MeasurementBoundary::call(StackInfo::new()))].into())?;
/// # let router = Router::new(Policy::compile(&matrix, &PolicyOptions::new(id.clone(), 0))?);
/// let calls = LastCalls::new(&router);
/// let request = Workload::new(1, 8, 1);
/// let first = router.decide_after(&request, &calls, 5_000);
/// assert_eq!(first.rest, Rest::NotMeasured { idle_ns: None }, "never called, and no cold call was measured");
/// calls.note(first.route.backend, 6_000);
/// let next = router.decide_after(&request, &calls, 9_000);
/// assert_eq!(next.rest, Rest::NotMeasured { idle_ns: Some(3_000) }, "nobody measured what idling does");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct LastCalls(Vec<(BackendId, AtomicU64)>);

/// What is stored of a backend that was never called.
const NEVER: u64 = 0;

impl LastCalls {
    /// For every backend of the policy, none of which was called yet.
    pub fn new(router: &Router) -> Self {
        Self(router.backends().map(|id| (id.clone(), AtomicU64::new(NEVER))).collect())
    }

    /// A call of `backend` ended at `now_ns`; warm-up calls count. A backend that is not in the policy is left out.
    pub fn note(&self, backend: &BackendId, now_ns: u64) {
        if let Some((_, end)) = self.0.iter().find(|(id, _)| id == backend) {
            // Threads may come out of order; 0 stands for never.
            end.fetch_max(now_ns.max(1), Ordering::Relaxed);
        }
    }

    /// How long `backend` has been idle at `now_ns`; `None` where it was never called.
    pub fn idle_ns(&self, backend: &BackendId, now_ns: u64) -> Option<u64> {
        let (_, end) = self.0.iter().find(|(id, _)| id == backend)?;
        match end.load(Ordering::Relaxed) {
            NEVER => None,
            end => Some(now_ns.saturating_sub(end)),
        }
    }
}

/// Whether the routed backend counts as cold, because it stood idle or was never called.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "rest", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Rest {
    /// It does: warm it first, or pay for it.
    Cold {
        /// For how long it was idle; `None` where it was never called.
        idle_ns: Option<u64>,
        /// What the first calls of the request take more. From idle curves, those of the mode that the calls run in, it is the
        /// time measured at the curve's size of call; beyond the longest idle time measured, that of the longest.
        extra_ns: f64,
    },
    /// Nobody measured what such a rest does to it.
    NotMeasured {
        /// For how long it was idle; `None` where it was never called.
        idle_ns: Option<u64>,
    },
    /// The router was not told when backends were last called.
    Unset,
    /// It does not: after such a rest no call was surely slower.
    Warm {
        /// For how long it was idle.
        idle_ns: u64,
    },
}

impl Rest {
    /// Whether it counts as cold.
    pub const fn is_cold(&self) -> bool {
        matches!(self, Self::Cold { .. })
    }

    fn extra_ns(&self) -> f64 {
        if let Self::Cold { extra_ns, .. } = self { *extra_ns } else { 0.0 }
    }
}

impl fmt::Display for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |ns: u64| super::Nanos(crate::stats::real(ns));
        match self {
            Self::Cold { idle_ns: Some(idle), extra_ns } => {
                write!(f, "cold after {} of rest: its first calls take {} more; warm it first", time(*idle), super::Nanos(*extra_ns))
            }
            Self::Cold { idle_ns: None, extra_ns } => {
                write!(f, "cold, never called: its first calls take {} more; warm it first", super::Nanos(*extra_ns))
            }
            Self::NotMeasured { idle_ns: Some(idle) } => write!(f, "idle for {}, and what that does was not measured", time(*idle)),
            Self::NotMeasured { idle_ns: None } => f.write_str("never called, and no cold call was measured here"),
            Self::Unset => f.write_str("not told"),
            Self::Warm { idle_ns } => write!(f, "warm, idle for {}", time(*idle_ns)),
        }
    }
}

/// How `backend`, the one of that index, stands before the request.
pub(super) fn rest(router: &Router, request: &Request<'_, '_>, index: usize, idle_ns: Option<u64>) -> Rest {
    let decodes = request.steps > 0.0;
    match idle_ns {
        None => {
            let more = |warmth: Warmth| match warmth {
                Warmth::Measured { cold_ns, ratio, .. } => Some((cold_ns - cold_ns / ratio).max(0.0)),
                Warmth::NotMeasured => None,
            };
            let warmth = |place: Option<&super::place::Place<'_>>| Some(place?.side.arms[index].as_ref()?.warmth);
            let prefill = warmth(request.prefill).and_then(more);
            let decode = warmth(request.decode).and_then(more).filter(|_| decodes).unwrap_or(0.0);
            prefill.map_or(Rest::NotMeasured { idle_ns }, |prefill| Rest::Cold { idle_ns, extra_ns: prefill + decode })
        }
        Some(idle) => {
            let compiled = |place: Option<&super::place::Place<'_>>| place.is_some_and(|p| p.is_compiled(index));
            let of = |phase, place| after(router.idle_curves(index, phase, compiled(place)), idle);
            let prefill = of(Phase::Prefill, request.prefill);
            let decode = if decodes { of(Phase::Decode, request.decode) } else { None };
            match (prefill, decode) {
                (None, None) => Rest::NotMeasured { idle_ns },
                (a, b) => match a.unwrap_or(0.0) + b.unwrap_or(0.0) {
                    extra_ns if extra_ns > 0.0 => Rest::Cold { idle_ns, extra_ns },
                    _ => Rest::Warm { idle_ns: idle },
                },
            }
        }
    }
}

/// What a call takes more after a rest of `idle`, by the worst of its curves: 0 where it is not surely slower, `None` without a
/// curve.
fn after<'c>(curves: impl Iterator<Item = &'c IdleCurve>, idle: u64) -> Option<f64> {
    let more = curves.map(|curve| match curve.cools_after_ns {
        Some(cools) if cools <= idle => {
            let (base, ratio) = (curve.points.first().map_or(0.0, |p| p.fitted_ns), curve.ratio_after(idle).unwrap_or(curve.worst));
            base * (ratio - 1.0)
        }
        _ => 0.0,
    });
    more.max_by(f64::total_cmp)
}

/// The default, where what was selected is cold, and what its first calls take more leaves nothing of its advantage.
pub(super) fn cooled(
    router: &Router,
    request: &Request<'_, '_>,
    selection: Selection,
    idle: impl Fn(usize) -> Option<u64>,
) -> Option<Selection> {
    let (Reason::Winner { .. }, Scale::Time(weights)) = (selection.reason, &router.tables.scale) else { return None };
    let index = selection.index;
    if index == 0 || router.tables.liveness[0] != Liveness::Live {
        return None;
    }
    if !router.slo.is_none() && request.keeps(&router.slo, 0) != Some(true) {
        return None;
    }
    let of = |index: usize| {
        let rest = rest(router, request, index, idle(index));
        Some((rest, (request.ns(index)?.total() + rest.extra_ns()) * weights[index]))
    };
    let ((ours, time), (_, default)) = (of(index)?, of(0)?);
    let stays = !ours.is_cold() || time < default * (1.0 - router.policy.constants().rope);
    (!stays).then_some(Selection { index: 0, against: Some(index), reason: Reason::Cooled { extra_ns: ours.extra_ns() } })
}
