//! Prints load time, prefill and decode speed of one checkpoint, best of several, beside this machine's read bandwidth.
//!
//! `cargo run --release -p phase-backend-candle --example candle_speed -- CHECKPOINT [f32|f16|bf16] [THREADS] [BATCH]`

use std::{path::PathBuf, time::Instant};

use phase_backend_candle::{Candle, CandleCache, CandleModel};
use phase_core::{Backend, CacheSpec, DType, Decode, KvCache, LoadSpec, Logits, Model, Prefill, PromptBatch, TokenId};

type Error = Box<dyn std::error::Error>;

#[expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a program that measures and prints")]
fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let path = PathBuf::from(args.next().ok_or("the path of a checkpoint is missing")?);
    let dtype: DType = args.next().as_deref().unwrap_or("f32").parse()?;
    let threads = args.next().map(|n| n.parse()).transpose()?;
    let batch: usize = args.next().map_or(Ok(1), |n| n.parse())?;
    let mut spec = LoadSpec::new(path).with_dtype(dtype);
    spec.threads = threads;

    let begin = Instant::now();
    let mut model = Candle::cpu().load(&spec)?;
    let loaded = begin.elapsed();
    let mut cache = model.allocate(CacheSpec { batch, capacity: 640 })?;
    let mut logits = Logits::new();
    model.prefill(&mut cache, PromptBatch::new(&prompt(9, batch), batch)?, &mut logits)?;
    println!("load {:.2} s, to first token {:.2} s, peak {}", loaded.as_secs_f64(), begin.elapsed().as_secs_f64(), peak_memory());

    let bandwidth = read_bandwidth(model.info().stack.iter().count());
    println!("read bandwidth {bandwidth:.1} GB/s (2 threads), weights {:.1} MB a step", model.info().weight_bytes as f64 / 1e6);
    for len in [128, 512] {
        let tokens = prompt(len, batch);
        let seconds = best(6, || {
            cache.truncate(0);
            model.prefill(&mut cache, PromptBatch::new(&tokens, batch)?, &mut logits).map_err(Error::from)
        })?;
        println!("prefill({len}) x {batch}: {:.1} tok/s ({:.1} ms)", (len * batch) as f64 / seconds, seconds * 1e3);
        decode(&mut model, &mut cache, batch, len, bandwidth)?;
    }
    for kernel in model.evidence()?.kernels {
        println!("{kernel}");
    }
    println!("peak {}", peak_memory());
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a program that prints")]
fn decode(model: &mut CandleModel, cache: &mut CandleCache, batch: usize, len: usize, bandwidth: f64) -> Result<(), Error> {
    let mut logits = Logits::new();
    let tokens = vec![TokenId(28); batch];
    let seconds = best(48, || {
        if cache.len() == cache.capacity() {
            cache.truncate(len);
        }
        model.decode(cache, &tokens, &mut logits).map_err(Error::from)
    })?;
    let bytes = model.info().weight_bytes + (batch * len) as u64 * model.info().kv_bytes_per_position;
    let rate = bytes as f64 / seconds / 1e9;
    println!(
        "decode @{len} x {batch}: {:.1} tok/s ({:.2} ms, {rate:.1} GB/s, {:.0}% of read bandwidth)",
        batch as f64 / seconds,
        seconds * 1e3,
        100.0 * rate / bandwidth
    );
    Ok(())
}

fn prompt(len: usize, batch: usize) -> Vec<TokenId> {
    const SEED: [u32; 9] = [6403, 1980, 253, 655, 28, 665, 436, 253, 1838];
    (0..len * batch).map(|i| TokenId(SEED[i % SEED.len()])).collect()
}

#[expect(clippy::disallowed_methods, reason = "a program that measures")]
fn best(times: usize, mut call: impl FnMut() -> Result<(), Error>) -> Result<f64, Error> {
    let mut best = f64::MAX;
    for _ in 0..times {
        let begin = Instant::now();
        call()?;
        best = best.min(begin.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Best of many passes over 128 MiB, four times the last-level cache here, with two threads.
fn read_bandwidth(seed: usize) -> f64 {
    let data = vec![seed as u64; 16 << 20];
    let sum = |part: &[u64]| {
        let mut sums = [0u64; 16];
        for chunk in part.as_chunks::<16>().0 {
            sums.iter_mut().zip(chunk).for_each(|(sum, value)| *sum = sum.wrapping_add(*value));
        }
        std::hint::black_box(sums);
    };
    let (a, b) = data.split_at(data.len() / 2);
    let seconds = best(40, || {
        std::thread::scope(|scope| {
            scope.spawn(|| sum(a));
            sum(b);
        });
        Ok(())
    });
    (data.len() * 8) as f64 / seconds.unwrap_or(f64::MAX) / 1e9
}

fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("unknown");
    line.trim().to_owned()
}
