//! What is warmed, what must be kept warm, and what cold requests take.

#![expect(clippy::unwrap_used, clippy::float_cmp, reason = "it is all test code")]

mod common;

use common::{BULK, FAST, SAFE, boundaries, observations, prefill};
use phase_core::{
    Backend, BackendId, ErrorKind, LoadSpec, ManualClock, Measured, Phase, PhaseError, Regime, Registry, RingSink, Shape, sim::Sim,
};
use phase_policy::{
    IdleCurve, IdleSample, LastCalls, Limits, ModelTier, Observation, Policy, PolicyOptions, PoolNeed, Reason, Rest, Router,
    ScenarioMatrix, TieredRouter, WarmFor, WarmupPlan, Workload, constants::WARMUP_CALLS,
};
use std::{sync::Arc, time::Duration};

/// As always, with cold decode steps that take 30 ms more on `fast`, and what idling does to it.
fn router() -> Router {
    let mut seen = observations(&[SAFE, FAST, BULK]);
    seen.extend((0..8).map(|block| {
        let mut cold = common::decode(&FAST, 1, 40, block).with_regime(Regime::Cold);
        cold.duration_ns += 30_000_000;
        cold
    }));
    let shape = Shape { batch: 1, new_tokens: 1, context: 32 };
    let idle = |pass: u32, ms: u64| {
        let ns = if ms < 1_000 { 4_000_000 } else { 9_000_000 };
        IdleSample::new(FAST, Phase::Decode, shape, ms * 1_000_000, ns + u64::from(pass)).with_boundary("fast").with_block(pass)
    };
    let samples: Vec<_> = (0..5).flat_map(|pass| [0, 100, 1_000].map(|ms| idle(pass, ms))).collect();
    let options = PolicyOptions::new(SAFE, 0);
    let curves = IdleCurve::fit(&samples, &options.constants).unwrap();
    let matrix = ScenarioMatrix::build(&seen, &boundaries()).unwrap();
    Router::new(Policy::compile(&matrix, &options.with_idle_curves(curves)).unwrap())
}

const CHAT: Workload = Workload::new(1, 32, 64);

#[test]
fn a_plan_names_every_phase_and_shape_of_the_route_and_its_fallback() {
    let plan = WarmupPlan::new(&router(), [CHAT, Workload::new(4, 128, 1), Workload::new(0, 5, 5)]);
    let of =
        |id: &BackendId| plan.of(id).map(|c| (c.phase, c.shape.batch, c.shape.new_tokens, c.shape.context, c.purpose)).collect::<Vec<_>>();
    // Chat goes to `fast`; prompts by themselves to `bulk`; the first fallback of both is the default.
    assert_eq!(
        of(&FAST),
        [(Phase::Prefill, 1, 32, 0, WarmFor::Route), (Phase::Decode, 1, 1, 32, WarmFor::Route), (Phase::Decode, 1, 1, 64, WarmFor::Route)]
    );
    assert_eq!(of(&BULK), [(Phase::Prefill, 4, 128, 0, WarmFor::Route)]);
    assert_eq!(of(&SAFE).len(), 4);
    assert!(plan.of(&SAFE).all(|c| c.purpose == WarmFor::Fallback && c.calls == WARMUP_CALLS));
    assert!(plan.to_string().contains("fast: 4 decode steps of batch 1 at context 64 (routed to)"), "{plan}");
    assert_eq!(WarmupPlan::new(&router(), []).to_string(), "nothing to warm");
}

#[test]
fn a_plan_runs_on_an_erased_model_and_leaves_cold_and_warm_up_calls() {
    let registry = Registry::new().with(Sim::named(FAST));
    let sink = Arc::new(RingSink::new(256));
    let clock = ManualClock::ticking(Duration::from_nanos(1));
    let mut model = Measured::new(registry.get("fast").unwrap().load_dyn(&LoadSpec::new("sim")).unwrap(), clock, Arc::clone(&sink));
    let plan = WarmupPlan::new(&router(), [CHAT]);
    assert_eq!(plan.run(&FAST, &mut model).unwrap(), 3 * WARMUP_CALLS);
    let events = sink.drain();
    let shapes = |phase| events.iter().filter(|e| e.phase == phase).map(|e| e.shape).collect::<Vec<_>>();
    assert_eq!(shapes(Phase::Prefill)[..4], [Shape { batch: 1, new_tokens: 32, context: 0 }; 4]);
    assert!(shapes(Phase::Decode)[4..].iter().all(|s| s.context == 64), "at its very context each time");
    assert_eq!(events[0].regime, Regime::Cold);
    assert_eq!(plan.run(&SAFE, &mut model).unwrap(), 3 * WARMUP_CALLS, "a plan does not know which model it is given");
    assert_eq!(plan.run(&BULK, &mut model).unwrap(), 0, "nothing is planned for it");
}

#[test]
fn a_call_that_fails_is_named() {
    let mut model = Sim::default().load(&LoadSpec::new("sim")).unwrap();
    // The simulated model ends at 256 positions.
    let plan = WarmupPlan::new(&router(), [Workload::new(1, 512, 2)]);
    let backend = plan.calls()[0].backend.clone();
    let error = plan.run(&backend, &mut model).unwrap_err();
    assert_eq!((error.call.phase, error.source.kind()), (Phase::Prefill, ErrorKind::ContextOverflow));
    assert!(error.to_string().contains("prefill for batch 1, 512 tokens"), "{error}");
}

#[test]
fn every_tier_has_its_own_plan() {
    let tier = |name, router, usd| ModelTier::new(name, router, usd, 0.9);
    let tiers = TieredRouter::new(vec![tier("small", router(), 1.0), tier("big", router(), 9.0)]).unwrap();
    // Of the second nothing is known: the most able tier takes it.
    let plans = tiers.warmup_plans([CHAT, Workload::new(7, 32, 2)]);
    assert_eq!(plans.iter().map(|(name, plan)| (*name, plan.calls().len())).collect::<Vec<_>>(), [("small", 6), ("big", 4)]);
    assert!(plans[1].1.calls().iter().all(|c| c.shape.batch == 7));
}

#[test]
fn the_source_documents_thresholds_ask_for_a_warm_pool() {
    let need = |router: Router| {
        let advice = router.warm_pool([CHAT]);
        advice.into_iter().map(|a| ((a.backend, a.phase), (a.need, a.keep_warm_every_ns))).collect::<std::collections::BTreeMap<_, _>>()
    };
    let found = need(router());
    let at = |id: &BackendId, phase| (id.clone(), phase);
    assert!(matches!(found[&at(&FAST, Phase::Prefill)].0, PoolNeed::Ratio { ratio } if (ratio - 40.0).abs() < 1e-9));
    let (step, keep) = found[&at(&FAST, Phase::Decode)];
    assert!(matches!(step, PoolNeed::No { ratio } if ratio > 8.0 && ratio < 10.0), "{step:?}");
    assert_eq!(keep, Some(100_000_000), "warm after 100 ms, no longer after 1 s");
    assert_eq!(found[&at(&SAFE, Phase::Decode)].0, PoolNeed::NotMeasured);
    // 30 ms more are too many for a limit of 20 ms a token.
    let found = need(router().with_cold_slo("tpot=20ms,p50".parse().unwrap()));
    let delta = found[&at(&FAST, Phase::Decode)].0;
    assert!(matches!(delta, PoolNeed::Delta { delta_ns, budget_ns } if (delta_ns - 3e7).abs() < 1e6 && budget_ns == 2e7), "{delta:?}");
}

#[test]
fn cold_requests_have_limits_of_their_own() {
    let limits = |slo: &str| router().with_cold_slo(slo.parse().unwrap()).decide(&CHAT).cold_limits();
    assert_eq!(router().decide(&CHAT).cold_limits(), Limits::Unset);
    // Warm 3.2 ms, cold 128 ms and more.
    assert_eq!(limits("ttft=200ms,p50"), Limits::Kept);
    assert_eq!(limits("ttft=50ms,p50"), Limits::Missed);
    assert_eq!(limits("tpot=50ms,p50"), Limits::Kept);
    assert_eq!(limits("tpot=20ms,p50"), Limits::Missed);
    assert_eq!(limits("total=1s,p50"), Limits::Kept);
    assert_eq!(limits("total=300ms,p50"), Limits::Missed);
    assert_eq!(limits("ttft=10s,p95"), Limits::NotKnown, "eight cold calls bound no 95th percentile");
    // They move no route, and are explained.
    let router = router().with_cold_slo("ttft=50ms,p50".parse().unwrap());
    let decision = router.decide(&CHAT);
    assert_eq!(decision.route.backend, &FAST);
    assert!(decision.explain().to_string().contains("cold requests ttft=50ms,p50: may be missed"));
    assert_eq!(router.decide(&Workload::new(1, 512, 64)).cold_limits(), Limits::NotKnown, "no cold call of that bucket");
}

#[test]
fn cold_calls_reach_no_steady_cell() {
    let mut seen: Vec<Observation> = (0..5).map(|block| prefill(&SAFE, 1, 32, block)).collect();
    let before = ScenarioMatrix::build(&seen, &boundaries()).unwrap();
    seen.extend((0..50).map(|block| {
        let mut cold = prefill(&SAFE, 1, 32, block).with_regime([Regime::Cold, Regime::Warmup(1)][block as usize % 2]);
        cold.duration_ns *= 100;
        cold
    }));
    let after = ScenarioMatrix::build(&seen, &boundaries()).unwrap();
    assert_eq!(after.cell(&before.cells()[0].key), Some(&before.cells()[0]));
    assert_eq!(after.cells().len(), 3);
}

#[test]
fn a_path_that_stood_idle_counts_as_cold_and_loses_what_that_costs() {
    let router = router();
    let calls = LastCalls::new(&router);
    let second = 1_000_000_000;
    let (start, warm, cold) = (second, second + 50_000_000, 3 * second);
    let both = router.decide_after(&CHAT, &calls, start);
    assert_eq!(both.route.backend, &FAST, "none was ever called: who is better warm is better cold");
    // With `safe` warm: a cold prefill of `fast` takes 39 times 3.2 ms more, a cold step 30 ms; the advantage is 63 ms.
    calls.note(&SAFE, start);
    let first = router.decide_after(&CHAT, &calls, start);
    assert_eq!((first.route.backend, first.route.reason.as_str()), (&SAFE, "cooled"), "{}", first.explain());
    assert!(matches!(both.rest, Rest::Cold { idle_ns: None, .. }), "{:?}", both.rest);
    let plan = WarmupPlan::new(&router, [CHAT]);
    assert_eq!(plan.due(&router, &LastCalls::new(&router), start), plan, "nothing is warm");
    assert!(plan.due(&router, &calls, start).calls().iter().all(|c| c.backend == FAST), "`safe` is");

    calls.note(&FAST, start);
    let next = router.decide_after(&CHAT, &calls, warm);
    assert_eq!((next.route.backend, next.rest), (&FAST, Rest::Warm { idle_ns: 50_000_000 }));
    assert_eq!(plan.due(&router, &calls, warm).calls(), []);

    // After two seconds a step takes 5 ms more, which a long answer makes up for and a short one doesn't.
    let long = router.decide_after(&CHAT, &calls, cold);
    let Rest::Cold { idle_ns: Some(idle), extra_ns } = long.rest else { panic!("{:?}", long.rest) };
    assert!(idle == 2 * second && (extra_ns - 5.0e6).abs() < 1e4, "{extra_ns}");
    assert_eq!(long.route.backend, &FAST);
    assert!(long.explain().to_string().contains("Rest of fast: cold after 2.00 s of rest: its first calls take 5.00 ms more"));
    let short = router.decide_after(&Workload::new(1, 32, 5), &calls, cold);
    assert_eq!(router.decide(&Workload::new(1, 32, 5)).route.backend, &FAST);
    assert_eq!((short.route.backend, short.route.against), (&SAFE, Some(&FAST)), "{}", short.explain());
    assert!(matches!(short.route.reason, Reason::Cooled { extra_ns } if (extra_ns - 5.0e6).abs() < 1e4));
    let due = plan.due(&router, &calls, cold);
    assert!(due.calls().len() == 3 && due.calls().iter().all(|c| c.backend == FAST), "{due}");
    // A clock that went back, and a backend that nobody knows, do no harm.
    calls.note(&BackendId::new("nobody"), 5);
    assert_eq!((calls.idle_ns(&FAST, 0), calls.idle_ns(&BackendId::new("nobody"), 9)), (Some(0), None));
    assert_eq!(router.decide(&CHAT).rest, Rest::Unset);
    let wrapped = long.explain().wrapped();
    assert!(wrapped.lines().all(|line| line.chars().count() <= 80), "{wrapped}");
    assert_eq!(wrapped.split_whitespace().collect::<Vec<_>>(), long.explain().to_string().split_whitespace().collect::<Vec<_>>());
}
