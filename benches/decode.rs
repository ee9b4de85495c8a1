//! One decode step at a fixed context, per backend and batch.
//!
//! **Timing model:** elapsed = the phase calls alone, as `Measured` would time them; truncating the cache back to the
//! context is outside, so every step has the same shape.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use phase_core::{CacheSpec, Clock, Decode, KvCache, Logits, Model, MonotonicClock, Prefill, PromptBatch, TokenId};

const CONTEXT: usize = 64;

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    group.sample_size(10);
    let clock = MonotonicClock::new();
    for (backend, mut model) in phase_benches::models() {
        for batch in [1usize, 4] {
            let prompt: Vec<_> = (0..u32::try_from(CONTEXT * batch).expect("small")).map(|i| TokenId(i % 97)).collect();
            let next = vec![TokenId(5); batch];
            let mut cache = model.allocate(CacheSpec { batch, capacity: CONTEXT + 1 }).expect("a cache");
            let mut logits = Logits::new();
            model.prefill(&mut cache, PromptBatch::new(&prompt, batch).expect("a prompt"), &mut logits).expect("prefill");
            group.throughput(Throughput::Elements(batch as u64));
            group.bench_function(BenchmarkId::new(&backend, format!("batch {batch}")), |b| {
                b.iter_custom(|rounds| {
                    (0..rounds)
                        .map(|_| {
                            cache.truncate(CONTEXT);
                            let start = clock.now();
                            model.decode(&mut cache, &next, &mut logits).expect("decode");
                            clock.now().since(start)
                        })
                        .sum()
                });
            });
        }
    }
}

criterion_group!(benches, decode);
criterion_main!(benches);
