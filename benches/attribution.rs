//! Attribution of 100,000 phases to one hour of readings. Timing model: one call attributes all phases, in order of time;
//! preparing the recording is its own benchmark. No file, no allocation in the timed loop but the answers' vector. And polls of
//! one source that costs nothing, a second's worth at the default period: what the sampler itself takes.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use phase_core::{ManualClock, Timestamp};
use phase_energy::{
    Attribution, Cursor, Gate, Perimeter, Poller, PowerBounds, Reading, ReadingKind, Sample, SamplerPlan, Scripted, SensorKind, Series,
    Source, SourceId, SystemWall,
    fake::{FakeGpu, FakeSensor, PowerCurve, Random},
};
use std::{hint::black_box, sync::Arc, time::Duration};

const HOUR_S: f64 = 3600.0;
const EVENTS: u64 = 100_000;

fn recording(reading: ReadingKind, kind: SensorKind) -> (FakeGpu, Vec<Sample>) {
    let sensor = FakeSensor { reading, kind, update_s: 0.1, window_s: 0.1, lag_s: 0.0, jitter_s: 0.002, phase_s: 0.01 };
    let gpu = FakeGpu::new(PowerCurve::requests(HOUR_S, 60.0, 700.0, 1), sensor, HOUR_S, 1);
    let samples = gpu.samples(0.0, HOUR_S, 0.025);
    (gpu, samples)
}

/// Phases of 10 ms to 2 s, begun in order.
fn events() -> Vec<[Timestamp; 2]> {
    let mut random = Random::new(2);
    let at = |seconds: f64| Timestamp::from_nanos((seconds * 1e9) as u64);
    let step = (HOUR_S - 10.0) / EVENTS as f64;
    (0..EVENTS)
        .map(|i| {
            let start = 2.0 + i as f64 * step;
            [at(start), at(start + random.within(0.01, 2.0))]
        })
        .collect()
}

fn attribution(c: &mut Criterion) {
    let power = PowerBounds::new(60.0, 770.0).expect("bounds of a device");
    let events = events();
    let mut group = c.benchmark_group("attribution");
    for (name, reading, kind) in
        [("counter", ReadingKind::Counter, SensorKind::Integrating), ("power", ReadingKind::Power, SensorKind::Boxcar)]
    {
        let (gpu, samples) = recording(reading, kind);
        let model = gpu.model(power).expect("a sensor that can be");
        group.throughput(Throughput::Elements(samples.len() as u64));
        group.bench_function(format!("prepare an hour of {name}"), |b| {
            b.iter(|| Series::new(reading, black_box(&samples), model, Gate::default()));
        });
        let series = Series::new(reading, &samples, model, Gate::default()).expect("readings in order");
        group.throughput(Throughput::Elements(EVENTS));
        group.bench_function(format!("100,000 events, {name}"), |b| {
            b.iter(|| {
                let mut cursor = Cursor::default();
                let of = |[a, b]: &[Timestamp; 2]| series.attribute_from(&mut cursor, *a, *b);
                black_box(&events).iter().map(of).collect::<Vec<Attribution>>()
            });
        });
    }
    group.finish();
}

fn sampling(c: &mut Criterion) {
    const POLLS: u64 = 100;
    let clock = Arc::new(ManualClock::default());
    let poller = || {
        let steps = (0..POLLS).map(|i| Ok(vec![Reading::Counter { microjoules: i * 4_000_000 }.into()])).collect();
        let id = SourceId::new("GPU-0", "none", "script", Perimeter::GpuBoard);
        let source: Box<dyn Source> = Box::new(Scripted::new(id, ReadingKind::Counter, steps));
        Poller::new(clock.clone(), Arc::new(SystemWall), vec![source], vec![], SamplerPlan::default())
    };
    let mut group = c.benchmark_group("sampler");
    group.throughput(Throughput::Elements(POLLS));
    group.bench_function("100 polls", |b| {
        b.iter_batched_ref(
            poller,
            |poller| {
                for _ in 0..POLLS {
                    poller.poll();
                    clock.advance(Duration::from_millis(10));
                }
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, attribution, sampling);
criterion_main!(benches);
