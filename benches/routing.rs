//! What asking the policy costs. Target: at most 200 ns a decision.
//!
//! **Timing model:** elapsed / iterations = one `Router::decide`. The policy is compiled from made-up times: routing costs
//! the same whatever the numbers are.

use criterion::{Criterion, criterion_group, criterion_main};
use phase_core::{BackendId, MeasurementBoundary, Phase, Shape, StackInfo};
use phase_policy::{Observation, Policy, PolicyOptions, Router, ScenarioMatrix, Workload};
use std::{collections::BTreeMap, hint::black_box};

fn routing(c: &mut Criterion) {
    let boundaries = BTreeMap::from([("b".to_owned(), MeasurementBoundary::call(StackInfo::new()))]);
    let mut seen = Vec::new();
    for (speed, backend) in [("ort-cpu", 10u64), ("candle-cpu", 11), ("burn-cpu", 12)].map(|(id, n)| (n, BackendId::new(id))) {
        for block in 0..5u32 {
            for tokens in [64usize, 256, 1024] {
                let prefill = Shape { batch: 1, new_tokens: tokens, context: 0 };
                let decode = Shape { batch: 1, new_tokens: 1, context: tokens };
                let at = |phase, shape, ns| Observation::new(backend.clone(), phase, shape, ns).with_boundary("b").with_block(block);
                seen.push(at(Phase::Prefill, prefill, speed * tokens as u64 * 1000 + u64::from(block)));
                seen.push(at(Phase::Decode, decode, speed * 100_000 + u64::from(block)));
            }
        }
    }
    let matrix = ScenarioMatrix::build(&seen, &boundaries).expect("a matrix");
    let policy = Policy::compile(&matrix, &PolicyOptions::new(BackendId::new("ort-cpu"), 0)).expect("a policy");
    let router = Router::new(policy);
    c.bench_function("routing/decide", |b| b.iter(|| router.decide(black_box(&Workload::new(1, 256, 128))).route.backend.as_str().len()));
}

criterion_group!(benches, routing);
criterion_main!(benches);
