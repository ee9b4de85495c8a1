//! Prints how fast a checkpoint runs: `burn_speed PATH [f32|f16|bf16] [direct_rows] [prefill_rows] [prefill|decode]`.
//!
//! Best of several rounds, because machines are noisy; an argument left out takes its default.

#![expect(clippy::print_stdout, reason = "a program that prints a table")]
#![expect(clippy::disallowed_methods, reason = "a bench reads the real clock")]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use phase_backend_burn::{Burn, BurnConfig, BurnModel};
use phase_core::{Backend, CacheSpec, DType, Decode, KvCache, LoadSpec, Logits, Model, Prefill, PromptBatch, TokenId};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: speed PATH [f32|f16|bf16] [direct_rows] [prefill_rows] [prefill|decode]")?;
    let dtype: DType = args.next().as_deref().unwrap_or("f32").parse()?;
    let mut config = BurnConfig::default();
    if let Some(rows) = args.next() {
        config = config.with_direct_rows(rows.parse()?);
    }
    if let Some(rows) = args.next() {
        config = config.with_prefill_rows(rows.parse()?);
    }
    let only = args.next();
    let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);

    let start = Instant::now();
    let mut model = Burn::new(config).load(&LoadSpec::new(&path).with_dtype(dtype))?;
    let loaded = start.elapsed();
    let prompt: Vec<_> = (0..2048).map(|i| TokenId(1000 + i * 17 % 4000)).collect();
    prefill(&mut model, &prompt[..9], 1)?;
    println!("load {:.2} s, to first token {:.2} s, peak memory {}", loaded.as_secs_f64(), start.elapsed().as_secs_f64(), peak());

    let bytes = model.info().weight_bytes;
    println!("weights {:.0} MB a step; machine reads {:.1} GB/s", bytes as f64 / 1e6, bandwidth());
    for len in [16, 64, 128, 512, 2048].into_iter().filter(|_| wanted("prefill")) {
        let best = best(5, || prefill(&mut model, &prompt[..len], 1))?;
        let flops = model.info().flops_per_token as f64 * len as f64 / best.as_secs_f64() / 1e9;
        println!("prefill {len:>4}: {:>7.1} tok/s, {flops:.0} GFLOP/s in products", len as f64 / best.as_secs_f64());
    }
    let mut out = Logits::new();
    let sizes = [(1, 128), (1, 512), (2, 128), (4, 128), (8, 128), (16, 128), (32, 32), (64, 16)];
    for (batch, past) in sizes.into_iter().filter(|_| wanted("decode")) {
        let mut cache = model.allocate(CacheSpec { batch, capacity: past + 32 })?;
        let tokens: Vec<_> = prompt.iter().copied().cycle().take(past * batch).collect();
        model.prefill(&mut cache, PromptBatch::new(&tokens, batch)?, &mut out)?;
        let best = best(24, || {
            model.decode(&mut cache, &tokens[..batch], &mut out)?;
            cache.truncate(past);
            Ok(())
        })?;
        let read = bytes as f64 / best.as_secs_f64() / 1e9;
        println!("decode batch {batch:>2} after {past:>3}: {:>6.1} tok/s, {read:.1} GB/s of weights", batch as f64 / best.as_secs_f64());
    }
    println!("machine reads {:.1} GB/s, peak memory {}", bandwidth(), peak());
    for kernel in model.evidence()?.kernels {
        println!("{kernel}");
    }
    Ok(())
}

fn prefill(model: &mut BurnModel, prompt: &[TokenId], batch: usize) -> Result<(), Box<dyn std::error::Error>> {
    let mut cache = model.allocate(CacheSpec { batch, capacity: prompt.len() / batch })?;
    model.prefill(&mut cache, PromptBatch::new(prompt, batch)?, &mut Logits::new())?;
    Ok(())
}

fn best(rounds: usize, mut run: impl FnMut() -> Result<(), Box<dyn std::error::Error>>) -> Result<Duration, Box<dyn std::error::Error>> {
    let mut best = Duration::MAX;
    for _ in 0..rounds {
        let start = Instant::now();
        run()?;
        best = best.min(start.elapsed());
    }
    Ok(best)
}

/// Best rate at which two threads sum half a gigabyte.
fn bandwidth() -> f64 {
    let data = vec![1u64; 64 << 20];
    let sum = |part: &[u64]| part.as_chunks::<16>().0.iter().fold([0u64; 16], |sum, chunk| std::array::from_fn(|i| sum[i] ^ chunk[i]));
    let best = best(6, || {
        let (a, b) = data.split_at(data.len() / 2);
        std::thread::scope(|scope| {
            scope.spawn(|| black_box(sum(a)));
            black_box(sum(b));
        });
        Ok(())
    });
    best.map_or(0.0, |best| size_of_val(&*data) as f64 / best.as_secs_f64() / 1e9)
}

fn peak() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("unknown").trim().to_owned()
}
