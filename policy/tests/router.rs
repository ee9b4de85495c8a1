//! Decisions on a machine whose right answers are known.

mod common;

use common::{BULK, FAST, SAFE, boundaries, boundary, boundary_of, decode, matrix, observations, policy, prefill, router};
use phase_core::{Energy, Joules, NoData, Phase, Shape};
use phase_policy::{Basis, Class, Objective, Outside, Policy, PolicyOptions, Reason, Router, ScenarioMatrix, Warmth, Workload};
use proptest::prelude::*;

fn close(a: f64, b: f64) -> bool {
    (a / b - 1.0).abs() < 0.02
}

#[test]
fn a_decode_heavy_request_goes_to_the_measured_decode_winner() {
    let router = router();
    let d = router.decide(&Workload::new(1, 128, 64));
    assert_eq!((d.class, d.route.backend, d.route.against), (Class::DecodeHeavy, &FAST, Some(&SAFE)));
    let Reason::Winner { ratio } = d.route.reason else { panic!("{d:?}") };
    assert!(ratio.high < 1.0 / 1.02 && ratio.low > 0.75, "{ratio}");
    assert!(matches!((d.prefill().reason, d.decode().reason), (Reason::Winner { .. }, Reason::Winner { .. })));
    assert_eq!((d.prefill().backend, d.decode().backend), (&BULK, &FAST));
    assert!(!d.compile.prefill && !d.compile.decode);
}

#[test]
fn a_prefill_heavy_request_goes_to_the_prefill_winner_and_inverts_the_ranking() {
    let router = router();
    let d = router.decide(&Workload::new(4, 512, 2));
    assert_eq!((d.class, d.route.backend), (Class::PrefillHeavy, &BULK));
    assert_eq!(router.decide(&Workload::new(4, 512, 17)).route.backend, &BULK, "512 x 4 tokens of prefill outweigh 16 steps");
    assert_eq!(router.decide(&Workload::new(4, 32, 65)).route.backend, &FAST);
}

#[test]
fn the_prefill_winner_does_not_take_a_request_it_would_lose() {
    // 32 x 4 tokens: prefill 12.8 against 6.4 ms, but seven steps of 5 against 7.5 ms.
    let router = router();
    let d = router.decide(&Workload::new(4, 32, 8));
    assert_eq!((d.class, d.prefill().backend, d.decode().backend), (Class::PrefillHeavy, &BULK, &FAST));
    assert_ne!(d.route.backend, &BULK);
}

#[test]
fn the_prediction_adds_up_and_says_how_it_came_about() {
    let router = router();
    let at = |prompt, new| router.decide(&Workload::new(1, prompt, new)).predicted().unwrap();
    let measured = at(128, 1);
    assert_eq!((measured.prefill.basis, measured.decode_step, measured.total.ns), (Basis::Measured, None, measured.prefill.ns));
    let p = at(256, 33);
    assert_eq!((p.prefill.basis, p.decode_steps), (Basis::Interpolated, 32));
    assert!(close(p.prefill.ns, 256.0 * 100_000.0), "{p:?}");
    let step = p.decode_step.unwrap();
    assert!(close(step.ns, 4_000_000.0 + 1_000.0 * 271.5), "{p:?}");
    assert!(close(p.total.ns, p.prefill.ns + 32.0 * step.ns));
    let interval = p.total.interval.unwrap();
    assert!(interval.low <= p.total.ns && p.total.ns <= interval.high && interval.confidence < 0.95);
    assert_eq!((at(20, 1).prefill.basis, at(1000, 1).prefill.basis), (Basis::Nearest, Basis::Scaled));
    assert!(close(at(1024, 1).prefill.ns, 1024.0 * 50_000.0));
}

#[test]
fn outside_of_the_envelope_the_answer_is_default_safe_and_says_which_edge() {
    let router = router();
    let reason = |batch, prompt, new| {
        let d = router.decide(&Workload::new(batch, prompt, new));
        assert_eq!((d.route.backend, d.predicted()), (&SAFE, None));
        match d.route.reason {
            Reason::OutsideEnvelope(outside) => outside,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(reason(2, 128, 64), Outside::BatchNotMeasured);
    assert_eq!(reason(1, 1025, 64), Outside::PromptTooLong { largest: 512 });
    assert_eq!(reason(1, 15, 64), Outside::PromptTooShort { smallest: 32 });
    assert_eq!(reason(1, 512, 600), Outside::ContextTooLong { largest: 519 });
    assert_eq!([reason(0, 8, 8), reason(1, 0, 8)], [Outside::Empty; 2]);
    assert!(matches!(reason(1, 128, usize::MAX), Outside::ContextTooLong { .. }));
    assert!(matches!(reason(usize::MAX, usize::MAX, usize::MAX), Outside::BatchNotMeasured));
}

#[test]
fn within_it_the_nearest_bucket_by_ratio_decides() {
    let router = router();
    let bucket = |prompt| router.decide(&Workload::new(1, prompt, 1)).prefill().bucket.unwrap().new_tokens;
    // The geometric mean of 32 and 128 is 64, of 128 and 512 it is 256.
    assert_eq!([16, 32, 64, 65, 256, 257, 1024].map(bucket), [32, 32, 32, 128, 128, 512, 512]);
}

#[test]
fn a_tie_and_a_single_backend_stay_with_the_default() {
    let only = Policy::compile(&matrix(&[SAFE]), &PolicyOptions::new(SAFE, 0)).unwrap();
    assert_eq!(Router::new(only).decide(&Workload::new(1, 128, 64)).route.reason, Reason::OnlyBackend);
    let pair = Policy::compile(&matrix(&[SAFE, FAST]), &PolicyOptions::new(SAFE, 0)).unwrap();
    let router = Router::new(pair);
    let d = router.decide(&Workload::new(1, 128, 1));
    assert_eq!((d.route.backend, d.route.against), (&SAFE, Some(&FAST)));
    assert!(matches!(d.route.reason, Reason::Tie { ratio } if ratio.blocks == 5), "{d:?}");
    // A tie region as wide as the difference turns the win into a tie.
    let wide = Policy::compile(&matrix(&[SAFE, FAST]), &PolicyOptions::new(SAFE, 0).with_rope(0.3)).unwrap();
    assert!(matches!(Router::new(wide).decide(&Workload::new(1, 128, 64)).route.reason, Reason::Tie { .. }));
}

#[test]
fn the_default_can_win_too() {
    let policy = Policy::compile(&matrix(&[SAFE, BULK]), &PolicyOptions::new(SAFE, 0)).unwrap();
    let router = Router::new(policy);
    let d = router.decide(&Workload::new(1, 32, 64));
    assert_eq!((d.route.backend, d.route.against), (&SAFE, Some(&BULK)));
    assert!(matches!(d.route.reason, Reason::Winner { ratio } if ratio.high < 0.75));
}

#[test]
fn too_few_blocks_and_a_missing_default_decide_nothing() {
    let build = |seen: &[_]| {
        let matrix = ScenarioMatrix::build(seen, &boundaries()).unwrap();
        Router::new(Policy::compile(&matrix, &PolicyOptions::new(SAFE, 0)).unwrap())
    };
    let two: Vec<_> = observations(&[SAFE, FAST]).into_iter().filter(|o| o.block < 2).collect();
    assert_eq!(build(&two).decide(&Workload::new(1, 128, 64)).route.reason, Reason::TooFewBlocks { blocks: 2, needed: 5 });
    let one = build(&[prefill(&SAFE, 1, 32, 0), decode(&SAFE, 1, 32, 0)]);
    assert_eq!(one.decide(&Workload::new(1, 32, 8)).route.reason, Reason::OnlyBackend);
    let no_decode: Vec<_> = observations(&[SAFE, FAST]).into_iter().filter(|o| o.backend == FAST || o.phase == Phase::Prefill).collect();
    let router = build(&no_decode);
    let d = router.decide(&Workload::new(1, 128, 64));
    assert_eq!((d.route.reason, d.decode().reason, d.predicted()), (Reason::NoCell, Reason::NoCell, None));
    let prefill_only: Vec<_> = observations(&[SAFE, FAST]).into_iter().filter(|o| o.phase == Phase::Prefill).collect();
    let router = build(&prefill_only);
    assert_eq!(router.decide(&Workload::new(1, 128, 64)).route.reason, Reason::NoCell);
    assert!(matches!(router.decide(&Workload::new(1, 128, 1)).route.reason, Reason::Tie { .. }));
}

#[test]
fn a_changed_boundary_degrades_to_default_safe_and_names_the_field() {
    let live = |fast: &str| [(SAFE, boundary(&SAFE)), (FAST, boundary_of(fast)), (BULK, boundary(&BULK))];
    let chat = Workload::new(1, 128, 64);
    let fine = router().with_live(&live("fast"));
    assert!(fine.validity().unwrap().is_valid());
    assert_eq!(fine.decide(&chat).route.backend, &FAST);
    let changed = router().with_live(&live("fast 2"));
    let d = changed.decide(&chat);
    assert_eq!((d.route.backend, d.route.against, d.route.reason), (&SAFE, Some(&FAST), Reason::BoundaryChanged));
    assert_eq!(d.prefill().backend, &BULK, "what did not change still holds");
    assert!(d.explain().to_string().contains("runtime.library: fast against fast 2"), "{}", d.explain());
    let tied = changed.decide(&Workload::new(1, 128, 1));
    assert_eq!(tied.route.backend, &BULK);
    let only_changed = router().with_live(&[(SAFE, boundary(&SAFE)), (FAST, boundary_of("fast 2"))]);
    assert_eq!(only_changed.decide(&Workload::new(1, 128, 1)).route.reason, Reason::BoundaryChanged, "nobody else runs");
    let default_changed = router().with_live(&[(SAFE, boundary_of("safe 2")), (FAST, boundary(&FAST))]);
    let d = default_changed.decide(&chat);
    assert_eq!((d.route.backend, d.route.reason, d.predicted()), (&SAFE, Reason::BoundaryChanged, None));
}

#[test]
fn what_does_not_run_here_is_no_candidate() {
    let chat = Workload::new(1, 128, 64);
    let without_fast = router().with_live(&[(SAFE, boundary(&SAFE)), (BULK, boundary(&BULK))]);
    assert_eq!(without_fast.decide(&chat).route.backend, &SAFE);
    let without_safe = router().with_live(&[(FAST, boundary(&FAST))]);
    assert_eq!(without_safe.decide(&chat).route.backend, &FAST);
    assert_eq!(router().with_live(&[]).decide(&chat).route.reason, Reason::NotLive);
}

#[test]
fn warm_up_is_advised_where_cold_calls_were_measured() {
    let router = router();
    let d = router.decide(&Workload::new(1, 32, 64));
    assert!(matches!(d.warmup().prefill, Warmth::Measured { ratio, n: 5, required: true, .. } if close(ratio, 40.0)));
    assert_eq!(d.warmup().decode, Warmth::NotMeasured);
    assert_eq!(router.decide(&Workload::new(1, 512, 64)).warmup().prefill, Warmth::NotMeasured);
}

#[test]
fn energy_is_given_only_where_it_was_measured() {
    let mut cells = matrix(&[SAFE]);
    let keys: Vec<_> = cells.cells().iter().map(|c| c.key.clone()).collect();
    for key in &keys {
        cells.set_energy(key, Energy::Measured { joules: Joules(2.0), low: Joules(1.0), high: Joules(3.0) }).unwrap();
    }
    let router = Router::new(Policy::compile(&cells, &PolicyOptions::new(SAFE, 0)).unwrap());
    let energy = |prompt, new| router.decide(&Workload::new(1, prompt, new)).energy();
    assert_eq!(energy(128, 5), Energy::Measured { joules: Joules(10.0), low: Joules(5.0), high: Joules(15.0) });
    let none = Energy::NoData { reason: NoData::NotRecorded };
    assert_eq!([energy(129, 5), energy(128, 64), energy(9999, 5)], [none.clone(), none.clone(), none.clone()]);
    assert_eq!(common::router().decide(&Workload::new(1, 128, 5)).energy(), none);
}

#[test]
fn one_phase_can_be_asked_about() {
    let router = router();
    let ask = |phase, batch, new_tokens, context| router.decide_phase(phase, Shape { batch, new_tokens, context });
    assert_eq!(ask(Phase::Prefill, 4, 128, 0).backend, &BULK);
    assert_eq!(ask(Phase::Decode, 1, 1, 130).backend, &FAST);
    assert_eq!(ask(Phase::Decode, 1, 1, 130).bucket.unwrap().context, 128);
    assert_eq!(ask(Phase::Prefill, 1, 128, 64).reason, Reason::OutsideEnvelope(Outside::LaterTurn));
    assert_eq!(ask(Phase::Prefill, 1, 0, 0).reason, Reason::OutsideEnvelope(Outside::Empty));
    assert_eq!(ask(Phase::Request, 1, 64, 128), router.decide(&Workload::new(1, 128, 64)).route);
}

#[test]
fn the_explanation_has_numbers_units_and_evidence() {
    let router = router();
    let d = router.decide(&Workload::new(1, 128, 64));
    let words = d.explain().to_string();
    for part in [
        "decode-heavy, because it generates 64 tokens or more",
        "Route: fast, measured faster: its time over that of safe is 0.8",
        "at 99.17% over 5 blocks]",
        "63 decode steps of",
        " ms",
        "Evidence: fast/default/decode/b1/n1/c128/steady",
        "n = 40, 5 blocks, boundary fast",
        "runs run-1, run-2",
        "no_data (not_recorded)",
        "Compile prefill: no",
        &policy().digest()[..16],
    ] {
        assert!(words.contains(part), "`{part}` is not in:\n{words}");
    }
    let json = d.to_json();
    assert_eq!(json["route"]["backend"], "fast");
    assert_eq!(json["route"]["reason"], "winner");
    assert_eq!(json["policy_digest"], policy().digest());
    assert_eq!(json["class"], "decode_heavy");
}

proptest! {
    #[test]
    fn every_question_has_an_answer(batch in 0..6_usize, prompt in 0..3000_usize, new in 0..3000_usize) {
        let router = router();
        let d = router.decide(&Workload::new(batch, prompt, new));
        if let Some(p) = d.predicted() {
            prop_assert!(p.total.ns.is_finite() && p.total.ns > 0.0);
            let interval = p.total.interval.unwrap();
            prop_assert!(interval.low <= p.total.ns && p.total.ns <= interval.high);
        }
        // Who takes a route and why are worked out apart, and agree whatever counts.
        let prices = [(SAFE, 1.0), (FAST, 1.1), (BULK, 0.7)];
        let cost = router.clone().with_objective(&Objective::Cost { usd_per_hour: prices.into() }).unwrap();
        for route in [d.route, cost.decide(&Workload::new(batch, prompt, new)).route] {
            if let Reason::Winner { ratio } = route.reason {
                prop_assert!(ratio.high < 1.0 / 1.02 && ratio.low <= ratio.ratio && ratio.ratio <= ratio.high);
            } else {
                prop_assert_eq!(route.backend, &SAFE);
            }
        }
        prop_assert!(!d.explain().to_string().contains("NaN"));
    }

    #[test]
    fn more_tokens_never_take_less_time(batch in prop::sample::select(vec![1_usize, 4]), prompt in 16..900_usize, new in 1..300_usize) {
        let only = Policy::compile(&matrix(&[SAFE]), &PolicyOptions::new(SAFE, 0)).unwrap();
        let router = Router::new(only);
        let total = |prompt, new| router.decide(&Workload::new(batch, prompt, new)).predicted().map(|p| p.total.ns);
        if let (Some(a), Some(b), Some(c)) = (total(prompt, new), total(prompt, new + 1), total(prompt + 1, new)) {
            prop_assert!(a < b && a <= c, "{} {} {}", a, b, c);
        }
    }
}
