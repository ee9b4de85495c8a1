//! The decoder on a CUDA device: kernels in CubeCL, burn's kernel language, compiled when a model is loaded; steps as graphs.

mod compile;
mod device;
mod engine;
mod evidence;
mod facts;
#[expect(
    clippy::assign_op_pattern,
    clippy::cast_possible_truncation,
    clippy::float_cmp,
    clippy::manual_div_ceil,
    clippy::needless_pass_by_ref_mut,
    unused_assignments,
    reason = "what CubeCL turns into a kernel is not what runs here: counts fit, and it knows fewer methods"
)]
mod kernels;
mod launch;
mod prompt;
mod step;
#[cfg(test)]
mod tests;
mod weights;

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{Arc, Weak},
    time::Duration,
};

use cudarc::driver::CudaEvent;
pub(crate) use phase_capture::Guarded;
use phase_capture::together;
use phase_core::{CacheSpec, DType, KvCache, Mode, PromptBatch, TokenId};
use phase_kernels::cuda::{Region, classify};
use phase_model::{ModelConfig, Weights as Checkpoint};

use self::{
    compile::Nvrtc,
    device::{Buffer, Pinned},
    engine::{At, Engine, Span},
    kernels::{finish::Activation, words::Format},
    launch::Kernels,
    prompt::{Piece, PromptWork},
    step::{CONTROL, Graph, StepWork},
    weights::Weights,
};
pub(crate) use self::{device::Gpu, facts::facts};
use crate::{BurnCache, BurnError};

/// Weights, kernels and working memory of one model on one device.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// Graphs by cache, destroyed before the kernels in them are unloaded; those of caches that are gone go with the next cache.
    graphs: HashMap<u64, (Weak<()>, Graph)>,
    caches: u64,
    /// Steps by batch.
    steps: BTreeMap<usize, StepWork>,
    prompt: Option<PromptWork>,
    engine: Engine,
    mode: Mode,
    prefill_rows: usize,
    control: Pinned,
    /// Where picked tokens arrive.
    answer: Pinned,
    events: Vec<CudaEvent>,
    device_time: Option<Duration>,
    device_steps: Vec<Duration>,
}

/// A cache's memory on a device.
#[derive(Debug)]
pub(crate) struct Store {
    id: u64,
    #[expect(dead_code, reason = "says by its count that the cache is there")]
    alive: Arc<()>,
    cache: Buffer,
    control: Buffer,
    picked: Buffer,
}

/// What a call gives.
pub(crate) enum Output<'a> {
    /// `[batch, vocab]`.
    Scores(&'a mut [f32]),
    /// One per row and step.
    Tokens(&'a mut [TokenId]),
}

/// What a model is loaded with.
pub(crate) struct Options<'a> {
    pub(crate) dtype: DType,
    pub(crate) mode: Mode,
    pub(crate) prefill_rows: usize,
    /// Where CUDA is installed.
    pub(crate) home: Option<&'a Path>,
    /// Where machine code is kept.
    pub(crate) folder: Option<&'a Path>,
}

impl Decoder {
    pub(crate) fn load(config: ModelConfig, checkpoint: &Checkpoint, gpu: Gpu, options: &Options<'_>) -> Result<Self, BurnError> {
        let format = match options.dtype {
            DType::F32 => Format::F32,
            DType::F16 => Format::F16,
            DType::Bf16 => Format::Bf16,
            dtype => return Err(BurnError::DType { dtype }),
        };
        check_shape(&config)?;
        let activation = match config.activation {
            phase_model::Activation::Silu => Activation::Silu,
            phase_model::Activation::Gelu => Activation::Gelu,
            phase_model::Activation::GeluTanh => Activation::GeluTanh,
            phase_model::Activation::Relu => Activation::Relu,
            other => return Err(BurnError::Unsupported { what: format!("the activation {other:?}") }),
        };
        let _together = together();
        let kernels = Kernels::new(&gpu.stream, Nvrtc::new(options.home, options.folder)?);
        let weights = Weights::load(&config, checkpoint, options.dtype, &gpu)?;
        let nothing = gpu.zeros("the weights", 64)?;
        let (control, answer) = (gpu.pinned((CONTROL + 64) * 4)?, gpu.pinned(4096)?);
        let engine = Engine { config, format, activation, weights, kernels, nothing, gpu };
        Ok(Self {
            graphs: HashMap::new(),
            caches: 0,
            steps: BTreeMap::new(),
            prompt: None,
            engine,
            mode: options.mode,
            prefill_rows: options.prefill_rows,
            control,
            answer,
            events: Vec::new(),
            device_time: None,
            device_steps: Vec::new(),
        })
    }

    /// Bytes of weights a decode step reads.
    pub(crate) const fn bytes_per_step(&self) -> u64 {
        self.engine.weights.work.bytes_per_step
    }

    /// Operations of the layers' products for one token.
    pub(crate) const fn flops_per_token(&self) -> u64 {
        self.engine.weights.work.flops_per_token
    }

    /// Bytes of keys and values of one position of one sequence.
    pub(crate) const fn bytes_per_position(&self) -> u64 {
        let config = &self.engine.config;
        (2 * config.layers * config.kv_dim() * self.engine.format.size_bytes()) as u64
    }

    /// Allocates a cache, and everything that steps and prompts of its size need, so that no phase does.
    pub(crate) fn allocate(&mut self, spec: CacheSpec) -> Result<Store, BurnError> {
        let CacheSpec { batch, capacity } = spec;
        let beside = together();
        self.engine.gpu.bind()?;
        self.graphs.retain(|_, (alive, _)| alive.strong_count() > 0);
        let bytes = self.bytes_per_position().saturating_mul(batch as u64).saturating_mul(capacity as u64);
        let gpu = &self.engine.gpu;
        let alive = Arc::new(());
        self.caches += 1;
        let store = Store {
            id: self.caches,
            cache: gpu.zeros("the KV cache", usize::try_from(bytes).unwrap_or(usize::MAX))?,
            control: gpu.zeros("a step's tokens", (CONTROL + batch) * 4)?,
            picked: gpu.buffer("picked tokens", batch * (capacity + 1) * 4)?,
            alive: Arc::clone(&alive),
        };
        check_count(self.engine.config.kv_dim(), spec)?;
        if self.answer.bytes()?.len() < store.picked.region().bytes() {
            self.answer = gpu.pinned(store.picked.region().bytes())?;
        }
        let rows = self.prefill_rows.min(batch * capacity).max(batch);
        if self.prompt.as_ref().is_none_or(|work| work.rows < rows) {
            self.prompt = None;
            self.prompt = Some(PromptWork::new(&self.engine, rows)?);
        }
        if !self.steps.contains_key(&batch) {
            self.steps.insert(batch, StepWork::new(&self.engine, batch)?);
        }
        let Self { engine, steps, prompt, control, .. } = self;
        let (Some(work), Some(prompt)) = (steps.get(&batch), prompt.as_ref()) else { return Err(BurnError::ForeignCache) };
        let at = at(&store, capacity, batch);
        engine.kernels.prepare(|| {
            engine.step(work, &at)?;
            engine.piece(prompt, work, &at, Span { start: 0, len: 2, stepping: false }, true)
        })?;
        if self.mode == Mode::Compiled {
            // One step into the new cache's first position, which is free: what a kernel needs at its first launch is then there.
            engine.gpu.upload_control(control, 0, &vec![TokenId(0); batch], store.control.region())?;
            engine.step(work, &at)?;
            engine.gpu.wait()?;
            drop(beside);
            let graph = Graph::capture(engine, work, &at)?;
            self.graphs.insert(store.id, (Arc::downgrade(&alive), graph));
        }
        self.engine.gpu.wait()?;
        Ok(store)
    }

    /// Appends a prompt to the cache, whose length stays as it is.
    pub(crate) fn prefill(&mut self, cache: &BurnCache, prompt: PromptBatch<'_>, out: Output<'_>) -> Result<(), BurnError> {
        if prompt.len() == 1 {
            return self.decode(cache, prompt.tokens(), 1, out);
        }
        self.device_steps.clear();
        let _together = together();
        let batch = prompt.batch();
        self.make_events(2)?;
        let Self { engine, steps, prompt: work, control, answer, events, .. } = self;
        let (Some(work), Some(step)) = (work.as_ref(), steps.get(&batch)) else { return Err(BurnError::ForeignCache) };
        let store = cache.store()?;
        let at = at(store, cache.capacity(), batch);
        let most = (work.rows / batch).max(1);
        engine.gpu.record(&events[0])?;
        let last = cache.len() + prompt.len() - 1;
        engine.gpu.upload_control(control, last, &prompt.tokens()[..batch], store.control.region())?;
        let mut done = 0;
        while done < prompt.len() {
            let left = prompt.len() - done;
            let len = left.div_ceil(left.div_ceil(most));
            let piece = Piece { done, len, last: len == left };
            work.upload(engine, prompt, piece)?;
            let span = Span { start: cache.len() + done, len, stepping: false };
            engine.piece(work, step, &at, span, piece.last)?;
            done += len;
        }
        let picked = fetch(engine, step, store, answer, batch * 4, out)?;
        engine.gpu.record(&events[1])?;
        engine.gpu.wait()?;
        deliver(picked, answer)?;
        self.device_time = Some(elapsed(&self.events[0], &self.events[1])?);
        Ok(())
    }

    /// Takes `steps` greedy steps from `tokens`, and leaves the cache's length as it is. Scores are those of the last step.
    pub(crate) fn decode(&mut self, cache: &BurnCache, tokens: &[TokenId], steps: usize, out: Output<'_>) -> Result<(), BurnError> {
        self.device_steps.clear();
        let _together = together();
        let batch = tokens.len();
        self.make_events(steps + 2)?;
        let Self { engine, steps: works, graphs, control, answer, events, .. } = self;
        let Some(work) = works.get(&batch) else { return Err(BurnError::ForeignCache) };
        let (gpu, store) = (&engine.gpu, cache.store()?);
        let at = at(store, cache.capacity(), batch);
        gpu.record(&events[0])?;
        gpu.upload_control(control, cache.len(), tokens, store.control.region())?;
        let graph = graphs.get(&store.id).map(|(_, graph)| graph);
        for step in 0..steps {
            match graph {
                Some(graph) => graph.replay(work)?,
                None => engine.step(work, &at)?,
            }
            // A single step's time is the call's.
            if steps > 1 {
                gpu.record(&events[step + 1])?;
            }
        }
        let picked = fetch(engine, work, store, answer, steps * batch * 4, out)?;
        gpu.record(&events[steps + 1])?;
        gpu.wait()?;
        deliver(picked, answer)?;
        self.device_time = Some(elapsed(&self.events[0], &self.events[steps + 1])?);
        Ok(())
    }

    /// As [`decode`](Self::decode), and keeps the time of each step.
    pub(crate) fn run(&mut self, cache: &BurnCache, tokens: &[TokenId], out: &mut [TokenId]) -> Result<(), BurnError> {
        let steps = out.len() / tokens.len();
        self.decode(cache, tokens, steps, Output::Tokens(out))?;
        if steps == 1 {
            self.device_steps = self.device_time.into_iter().collect();
            return Ok(());
        }
        self.device_steps = self.events[..=steps].windows(2).map(|pair| elapsed(&pair[0], &pair[1])).collect::<Result<_, _>>()?;
        Ok(())
    }

    pub(crate) const fn device_time(&self) -> Option<Duration> {
        self.device_time
    }

    pub(crate) fn device_steps(&self) -> &[Duration] {
        &self.device_steps
    }

    fn make_events(&mut self, count: usize) -> Result<(), BurnError> {
        self.engine.gpu.bind()?;
        while self.events.len() < count {
            self.events.push(self.engine.gpu.event()?);
        }
        Ok(())
    }
}

fn at(store: &Store, capacity: usize, batch: usize) -> At {
    let [cache, control, picked] = [&store.cache, &store.control, &store.picked].map(Buffer::region);
    At { cache, control, picked, capacity, batch }
}

/// Starts the way back of what a call gives; tokens arrive in pinned memory.
fn fetch<'a>(
    engine: &Engine,
    work: &StepWork,
    store: &Store,
    answer: &mut Pinned,
    bytes: usize,
    out: Output<'a>,
) -> Result<Option<&'a mut [TokenId]>, BurnError> {
    match out {
        Output::Scores(scores) => {
            engine.gpu.download(work.scores.region(), scores)?;
            Ok(None)
        }
        Output::Tokens(tokens) => {
            let from = store.picked.region();
            engine.gpu.download(Region::new(from.address(), from.bytes()), &mut answer.bytes()?[..bytes])?;
            Ok(Some(tokens))
        }
    }
}

fn deliver(tokens: Option<&mut [TokenId]>, answer: &mut Pinned) -> Result<(), BurnError> {
    if let Some(tokens) = tokens {
        let ids = answer.bytes()?.as_chunks::<4>().0.iter().map(|bytes| u32::from_ne_bytes(*bytes));
        tokens.iter_mut().zip(ids).for_each(|(token, id)| *token = TokenId(id));
    }
    Ok(())
}

fn elapsed(from: &CudaEvent, to: &CudaEvent) -> Result<Duration, BurnError> {
    let milliseconds = from.elapsed_ms(to).map_err(classify("take a time"))?;
    Ok(Duration::try_from_secs_f64(f64::from(milliseconds) / 1e3).unwrap_or_default())
}

/// What the kernels can't do.
fn check_shape(config: &ModelConfig) -> Result<(), BurnError> {
    if !config.head_dim.is_multiple_of(2) || config.head_dim > 256 {
        return Err(BurnError::Unsupported { what: format!("head_dim of {}, which is odd or above 256,", config.head_dim) });
    }
    Ok(())
}

/// Kernels count the numbers of a layer's keys in 32 bits.
fn check_count(kv_dim: usize, CacheSpec { batch, capacity }: CacheSpec) -> Result<(), BurnError> {
    let count = [kv_dim, batch, capacity].into_iter().try_fold(1u32, |count, by| count.checked_mul(u32::try_from(by).ok()?));
    match count {
        Some(_) => Ok(()),
        None => Err(BurnError::Unsupported { what: format!("{batch} x {capacity} positions of {kv_dim}, 2^32 numbers a layer or more,") }),
    }
}

/// The version of the compiler that makes machine code of kernels, if all that it takes is there.
pub(crate) fn compiler(home: Option<&Path>) -> Result<String, BurnError> {
    Nvrtc::new(home, None)?;
    Nvrtc::version()
}
