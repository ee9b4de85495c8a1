//! What erasure costs: the same decode call, static and through `BoxModel`.
//!
//! **Timing model:** elapsed / iterations = one call of a model whose own work is a few tens of nanoseconds, and one
//! truncation. Target: erased at most 10 ns above static.

use criterion::{Criterion, criterion_group, criterion_main};
use phase_core::{Backend, BoxModel, CacheSpec, Decode, KvCache, LoadSpec, Model, TokenId, sim::Sim};
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

fn dispatch(c: &mut Criterion) {
    let load = || Sim::default().load(&LoadSpec::new("none")).expect("sim");
    one(c, "dispatch/static", load());
    one(c, "dispatch/erased", Box::new(load()) as BoxModel);
}

criterion_group!(benches, dispatch);
criterion_main!(benches);
