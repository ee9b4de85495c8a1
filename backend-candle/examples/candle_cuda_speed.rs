//! Prints load time, prefill and decode speed of one checkpoint on a CUDA device, by the device's clock and the host's.
//!
//! `cargo run --release -p phase-backend-candle --features cuda --example candle_cuda_speed -- CHECKPOINT|SHAPE [bf16] [CONTEXT] [BATCHES] [MIB]`
//!
//! MIB is how much memory cuBLAS is given for its products, 32 by default; each of several, as in `0,32,0,32`, has a turn.
//! SHAPE is a name that `phase model random` knows; its weights are written to the temporary folder once.

#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a program that measures and prints")]

use std::{path::PathBuf, time::Instant};

use phase_backend_candle::{Candle, CandleConfig, CandleModel, Device};
use phase_core::{Backend, CacheSpec, DType, Decode, KvCache, LoadSpec, Logits, Mode, Model, Prefill, PromptBatch, TokenId};
use phase_model::random;

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let name = args.next().ok_or("a checkpoint or the name of a shape is missing")?;
    let dtype: DType = args.next().as_deref().unwrap_or("bf16").parse()?;
    let context: usize = args.next().map_or(Ok(512), |n| n.parse())?;
    let batches: Vec<usize> = args.next().as_deref().unwrap_or("1,8,64").split(',').map(str::parse).collect::<Result<_, _>>()?;
    let path = checkpoint(&name, dtype)?;
    let spec = LoadSpec::new(&path).with_dtype(dtype).with_cache_dir(std::env::temp_dir());
    let workspaces: Vec<usize> = args.next().as_deref().unwrap_or("32").split(',').map(str::parse).collect::<Result<_, _>>()?;
    // Eager steps are the same with and without.
    let turns = workspaces.iter().map(|mib| (Mode::Compiled, *mib)).chain([(Mode::Eager, workspaces[0])]);
    for (mode, mib) in turns {
        let begin = Instant::now();
        let config = CandleConfig::default().with_device(Device::Cuda(0)).with_mode(mode).with_product_workspace(mib << 20);
        let mut model = Candle::new(config).load(&spec)?;
        let loaded = begin.elapsed();
        let mut cache = model.allocate(CacheSpec { batch: 1, capacity: 64 })?;
        let mut next = [TokenId(0)];
        model.prefill_greedy(&mut cache, PromptBatch::single(&prompt(9, 1, model.info().vocab))?, &mut next)?;
        println!(
            "{name} {dtype} {mode}, {mib} MiB for products: load {:.2} s, to first token {:.2} s",
            loaded.as_secs_f64(),
            begin.elapsed().as_secs_f64()
        );
        drop(cache);
        for batch in &batches {
            decode(&mut model, *batch, context)?;
        }
        if mode == Mode::Compiled {
            for (batch, len) in [(1, 128), (1, 512), (1, 2048), (32, 128)] {
                prefill(&mut model, batch, len)?;
            }
        }
        for kernel in model.evidence()?.kernels {
            println!("    {kernel}");
        }
    }
    Ok(())
}

fn checkpoint(name: &str, dtype: DType) -> Result<PathBuf, Error> {
    let Some(shape) = random::Shape::named(name) else { return Ok(PathBuf::from(name)) };
    let path = std::env::temp_dir().join(format!("phase-{name}-{dtype}"));
    if !path.exists() {
        let begin = Instant::now();
        random::write(&path, &shape, 1, dtype)?;
        println!("wrote {} in {:.1} s", path.display(), begin.elapsed().as_secs_f64());
    }
    Ok(path)
}

fn prompt(len: usize, batch: usize, vocab: usize) -> Vec<TokenId> {
    (0..len * batch).map(|i| TokenId(u32::try_from((i * 7919 + i / 3) % vocab).unwrap_or(0))).collect()
}

fn decode(model: &mut CandleModel, batch: usize, context: usize) -> Result<(), Error> {
    let vocab = model.info().vocab;
    let mut cache = model.allocate(CacheSpec { batch, capacity: context + STEPS + 1 })?;
    let mut next = vec![TokenId(0); batch];
    model.prefill_greedy(&mut cache, PromptBatch::new(&prompt(context, batch, vocab), batch)?, &mut next)?;
    let (mut run, mut single, mut overhead, mut scores) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut picked = vec![TokenId(0); STEPS * batch];
    for _ in 0..7 {
        cache.truncate(context);
        model.decode_run(&mut cache, &next, &mut picked)?;
        run.extend(model.device_steps().iter().skip(1).map(std::time::Duration::as_secs_f64));
        cache.truncate(context);
        let mut tokens = next.clone();
        for _ in 0..STEPS {
            let begin = Instant::now();
            let mut out = tokens.clone();
            model.decode_greedy(&mut cache, &tokens, &mut out)?;
            let wall = begin.elapsed().as_secs_f64();
            single.push(wall);
            overhead.push(wall - model.device_time().unwrap_or_default().as_secs_f64());
            tokens = out;
        }
        assert_eq!(tokens[..], picked[(STEPS - 1) * batch..], "a run and its steps end differently");
    }
    let mut logits = Logits::new();
    for _ in 0..STEPS {
        cache.truncate(context);
        let begin = Instant::now();
        model.decode(&mut cache, &next, &mut logits)?;
        scores.push(begin.elapsed().as_secs_f64());
    }
    let (run, single, overhead, scores) = (median(run), median(single), median(overhead), median(scores));
    println!(
        "  decode x {batch} @ {context}: run {:.4} ms a step = {:.0} tok/s, {:.0} GB/s of weights; single greedy {:.4} ms (host {:.1} us over device); with scores {:.4} ms",
        run * 1e3,
        batch as f64 / run,
        model.info().weight_bytes as f64 / run / 1e9,
        single * 1e3,
        overhead * 1e6,
        scores * 1e3
    );
    Ok(())
}

fn prefill(model: &mut CandleModel, batch: usize, len: usize) -> Result<(), Error> {
    let mut cache = model.allocate(CacheSpec { batch, capacity: len })?;
    let tokens = prompt(len, batch, model.info().vocab);
    let mut next = vec![TokenId(0); batch];
    let (mut wall, mut device) = (Vec::new(), Vec::new());
    for _ in 0..12 {
        cache.truncate(0);
        let begin = Instant::now();
        model.prefill_greedy(&mut cache, PromptBatch::new(&tokens, batch)?, &mut next)?;
        wall.push(begin.elapsed().as_secs_f64());
        device.push(model.device_time().unwrap_or_default().as_secs_f64());
    }
    let (wall, device) = (median(wall), median(device));
    let flops = model.info().flops_per_token as f64 * (batch * len) as f64;
    println!(
        "  prefill {batch} x {len}: {:.3} ms (device {:.3} ms), {:.0} TFLOP/s of products",
        wall * 1e3,
        device * 1e3,
        flops / wall / 1e12
    );
    Ok(())
}

/// Steps of a run.
const STEPS: usize = 64;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
