//! A request on one backend after another: times, standings, limits, and who takes it.

use super::{
    Limits, Prediction, Router,
    place::Place,
    scale::{Joules, Scale},
};
use crate::{
    Slo,
    rules::{self, Candidate, Class, Contest, Liveness, Reason, Selection, Standing},
    stats::{RatioInterval, Verdict},
};
use phase_core::BackendId;

/// Both phases of a request, to be added up.
#[derive(Clone, Copy)]
pub(super) struct Request<'p, 'r> {
    pub(super) prefill: Option<&'p Place<'r>>,
    pub(super) decode: Option<&'p Place<'r>>,
    pub(super) steps: f64,
}

/// What the phases of a request take.
#[derive(Clone, Copy)]
pub(super) struct Nanos {
    pub(super) prefill: f64,
    pub(super) decode: f64,
}

impl Nanos {
    pub(super) fn total(self) -> f64 {
        self.prefill + self.decode
    }
}

impl Request<'_, '_> {
    #[inline]
    pub(super) fn ns(&self, backend: usize) -> Option<Nanos> {
        let prefill = self.prefill?.ns(backend)?;
        let decode = if self.steps > 0.0 { self.decode?.ns(backend)? * self.steps } else { 0.0 };
        Some(Nanos { prefill, decode })
    }

    pub(super) fn predict(&self, backend: usize, decode_steps: usize) -> Option<Prediction> {
        let prefill = self.prefill?.estimate(backend)?;
        if decode_steps == 0 {
            return Some(Prediction { prefill, decode_step: None, decode_steps, total: prefill });
        }
        let step = self.decode?.estimate(backend)?;
        Some(Prediction { prefill, decode_step: Some(step), decode_steps, total: prefill.plus(step.times(self.steps)) })
    }

    /// Whether `backend` keeps every limit, by upper bounds: as [`Slo::keeps`] says of its prediction, without the rest of it.
    #[inline]
    pub(super) fn keeps(&self, slo: &Slo, backend: usize) -> Option<bool> {
        let Slo { ttft_ns, tpot_ns, total_ns, percentile } = *slo;
        let prefill = || self.prefill?.upper_ns(backend, percentile);
        let step = || self.decode?.upper_ns(backend, percentile);
        let decodes = self.steps > 0.0;
        if let Some(limit) = ttft_ns
            && prefill()? > limit
        {
            return Some(false);
        }
        if let Some(limit) = tpot_ns.filter(|_| decodes)
            && step()? > limit
        {
            return Some(false);
        }
        if let Some(limit) = total_ns
            && prefill()? + if decodes { step()? * self.steps } else { 0.0 } > limit
        {
            return Some(false);
        }
        Some(true)
    }

    /// The backend for the whole request.
    #[inline]
    pub(super) fn route(&self, router: &Router, class: Class, default: Nanos) -> Selection {
        let constants = router.policy.constants();
        let prefill_share = default.prefill / default.total();
        let standing = |index| self.standing(router, index, class, prefill_share);
        let mut contest = Contest::default();
        for (index, liveness) in router.tables.liveness.iter().enumerate().skip(1) {
            let verdict = self.verdict(router, index, class, prefill_share);
            if let Some((verdict, counts)) = verdict.zip(self.counts(router, index)) {
                contest.enter(Candidate { index, counts, verdict, liveness: *liveness });
            }
        }
        Selection::of(contest.end(router.tables.liveness[0]), standing, constants.rope, constants.min_blocks)
    }

    /// What counts of the whole request on `backend`: time, weighted time or energy.
    #[inline]
    pub(super) fn counts(&self, router: &Router, backend: usize) -> Option<f64> {
        match &router.tables.scale {
            Scale::Time(weights) => Some(self.ns(backend)?.total() * weights[backend]),
            Scale::Energy => Some(self.joules(backend).map_or(f64::INFINITY, Joules::value)),
        }
    }

    /// Energy of the whole request in the buckets that decide.
    fn joules(&self, backend: usize) -> Option<Joules> {
        let of = |place: Option<&Place<'_>>| place?.side.arms[backend].as_ref()?.energy;
        let prefill = of(self.prefill)?;
        if self.steps == 0.0 { Some(prefill) } else { Some(prefill.and(of(self.decode)?, self.steps)) }
    }

    /// The ratio of the whole request in what counts, in the common case: times count, both phases have a ratio, and the whole
    /// request decides.
    // Of all challengers but one only the ends are used; inlined, the rest is not worked out.
    #[inline(always)]
    fn ratio(&self, router: &Router, backend: usize, class: Class, prefill_share: f64) -> Option<RatioInterval> {
        let Scale::Time(weights) = &router.tables.scale else { return None };
        let (prefill, decode) = (self.prefill?.standing(backend)?, self.decode?.standing(backend)?);
        match (prefill, decode) {
            (Standing::Measured(p), Standing::Measured(d)) if self.steps > 0.0 && class != Class::PrefillHeavy => {
                Some(total_ratio(p, d, prefill_share).scaled(weights[backend]))
            }
            _ => None,
        }
    }

    /// What the interval of a challenger's [`standing`](Self::standing) says. The outer `None` is for one that was not measured
    /// here.
    #[inline]
    fn verdict(&self, router: &Router, backend: usize, class: Class, prefill_share: f64) -> Option<Option<Verdict>> {
        let edges = router.tables.edges;
        match self.ratio(router, backend, class, prefill_share) {
            Some(ratio) => Some(Some(edges.verdict(ratio.low, ratio.high))),
            None => Some(self.standing(router, backend, class, prefill_share)?.verdict(edges)),
        }
    }

    /// How a challenger stands over the whole request.
    fn standing(&self, router: &Router, backend: usize, class: Class, prefill_share: f64) -> Option<Standing> {
        if let Some(ratio) = self.ratio(router, backend, class, prefill_share) {
            return Some(Standing::Measured(ratio));
        }
        let scale = &router.tables.scale;
        let prefill = *self.prefill?.standing(backend)?;
        let (prefill, total) = if self.steps == 0.0 {
            (prefill, prefill)
        } else {
            let decode = *self.decode?.standing(backend)?;
            let total = match (prefill, decode) {
                (Standing::Measured(p), Standing::Measured(d)) => Standing::Measured(total_ratio(&p, &d, prefill_share)),
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
    pub(super) fn within_limits(&self, router: &Router, selection: Selection) -> (Selection, Limits) {
        // What can't be trusted keeps nothing.
        if matches!(selection.reason, Reason::BoundaryChanged | Reason::OutsideEnvelope(_) | Reason::NoCell | Reason::NotLive) {
            return (selection, Limits::NotKnown);
        }
        let keeps = |index| self.keeps(&router.slo, index);
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
    pub(super) fn keep(&self, router: &Router, selection: Selection, incumbent: &BackendId) -> Option<Selection> {
        let free = matches!(
            selection.reason,
            Reason::Winner { .. } | Reason::Tie { .. } | Reason::Ambiguous { .. } | Reason::TooFewBlocks { .. } | Reason::NoEnergy
        );
        let index = router.tables.backends.iter().position(|b| b == incumbent)?;
        if !free || index == selection.index || router.tables.liveness[index] != Liveness::Live {
            return None;
        }
        if !router.slo.is_none() && self.keeps(&router.slo, index) != Some(true) {
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
#[inline(always)]
fn total_ratio(prefill: &RatioInterval, decode: &RatioInterval, w: f64) -> RatioInterval {
    let mix = |p: f64, d: f64| w * p + (1.0 - w) * d;
    RatioInterval {
        ratio: mix(prefill.ratio, decode.ratio),
        low: mix(prefill.low, decode.low),
        high: mix(prefill.high, decode.high),
        confidence: prefill.confidence.min(decode.confidence),
        blocks: prefill.blocks.min(decode.blocks),
    }
}
