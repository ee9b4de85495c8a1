//! Times cells of any backend, and brackets one call of each for a profiler, which then sees the kernels of that call only.
//!
//! `cuda_profile ARMS CHECKPOINT DTYPE CELL...`, with ARMS as in `candle-cuda@eager,candle-cuda@compiled` and cells as in
//! `prefill:1x2048` (rows, tokens a row), `decode:8@512` (a step: rows, positions in the cache) or `run:8@512` ([`RUN`] steps in one
//! call, times a step). Arms are loaded one after the other. On the first CUDA device, or on the processor (`candle-cpu`), where nothing
//! is bracketed.
//!
//! Prints a line of JSON a cell: medians of [`REPEATS`] calls in microseconds, by the host's clock and by the device's. Reads
//! `PHASE_ORT_LIBRARY`, `PHASE_CACHE` and `CUDA_HOME`.

use cudarc::{
    driver::{CudaContext, LaunchConfig, profiler_start, profiler_stop},
    nvrtc::Ptx,
};
use phase_backend_burn::{Burn, BurnConfig};
use phase_backend_candle::{Candle, CandleConfig};
use phase_backend_ort::{Ort, OrtConfig};
use phase_core::{
    BoxCache, BoxError, BoxModel, CacheSpec, Decode, KvCache, LoadSpec, Mode, Model, Prefill, PromptBatch, Registry, TokenId,
};
use std::{
    env::{args, temp_dir, var_os},
    error::Error,
    ffi::OsString,
    str::FromStr,
    sync::Arc,
    time::Instant,
};

/// Calls before the first that counts: the first may compile, the second may capture.
const WARM_UP: usize = 2;

/// Calls that are timed.
const REPEATS: usize = 20;

/// Steps of a run.
const RUN: usize = 64;

/// Positions that a decode cell's cache has beside those that are filled, as in a bench of 128 steps.
const ROOM: usize = 128;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = args().skip(1).collect();
    let [arms, checkpoint, dtype, cells @ ..] = arguments.as_slice() else {
        return Err("cuda_profile ARMS CHECKPOINT DTYPE CELL...".into());
    };
    let cells: Vec<Cell> = cells.iter().map(|cell| cell.parse()).collect::<Result<_, _>>()?;
    let cache = variable("PHASE_CACHE").unwrap_or_else(|| temp_dir().into());
    let spec = LoadSpec::new(checkpoint).with_dtype(dtype.parse()?).with_cache_dir(cache);
    let registry = registry();
    for arm in arms.split(',') {
        let backend = registry.get(arm)?;
        let begin = Instant::now();
        let mut model = backend.load_dyn(&spec)?;
        let load = begin.elapsed().as_secs_f64();
        let device = if backend.id_dyn().as_str().ends_with("-cuda") { Some(CudaContext::new(0)?) } else { None };
        for (number, cell) in cells.iter().enumerate() {
            let mut prepared = Prepared::new(&mut model, cell)?;
            let (wall, on_device) = prepared.time(&mut model)?;
            if let Some(device) = &device {
                bracketed(device, number, || prepared.call(&mut model))?;
            }
            let on_device = on_device.map_or_else(|| "null".to_owned(), |us| format!("{us:.2}"));
            println!(
                r#"{{"arm":"{}","cell":"{}","load_s":{load:.2},"wall_us":{wall:.2},"device_us":{on_device}}}"#,
                backend.arm(),
                cell.name
            );
        }
    }
    Ok(())
}

fn variable(name: &str) -> Option<OsString> {
    var_os(name).filter(|value| !value.is_empty())
}

fn registry() -> Registry {
    let ort = variable("PHASE_ORT_LIBRARY").map_or_else(OrtConfig::default, |library| OrtConfig::default().with_library(library));
    let candle = CandleConfig::default().with_device(phase_backend_candle::Device::Cuda(0));
    let burn = BurnConfig::default().with_device(phase_backend_burn::Device::Cuda(0));
    let burn = variable("CUDA_HOME").into_iter().fold(burn, |burn, home| burn.with_cuda_home(home));
    let registry = Registry::new().with(Ort::cpu().with_config(ort.clone())).with(Candle::cpu()).with(Burn::cpu());
    [Mode::Eager, Mode::Compiled].into_iter().fold(registry, |registry, mode| {
        registry
            .with(Ort::cuda(0).with_config(ort.clone()).with_mode(mode))
            .with(Candle::new(candle.clone().with_mode(mode)))
            .with(Burn::new(burn.clone().with_mode(mode)))
    })
}

/// What is called, at which size.
struct Cell {
    name: String,
    /// 0 for a prefill.
    steps: usize,
    batch: usize,
    /// Of each row: the prompt's, or those in the cache before a step.
    tokens: usize,
}

impl FromStr for Cell {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let kinds = [("prefill:", 'x', 0), ("decode:", '@', 1), ("run:", '@', RUN)];
        let cell = kinds.into_iter().find_map(|(kind, between, steps)| {
            let (batch, tokens) = name.strip_prefix(kind)?.split_once(between)?;
            Some(Self { name: name.to_owned(), steps, batch: batch.parse().ok()?, tokens: tokens.parse().ok()? })
        });
        cell.ok_or_else(|| format!("`{name}`: as in prefill:1x2048, decode:8@512 or run:8@512"))
    }
}

/// A cell's cache and tokens, ready for any number of calls.
struct Prepared {
    cache: BoxCache,
    prompt: Vec<TokenId>,
    /// Of one call; 0 for a prefill.
    steps: usize,
    /// What a step is given.
    given: Vec<TokenId>,
    picked: Vec<TokenId>,
}

impl Prepared {
    fn new(model: &mut BoxModel, cell: &Cell) -> Result<Self, BoxError> {
        let Cell { steps, batch, tokens, .. } = *cell;
        let capacity = if steps == 0 { tokens } else { tokens + ROOM };
        let vocab = model.info().vocab;
        let token = |i: usize| TokenId(u32::try_from((i * 7919 + i / 3) % vocab).unwrap_or(0));
        let mut prepared = Self {
            cache: model.allocate(CacheSpec { batch, capacity })?,
            prompt: (0..batch * tokens).map(token).collect(),
            steps,
            given: vec![TokenId(0); batch],
            picked: vec![TokenId(0); batch * steps],
        };
        prepared.prefill(model)?;
        Ok(prepared)
    }

    fn prefill(&mut self, model: &mut BoxModel) -> Result<(), BoxError> {
        let prompt = PromptBatch::new(&self.prompt, self.cache.batch())?;
        model.prefill_greedy(&mut self.cache, prompt, &mut self.given)
    }

    /// One prefill of an empty cache, or steps from the prompt's end.
    fn call(&mut self, model: &mut BoxModel) -> Result<(), BoxError> {
        let Self { cache, given, picked, .. } = self;
        let prompted = self.prompt.len() / cache.batch();
        cache.truncate(if self.steps == 0 { 0 } else { prompted });
        match self.steps {
            0 => self.prefill(model),
            1 => model.decode_greedy(cache, given, picked),
            _ => model.decode_run(cache, given, picked),
        }
    }

    /// Medians of the host's and the device's time, in microseconds a step or prefill.
    fn time(&mut self, model: &mut BoxModel) -> Result<(f64, Option<f64>), BoxError> {
        (0..WARM_UP).try_for_each(|_| self.call(model))?;
        let (mut wall, mut device) = (Vec::new(), Vec::new());
        for _ in 0..REPEATS {
            let begin = Instant::now();
            self.call(model)?;
            let elapsed = begin.elapsed();
            wall.push(elapsed.as_secs_f64() * 1e6 / self.steps.max(1) as f64);
            let last = model.device_time();
            let times = if self.steps > 1 { model.device_steps() } else { last.as_slice() };
            device.extend(times.iter().map(|time| time.as_secs_f64() * 1e6));
        }
        Ok((median(wall).unwrap_or(f64::NAN), median(device)))
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Makes `call` with the profiler on. First comes an empty kernel named after the cell's number, so that a log of several calls can
/// be told apart.
fn bracketed(device: &Arc<CudaContext>, number: usize, call: impl FnOnce() -> Result<(), BoxError>) -> Result<(), Box<dyn Error>> {
    let name = format!("phase_cell_{number}");
    let source = format!(".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry {name}()\n{{\n    ret;\n}}\n");
    let marker = device.load_module(Ptx::from_src(source))?.load_function(&name)?;
    let stream = device.default_stream();
    let one = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (1, 1, 1), shared_mem_bytes: 0 };
    profiler_start()?;
    // SAFETY: the kernel takes no argument and touches no memory.
    unsafe { stream.launch_builder(&marker).launch(one) }?;
    stream.synchronize()?;
    let called = call();
    profiler_stop()?;
    Ok(called?)
}
