//! A million events into tables and into Parquet.
//!
//! **Timing model:** elapsed / iterations = all events once: from records in memory to the bytes of the file. Target: under 2 s.
//! Opening the run (digests, JSON, recomputed cells) comes before it and is not in it.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use phase_export::{csv, parquet, tables};
use phase_scenario::Record;
use std::{hint::black_box, io::Write, time::Duration};

const EVENTS: u64 = 1_000_000;

const LINE: &str = r#"{"kind":"phase","schema":"phase.event/1","run_id":"20261124T124202Z-924781ef","scenario":"s1","cell":"s1/b1-p32-d64","repetition":0,
"segment":0,"role":"sample","sample":0,"call":0,"session":4,"step":18,"start_ns":10095275,"end_ns":10159300,"backend":"candle-cpu","mode":"default",
"phase":"decode","shape":{"batch":1,"new_tokens":1,"context":32},"regime":"steady","boundary":"28ca3b560a75e5fe","block":1,"outcome":"ok","duration_ns":64025}"#;

/// Calls of three backends over a thousand cells, with times that repeat no more than real ones do.
fn records() -> Vec<Record> {
    let Ok(Record::Phase(call)) = serde_json::from_str(LINE) else { panic!("a phase line") };
    let backends = ["ort-cpu", "candle-cpu", "burn-cpu"].map(phase_core::BackendId::new);
    let mut seed = 1_u64;
    let mut now = 0;
    (0..EVENTS)
        .map(|i| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let mut call = call.clone();
            let visit = i / 65;
            call.seen.backend = backends[usize::try_from(visit % 3).expect("small")].clone();
            call.cell = format!("s1/b1-p{}-d64", 32 + visit / 3 % 1000);
            call.seen.block = u32::try_from(visit / 3).expect("small");
            call.call = u32::try_from(i % 65).expect("small");
            call.seen.shape.context = 32 + usize::try_from(i % 65).expect("small");
            call.start_ns = now + 1_000 + (seed >> 54);
            call.seen.duration_ns = 20_000_000 + (seed >> 40);
            call.end_ns = call.start_ns + call.seen.duration_ns;
            now = call.end_ns;
            Record::Phase(call)
        })
        .collect()
}

fn export(c: &mut Criterion) {
    let records = records();
    let table = tables::events(&records);
    let _ = writeln!(std::io::stdout(), "Parquet: {} bytes for {} events", parquet(&table, &[]).expect("a table").len(), table.rows());
    let mut group = c.benchmark_group("export");
    group.throughput(Throughput::Elements(EVENTS)).sample_size(10).measurement_time(Duration::from_secs(10));
    group.bench_function("events to Parquet", |b| b.iter(|| parquet(&tables::events(black_box(&records)), &[]).expect("a table")));
    group.bench_function("table to Parquet", |b| b.iter(|| parquet(black_box(&table), &[]).expect("a table")));
    group.bench_function("table to CSV", |b| b.iter(|| csv(black_box(&table)).expect("a table")));
    group.finish();
}

criterion_group!(benches, export);
criterion_main!(benches);
