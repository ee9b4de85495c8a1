//! Predictions against what then happened: who is held to account, for what, and when a measurement is due.

#![expect(clippy::unwrap_used, reason = "it is all test code")]

mod common;

use common::{BULK, FAST, SAFE};
use phase_policy::{Actual, BAD_WINDOWS, Decision, Ledger, Part, Router, WINDOW, WindowVerdict, Workload};
use proptest::prelude::*;

const ASK: Workload = Workload::new(1, 128, 65);

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "nanoseconds of a request")]
fn whole(ns: f64) -> u64 {
    ns.round() as u64
}

/// What the routed backend takes if it takes `prefill` and `decode` times what was predicted.
fn actual(decision: &Decision<'_>, prefill: f64, decode: f64) -> Actual {
    let p = decision.predicted().unwrap();
    let steps = p.decode_steps as f64;
    Actual::new(whole(p.prefill.ns * prefill), whole(p.decode_step.map_or(0.0, |s| s.ns * steps) * decode))
}

/// `windows` windows of `ASK`.
fn run(router: &Router, ledger: &mut Ledger, windows: u32, prefill: f64, decode: f64) {
    let decision = router.decide(&ASK);
    let took = actual(&decision, prefill, decode);
    (0..windows * WINDOW).for_each(|_| ledger.note(decision.expectation().as_ref(), &took));
}

#[test]
fn what_holds_is_left_alone() {
    let router = common::router();
    let mut ledger = Ledger::new(&router);
    run(&router, &mut ledger, 10, 1.0, 1.0);
    assert!(ledger.remeasure(router.policy()).is_empty());
    let snapshot = ledger.snapshot();
    assert_eq!(snapshot.entries.iter().map(|e| e.part).collect::<Vec<_>>(), Part::ALL);
    assert!(snapshot.entries.iter().all(|e| e.backend == FAST));
    for entry in &snapshot.entries {
        assert_eq!((entry.requests, entry.windows, entry.bad_windows), (10 * u64::from(WINDOW), 10, 0));
        assert_eq!((entry.inside_interval, entry.with_interval), (entry.requests, entry.requests), "coverage");
        assert!((entry.actual_seconds / entry.predicted_seconds - 1.0).abs() < 1e-6);
        assert_eq!(entry.last_window.unwrap().verdict, WindowVerdict::Holds);
    }
    // `fast` was chosen and took what was predicted: no regret, and what it saved over the next best is known.
    assert_eq!((snapshot.regret.worse, snapshot.regret.requests), (0, 10 * u64::from(WINDOW)));
    let saved = router.predict(&SAFE, &ASK).unwrap().total.ns - router.predict(&FAST, &ASK).unwrap().total.ns;
    assert!((snapshot.regret.saved_seconds - saved / 1e9 * 2560.0).abs() < 1e-6);
}

#[test]
fn three_bad_windows_ask_for_the_cells_that_the_prediction_rests_on() {
    let router = common::router();
    let mut ledger = Ledger::new(&router);
    run(&router, &mut ledger, BAD_WINDOWS - 1, 1.0, 1.4);
    assert!(ledger.remeasure(router.policy()).is_empty(), "two are not enough");
    run(&router, &mut ledger, 1, 1.0, 1.4);
    let due = ledger.remeasure(router.policy());
    assert_eq!(
        due.iter().map(|d| (&d.backend, d.part, d.windows)).collect::<Vec<_>>(),
        [(&FAST, Part::DecodeStep, 3), (&FAST, Part::Request, 3)]
    );
    assert!((due[0].ratio - 1.4).abs() < 0.03);
    let cells = &due[0].cells;
    assert!(cells.iter().any(|c| c == "fast/default/decode/b1/n1/c128/steady"), "{cells:?}");
    assert!(cells.iter().any(|c| c == "safe/default/decode/b1/n1/c128/steady"), "comparisons are paired: {cells:?}");
    assert!(cells.iter().all(|c| c.contains("/decode/") && !c.starts_with("bulk")), "{cells:?}");
    // One good window ends it.
    run(&router, &mut ledger, 1, 1.0, 1.0);
    assert!(ledger.remeasure(router.policy()).is_empty());
    ledger.reset();
    assert!(ledger.snapshot().entries.is_empty());
}

#[test]
fn regret_is_what_the_other_route_would_have_saved() {
    let router = common::router();
    let mut ledger = Ledger::new(&router);
    let decision = router.decide(&ASK);
    let expectation = decision.expectation().unwrap();
    let other = router.predict(&SAFE, &ASK).unwrap().total.ns;
    assert_eq!(expectation.best_other_ns, Some(other));
    let took = actual(&decision, 1.0, 2.0);
    ledger.note(Some(&expectation), &took);
    let regret = ledger.snapshot().regret;
    let more = (took.prefill_ns + took.decode_ns) as f64 - other;
    assert!(more > 0.0 && (regret.regret_seconds - more / 1e9).abs() < 1e-12);
    assert_eq!((regret.worse, regret.requests), (1, 1));
    // Where nobody else runs, there is nothing to regret.
    let alone = common::router().with_live(&[(SAFE, common::boundary(&SAFE))]);
    assert_eq!(alone.decide(&ASK).expectation().unwrap().best_other_ns, None);
}

#[test]
fn what_can_not_be_held_against_each_other_is_counted_apart() {
    let router = common::router();
    let mut ledger = Ledger::new(&router);
    let decision = router.decide(&ASK);
    let expectation = decision.expectation().unwrap();
    let outside = router.decide(&Workload::new(1, 100_000, 4));
    ledger.note(outside.expectation().as_ref(), &Actual::new(1, 1));
    for took in [Actual::new(0, 5), Actual::new(5, 0), Actual::new(0, 0)] {
        ledger.note(Some(&expectation), &took);
    }
    // Ended at its first token: steps that were never asked for take no time.
    ledger.note(Some(&expectation.with_decode_steps(0)), &Actual::new(12_800_000, 0));
    // Of another policy.
    let other = Router::new(phase_policy::Policy::from_json(include_str!("fixtures/policy.v1.json")).unwrap());
    ledger.note(other.decide(&Workload::new(1, 32, 2)).expectation().as_ref(), &Actual::new(5, 5));
    let snapshot = ledger.snapshot();
    assert_eq!((snapshot.unpredicted, snapshot.unusable), (1, 4));
    assert_eq!(snapshot.entries.iter().map(|e| (e.part, e.requests)).collect::<Vec<_>>(), [(Part::Prefill, 1), (Part::Request, 1)]);
    assert_eq!(snapshot.regret.requests, 0, "of other backends nothing is said for a request that ended early");
}

#[test]
fn workers_add_up_and_policies_do_not() {
    let router = common::router();
    let [mut a, mut b] = [Ledger::new(&router), Ledger::new(&router)];
    run(&router, &mut a, 1, 1.0, 1.0);
    run(&router, &mut b, 3, 1.0, 2.0);
    let mut both = a.snapshot();
    both.merge(&b.snapshot()).unwrap();
    let step = both.entries.iter().find(|e| e.part == Part::DecodeStep).unwrap();
    assert_eq!((step.requests, step.windows, step.bad_windows, step.remeasure), (4 * u64::from(WINDOW), 4, 3, true));
    assert_eq!(both.remeasure(router.policy()), b.remeasure(router.policy()));
    let other = Router::new(phase_policy::Policy::from_json(include_str!("fixtures/policy.v1.json")).unwrap());
    let error = both.merge(&Ledger::new(&other).snapshot()).unwrap_err();
    assert!(error.to_string().contains(other.policy().digest()));
    assert!(serde_json::to_value(&both).unwrap()["entries"][0]["part"].is_string());
}

proptest! {
    #[test]
    fn memory_is_bounded_and_counts_agree_whatever_happens(times in prop::collection::vec((0..u64::MAX, 0..u64::MAX, 0..80_usize, 0..3_usize), 0..2000)) {
        let router = common::router();
        let mut ledger = Ledger::new(&router);
        for (prefill, decode, new, who) in &times {
            let workload = Workload::new([1, 4, 2][*who], 128, *new);
            ledger.note(router.decide(&workload).expectation().as_ref(), &Actual::new(*prefill, *decode));
        }
        let snapshot = ledger.snapshot();
        let requests: u64 = snapshot.entries.iter().filter(|e| e.part == Part::Request).map(|e| e.requests).sum();
        prop_assert_eq!(requests + snapshot.unpredicted + snapshot.unusable, times.len() as u64);
        prop_assert!(snapshot.entries.len() <= 9 && snapshot.entries.iter().all(|e| [SAFE, FAST, BULK].contains(&e.backend)));
        for e in &snapshot.entries {
            prop_assert!(e.inside_interval <= e.with_interval && e.below_p95 <= e.with_p95 && e.bad_windows <= e.windows);
            prop_assert!(e.actual_seconds.is_finite() && e.windows == e.requests / u64::from(WINDOW));
        }
    }
}
