//! What measuring costs: the same decode call bare, measured into nothing, and measured into a ring.
//!
//! **Timing model:** elapsed / iterations = one call and one truncation; subtract `bare` for the cost of recording.
//! Target: ring at most 250 ns above bare.

use criterion::{Criterion, criterion_group, criterion_main};
use phase_core::{Backend, CacheSpec, Decode, KvCache, LoadSpec, Measured, Model, MonotonicClock, NoopSink, RingSink, TokenId, sim::Sim};
use std::hint::black_box;

fn one<M: Model>(c: &mut Criterion, name: &str, mut model: M) {
    let mut cache = model.allocate(CacheSpec { batch: 1, capacity: 8 }).expect("a cache");
    let mut logits = phase_core::Logits::new();
    c.bench_function(name, |b| {
        b.iter(|| {
            cache.truncate(0);
            model.decode(&mut cache, black_box(&[TokenId(1)]), &mut logits)
        });
    });
}

fn recording(c: &mut Criterion) {
    let load = || Sim::default().load(&LoadSpec::new("none")).expect("sim");
    one(c, "recording/bare", load());
    one(c, "recording/noop", Measured::new(load(), MonotonicClock::new(), NoopSink));
    one(c, "recording/ring", Measured::new(load(), MonotonicClock::new(), RingSink::new(4096)));
}

criterion_group!(benches, recording);
criterion_main!(benches);
