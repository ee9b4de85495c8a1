//! What the metrics cost an application.
//!
//! **Timing model:** elapsed / iterations = one event, or one decision counted, or one scrape. Target: at most 200 ns an event.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use phase_core::{
    Backend, CacheSpec, Decode, EventSink, KvCache, LoadSpec, Logits, ManualClock, Measured, Model, Phase, PhaseEvent, RingSink, Session,
    TokenId, sim::Sim,
};
use phase_metrics::{Exporter, TextFormat};
use std::{hint::black_box, sync::Arc};

/// Events of one request of 32 tokens, as a measured model leaves them.
fn events() -> Vec<PhaseEvent> {
    let ring = Arc::new(RingSink::new(64));
    let clock = ManualClock::ticking(std::time::Duration::from_micros(700));
    let mut model = Measured::new(Sim::default().load(&LoadSpec::new("none")).expect("sim"), clock, ring.clone());
    let mut session = Session::new(&mut model, 64).expect("a cache");
    let stream = session.generate(&[TokenId(1); 8], phase_core::GenerateOptions::new(32), phase_core::Greedy).expect("a prompt");
    assert_eq!(stream.count(), 32);
    ring.drain()
}

fn sink(c: &mut Criterion) {
    let events = events();
    let exporter = Exporter::new(ManualClock::default());
    let sink = exporter.sink();
    let mut group = c.benchmark_group("metrics");
    group.throughput(Throughput::Elements(1));
    for phase in [Phase::Prefill, Phase::Decode, Phase::Request] {
        let event = events.iter().find(|e| e.phase == phase).expect("one of each phase");
        group.bench_function(format!("record/{phase}"), |b| b.iter(|| sink.record(black_box(event))));
    }
    group.throughput(Throughput::Elements(events.len() as u64));
    group.bench_function("record/whole request", |b| b.iter(|| events.iter().for_each(|e| sink.record(black_box(e)))));
    group.finish();

    let mut group = c.benchmark_group("metrics/scrape");
    for n in 0..8 {
        let load = Sim::named(phase_core::BackendId::from(format!("backend-{n}"))).load(&LoadSpec::new("none"));
        let mut model = Measured::new(load.expect("sim"), ManualClock::default(), exporter.sink());
        let mut cache = model.allocate(CacheSpec { batch: 1, capacity: 8 }).expect("a cache");
        model.decode(&mut cache, &[TokenId(1)], &mut Logits::new()).expect("a step");
        assert_eq!(cache.len(), 1);
    }
    group.bench_function("8 backends", |b| b.iter(|| black_box(exporter.render(TextFormat::OpenMetrics))));
    group.finish();
}

criterion_group!(benches, sink);
criterion_main!(benches);
