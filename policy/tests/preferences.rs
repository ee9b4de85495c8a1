//! What a router can be told: limits, what counts, who has the route, which models there are, and a new policy.

mod common;

use common::{BULK, FAST, SAFE, boundary, decode, matrix, observations, prefill, router};
use phase_core::{BackendId, Energy, Joules, Phase};
use phase_policy::{
    Limits, ModelTier, Objective, ObjectiveError, Observation, Policy, PolicyOptions, Reason, Router, ScenarioMatrix, TierError,
    TierReason, TieredRouter, Workload,
};

fn compile(seen: &[Observation]) -> Router {
    let matrix = ScenarioMatrix::build(seen, &common::boundaries()).expect("a matrix");
    Router::new(Policy::compile(&matrix, &PolicyOptions::new(SAFE, 0)).expect("a policy"))
}

/// `fast` as always, but every 20th call takes ten times as long; `n` calls a block.
fn with_a_tail(n: u64) -> Vec<Observation> {
    let mut seen = Vec::new();
    for block in 0..5 {
        for i in 0..n {
            for id in [SAFE, FAST] {
                let mut call = prefill(&id, 1, 128, block);
                if id == FAST {
                    call.duration_ns = call.duration_ns * 8 / 10 * if i % 20 == 7 { 10 } else { 1 };
                }
                seen.push(call);
            }
        }
    }
    seen
}

fn with_slo(router: Router, slo: &str) -> Router {
    router.with_slo(slo.parse().expect("limits"))
}

#[test]
fn a_faster_backend_with_a_long_tail_loses_to_one_that_keeps_the_limit() {
    let prompt = Workload::new(1, 128, 1);
    let plain = compile(&with_a_tail(30));
    assert_eq!((plain.decide(&prompt).route.backend, plain.decide(&prompt).limits), (&FAST, Limits::Unset));
    // 150 calls of each: p95 has a bound, p99 has none.
    let limited = with_slo(plain.clone(), "ttft=20ms,p95");
    let d = limited.decide(&prompt);
    assert_eq!((d.route.backend, d.route.against, d.route.reason, d.limits), (&SAFE, Some(&FAST), Reason::KeepsLimits, Limits::Kept));
    assert!(d.explain().to_string().contains("Limits ttft=20ms,p95: kept."), "{}", d.explain());
    let p99 = with_slo(plain.clone(), "ttft=20ms,p99").decide(&prompt).limits;
    assert_eq!(p99, Limits::NotKnown, "150 calls know no p99");
    let p50 = with_slo(plain.clone(), "ttft=20ms,p50");
    assert_eq!((p50.decide(&prompt).route.backend, p50.decide(&prompt).limits), (&FAST, Limits::Kept));
    let nobody = with_slo(plain, "ttft=1ms,p50");
    assert_eq!((nobody.decide(&prompt).route.backend, nobody.decide(&prompt).limits), (&FAST, Limits::Missed));
}

#[test]
fn limits_never_override_what_is_not_trusted() {
    let live = [(SAFE, common::boundary_of("safe 2")), (FAST, boundary(&FAST))];
    let d = with_slo(router().with_live(&live), "total=10s");
    let d = d.decide(&Workload::new(1, 128, 64));
    assert_eq!((d.route.backend, d.route.reason, d.limits), (&SAFE, Reason::BoundaryChanged, Limits::NotKnown));
    let outside = with_slo(router(), "total=10s");
    assert_eq!(outside.decide(&Workload::new(1, 9999, 64)).limits, Limits::NotKnown);
}

#[test]
fn money_can_turn_a_ranking_around() {
    let usd = |fast: f64| Objective::Cost { usd_per_hour: vec![(SAFE, 1.0), (FAST, fast), (BULK, 1.0)] };
    let chat = Workload::new(1, 128, 64);
    let at = |fast| router().with_objective(&usd(fast)).expect("prices");
    // `fast` takes 0.82 of the time: at 1.1 times the price it is still cheaper, at 1.22 it ties, at twice it loses.
    assert_eq!(at(1.1).decide(&chat).route.backend, &FAST);
    assert_eq!(at(2.0).decide(&chat).route.backend, &SAFE);
    assert!(matches!(at(1.22).decide(&chat).route.reason, Reason::Tie { .. } | Reason::Ambiguous { .. }));
    assert!(matches!(at(2.0).decide(&chat).decode().reason, Reason::Winner { ratio } if ratio.ratio < 0.7), "safe wins decode by money");
    let missing = Objective::Cost { usd_per_hour: vec![(SAFE, 1.0)] };
    assert!(matches!(router().with_objective(&missing), Err(ObjectiveError::NoPrice { .. })));
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(router().with_objective(&usd(bad)), Err(ObjectiveError::Price { .. })), "{bad}");
    }
}

#[test]
fn energy_counts_only_where_it_was_measured_on_both() {
    let energy = |joules: &[(BackendId, f64)]| {
        let mut cells = matrix(&[SAFE, FAST]);
        let keys: Vec<_> = cells.cells().iter().map(|c| c.key.clone()).collect();
        for key in keys {
            if let Some((_, j)) = joules.iter().find(|(id, _)| *id == key.backend) {
                let measured = Energy::Measured { joules: Joules(*j), low: Joules(j * 0.95), high: Joules(j * 1.05) };
                cells.set_energy(&key, measured).expect("an energy");
            }
        }
        let policy = Policy::compile(&cells, &PolicyOptions::new(SAFE, 0)).expect("a policy");
        Router::new(policy).with_objective(&Objective::Energy).expect("no prices needed")
    };
    let chat = Workload::new(1, 128, 8);
    let d = energy(&[(SAFE, 1.0), (FAST, 2.0)]);
    assert_eq!(d.decide(&chat).route.backend, &SAFE, "faster and twice as hungry");
    assert_eq!(energy(&[(SAFE, 2.0), (FAST, 1.0)]).decide(&chat).route.backend, &FAST);
    let overlap = energy(&[(SAFE, 1.05), (FAST, 1.0)]);
    assert!(matches!(overlap.decide(&chat).route.reason, Reason::Ambiguous { .. }), "the intervals overlap");
    for known in [vec![], vec![(SAFE, 1.0)], vec![(FAST, 1.0)]] {
        let router = energy(&known);
        let d = router.decide(&chat);
        assert_eq!((d.route.backend, d.route.reason), (&SAFE, Reason::NoEnergy), "{known:?}");
        assert_eq!(d.decode().reason, Reason::NoEnergy);
    }
}

#[test]
fn the_one_that_has_the_route_keeps_it_until_another_is_clearly_better() {
    let chat = Workload::new(1, 128, 64);
    let router = router();
    assert_eq!(router.decide_keeping(&chat, &SAFE).route.backend, &FAST, "0.82 of the time is clearly better");
    // A `fast` that is better by 3%: beyond the tie region, within the hysteresis.
    let mut seen = observations(&[SAFE]);
    seen.extend(observations(&[SAFE]).into_iter().map(|mut o| {
        (o.backend, o.boundary) = (FAST, "fast".to_owned());
        o.duration_ns = o.duration_ns * 97 / 100;
        o
    }));
    let close = compile(&seen);
    assert_eq!(close.decide(&chat).route.backend, &FAST);
    let kept = close.decide_keeping(&chat, &SAFE).route;
    assert!(kept.backend == &SAFE && matches!(kept.reason, Reason::Incumbent { ratio } if (ratio - 0.97).abs() < 0.01), "{kept:?}");
    assert_eq!(close.decide_keeping(&chat, &FAST).route.backend, &FAST);
    assert_eq!(close.decide_keeping(&chat, &BackendId::new("gone")).route.backend, &FAST);
    let live = close.with_live(&[(FAST, boundary(&FAST))]);
    assert_eq!(live.decide_keeping(&chat, &SAFE).route.backend, &FAST, "an incumbent that does not run keeps nothing");
}

#[test]
fn fallbacks_start_with_the_default_and_leave_out_what_does_not_run() {
    let order = |router: &Router, w: &Workload| router.decide(w).fallbacks().map(|id| id.to_string()).collect::<Vec<_>>();
    let router = router();
    assert_eq!(order(&router, &Workload::new(1, 128, 64)), ["safe", "bulk"], "after fast");
    assert_eq!(order(&router, &Workload::new(4, 512, 2)), ["safe", "fast"], "after bulk");
    assert_eq!(order(&router, &Workload::new(1, 9999, 2)), ["bulk", "fast"], "after the default, without a prediction by index");
    let without = router.with_live(&[(FAST, boundary(&FAST)), (BULK, boundary(&BULK))]);
    assert_eq!(order(&without, &Workload::new(1, 128, 64)), ["bulk"]);
    let json = without.decide(&Workload::new(1, 128, 64)).to_json();
    assert_eq!((json["fallbacks"][0].as_str(), json["runs"][1].as_str()), (Some("bulk"), Some("run-2")));
    assert!(json["evidence"].as_array().is_some_and(|e| e.iter().any(|id| id == "fast/default/decode/b1/n1/c128/steady")), "{json}");
}

#[test]
fn a_model_tier_is_worth_its_premium_or_not() {
    // The big model is the same machine at three times the price.
    let tiers = |small: f64, big: f64| {
        let tier = |name: &str, usd, success| ModelTier::new(name, router(), usd, success);
        TieredRouter::new(vec![tier("small", 1.0, small), tier("big", 3.0, big)]).expect("two tiers")
    };
    let chat = Workload::new(1, 128, 64);
    // By retries: 3 / 0.95 against 1 / 0.7. The big one would have to be three times as good.
    let by_retries = tiers(0.7, 0.95);
    let d = by_retries.decide(&chat);
    assert_eq!((d.tier, d.reason), ("small", TierReason::First));
    assert_eq!(tiers(0.2, 0.95).decide(&chat).tier, "big");
    // By value: 0.25 more successes at 10 $ a failure are worth more than a fraction of a cent.
    let by_value = tiers(0.7, 0.95).with_failure_usd(10.0).expect("a value");
    assert_eq!((by_value.decide(&chat).tier, by_value.decide(&chat).reason), ("big", TierReason::Cheapest));
    assert!((by_value.decide(&chat).expected_usd.expect("a prediction") - 0.5).abs() < 0.01);
    let cheap_failures = tiers(0.7, 0.95).with_failure_usd(1e-6).expect("a value");
    assert_eq!(cheap_failures.decide(&chat).tier, "small");
    let unknown = by_retries.decide(&Workload::new(1, 99_999, 64));
    assert_eq!((unknown.tier, unknown.reason, unknown.expected_usd), ("big", TierReason::NothingKnown, None));
    // Equal prices and chances: the intervals overlap, and the first stays.
    let same = TieredRouter::new(["a", "b"].map(|n| ModelTier::new(n, router(), 1.0, 0.9)).into()).expect("two tiers");
    assert_eq!(same.decide(&chat).tier, "a");
}

#[test]
fn tiers_without_sense_are_refused() {
    let one = |usd, success| TieredRouter::new(vec![ModelTier::new("m", router(), usd, success)]);
    assert!(matches!(TieredRouter::new(vec![]), Err(TierError::NoTiers)));
    for (usd, success) in [(-1.0, 0.5), (f64::NAN, 0.5), (1.0, 0.0), (1.0, 1.5), (1.0, f64::NAN)] {
        assert!(one(usd, success).is_err(), "{usd} {success}");
    }
    assert!(one(1.0, 0.5).expect("fine").with_failure_usd(f64::NAN).is_err());
}

#[test]
fn a_hundred_thousand_cells_are_routed_like_a_few() {
    let mut seen = Vec::new();
    for (id, speed) in [(SAFE, 10), (FAST, 8)] {
        for batch in 1..=50 {
            for prompt in 1..=20 {
                for block in 0..5 {
                    let mut call = prefill(&id, batch, prompt * 32, block);
                    call.duration_ns = call.duration_ns / 10 * speed;
                    seen.push(call);
                    let mut step = decode(&id, batch, 1 << (prompt % 12), block);
                    step.duration_ns = step.duration_ns / 10 * speed;
                    seen.push(step);
                }
            }
        }
    }
    let router = compile(&seen);
    assert!(router.policy().cells().len() >= 2 * 50 * (20 + 12));
    for batch in [1, 17, 50] {
        assert_eq!(router.decide(&Workload::new(batch, 320, 8)).route.backend, &FAST);
        assert_eq!(router.decide_phase(Phase::Prefill, phase_core::Shape { batch, new_tokens: 640, context: 0 }).backend, &FAST);
    }
}
