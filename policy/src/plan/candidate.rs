//! One way to serve the load.

use super::{Load, PlanError, PlanOptions};
use crate::{
    Percentile, Router, Unpredicted, Workload,
    capacity::{Arrivals, Job, Mix, Service, workers_by_replay, workers_needed},
    cost::{self, Bounded, BreakEven, HOURS_PER_MONTH, PriceBook, RequestCost, SECONDS_PER_MONTH, Tier, TierKind},
    router::{Estimate, Prediction},
    stats::{needed_for_quantile, real_size},
};
use phase_core::BackendId;
use serde::Serialize;
use std::{collections::HashMap, fmt};

/// What serving the load with one backend, or with the policy's routing, takes and costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Candidate {
    /// The backend; `None` is the policy's routing.
    pub backend: Option<BackendId>,
    /// Share of requests outside of what was measured: not in any number.
    pub left_out: f64,
    /// Why it can't serve the load; the other fields are empty then.
    pub refused: Option<Refusal>,
    /// Workers.
    pub sizing: Option<Sizing>,
    /// Money, by machine and tier.
    pub prices: Vec<Priced>,
}

/// Why a candidate can't serve the load.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "refused", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Refusal {
    /// Even an idle worker takes longer than a limit allows.
    LimitBelowService {
        /// Which limit.
        limit: &'static str,
        /// What it allows, in seconds.
        allowed_s: f64,
        /// The percentile of the service, in seconds: an upper bound.
        service_s: f64,
    },
    /// Too many requests lie outside of what was measured.
    NotMeasured {
        /// The shape with the largest share among them.
        workload: Workload,
        /// Its share.
        share: f64,
        /// Why it has no prediction.
        why: Unpredicted,
    },
    /// No number of workers up to the limit keeps the objectives in the replay.
    Replay {
        /// The most that were tried.
        most_workers: u32,
    },
    /// The trace has too few requests for the percentile of the limits.
    ShortTrace {
        /// Requests that it has.
        requests: usize,
        /// Requests that the percentile takes.
        needed: usize,
        /// The percentile.
        percentile: Percentile,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LimitBelowService { limit, allowed_s, service_s } => {
                write!(f, "{limit} allows {} s, an idle worker may take {} s", cost::Short(*allowed_s), cost::Short(*service_s))
            }
            Self::NotMeasured { workload: Workload { batch, prompt_tokens, new_tokens }, share, why } => {
                write!(f, "{batch}x{prompt_tokens}x{new_tokens} ({:.1}% of requests): {why}", share * 100.0)
            }
            Self::Replay { most_workers } => write!(f, "no fleet up to {most_workers} workers keeps the limits in the replay"),
            Self::ShortTrace { requests, needed, percentile } => {
                write!(f, "a limit on {percentile} takes {needed} requests in a replay, the trace has {requests}")
            }
        }
    }
}

/// How many workers it takes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Sizing {
    /// Mean seconds of a request on a worker.
    pub service_s: Bounded,
    /// Their squared coefficient of variation.
    pub cs2: f64,
    /// The percentile of the service that the limits are about, in seconds: an upper bound.
    pub service_tail_s: f64,
    /// Whether every tail used has the calls it takes. If not, the slowest call that was measured stands for it.
    pub tail_is_bounded: bool,
    /// Variability of arrivals.
    pub ca2: f64,
    /// Mean rate times mean service: utilisation-perfect, a lower bound.
    pub workers_lower_bound: Bounded,
    /// That times the burst factor.
    pub workers_with_burst: Bounded,
    /// Workers that keep the limits by the conservative queueing bound at the busy time; by the utilisation cap where there
    /// is no limit.
    pub workers_conservative: u32,
    /// Workers that keep them in a replay of the trace; `None` without a trace or a limit.
    pub workers_by_replay: Option<u32>,
    /// Workers that are priced: by replay where there is one.
    pub workers: u32,
    /// Busy share of their time, on average.
    pub utilisation: f64,
}

/// What a fleet costs in one tier.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Priced {
    /// The machine.
    pub machine: String,
    /// The tier.
    #[serde(flatten)]
    pub tier: Tier,
    /// One request on a worker that is always busy.
    pub usd_per_request: Bounded,
    /// A million tokens on a worker that is always busy: the source document's number.
    pub usd_per_1m: Bounded,
    /// The fleet, and energy where it is known.
    pub usd_per_month: Bounded,
    /// A million tokens at the fleet's real utilisation.
    pub usd_per_1m_at_fleet: Bounded,
    /// Energy of a million tokens at the meter; `None` where it was not measured.
    pub kwh_per_1m: Option<Bounded>,
    /// Its emissions.
    pub gco2e_per_1m: Option<Bounded>,
    /// For an owned machine: when it pays against the cheapest rented tier of the book.
    pub against_renting: Option<BreakEven>,
}

pub(super) struct Inputs<'a> {
    pub(super) router: &'a Router,
    pub(super) load: Load<'a>,
    pub(super) mix: &'a Mix,
    pub(super) requests_per_s: f64,
    pub(super) peak: f64,
    pub(super) burst: f64,
    pub(super) book: &'a PriceBook,
    pub(super) options: &'a PlanOptions,
}

/// Most workers that a replay tries.
const MOST_WORKERS: u32 = 1 << 16;

/// One part of the mix with what it takes.
struct Served<'a> {
    share: f64,
    workload: Workload,
    backend: &'a BackendId,
    prediction: Prediction,
    seconds: Bounded,
}

impl Candidate {
    pub(super) fn new(inputs: &Inputs<'_>, backend: Option<&BackendId>) -> Result<Self, PlanError> {
        let (served, left) = serve(inputs, backend)?;
        // Not `sum`, which is -0 for nothing.
        let left_out = left.iter().fold(0.0, |sum, (share, ..)| sum + share);
        let refused = |refusal| Self { backend: backend.cloned(), left_out, refused: Some(refusal), sizing: None, prices: Vec::new() };
        if served.is_empty() || left_out > inputs.options.may_leave_out + 1e-12 {
            let worst = left.into_iter().reduce(|a, b| if b.0 > a.0 { b } else { a });
            let (share, workload, why) = worst.unwrap_or((1.0, Workload::new(0, 0, 0), Unpredicted::NoCell));
            return Ok(refused(Refusal::NotMeasured { workload, share, why }));
        }
        let sizing = match size(inputs, &served)? {
            Ok(sizing) => sizing,
            Err(refusal) => return Ok(refused(refusal)),
        };
        let prices = price(inputs, &served, &sizing)?;
        Ok(Self { backend: backend.cloned(), left_out, refused: None, sizing: Some(sizing), prices })
    }

    /// Its name in tables.
    pub fn name(&self) -> &str {
        self.backend.as_ref().map_or("the policy", BackendId::as_str)
    }

    /// Its cheapest tier.
    pub fn cheapest(&self) -> Option<&Priced> {
        self.prices.iter().min_by(|a, b| a.usd_per_month.value().total_cmp(&b.usd_per_month.value()))
    }
}

type LeftOut = Vec<(f64, Workload, Unpredicted)>;

/// Predictions of all parts, shares scaled to what is served; and what has none.
fn serve<'a>(inputs: &Inputs<'a>, backend: Option<&'a BackendId>) -> Result<(Vec<Served<'a>>, LeftOut), PlanError> {
    let (mut served, mut left) = (Vec::new(), Vec::new());
    for part in inputs.mix.parts() {
        let workload = part.workload;
        let on = backend.unwrap_or_else(|| inputs.router.decide(&workload).route.backend);
        match inputs.router.predict(on, &workload) {
            Ok(prediction) => {
                let seconds = cost::seconds(prediction.total.ns, prediction.total.interval)?;
                served.push(Served { share: part.share, workload, backend: on, prediction, seconds });
            }
            Err(why) => left.push((part.share, workload, why)),
        }
    }
    let total: f64 = served.iter().map(|s| s.share).sum();
    served.iter_mut().for_each(|s| s.share /= total);
    Ok((served, left))
}

/// The bound of a percentile, or the slowest call where there is none.
fn tail(estimate: &Estimate, percentile: Percentile) -> (f64, bool) {
    estimate.upper_ns(percentile).map_or((estimate.slowest_ns / 1e9, false), |ns| (ns / 1e9, true))
}

/// The `p`-quantile over parts by share.
fn quantile(served: &[Served<'_>], p: f64, of: impl Fn(&Served<'_>) -> f64) -> f64 {
    let mut values: Vec<_> = served.iter().map(|s| (of(s), s.share)).collect();
    values.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut reached = 0.0;
    let found = values.iter().find(|(_, share)| {
        reached += share;
        reached >= p - 1e-12
    });
    found.or(values.last()).map_or(0.0, |v| v.0)
}

fn size(inputs: &Inputs<'_>, served: &[Served<'_>]) -> Result<Result<Sizing, Refusal>, PlanError> {
    let slo = &inputs.options.slo;
    let (percentile, p) = (slo.percentile, slo.percentile.share());
    let service_s = cost::weighted(served.iter().map(|s| (s.share, s.seconds)))?;
    let square = served.iter().map(|s| s.share * s.seconds.value().powi(2)).sum::<f64>();
    let cs2 = (square / service_s.value().powi(2) - 1.0).max(0.0);
    let total = |s: &Served<'_>| tail(&s.prediction.total, percentile).0;
    let first = |s: &Served<'_>| tail(&s.prediction.prefill, percentile).0;
    let step = |s: &Served<'_>| s.prediction.decode_step.as_ref().map_or(0.0, |e| tail(e, percentile).0);
    let [total, first, step] = [quantile(served, p, total), quantile(served, p, first), quantile(served, p, step)];
    let limits = [("total", slo.total_ns, total), ("ttft", slo.ttft_ns, first), ("tpot", slo.tpot_ns, step)];
    for (limit, allowed, service_s) in limits {
        if let Some(allowed_s) = allowed.map(|ns| ns / 1e9).filter(|allowed| service_s >= *allowed) {
            return Ok(Err(Refusal::LimitBelowService { limit, allowed_s, service_s }));
        }
    }
    let ca2 = match inputs.load {
        Load::Mix { ca2, .. } => ca2,
        Load::Trace(trace) => trace.dispersion(service_s.value()).unwrap_or(1.0),
    };
    let arrivals = Arrivals { per_s: inputs.peak, ca2 };
    let needed = |limit: Option<f64>, tail_s: f64| {
        let service = Service { mean_s: service_s.high(), cs2, tail_s };
        limit.map_or(Some(0), |ns| workers_needed(&arrivals, &service, p, ns / 1e9))
    };
    // A percentile of half says nothing of a queue's tail, and a limit on steps is none on waiting: the cap holds too.
    let by_cap = (inputs.peak * service_s.high() / inputs.options.utilisation_cap).ceil().max(1.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive; saturates")]
    let by_cap = by_cap as u32;
    let waits = slo.total_ns.is_some() || slo.ttft_ns.is_some();
    let by_limit = needed(slo.total_ns, total).zip(needed(slo.ttft_ns, first)).map_or(u32::MAX, |(a, b)| a.max(b));
    let workers_conservative = if waits { by_limit } else { by_cap };
    let replayed = match inputs.load {
        Load::Trace(trace) if waits => {
            let Some(jobs) = jobs(trace, served, percentile) else {
                return Ok(Err(Refusal::Replay { most_workers: 0 }));
            };
            if let Some(needed) = needed_for_quantile(p).filter(|needed| jobs.len() < *needed) {
                return Ok(Err(Refusal::ShortTrace { requests: jobs.len(), needed, percentile }));
            }
            // Workers are loaded by upper bounds of the mean; what a slow request takes beyond that comes off the limit.
            let slow = (total - quantile(served, p, |s| s.seconds.high())).max(0.0);
            let (ttft, whole) = (slo.ttft_ns.map(|ns| ns / 1e9), slo.total_ns.map(|ns| ns / 1e9 - slow));
            match workers_by_replay(&jobs, p, ttft, whole, MOST_WORKERS) {
                Some(replay) => Some(replay.workers),
                None => return Ok(Err(Refusal::Replay { most_workers: MOST_WORKERS })),
            }
        }
        _ => None,
    };
    let workers = replayed.unwrap_or(workers_conservative);
    let workers_lower_bound = service_s.times(inputs.requests_per_s)?;
    Ok(Ok(Sizing {
        service_s,
        cs2,
        service_tail_s: total,
        tail_is_bounded: served.iter().all(|s| tail(&s.prediction.total, percentile).1),
        ca2,
        workers_lower_bound,
        workers_with_burst: workers_lower_bound.times(inputs.burst)?,
        workers_conservative,
        workers_by_replay: replayed,
        workers,
        utilisation: workers_lower_bound.value() / f64::from(workers),
    }))
}

/// The trace's requests with upper bounds of their service; requests without a prediction are left out.
fn jobs(trace: &crate::capacity::Trace, served: &[Served<'_>], percentile: Percentile) -> Option<Vec<Job>> {
    let bounds: HashMap<Workload, (f64, f64)> = served
        .iter()
        .map(|s| {
            let first = tail(&s.prediction.prefill, percentile).0;
            (s.workload, (s.seconds.high().max(first), first))
        })
        .collect();
    let jobs = trace.arrivals().iter().filter_map(|a| {
        let (service, first) = bounds.get(&a.workload)?;
        Some(Job::new(a.at_s, *service, *first))
    });
    jobs.collect::<Option<Vec<_>>>().filter(|jobs| !jobs.is_empty())
}

fn price(inputs: &Inputs<'_>, served: &[Served<'_>], sizing: &Sizing) -> Result<Vec<Priced>, PlanError> {
    let (book, options) = (inputs.book, inputs.options);
    let energy = book.energy();
    let month = inputs.requests_per_s * SECONDS_PER_MONTH;
    let tokens: f64 = served
        .iter()
        .map(|s| s.share * real_size(s.workload.batch) * (real_size(s.workload.prompt_tokens) + real_size(s.workload.new_tokens)))
        .sum();
    let per_1m = 1e6 / tokens;
    let mut all = Vec::new();
    for machine in book.machines() {
        let tiers: Vec<Tier> = if options.tiers.is_empty() {
            machine.tiers().collect()
        } else {
            options.tiers.iter().filter_map(|kind| machine.tier(*kind).ok()).collect()
        };
        for tier in tiers {
            let costs = served
                .iter()
                .map(|s| {
                    let drawn = inputs.router.energy(s.backend, &s.workload);
                    Ok((s.share, RequestCost::of(&s.prediction, &drawn, tier.usd_per_hour, &energy)?))
                })
                .collect::<Result<Vec<_>, cost::OutOfRange>>()?;
            let mean = |of: fn(&RequestCost) -> Option<Bounded>| -> Result<Option<Bounded>, cost::OutOfRange> {
                let known: Option<Vec<_>> = costs.iter().map(|(share, c)| Some((*share, of(c)?))).collect();
                known.map(|parts| cost::weighted(parts.into_iter())).transpose()
            };
            let usd_per_request = cost::weighted(costs.iter().map(|(share, c)| (*share, c.usd)))?;
            let hours = machine.own.filter(|_| tier.kind == TierKind::Own).map_or(HOURS_PER_MONTH, |own| own.hours_per_day * 30.0);
            let fleet = Bounded::exact(f64::from(sizing.workers) * hours * tier.usd_per_hour)?;
            let energy_month = mean(|c| c.energy_usd)?.map(|usd| usd.times(month)).transpose()?;
            let usd_per_month = energy_month.map_or(fleet, |usd| fleet + usd);
            all.push(Priced {
                machine: machine.name.clone(),
                tier,
                usd_per_request,
                usd_per_1m: usd_per_request.times(per_1m)?,
                usd_per_month,
                usd_per_1m_at_fleet: usd_per_month.times(per_1m / month)?,
                kwh_per_1m: mean(|c| c.kwh)?.map(|v| v.times(per_1m)).transpose()?,
                gco2e_per_1m: mean(|c| c.gco2e)?.map(|v| v.times(per_1m)).transpose()?,
                against_renting: None,
            });
        }
    }
    let rented = all.iter().filter(|p| p.tier.kind != TierKind::Own).map(|p| p.usd_per_month);
    if let Some(rented) = rented.min_by(|a, b| a.value().total_cmp(&b.value())) {
        for priced in all.iter_mut().filter(|p| p.tier.kind == TierKind::Own) {
            let Some(own) = book.machine(&priced.machine)?.own else { continue };
            let energy_month = priced.kwh_per_1m.zip(energy.usd_per_kwh).map(|(kwh, usd)| kwh.times(usd * month / per_1m)).transpose()?;
            priced.against_renting = Some(cost::pays_after(&own, u64::from(sizing.workers), energy_month, rented)?);
        }
    }
    Ok(all)
}
