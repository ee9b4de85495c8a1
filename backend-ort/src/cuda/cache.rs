//! Keys and values of one batch in device memory, the bindings of the graphs to them, and the captured step.

use super::{
    classified,
    device::{Device, DeviceMemory, Events, Graph, HostMemory},
    kernels::StepState,
    model::{CHUNK, Runtime},
    weights::element,
};
use crate::{
    binding::{Binding, Memory, Place, c_name},
    error::OrtError,
    graph::{Format, names},
    shared::{int, kv_names},
};
use ort::{session::Session, sys::ONNXTensorElementDataType as Element};
use phase_capture::Guarded;
use phase_core::{KvCache, TokenId};
use std::{ops::Range, sync::Arc};

/// A cache of an [`OrtCudaModel`](crate::OrtCudaModel), in device memory, allocated once.
#[derive(Debug)]
pub struct OrtCudaCache(pub(super) Guarded<Held>);

impl KvCache for OrtCudaCache {
    fn batch(&self) -> usize {
        self.0.batch()
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn capacity(&self) -> usize {
        self.0.capacity()
    }

    fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }
}

/// What a cache holds.
#[derive(Debug)]
pub(super) struct Held {
    /// Which model it belongs to.
    pub(super) model: u64,
    pub(super) batch: usize,
    pub(super) len: usize,
    pub(super) capacity: usize,
    /// One decode step, captured; declared before what it works on, as the bindings are.
    pub(super) step: Option<Graph>,
    /// The graph for steps of the whole batch, bound to the step's inputs.
    stepping: Option<Binding>,
    /// The graph for prompts, bound to some rows.
    rows: Vec<(Range<usize>, Binding)>,
    kv: DeviceMemory,
    /// Scores of each row, f32.
    scores: DeviceMemory,
    /// The highest score of each row so far, with its place.
    best: DeviceMemory,
    /// Picked tokens, step after step.
    picked: DeviceMemory,
    /// What a step reads: a position (i64), a token for each row (i64), positions less one for each row (i32).
    inputs: DeviceMemory,
    /// What a prefill reads, run after run.
    prompt: DeviceMemory,
    /// Scores or picked tokens on their way to the host.
    pub(super) outbox: HostMemory,
    inbox: HostMemory,
    total: Memory<i32>,
    pub(super) events: Events,
    /// Declared last: stream and weights outlive what uses them.
    runtime: Arc<Runtime>,
}

impl KvCache for Held {
    fn batch(&self) -> usize {
        self.batch
    }

    fn len(&self) -> usize {
        self.len
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

/// Where the parts of a step's inputs lie.
const TOKENS_AT: usize = 8;

impl Held {
    pub(super) fn new(runtime: &Arc<Runtime>, model: u64, batch: usize, capacity: usize) -> Result<Self, OrtError> {
        let device = &runtime.device;
        let kv = 2 * runtime.kv.layers * runtime.kv.elements(batch, capacity) * Format::BYTES;
        let scores = 4 * batch * runtime.vocab;
        // Token, position and length for every position, and lengths for every run.
        let prompt = 16 * batch * capacity + 8 * batch * (batch + 2 + capacity / CHUNK);
        Ok(Self {
            model,
            batch,
            len: 0,
            capacity,
            step: None,
            stepping: None,
            rows: Vec::new(),
            kv: DeviceMemory::new(device, kv, "the KV cache")?,
            scores: DeviceMemory::new(device, scores, "scores")?,
            best: DeviceMemory::new(device, 8 * batch, "picking tokens")?,
            picked: DeviceMemory::new(device, 4 * batch * capacity, "picked tokens")?,
            inputs: DeviceMemory::new(device, TOKENS_AT + 12 * batch, "a step's inputs")?,
            prompt: DeviceMemory::new(device, prompt, "prompt tokens")?,
            outbox: HostMemory::new(device, scores.max(4 * batch * capacity))?,
            inbox: HostMemory::new(device, prompt.max(TOKENS_AT + 12 * batch))?,
            total: Memory::new(1)?,
            events: Events::new(device),
            runtime: Arc::clone(runtime),
        })
    }

    fn device(&self) -> &Arc<Device> {
        &self.runtime.device
    }

    fn place(&self, memory: &DeviceMemory, at: usize, bytes: usize) -> Place {
        Place { start: memory.part(at, bytes), bytes, device: self.device().ordinal }
    }

    /// Binds what stays the same from run to run for these rows: weights, keys, values, scores. `extends_outputs` says
    /// that the graph has keys and values as outputs too, and is told how many there are.
    fn bind(&self, session: &Session, rows: Range<usize>, extends_outputs: bool) -> Result<Binding, OrtError> {
        let mut binding = Binding::new(session)?;
        let (runtime, count) = (&self.runtime, rows.len());
        runtime.weights.bind(self.device(), session, &mut binding)?;
        let size = Format::BYTES;
        let whole = runtime.kv.elements(self.batch, self.capacity) * size;
        let first = runtime.kv.elements(rows.start, self.capacity) * size;
        let bytes = runtime.kv.elements(count, self.capacity) * size;
        let shape = [count, runtime.kv.heads, self.capacity, runtime.kv.head_dim].map(int);
        for i in 0..2 * runtime.kv.layers {
            let place = self.place(&self.kv, i * whole + first, bytes);
            let [past, present] = kv_names(i);
            // SAFETY: the memory has room for this tensor and lives as long as `self`, whose bindings go before it.
            unsafe { binding.input_on_device(&past, place, element(runtime.format), &shape) }?;
            if extends_outputs {
                // SAFETY: as above.
                unsafe { binding.output_on_device(&present, place, element(runtime.format), &shape) }?;
            }
        }
        if extends_outputs {
            // SAFETY: as above.
            unsafe { binding.input(&c_name(names::TOTAL), &self.total, 0, &[]) }?;
        }
        let width = 4 * runtime.vocab;
        let scores = self.place(&self.scores, rows.start * width, count * width);
        // SAFETY: as above.
        unsafe { binding.output_on_device(&c_name(names::LOGITS), scores, FLOAT, &[int(count), int(runtime.vocab)]) }?;
        Ok(binding)
    }

    /// Which of the bindings is that of these rows, made if need be.
    fn binding_of(&mut self, session: &Session, rows: &Range<usize>) -> Result<usize, OrtError> {
        if let Some(at) = self.rows.iter().position(|(bound, _)| bound == rows) {
            return Ok(at);
        }
        let binding = self.bind(session, rows.clone(), true)?;
        self.rows.push((rows.clone(), binding));
        Ok(self.rows.len() - 1)
    }

    /// Binds steps of the whole batch to a graph: once, so that no call that is timed does it.
    pub(super) fn prepare_steps(&mut self, session: &Session, extends_outputs: bool) -> Result<(), OrtError> {
        let batch = self.batch;
        let mut binding = self.bind(session, 0..batch, extends_outputs)?;
        let tokens = self.place(&self.inputs, TOKENS_AT, 8 * batch);
        // SAFETY: the memory has room for this tensor and lives as long as `self`, whose bindings go before it.
        unsafe { binding.input_on_device(&c_name(names::TOKENS), tokens, LONG, &[int(batch), 1]) }?;
        let lengths = self.place(&self.inputs, TOKENS_AT + 8 * batch, 4 * batch);
        // SAFETY: as above.
        unsafe { binding.input_on_device(&c_name(names::LENGTHS), lengths, INT, &[int(batch)]) }?;
        if self.runtime.learned_positions {
            let position = self.place(&self.inputs, 0, 8);
            // SAFETY: as above.
            unsafe { binding.input_on_device(&c_name(names::POSITIONS), position, LONG, &[1]) }?;
        }
        self.stepping = Some(binding);
        self.events.reserve(self.capacity.min(64) + 1)
    }

    /// Copies what the prefill reads to the device, run after run.
    pub(super) fn upload_prompt<'t>(&mut self, runs: impl Iterator<Item = PromptRun<'t>>) -> Result<Vec<Placed>, OrtError> {
        let mut end = 0;
        let mut placed = Vec::new();
        let words = self.inbox.as_mut_slice::<i64>();
        for PromptRun { rows, new, len, tokens } in runs {
            let at = end;
            for token in tokens {
                words[end] = i64::from(token.0);
                end += 1;
            }
            let positions = end;
            for position in len..len + new {
                words[end] = int(position);
                end += 1;
            }
            let lengths = end;
            let last = i32::try_from(len + new - 1).unwrap_or(i32::MAX);
            let pair = i64::from(last) << 32 | i64::from(last);
            words[end..end + rows.len().div_ceil(2)].fill(pair);
            end += rows.len().div_ceil(2);
            placed.push(Placed { rows, new, total: len + new, tokens: 8 * at, positions: 8 * positions, lengths: 8 * lengths });
        }
        // SAFETY: the inbox is not touched before the call that uploads has waited for the device.
        unsafe { self.runtime.device.upload(&self.prompt, 0, self.inbox.bytes(0..8 * end)) }?;
        Ok(placed)
    }

    /// Queues one run of a prefill.
    pub(super) fn queue_run(&mut self, session: &mut Session, run: &Placed) -> Result<(), OrtError> {
        let at = self.binding_of(session, &run.rows)?;
        let (count, new) = (run.rows.len(), run.new);
        let tokens = self.place(&self.prompt, run.tokens, 8 * count * new);
        let positions = self.place(&self.prompt, run.positions, 8 * new);
        let lengths = self.place(&self.prompt, run.lengths, 4 * count);
        self.total.as_mut_slice()[0] = i32::try_from(run.total).unwrap_or(i32::MAX);
        let runtime = &self.runtime;
        let binding = &mut self.rows[at].1;
        // SAFETY: the memory has room for these tensors and lives as long as `self`, whose bindings go before it.
        unsafe { binding.input_on_device(&c_name(names::TOKENS), tokens, LONG, &[int(count), int(new)]) }?;
        // SAFETY: as above.
        unsafe { binding.input_on_device(&c_name(names::LENGTHS), lengths, INT, &[int(count)]) }?;
        if runtime.learned_positions {
            // SAFETY: as above.
            unsafe { binding.input_on_device(&c_name(names::POSITIONS), positions, LONG, &[int(new)]) }?;
        }
        binding.queue(session, &runtime.options).map_err(|e| classified(&runtime.device, e))
    }

    /// Copies what the first step of a call reads to the device.
    pub(super) fn upload_step(&mut self, tokens: &[TokenId]) -> Result<(), OrtError> {
        let (batch, position) = (self.batch, self.len);
        let words = self.inbox.as_mut_slice::<i64>();
        words[0] = int(position);
        for (word, token) in words[1..].iter_mut().zip(tokens) {
            *word = i64::from(token.0);
        }
        let lengths = &mut self.inbox.as_mut_slice::<i32>()[2 + 2 * batch..][..batch];
        lengths.fill(i32::try_from(position).unwrap_or(i32::MAX));
        // SAFETY: the inbox is not touched before the call that uploads has waited for the device.
        unsafe { self.runtime.device.upload(&self.inputs, 0, self.inbox.bytes(0..TOKENS_AT + 12 * batch)) }
    }

    /// Queues one step of the whole batch operator by operator; `total` is how many positions the attention is told of,
    /// those after the step or more.
    pub(super) fn queue_step(&mut self, session: &mut Session, total: usize) -> Result<(), OrtError> {
        self.total.as_mut_slice()[0] = i32::try_from(total).unwrap_or(i32::MAX);
        let runtime = &self.runtime;
        let binding = self.stepping.as_mut().ok_or(OrtError::ForeignCache)?;
        binding.queue(session, &runtime.options).map_err(|e| classified(&runtime.device, e))
    }

    /// Queues the choice of tokens after the `step`-th step of a call.
    pub(super) fn queue_pick(&self, step: usize) -> Result<(), OrtError> {
        let (runtime, batch) = (&self.runtime, self.batch);
        let state = StepState {
            scores: self.scores.address(),
            best: self.best.address(),
            tokens: self.inputs.part(TOKENS_AT, 8 * batch),
            lengths: self.inputs.part(TOKENS_AT + 8 * batch, 4 * batch),
            position: self.inputs.part(0, 8),
        };
        let picked = self.picked.part(4 * step * batch, 4 * batch);
        runtime.picking.queue(&runtime.device, state, picked, batch, runtime.vocab)
    }

    /// Waits for all work and copies the scores out.
    pub(super) fn take_scores(&mut self, out: &mut [f32]) -> Result<(), OrtError> {
        let device = &self.runtime.device;
        device.download(&self.scores, &mut self.outbox, 4 * out.len())?;
        device.synchronize()?;
        out.copy_from_slice(&self.outbox.as_mut_slice()[..out.len()]);
        Ok(())
    }

    /// Waits for all work and copies picked tokens out.
    pub(super) fn take_picked(&mut self, out: &mut [TokenId]) -> Result<(), OrtError> {
        let device = &self.runtime.device;
        device.download(&self.picked, &mut self.outbox, 4 * out.len())?;
        device.synchronize()?;
        let picked = self.outbox.as_mut_slice::<u32>();
        out.iter_mut().zip(picked).for_each(|(slot, id)| *slot = TokenId(*id));
        Ok(())
    }
}

/// One run of a prefill: some rows, the same positions of each.
pub(super) struct PromptRun<'t> {
    pub(super) rows: Range<usize>,
    pub(super) new: usize,
    /// Positions before it.
    pub(super) len: usize,
    pub(super) tokens: Box<dyn Iterator<Item = &'t TokenId> + 't>,
}

/// The same run, with the places of its inputs, in bytes.
pub(super) struct Placed {
    rows: Range<usize>,
    new: usize,
    total: usize,
    tokens: usize,
    positions: usize,
    lengths: usize,
}

const FLOAT: Element = Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
const INT: Element = Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
const LONG: Element = Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
