//! One prefill call on an empty cache, per backend and prompt length.
//!
//! **Timing model:** elapsed = the phase calls alone, as `Measured` would time them; truncating the cache is outside.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use phase_core::{CacheSpec, Clock, KvCache, Logits, Model, MonotonicClock, Prefill, PromptBatch, TokenId};

fn prefill(c: &mut Criterion) {
    let mut group = c.benchmark_group("prefill");
    group.sample_size(10);
    let clock = MonotonicClock::new();
    for (backend, mut model) in phase_benches::models() {
        let vocab = u32::try_from(model.info().vocab).expect("a vocabulary below 2^32");
        for tokens in [32usize, 128] {
            let prompt: Vec<_> = (0..u32::try_from(tokens).expect("small")).map(|i| TokenId((i * 31 + 7) % vocab)).collect();
            let mut cache = model.allocate(CacheSpec { batch: 1, capacity: tokens }).expect("a cache");
            let mut logits = Logits::new();
            group.throughput(Throughput::Elements(tokens as u64));
            group.bench_function(BenchmarkId::new(&backend, tokens), |b| {
                b.iter_custom(|rounds| {
                    (0..rounds)
                        .map(|_| {
                            cache.truncate(0);
                            let start = clock.now();
                            model.prefill(&mut cache, PromptBatch::single(&prompt).expect("a prompt"), &mut logits).expect("prefill");
                            clock.now().since(start)
                        })
                        .sum()
                });
            });
        }
    }
}

criterion_group!(benches, prefill);
criterion_main!(benches);
