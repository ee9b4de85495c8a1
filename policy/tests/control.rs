//! Negative controls: equals must not be told apart, and a policy must beat chance.

#![expect(clippy::unwrap_used, reason = "it is all test code")]

mod common;

use common::{BULK, FAST, SAFE, boundaries, policy};
use phase_core::{BackendId, Phase, Shape};
use phase_policy::{Observation, Policy, PolicyOptions, Router, ScenarioMatrix, Workload, constants::Correction, stats::Verdict};
use proptest::{
    prelude::*,
    test_runner::{RngAlgorithm, TestRng},
};

fn normal(rng: &mut TestRng) -> f64 {
    (0..12).map(|_| f64::from(rng.next_u32()) / f64::from(u32::MAX)).sum::<f64>() - 6.0
}

/// Three backends of one speed: 8 buckets, 10 blocks with 5% between blocks and 2% within.
fn equals(rng: &mut TestRng) -> ScenarioMatrix {
    let mut seen = Vec::new();
    for block in 0..10 {
        for tokens in [16, 32, 64, 128, 256, 512, 1024, 2048] {
            for id in [&SAFE, &FAST, &BULK] {
                // What a process start adds is each backend's own: pairing does not take it out.
                let ns = 1e5 * f64::from(tokens) * (0.05 * normal(rng) + 0.02 * normal(rng)).exp();
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive time")]
                let call =
                    Observation::new(id.clone(), Phase::Prefill, Shape { batch: 1, new_tokens: tokens as usize, context: 0 }, ns as u64);
                seen.push(call.with_boundary(id.as_str()).with_block(block));
            }
        }
    }
    ScenarioMatrix::build(&seen, &boundaries()).unwrap()
}

#[test]
fn an_a_a_run_finds_no_difference_in_95_of_100() {
    let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut wrong = [0; 2];
    for _ in 0..200 {
        let matrix = equals(&mut rng);
        for (wrong, correction) in wrong.iter_mut().zip([Correction::Holm, Correction::None]) {
            // Without a tie region every deviation counts: the harder control.
            let options = PolicyOptions::new(SAFE, 0).with_rope(0.0).with_correction(correction);
            let policy = Policy::compile(&matrix, &options).unwrap();
            let told_apart = |v: Option<Verdict>| matches!(v, Some(Verdict::Faster | Verdict::Slower));
            *wrong += i32::from(policy.comparisons().iter().any(|c| told_apart(c.verdict)));
        }
    }
    assert!(wrong[0] <= 14, "{} of 200 policies tell equals apart", wrong[0]);
    assert!(wrong[1] > 40, "{} of 200 without a correction: the control is too weak", wrong[1]);
}

#[test]
fn a_random_route_loses_to_the_policy() {
    let router = Router::new(policy());
    let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let all = [SAFE, FAST, BULK];
    let truth = |id: &BackendId, w: &Workload| {
        let speed = common::speed(id);
        speed.prefill * w.prompt_tokens as u64 + speed.decode * w.decode_steps() as u64
    };
    let (mut ours, mut chance) = (0, 0);
    for i in 0..600_usize {
        let w = Workload::new(1, [32, 128, 512][i % 3], [1, 16, 64][i / 3 % 3]);
        ours += truth(router.decide(&w).route.backend, &w);
        chance += truth(&all[rng.next_u32() as usize % 3], &w);
    }
    assert!(ours * 10 < chance * 9, "{ours} against {chance}: the harness would not notice a bad policy");
}
