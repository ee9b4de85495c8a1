//! Which paths must be kept warm: the source document's thresholds on measured cold starts.

use crate::{Percentile, Router, Slo, TimeSummary, Workload, router::Limits, rules::Warmup};
use phase_core::{BackendId, Phase, Shape};
use serde::Serialize;
use std::collections::BTreeSet;

/// What is advised for one path in one bucket.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PoolAdvice {
    /// The path.
    pub backend: BackendId,
    /// The phase.
    pub phase: Phase,
    /// The bucket.
    pub shape: Shape,
    /// Whether requests run there with compiled calls, whose first ones are judged then.
    pub compiled: bool,
    /// What is advised.
    pub need: PoolNeed,
    /// How long a warm path may stand idle before a call keeps it warm: the longest measured idle time after which it was not
    /// yet surely slower. `None` where it never cooled, or where nobody looked.
    pub keep_warm_every_ns: Option<u64>,
}

/// Whether a path needs a warm pool, or a warm-up before it is routed to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "need", rename_all = "snake_case")]
#[non_exhaustive]
pub enum PoolNeed {
    /// It does: the first call takes longer than steady ones by more than the limit on cold requests. Source: the reports'
    /// `delta > SLO budget`.
    Delta {
        /// By how much.
        delta_ns: f64,
        /// The limit: on the first token in prefill, on a token in decode.
        budget_ns: f64,
    },
    /// It does not, by either threshold.
    No {
        /// Cold over steady.
        ratio: f64,
    },
    /// No cold call was measured here: warm it all the same.
    NotMeasured,
    /// It does: cold over steady is above `warm_pool_ratio`.
    Ratio {
        /// Cold over steady.
        ratio: f64,
    },
}

impl Router {
    /// What to keep warm for the requests that will come, in the buckets that decide: by backend, phase and bucket.
    pub fn warm_pool(&self, workloads: impl IntoIterator<Item = Workload>) -> Vec<PoolAdvice> {
        let (mut buckets, compiled_warmups) = (BTreeSet::new(), self.policy().compiled_warmups());
        for workload in workloads {
            let decision = self.decide(&workload);
            let fallback = decision.fallbacks().next();
            for (phase, bucket) in [(Phase::Prefill, decision.prefill().bucket), (Phase::Decode, decision.decode().bucket)] {
                let wanted = bucket.filter(|_| phase == Phase::Prefill || workload.decode_steps() > 0);
                for (bucket, id) in
                    wanted.iter().flat_map(|b| std::iter::once(decision.route.backend).chain(fallback).map(move |id| (b, id)))
                {
                    buckets.insert((id.clone(), phase, *bucket, decision.is_compiled(id, phase)));
                }
            }
        }
        let advice = |(backend, phase, shape, compiled)| {
            let warmups = if compiled { &compiled_warmups[..] } else { self.policy().warmups() };
            self.pool_advice(warmups, PoolAdvice { backend, phase, shape, compiled, need: PoolNeed::NotMeasured, keep_warm_every_ns: None })
        };
        buckets.into_iter().map(advice).collect()
    }

    fn pool_advice(&self, warmups: &[Warmup], path: PoolAdvice) -> PoolAdvice {
        let PoolAdvice { backend, phase, shape, .. } = &path;
        let slo = if self.cold_slo().is_none() { self.slo() } else { self.cold_slo() };
        let budget_ns = if *phase == Phase::Prefill { slo.ttft_ns } else { slo.tpot_ns };
        let need = match warmup_of(warmups, backend, *phase, *shape) {
            None => PoolNeed::NotMeasured,
            Some(Warmup { ratio, required: true, .. }) => PoolNeed::Ratio { ratio: *ratio },
            Some(Warmup { ratio, delta_ns, .. }) => match budget_ns.filter(|budget| delta_ns > budget) {
                Some(budget_ns) => PoolNeed::Delta { delta_ns: *delta_ns, budget_ns },
                None => PoolNeed::No { ratio: *ratio },
            },
        };
        let index = self.backends().position(|id| id == backend);
        let curves = index.into_iter().flat_map(|index| self.idle_curves(index, *phase, path.compiled));
        let before = |c: &crate::IdleCurve| {
            let cools = c.cools_after_ns?;
            c.points.iter().map(|p| p.idle_ns).take_while(|ns| *ns < cools).last()
        };
        PoolAdvice { keep_warm_every_ns: curves.filter_map(before).min(), need, ..path }
    }
}

fn warmup_of<'w>(warmups: &'w [Warmup], backend: &BackendId, phase: Phase, shape: Shape) -> Option<&'w Warmup> {
    warmups.iter().find(|w| (&w.backend, w.phase, w.shape) == (backend, phase, shape))
}

impl crate::Decision<'_> {
    /// Whether the request keeps the limits on cold requests ([`Router::with_cold_slo`]) if its calls are the first ones on
    /// their path, by upper bounds: what is known of it warm, and on top of it what the first calls of its buckets took more.
    /// Loading the model is not in it. Not for the request path.
    pub fn cold_limits(&self) -> Limits {
        let slo = self.router().cold_slo();
        if slo.is_none() {
            return Limits::Unset;
        }
        match self.keeps_cold(slo) {
            Some(true) => Limits::Kept,
            Some(false) => Limits::Missed,
            None => Limits::NotKnown,
        }
    }

    fn keeps_cold(&self, slo: &Slo) -> Option<bool> {
        let p = self.predicted()?;
        let more = |phase, bucket: Option<Shape>| self.cold_more(phase, bucket?, slo.percentile);
        let first = p.prefill.upper_ns(slo.percentile)? + more(Phase::Prefill, self.prefill().bucket)?;
        let (step, more_step) = match &p.decode_step {
            None => (None, 0.0),
            Some(step) => {
                let more = more(Phase::Decode, self.decode().bucket)?;
                (Some(step.upper_ns(slo.percentile)? + more), more)
            }
        };
        let total = p.total.upper_ns(slo.percentile)? + (first - p.prefill.upper_ns(slo.percentile)?) + more_step;
        let within = |limit: Option<f64>, ns: Option<f64>| limit.zip(ns).is_none_or(|(limit, ns)| ns <= limit);
        Some(within(slo.ttft_ns, Some(first)) && within(slo.tpot_ns, step) && within(slo.total_ns, Some(total)))
    }

    /// By how much a cold call is slower at most.
    fn cold_more(&self, phase: Phase, shape: Shape, percentile: Percentile) -> Option<f64> {
        let (policy, backend) = (self.router().policy(), self.route.backend);
        let compiled = self.is_compiled(backend, phase).then(|| policy.compiled_warmups());
        let warmup = warmup_of(compiled.as_deref().unwrap_or(policy.warmups()), backend, phase, shape)?;
        let upper = |of: fn(&TimeSummary) -> Option<f64>| {
            let cell = policy.cells().iter().find(|c| c.key.id() == warmup.cells[0])?;
            Some(of(cell.time.as_ref()?)? - warmup.steady_ns)
        };
        match percentile {
            Percentile::P50 => warmup.delta_interval.map(|d| d.high),
            Percentile::P95 => upper(|t| t.p95_upper_ns),
            Percentile::P99 => upper(|t| t.p99_upper_ns),
        }
        .map(|more| more.max(0.0))
    }
}
