//! This crate's own kernels, compiled for the device and the model.

use super::{
    compiler::machine_code,
    device::{Device, DeviceMemory, Kernel, Launch, Module},
};
use crate::{
    error::OrtError,
    graph::{Format, GATED_MULTIPLE},
};
use phase_model::ModelConfig;
use std::{ffi::c_void, path::Path, sync::Arc};

/// Threads of every block, as in the kernels' source.
const THREADS: u32 = 256;
const WARPS: u32 = THREADS / 32;

/// Picking the next token.
#[derive(Debug)]
pub(crate) struct Picking {
    best: Kernel,
    advance: Kernel,
    /// What the kernels belong to.
    _module: Module,
}

/// What a step leaves on the device for the next one, as addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepState {
    pub(crate) scores: u64,
    pub(crate) best: u64,
    pub(crate) tokens: u64,
    pub(crate) lengths: u64,
    pub(crate) position: u64,
}

impl Picking {
    pub(crate) fn new(device: &Arc<Device>, folder: &Path) -> Result<Self, OrtError> {
        let code = machine_code(include_str!("../../kernels/pick.cu"), device.capability, &[], folder)?;
        let module = device.module(&code)?;
        Ok(Self { best: module.kernel("best_scores")?, advance: module.kernel("advance")?, _module: module })
    }

    /// Queues the choice of the highest score of each row: written to `picked`, made the next input, positions moved on.
    pub(crate) fn queue(&self, device: &Device, state: StepState, picked: u64, rows: usize, vocab: usize) -> Result<(), OrtError> {
        let (rows, vocab) = (small(rows), small(vocab));
        let StepState { mut scores, mut best, mut tokens, mut lengths, mut position } = state;
        let (mut picked, mut vocab, mut count) = (picked, vocab, rows);
        let blocks = vocab.div_ceil(THREADS * 8).clamp(1, 64);
        let shape = Launch { grid: [blocks, rows, 1], block: THREADS, shared_bytes: 0, overlap: false };
        let mut arguments = [pointer(&mut scores), pointer(&mut best), pointer(&mut vocab)];
        // SAFETY: the arguments are those of `best_scores`; the memory belongs to a cache that waits before it goes.
        unsafe { device.launch(self.best, shape, &mut arguments) }?;
        let shape = Launch { grid: [1, 1, 1], block: rows.next_multiple_of(32), shared_bytes: 0, overlap: false };
        let mut arguments = [
            pointer(&mut best),
            pointer(&mut tokens),
            pointer(&mut lengths),
            pointer(&mut position),
            pointer(&mut picked),
            pointer(&mut count),
        ];
        // SAFETY: as above, for `advance`.
        unsafe { device.launch(self.advance, shape, &mut arguments) }
    }
}

/// The activation of a gated layer, for any number of rows.
#[derive(Debug)]
pub(crate) struct Gating {
    device: Arc<Device>,
    gated: Kernel,
    _module: Module,
}

impl Gating {
    pub(crate) fn new(device: &Arc<Device>, format: Format, folder: &Path) -> Result<Self, OrtError> {
        let source = concat!(include_str!("../../kernels/half.cu"), include_str!("../../kernels/gated.cu"));
        let module = device.module(&machine_code(source, device.capability, &[bf16(format)], folder)?)?;
        Ok(Self { device: Arc::clone(device), gated: module.kernel("gated")?, _module: module })
    }

    /// Queues `silu(gate) * up` of so many elements, at these addresses: gate, up, output.
    ///
    /// # Safety
    /// The addresses are those of tensors of so many elements, start at multiples of 16 bytes, and outlive the work.
    pub(crate) unsafe fn queue(&self, [mut gate, mut up, mut output]: [u64; 3], elements: usize) -> Result<(), OrtError> {
        let mut pieces = small(elements / GATED_MULTIPLE);
        if pieces == 0 {
            return Ok(());
        }
        let shape = Launch { grid: [pieces.div_ceil(THREADS), 1, 1], block: THREADS, shared_bytes: 0, overlap: false };
        let mut arguments = [pointer(&mut gate), pointer(&mut up), pointer(&mut output), pointer(&mut pieces)];
        // SAFETY: the arguments are those of `gated`; the caller vouches for the tensors.
        unsafe { self.device.launch(self.gated, shape, &mut arguments) }
    }
}

/// The format of weights, as the kernels are told.
fn bf16(format: Format) -> (&'static str, String) {
    ("BF16", u32::from(format == Format::Bf16).to_string())
}

/// The operators of a decode step of one sequence.
#[derive(Debug)]
pub(crate) struct StepKernels {
    pub(crate) device: Arc<Device>,
    embed: Kernel,
    qkv: Kernel,
    attend: Kernel,
    add_attended: Kernel,
    gate: Kernel,
    add_gated: Kernel,
    scores: Kernel,
    /// What blocks of the attention tell each other: parts of averages, and how many blocks are done.
    parts: DeviceMemory,
    finished: DeviceMemory,
    splits: u32,
    pub(crate) sizes: Sizes,
    _module: Module,
}

/// Sizes that launches are shaped by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) hidden: u32,
    pub(crate) inner: u32,
    pub(crate) vocab: u32,
    pub(crate) q_dim: u32,
    pub(crate) kv_dim: u32,
    pub(crate) kv_heads: u32,
}

impl StepKernels {
    pub(crate) fn new(device: &Arc<Device>, config: &ModelConfig, format: Format, folder: &Path) -> Result<Self, OrtError> {
        let sizes = Sizes {
            hidden: small(config.hidden),
            inner: small(config.intermediate),
            vocab: small(config.vocab),
            q_dim: small(config.q_dim()),
            kv_dim: small(config.kv_dim()),
            kv_heads: small(config.kv_heads),
        };
        let splits = (device.processors / sizes.kv_heads).clamp(1, 32);
        #[expect(clippy::cast_possible_truncation, reason = "the kernels compute in f32")]
        let eps = config.norm_eps as f32;
        let definitions = [
            bf16(format),
            ("HIDDEN", sizes.hidden.to_string()),
            ("INNER", sizes.inner.to_string()),
            ("VOCAB", sizes.vocab.to_string()),
            ("HEADS", config.heads.to_string()),
            ("KV_HEADS", config.kv_heads.to_string()),
            ("HEAD_DIM", config.head_dim.to_string()),
            ("WINDOW", config.sliding_window.unwrap_or(0).to_string()),
            ("EPS", format!("{eps:e}f")),
            ("SPLITS", splits.to_string()),
        ];
        let source = concat!(include_str!("../../kernels/half.cu"), include_str!("../../kernels/step.cu"));
        let code = machine_code(source, device.capability, &definitions, folder)?;
        let module = device.module(&code)?;
        let parts = 4 * config.kv_heads * splits as usize * config.group() * (config.head_dim + 2);
        Ok(Self {
            device: Arc::clone(device),
            embed: module.kernel("embed")?,
            qkv: module.kernel_with_memory("qkv", staged(sizes.hidden))?,
            attend: module.kernel("attend")?,
            add_attended: module.kernel_with_memory("add_attended", staged(sizes.q_dim))?,
            gate: module.kernel_with_memory("gate", staged(sizes.hidden))?,
            add_gated: module.kernel_with_memory("add_gated", staged(sizes.inner))?,
            scores: module.kernel_with_memory("scores", staged(sizes.hidden))?,
            parts: DeviceMemory::new(device, parts, "attention")?,
            finished: DeviceMemory::new(device, 4 * config.kv_heads, "attention")?,
            splits,
            sizes,
            _module: module,
        })
    }

    /// Queues one operator on tensors at these addresses: its inputs in order, then its output.
    ///
    /// # Safety
    /// The addresses are those of tensors of the sizes that this model has, and outlive the work.
    pub(crate) unsafe fn queue(&self, operator: Operator, tensors: &mut [u64], capacity: usize) -> Result<(), OrtError> {
        let Sizes { hidden, inner, vocab, q_dim, kv_dim, kv_heads } = self.sizes;
        let (kernel, blocks, vector) = match operator {
            Operator::Embed => (self.embed, hidden.div_ceil(THREADS), 0),
            Operator::Project => (self.qkv, (q_dim + 2 * kv_dim).div_ceil(2 * WARPS), hidden),
            Operator::Attend => (self.attend, kv_heads, 0),
            Operator::AddAttended => (self.add_attended, hidden.div_ceil(WARPS), q_dim),
            Operator::Gate => (self.gate, inner.div_ceil(WARPS), hidden),
            Operator::AddGated => (self.add_gated, hidden.div_ceil(WARPS), inner),
            Operator::Scores => (self.scores, vocab.div_ceil(2 * WARPS), hidden),
        };
        let (mut parts, mut finished, mut capacity) = (self.parts.address(), self.finished.address(), small(capacity));
        let mut arguments: Vec<*mut c_void> = tensors.iter_mut().map(pointer).collect();
        let mut grid = [blocks, 1, 1];
        if operator == Operator::Attend {
            grid[1] = self.splits;
            let own = [pointer(&mut parts), pointer(&mut finished), pointer(&mut capacity)];
            let output = arguments.len() - 1;
            arguments.splice(output..output, own);
        }
        let overlap = operator != Operator::Embed && self.device.capability >= 90;
        let shape = Launch { grid, block: THREADS, shared_bytes: staged(vector), overlap };
        // SAFETY: the arguments are those of the kernel; the caller vouches for the tensors.
        unsafe { self.device.launch(kernel, shape, &mut arguments) }
    }
}

/// An operator of the step's graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    Embed,
    Project,
    Attend,
    AddAttended,
    Gate,
    AddGated,
    Scores,
}

/// Bytes of shared memory for a vector, padded as the kernels pad it.
const fn staged(elements: u32) -> u32 {
    elements.div_ceil(256) * 256 * 4
}

fn pointer<T>(value: &mut T) -> *mut c_void {
    std::ptr::from_mut(value).cast()
}

/// Sizes of models fit.
fn small(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
