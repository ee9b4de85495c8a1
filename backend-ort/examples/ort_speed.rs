//! Prints what ONNX Runtime reaches on a checkpoint: `ort_speed PATH [THREADS]`, with the library in `PHASE_ORT_LIBRARY`.

#![expect(clippy::print_stdout, clippy::disallowed_methods, clippy::unwrap_used, reason = "a program that measures and prints")]

use phase_backend_ort::{Ort, OrtConfig};
use phase_core::{Backend, CacheSpec, Decode, KvCache, LoadSpec, Logits, Model, Prefill, PromptBatch, TokenId};
use std::time::Instant;

fn main() {
    let args: Vec<_> = std::env::args().collect();
    let mut config = OrtConfig::default();
    if let Ok(path) = std::env::var("PHASE_ORT_LIBRARY") {
        config = config.with_library(path);
    }
    let mut spec = LoadSpec::new(&args[1]);
    if let Some(threads) = args.get(2) {
        spec = spec.with_threads(threads.parse().unwrap());
    }
    let mut out = Logits::new();
    let tokens: Vec<_> = [6403u32, 1980, 253, 655, 28, 665, 436, 253, 1838].into_iter().cycle().map(TokenId).take(512).collect();
    let start = Instant::now();
    let mut model = Ort::cpu().with_config(config).load(&spec).unwrap();
    let loaded = start.elapsed().as_secs_f64();
    let mut cache = model.allocate(CacheSpec { batch: 1, capacity: 640 }).unwrap();
    model.prefill(&mut cache, PromptBatch::single(&tokens[..9]).unwrap(), &mut out).unwrap();
    println!("load {loaded:.2} s, to the first token {:.2} s, peak {}", start.elapsed().as_secs_f64(), peak());
    for len in [128, 512] {
        let best = (0..5).map(|_| {
            cache.truncate(0);
            let start = Instant::now();
            model.prefill(&mut cache, PromptBatch::single(&tokens[..len]).unwrap(), &mut out).unwrap();
            start.elapsed().as_secs_f64()
        });
        println!("prefill({len}): {:.1} tok/s", len as f64 / best.fold(f64::INFINITY, f64::min));
    }
    for len in [128, 512] {
        let best = (0..3).map(|_| {
            cache.truncate(0);
            model.prefill(&mut cache, PromptBatch::single(&tokens[..len]).unwrap(), &mut out).unwrap();
            let start = Instant::now();
            for _ in 0..32 {
                let next = out.argmax();
                model.decode(&mut cache, &next, &mut out).unwrap();
            }
            start.elapsed().as_secs_f64() / 32.0
        });
        let step = best.fold(f64::INFINITY, f64::min);
        println!("decode at {len}: {:.2} tok/s, {:.1} GB/s of weights", 1.0 / step, model.info().weight_bytes as f64 / step / 1e9);
    }
    println!("read bandwidth: {:.1} GB/s; peak {}", bandwidth(), peak());
}

fn peak() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status
        .lines()
        .filter(|l| l.starts_with("VmHWM") || l.starts_with("RssAnon") || l.starts_with("RssFile"))
        .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Two threads summing 512 MiB, best of five.
fn bandwidth() -> f64 {
    let data = vec![1u64; 64 << 20];
    let best = (0..5).map(|_| {
        let start = Instant::now();
        std::thread::scope(|s| {
            for half in data.chunks(data.len() / 2) {
                s.spawn(move || {
                    std::hint::black_box(half.as_chunks::<32>().0.iter().fold([0u64; 32], |mut acc, c| {
                        acc.iter_mut().zip(c).for_each(|(a, v)| *a = a.wrapping_add(*v));
                        acc
                    }))
                });
            }
        });
        start.elapsed().as_secs_f64()
    });
    (data.len() * 8) as f64 / best.fold(f64::INFINITY, f64::min) / 1e9
}
