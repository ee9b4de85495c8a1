//! The decoder on a CUDA device: candle's context, allocator and cuBLAS, kernels of `phase-kernels`, steps as graphs.

mod device;
mod engine;
mod evidence;
mod facts;
mod lt;
mod peak;
mod profile;
mod prompt;
mod step;
mod weights;

use std::{cell::Cell, collections::BTreeMap, time::Duration};

use candle_core::cuda_backend::cudarc::driver::CudaEvent;
pub(crate) use phase_capture::Guarded;
use phase_capture::together;
use phase_core::{CacheSpec, DType, KvCache, Mode, PromptBatch, TokenId};
use phase_kernels::cuda::{Activation, Format, Kernels, Step, classify};
use phase_model::{ModelConfig, Weights as Checkpoint};
use rayon::prelude::*;

use self::{
    device::Pinned,
    engine::{At, Engine},
    profile::Profile,
    prompt::{Piece, PromptWork},
    step::{Graph, StepWork, control_len},
    weights::Weights,
};
pub(crate) use self::{
    device::{Buffer, Gpu},
    facts::facts,
};
pub use self::{peak::CudaPeak, profile::PromptPart};
use crate::{CandleCache, CandleConfig, CandleError, cache};

/// Weights, kernels and working memory of one model on one device.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// Steps by batch. Before the engine, so that graphs are destroyed before the kernels in them are unloaded.
    steps: BTreeMap<usize, StepWork>,
    engine: Engine,
    mode: Mode,
    prompt: Option<PromptWork>,
    prefill_rows: usize,
    /// Times of a prompt's parts, where they are wanted.
    profile: Option<Profile>,
    parts: Vec<PromptPart>,
    /// Tokens picked in a run of steps, `[steps, batch]`.
    picked: Buffer,
    control: Pinned,
    /// Where picked tokens arrive.
    answer: Pinned,
    /// Where scores arrive.
    scores: Pinned,
    events: Vec<CudaEvent>,
    device_time: Option<Duration>,
    device_steps: Vec<Duration>,
}

/// What a call gives.
pub(crate) enum Output<'a> {
    /// `[batch, vocab]`.
    Scores(&'a mut [f32]),
    /// One per row and step.
    Tokens(&'a mut [TokenId]),
}

impl Decoder {
    pub(crate) fn load(
        config: ModelConfig,
        checkpoint: &Checkpoint,
        dtype: DType,
        gpu: Gpu,
        mode: Mode,
        settings: &CandleConfig,
    ) -> Result<Self, CandleError> {
        let format = match dtype {
            DType::F32 => Format::F32,
            DType::F16 => Format::F16,
            DType::Bf16 => Format::Bf16,
            other => return Err(CandleError::DType(other)),
        };
        check_shape(&config, 16 / format.size_bytes())?;
        let activation = match config.activation {
            phase_model::Activation::Silu => Activation::Silu,
            phase_model::Activation::Gelu => Activation::Gelu,
            phase_model::Activation::GeluTanh => Activation::GeluTanh,
            phase_model::Activation::Relu => Activation::Relu,
            other => return Err(CandleError::Feature(format!("the activation {other:?}"))),
        };
        let _together = together();
        let kernels = Kernels::load(&gpu.stream, format)?;
        let weights = Weights::load(&config, checkpoint, dtype, &gpu)?;
        let picked = gpu.buffer("picked tokens", 4096)?;
        let (control, answer, scores) = (gpu.pinned(control_len(64))?, gpu.pinned(4096)?, gpu.pinned(0)?);
        let engine = Engine { config, activation, gpu, kernels, weights, products: Cell::new(0) };
        Ok(Self {
            engine,
            mode,
            steps: BTreeMap::new(),
            prompt: None,
            prefill_rows: settings.rows(),
            profile: settings.prompt_parts.then(Profile::default),
            parts: Vec::new(),
            picked,
            control,
            answer,
            scores,
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

    /// Allocates a cache, and everything that steps and prompts of its size need, so that no phase does.
    pub(crate) fn allocate(&mut self, spec: CacheSpec, dtype: DType, owner: u64) -> Result<CandleCache, CandleError> {
        let CacheSpec { batch, capacity } = spec;
        let beside = together();
        let gpu = &self.engine.gpu;
        gpu.bind()?;
        let bytes = cache::bytes_per_position(&self.engine.config, dtype).saturating_mul(batch as u64).saturating_mul(capacity as u64);
        let store = gpu.zeros("the KV cache", usize::try_from(bytes).unwrap_or(usize::MAX))?;
        if self.control.bytes()?.len() < control_len(batch) {
            self.control = gpu.pinned(control_len(batch))?;
        }
        let scores_bytes = batch * self.engine.config.vocab * 4;
        if self.scores.bytes()?.len() < scores_bytes {
            self.scores = gpu.pinned(scores_bytes)?;
        }
        let rows = self.prefill_rows.min(batch * capacity).max(batch);
        if self.prompt.as_ref().is_none_or(|work| work.rows < rows) {
            self.prompt = None;
            self.prompt = Some(PromptWork::new(&self.engine, rows)?);
        }
        if !self.steps.contains_key(&batch) {
            let mut work = StepWork::new(&self.engine, batch)?;
            if self.mode == Mode::Compiled {
                // One step into the new cache's first position, which is free: what a kernel loads must not be in a graph.
                let step = self.first_step(&store, capacity, 0);
                self.engine.gpu.upload_control(&mut self.control, step, &vec![TokenId(0); batch], work.control.region())?;
                self.engine.step(&work, &work.at())?;
                self.engine.gpu.wait()?;
                drop(beside);
                work.graph = Some(Graph::capture(&self.engine, &work)?);
            }
            self.steps.insert(batch, work);
        }
        self.engine.gpu.wait()?;
        Ok(CandleCache::on_device(store, spec, owner))
    }

    /// Appends a prompt to the cache, whose length stays as it is.
    pub(crate) fn prefill(&mut self, cache: &CandleCache, prompt: PromptBatch<'_>, out: Output<'_>) -> Result<(), CandleError> {
        if prompt.len() == 1 {
            return self.decode(cache, prompt.tokens(), 1, out);
        }
        self.device_steps.clear();
        let _together = together();
        let batch = prompt.batch();
        self.make_events(2)?;
        let Self { engine, scores: arrived, profile, .. } = self;
        let engine = &*engine;
        let (Some(work), Some(step)) = (&self.prompt, self.steps.get(&batch)) else { return Err(CandleError::ForeignCache) };
        let most = (work.rows / batch).max(1);
        engine.gpu.record(&self.events[0])?;
        if let Some(profile) = &mut *profile {
            profile.begin(&engine.gpu)?;
        }
        let mut part = |name, cost| profile.as_mut().map_or(Ok(()), |profile| profile.end(&engine.gpu, name, cost));
        let mut done = 0;
        while done < prompt.len() {
            let left = prompt.len() - done;
            let len = left.div_ceil(left.div_ceil(most));
            let piece = Piece { done, len, last: len == left };
            let at = At { step: None, cache: cache.store()?.region(), capacity: cache.capacity(), start: cache.len() + done, batch };
            engine.piece(work, step, prompt, piece, &at, &mut part)?;
            done += len;
        }
        let mut ids = vec![0u32; batch];
        match &out {
            Output::Scores(scores) => engine.gpu.download(step.scores.region(), &mut arrived.bytes()?[..size_of_val(*scores)])?,
            Output::Tokens(_) => engine.gpu.download(step.tokens, &mut ids)?,
        }
        engine.gpu.record(&self.events[1])?;
        engine.gpu.wait()?;
        match out {
            Output::Scores(scores) => hand_over(arrived.bytes()?, scores),
            Output::Tokens(tokens) => tokens.iter_mut().zip(ids).for_each(|(token, id)| *token = TokenId(id)),
        }
        self.device_time = Some(elapsed(&self.events[0], &self.events[1])?);
        if let Some(profile) = &self.profile {
            self.parts = profile.sums()?;
        }
        Ok(())
    }

    /// Takes `steps` greedy steps from `tokens`, and leaves the cache's length as it is. Scores are those of the last step.
    pub(crate) fn decode(&mut self, cache: &CandleCache, tokens: &[TokenId], steps: usize, out: Output<'_>) -> Result<(), CandleError> {
        self.device_steps.clear();
        let _together = together();
        let batch = tokens.len();
        self.make_events(steps + 2)?;
        let picked_bytes = steps * batch * 4;
        if self.picked.region().bytes() < picked_bytes {
            self.picked = self.engine.gpu.buffer("picked tokens", picked_bytes)?;
            self.answer = self.engine.gpu.pinned(picked_bytes)?;
        }
        let first = self.first_step(cache.store()?, cache.capacity(), cache.len());
        let Self { engine, steps: works, control, answer, scores: arrived, events, picked, .. } = self;
        let Some(work) = works.get_mut(&batch) else { return Err(CandleError::ForeignCache) };
        let gpu = &engine.gpu;
        gpu.record(&events[0])?;
        gpu.upload_control(control, first, tokens, work.control.region())?;
        for step in 0..steps {
            match &mut work.graph {
                Some(graph) => graph.replay()?,
                None => engine.step(work, &work.at())?,
            }
            // A single step's time is the call's.
            if steps > 1 {
                gpu.record(&events[step + 1])?;
            }
        }
        let answer = &mut answer.bytes()?[..picked_bytes];
        match &out {
            Output::Scores(scores) => gpu.download(work.scores.region(), &mut arrived.bytes()?[..size_of_val(*scores)])?,
            Output::Tokens(_) => gpu.download(picked.region(), answer)?,
        }
        gpu.record(&events[steps + 1])?;
        gpu.wait()?;
        match out {
            Output::Scores(scores) => hand_over(arrived.bytes()?, scores),
            Output::Tokens(tokens) => {
                let ids = answer.as_chunks::<4>().0.iter().map(|bytes| u32::from_ne_bytes(*bytes));
                tokens.iter_mut().zip(ids).for_each(|(token, id)| *token = TokenId(id));
            }
        }
        self.device_time = Some(elapsed(&self.events[0], &self.events[steps + 1])?);
        Ok(())
    }

    /// As [`decode`](Self::decode), and keeps the time of each step.
    pub(crate) fn run(&mut self, cache: &CandleCache, tokens: &[TokenId], out: &mut [TokenId]) -> Result<(), CandleError> {
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

    pub(crate) fn prompt_parts(&self) -> &[PromptPart] {
        &self.parts
    }

    pub(crate) fn device_steps(&self) -> &[Duration] {
        &self.device_steps
    }

    /// Whether the device still answers; an error says that it does not.
    pub(crate) fn alive(&self) -> Result<(), CandleError> {
        self.engine.gpu.wait()
    }

    fn first_step(&self, store: &Buffer, capacity: usize, position: usize) -> Step {
        // Both are within the model's context, which the kernels' own check has narrowed before.
        let narrow = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        Step {
            cache: store.region().address(),
            tokens_out: self.picked.region().address(),
            capacity: narrow(capacity),
            position: narrow(position),
            index: 0,
            reserved: 0,
        }
    }

    fn make_events(&mut self, count: usize) -> Result<(), CandleError> {
        self.engine.gpu.bind()?;
        while self.events.len() < count {
            self.events.push(self.engine.gpu.event()?);
        }
        Ok(())
    }
}

/// Copies scores from pinned memory to the caller's: from many rows, all threads take part.
fn hand_over(arrived: &[u8], scores: &mut [f32]) {
    const TASK_BYTES: usize = 1 << 20;
    let scores: &mut [u8] = bytemuck::cast_slice_mut(scores);
    // A batch may be smaller than the largest one so far.
    let arrived = &arrived[..scores.len()];
    scores.par_chunks_mut(TASK_BYTES).zip(arrived.par_chunks(TASK_BYTES)).for_each(|(to, from)| to.copy_from_slice(from));
}

fn elapsed(from: &CudaEvent, to: &CudaEvent) -> Result<Duration, CandleError> {
    let milliseconds = from.elapsed_ms(to).map_err(classify("take a time"))?;
    Ok(Duration::try_from_secs_f64(f64::from(milliseconds) / 1e3).unwrap_or_default())
}

/// Kernels read 16 bytes at a time.
fn check_shape(config: &ModelConfig, multiple: usize) -> Result<(), CandleError> {
    let widths = [("hidden", config.hidden), ("intermediate", config.intermediate), ("heads * head_dim", config.q_dim())];
    for (name, width) in widths {
        if !width.is_multiple_of(multiple) {
            return Err(CandleError::Feature(format!("{name} of {width}, not a multiple of {multiple},")));
        }
    }
    if !config.head_dim.is_multiple_of(2) || config.head_dim > 256 {
        return Err(CandleError::Feature(format!("head_dim of {}, which is odd or above 256,", config.head_dim)));
    }
    Ok(())
}
