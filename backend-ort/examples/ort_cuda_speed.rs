//! Prints what ONNX Runtime reaches on a CUDA device: `ort_cuda_speed SHAPE DTYPE FOLDER [READ_GB_PER_S]`, with the library in
//! `PHASE_ORT_LIBRARY`. SHAPE is a name that `phase_model::random` knows; its random checkpoint is written to FOLDER once.

#![expect(clippy::print_stdout, clippy::disallowed_methods, clippy::unwrap_used, reason = "a program that measures and prints")]

use phase_backend_ort::{Ort, OrtConfig, OrtCudaModel};
use phase_core::{Backend, CacheSpec, DType, Decode, KvCache, LoadSpec, Logits, Mode, Model, Prefill, PromptBatch, TokenId};
use phase_model::random::{self, Shape};
use std::{path::PathBuf, time::Instant};

fn main() {
    let args: Vec<_> = std::env::args().collect();
    let dtype = if args[2] == "f16" { DType::F16 } else { DType::Bf16 };
    let folder = PathBuf::from(&args[3]);
    let read = args.get(4).map_or(3050.0, |text| text.parse().unwrap());
    let checkpoint = folder.join(format!("{}-{}", args[1], args[2]));
    if !checkpoint.exists() {
        let start = Instant::now();
        random::write(&checkpoint, &Shape::named(&args[1]).unwrap(), 1, dtype).unwrap();
        println!("wrote {} in {:.1} s", checkpoint.display(), start.elapsed().as_secs_f64());
    }
    let library = std::env::var("PHASE_ORT_LIBRARY").unwrap();
    for mode in [Mode::Compiled, Mode::Eager] {
        let start = Instant::now();
        let spec = LoadSpec::new(&checkpoint).with_dtype(dtype).with_cache_dir(folder.join("derived"));
        let backend = Ort::cuda(0).with_config(OrtConfig::default().with_library(&library)).with_mode(mode);
        let mut model = backend.load(&spec).unwrap();
        let loaded = start.elapsed().as_secs_f64();
        let mut cache = model.allocate(CacheSpec { batch: 1, capacity: 1024 }).unwrap();
        model.prefill_greedy(&mut cache, PromptBatch::single(&text(16)).unwrap(), &mut [TokenId(0)]).unwrap();
        let first = start.elapsed().as_secs_f64();
        println!("{} {dtype} {mode}: loaded in {loaded:.2} s, first token after {first:.2} s", args[1]);
        drop(cache);
        for (batch, len) in [(1, 512), (1, 2048), (32, 128), (1, 8192)] {
            prefill(&mut model, batch, len);
        }
        for batch in [1, 8, 64] {
            decode(&mut model, batch, read);
        }
        if mode == Mode::Compiled {
            let evidence = model.evidence().unwrap();
            println!("  {:?} {:?}", evidence.placement, evidence.kernels);
        }
    }
}

fn text(tokens: u32) -> Vec<TokenId> {
    (0..tokens).map(|i| TokenId((i * 7 + 13) % 1000)).collect()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn prefill(model: &mut OrtCudaModel, batch: u32, len: u32) {
    let prompt = text(batch * len);
    let mut cache = model.allocate(CacheSpec { batch: batch as usize, capacity: len as usize }).unwrap();
    let mut out = Logits::new();
    let (mut wall, mut device) = (Vec::new(), Vec::new());
    for round in 0..7 {
        cache.truncate(0);
        let start = Instant::now();
        model.prefill(&mut cache, PromptBatch::new(&prompt, batch as usize).unwrap(), &mut out).unwrap();
        if round > 1 {
            wall.push(start.elapsed().as_secs_f64());
            device.push(model.device_time().unwrap().as_secs_f64());
        }
    }
    let (wall, device) = (median(wall), median(device));
    let flops = model.info().flops_per_token as f64 * f64::from(batch * len) / device;
    println!("  prefill {batch} x {len}: {:.2} ms, device {:.2} ms, {:.0} TFLOP/s", wall * 1e3, device * 1e3, flops / 1e12);
}

fn decode(model: &mut OrtCudaModel, batch: usize, read: f64) {
    let mut cache = model.allocate(CacheSpec { batch, capacity: 1024 }).unwrap();
    let prompt = text(u32::try_from(batch).unwrap() * 512);
    let mut next = vec![TokenId(0); batch];
    let (mut run, mut device, mut single, mut scored) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut picked = vec![TokenId(0); 128 * batch];
    let mut out = Logits::new();
    for round in 0..6 {
        cache.truncate(0);
        model.prefill_greedy(&mut cache, PromptBatch::new(&prompt, batch).unwrap(), &mut next).unwrap();
        let start = Instant::now();
        model.decode_run(&mut cache, &next, &mut picked).unwrap();
        let of_run = start.elapsed().as_secs_f64() / 128.0;
        let on_device = median(model.device_steps().iter().map(|t| t.as_secs_f64()).collect());
        cache.truncate(512);
        let start = Instant::now();
        for _ in 0..32 {
            model.decode_greedy(&mut cache, &next.clone(), &mut next).unwrap();
        }
        let of_single = start.elapsed().as_secs_f64() / 32.0;
        cache.truncate(512);
        let start = Instant::now();
        for _ in 0..32 {
            model.decode(&mut cache, &next, &mut out).unwrap();
        }
        let of_scored = start.elapsed().as_secs_f64() / 32.0;
        if round > 0 {
            run.push(of_run);
            device.push(on_device);
            single.push(of_single);
            scored.push(of_scored);
        }
    }
    let [run, device, single, scored] = [run, device, single, scored].map(median);
    let info = model.info();
    let kv = info.kv_bytes_per_position as f64 * 576.0 * batch as f64;
    let floor = (info.weight_bytes as f64 + kv) / read / 1e9;
    println!(
        "  decode batch {batch} at 512: run {:.3} ms a step ({:.0} tok/s, device {:.3} ms), greedy {:.3} ms, scores {:.3} ms; floor {:.3} ms at {read} GB/s: {:.2} of it",
        run * 1e3,
        batch as f64 / run,
        device * 1e3,
        single * 1e3,
        scored * 1e3,
        floor * 1e3,
        floor / run,
    );
}
