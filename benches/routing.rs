//! What asking the policy costs: at most 150 ns a decision, whatever the number of cells; below 100 ns for what is noted
//! about a finished request; and 2 s to build a policy from a million events.
//!
//! **Timing model:** elapsed / iterations = one `Router::decide`, with the policy compiled beforehand from made-up times:
//! routing costs the same whatever the numbers are. `build` times the whole way from observations to a router.

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use phase_core::{BackendId, MeasurementBoundary, Phase, Shape, StackInfo};
use phase_policy::{
    Actual, Drift, LastCalls, Ledger, Observation, Policy, PolicyOptions, Router, ScenarioMatrix, SharedRouter, Workload, capacity::Mix,
};
use std::{
    collections::BTreeMap,
    hint::black_box,
    sync::atomic::{AtomicBool, Ordering},
};

const BACKENDS: [(&str, u64); 3] = [("ort-cpu", 10), ("candle-cpu", 11), ("burn-cpu", 12)];

/// `batches` batches of `lengths` prompts and octaves of context, `blocks` blocks of `calls` calls, on three backends.
fn observations(batches: usize, lengths: usize, blocks: u32, calls: u64) -> Vec<Observation> {
    let mut seen = Vec::new();
    for (id, speed) in BACKENDS {
        let id = BackendId::new(id);
        for block in 0..blocks {
            for batch in 1..=batches {
                for length in 1..=lengths {
                    let tokens = length * 16;
                    let prefill = Shape { batch, new_tokens: tokens, context: 0 };
                    let decode = Shape { batch, new_tokens: 1, context: 1 << (length % 14) };
                    for (phase, shape, ns) in
                        [(Phase::Prefill, prefill, speed * tokens as u64 * 1000), (Phase::Decode, decode, speed * 100_000)]
                    {
                        let call = |i| Observation::new(id.clone(), phase, shape, ns + u64::from(block) + i);
                        seen.extend((0..calls).map(|i| call(i).with_boundary("b").with_block(block)));
                    }
                }
            }
        }
    }
    seen
}

fn policy(seen: &[Observation]) -> Policy {
    let boundaries = BTreeMap::from([("b".to_owned(), MeasurementBoundary::call(StackInfo::new()))]);
    let matrix = ScenarioMatrix::build(seen, &boundaries).expect("a matrix");
    Policy::compile(&matrix, &PolicyOptions::new(BackendId::new("ort-cpu"), 0)).expect("a policy")
}

fn routing(c: &mut Criterion) {
    let mut group = c.benchmark_group("routing");
    for (batches, lengths) in [(2, 3), (6, 42), (100, 320)] {
        let router = Router::new(policy(&observations(batches, lengths, 5, 1)));
        let cells = router.policy().cells().len();
        let ask = Workload::new(2, 48, 24);
        group.bench_with_input(BenchmarkId::new("decide", cells), &router, |b, router| {
            b.iter(|| router.decide(black_box(&ask)).route.backend.as_str().len());
        });
        // Every backend was called a second ago.
        let calls = LastCalls::new(&router);
        router.policy().backends().for_each(|backend| calls.note(backend, 1));
        group.bench_with_input(BenchmarkId::new("decide_after", cells), &router, |b, router| {
            b.iter(|| router.decide_after(black_box(&ask), &calls, black_box(1_000_000_000)).route.backend.as_str().len());
        });
        let limited = router.clone().with_slo("ttft=10s,tpot=1s,p50".parse().expect("limits"));
        group.bench_with_input(BenchmarkId::new("decide_within_limits", cells), &limited, |b, router| {
            b.iter(|| router.decide(black_box(&ask)).route.backend.as_str().len());
        });
        let shared = SharedRouter::new(router);
        group.bench_with_input(BenchmarkId::new("decide_shared", cells), &shared, |b, shared| {
            b.iter(|| shared.load().decide(black_box(&ask)).route.backend.as_str().len());
        });
        // A writer puts one router after the other in place, as fast as it can copy them.
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    drop(shared.replace(limited.clone()));
                }
            });
            group.bench_with_input(BenchmarkId::new("decide_swapped", cells), &shared, |b, shared| {
                b.iter(|| shared.load().decide(black_box(&ask)).route.backend.as_str().len());
            });
            stop.store(true, Ordering::Relaxed);
        });
    }
    group.finish();
}

/// What is noted about each request: under 100 ns, windows that fill and close included.
fn noting(c: &mut Criterion) {
    let mut group = c.benchmark_group("noting");
    let router = Router::new(policy(&observations(6, 42, 5, 1)));
    let ask = Workload::new(2, 48, 24);
    let decision = router.decide(&ask);
    let expectation = decision.expectation().expect("a prediction");
    group.bench_function("expectation", |b| b.iter(|| black_box(&decision).expectation()));
    let mut ledger = Ledger::new(&router);
    let mut ns = 400_000;
    group.bench_function("ledger", |b| {
        b.iter(|| {
            // Ratios of all sizes, so that no one bin stays in a register.
            ns = ns * 7919 % 800_011 + 100_000;
            ledger.note(black_box(Some(&expectation)), &Actual::new(ns, 23 * ns));
        });
    });
    let mut drift = Drift::new(&Mix::parse("2x48x24:1").expect("a mix"));
    group.bench_function("drift", |b| b.iter(|| drift.note(black_box(&ask))));
    group.bench_function("drift_routed", |b| b.iter(|| drift.note_routed(&router, black_box(&ask))));
    group.finish();
}

fn building(c: &mut Criterion) {
    let mut group = c.benchmark_group("build");
    group.sample_size(10);
    for calls in [6_u64, 60] {
        // 3 backends, 5 blocks, 2 phases, 12 x 47 shapes: about 100,000 and a million events.
        let seen = observations(12, 47, 5, calls);
        group.bench_with_input(BenchmarkId::new("events", seen.len()), &seen, |b, seen| {
            b.iter_batched(|| (), |()| Router::new(policy(seen)), BatchSize::PerIteration);
        });
    }
    group.finish();
}

criterion_group!(benches, routing, noting, building);
criterion_main!(benches);
