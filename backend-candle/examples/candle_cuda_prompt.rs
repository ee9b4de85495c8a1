//! Prints where the time of a prompt goes on a CUDA device, with both choosers of its products.
//!
//! `cargo run --release -p phase-backend-candle --features cuda --example candle_cuda_prompt -- CHECKPOINT|SHAPE [bf16] [1x2048,32x128]`
//!
//! Both are loaded at once and take turns prompt by prompt. The times of parts are those of prompts of their own, with an event
//! behind each part. SHAPE is a name that `phase model random` knows; its weights are written to the temporary folder once.

#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a program that measures and prints")]

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use phase_backend_candle::{Candle, CandleCache, CandleConfig, CandleModel, CudaPeak, Device, Products};
use phase_core::{Backend, CacheSpec, DType, KvCache, LoadSpec, Model, Prefill, PromptBatch, TokenId};
use phase_model::random;

type Error = Box<dyn std::error::Error>;

/// Prompts of each way whose time is taken.
const REPEATS: usize = 21;

fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let name = args.next().ok_or("a checkpoint or the name of a shape is missing")?;
    let dtype: DType = args.next().as_deref().unwrap_or("bf16").parse()?;
    let sizes = args.next().unwrap_or_else(|| "1x2048,32x128".to_owned());
    let ceiling = ceiling(dtype)?;
    println!("matrix products of 8192 x 8192 x 8192 in {dtype}: {ceiling:.0} TFLOP/s");
    let path = checkpoint(&name, dtype)?;
    let spec = LoadSpec::new(&path).with_dtype(dtype).with_cache_dir(std::env::temp_dir());
    let mut ways = [Products::Cublas, Products::Fastest].map(|products| {
        let config = CandleConfig::default().with_device(Device::Cuda(0)).with_products(products);
        let load = |parts| Candle::new(config.clone().with_prompt_parts(parts)).load(&spec);
        Ok::<_, Error>((products.as_str(), load(false)?, load(true)?))
    });
    for size in sizes.split(',') {
        let (batch, len) = size.split_once('x').ok_or("a size is sequences x positions")?;
        let (batch, len) = (batch.parse()?, len.parse()?);
        let mut runs = Vec::new();
        for way in &mut ways {
            let (way, plain, watched) = way.as_mut().map_err(|e| e.to_string())?;
            runs.push((*way, Run::new(plain, batch, len)?, Run::new(watched, batch, len)?));
        }
        compare(&mut runs, ceiling, &format!("{name} {dtype}, {batch} x {len}"))?;
    }
    for way in &mut ways {
        let (way, plain, _) = way.as_mut().map_err(|e| e.to_string())?;
        println!("{way}:");
        for kernel in plain.evidence()?.kernels.iter().filter(|kernel| kernel.starts_with("cublas")) {
            println!("    {kernel}");
        }
    }
    Ok(())
}

/// One way with a prompt.
struct Run<'a> {
    model: &'a mut CandleModel,
    cache: CandleCache,
    prompt: Vec<TokenId>,
    next: Vec<TokenId>,
    wall: Vec<f64>,
    device: Vec<f64>,
    /// By part: name, times, operations, bytes, and the time of each prompt.
    parts: Vec<(&'static str, usize, u64, u64, Vec<f64>)>,
}

impl<'a> Run<'a> {
    fn new(model: &'a mut CandleModel, batch: usize, len: usize) -> Result<Self, Error> {
        let vocab = model.info().vocab;
        let prompt = (0..len * batch).map(|i| TokenId(u32::try_from((i * 7919 + i / 3) % vocab).unwrap_or(0))).collect();
        let cache = model.allocate(CacheSpec { batch, capacity: len })?;
        let next = vec![TokenId(0); batch];
        Ok(Self { model, cache, prompt, next, wall: Vec::new(), device: Vec::new(), parts: Vec::new() })
    }

    fn prefill(&mut self, keep: bool) -> Result<(), Error> {
        self.cache.truncate(0);
        let begin = Instant::now();
        self.model.prefill_greedy(&mut self.cache, PromptBatch::new(&self.prompt, self.next.len())?, &mut self.next)?;
        let wall = begin.elapsed();
        if !keep {
            return Ok(());
        }
        self.wall.push(wall.as_secs_f64());
        self.device.push(self.model.device_time().as_ref().map_or(f64::NAN, Duration::as_secs_f64));
        for part in self.model.prompt_parts() {
            match self.parts.iter_mut().find(|(name, ..)| *name == part.name) {
                Some((.., times)) => times.push(part.time.as_secs_f64()),
                None => self.parts.push((part.name, part.times, part.operations, part.bytes, vec![part.time.as_secs_f64()])),
            }
        }
        Ok(())
    }
}

fn compare(runs: &mut [(&str, Run<'_>, Run<'_>)], ceiling: f64, what: &str) -> Result<(), Error> {
    for repeat in 0..=REPEATS {
        for (_, plain, watched) in runs.iter_mut() {
            plain.prefill(repeat > 0)?;
            watched.prefill(repeat > 0)?;
        }
    }
    println!("{what}: medians of {REPEATS} prompts, in turn");
    for (way, plain, watched) in runs.iter() {
        let (wall, device) = (median(&plain.wall), median(&plain.device));
        let tflops = plain.model.info().flops_per_token as f64 * plain.prompt.len() as f64 / wall / 1e12;
        let same = if plain.next == runs[0].1.next { "" } else { "; other tokens than the first" };
        println!(
            "  {way}: {:.3} ms (device {:.3} ms), {tflops:.0} TFLOP/s, {:.3} of the ceiling{same}",
            wall * 1e3,
            device * 1e3,
            tflops / ceiling
        );
        println!("    with events {:.3} ms:", median(&watched.device) * 1e3);
        for (name, times, operations, bytes, seconds) in &watched.parts {
            let all = median(seconds);
            println!(
                "    {name:>14}: {times:>2} x {:>6.1} us = {:.3} ms, {:>4.0} TFLOP/s, {:>5.0} GB/s",
                all / *times as f64 * 1e6,
                all * 1e3,
                *operations as f64 / all / 1e12,
                *bytes as f64 / all / 1e9
            );
        }
    }
    Ok(())
}

/// Products per second that the device reaches in this process, the best of some batches.
fn ceiling(dtype: DType) -> Result<f64, Error> {
    let (peak, shape) = (CudaPeak::open(0)?, CudaPeak::SHAPES[1]);
    let mut best = 0.0f64;
    for _ in 0..8 {
        let begin = Instant::now();
        let operations = peak.multiply(dtype, shape, 8)?;
        best = best.max(operations as f64 / begin.elapsed().as_secs_f64() / 1e12);
    }
    Ok(best)
}

fn checkpoint(name: &str, dtype: DType) -> Result<PathBuf, Error> {
    let Some(shape) = random::Shape::named(name) else { return Ok(PathBuf::from(name)) };
    let path = std::env::temp_dir().join(format!("phase-{name}-{dtype}"));
    if !path.exists() {
        random::write(&path, &shape, 1, dtype)?;
    }
    Ok(path)
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
