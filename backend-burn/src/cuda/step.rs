//! Working memory of decode steps of one batch size, and the graphs that they are captured into.

use std::cell::RefCell;

use cudarc::driver::{CudaGraph, sys};
use phase_capture::alone;
use phase_core::TokenId;
use phase_kernels::cuda::{Region, classify, node_types};

use super::{
    device::{Buffer, Gpu, Pinned},
    engine::{At, Engine, PICK_BLOCKS},
    kernels::attention::Heads,
};
use crate::BurnError;

/// Activations of one position of each sequence. Addresses stay, because graphs hold them.
#[derive(Debug)]
pub(super) struct StepWork {
    pub(super) batch: usize,
    /// How attention is cut, for head sizes that its fast kernel takes.
    pub(super) heads: Option<Heads>,
    /// The residual stream, f32.
    pub(super) x: Buffer,
    pub(super) normed: Buffer,
    /// Queries, keys and values as the product leaves them, f32.
    pub(super) qkv: Buffer,
    /// Rotated queries, for attention of any shape.
    pub(super) q: Buffer,
    pub(super) attended: Buffer,
    pub(super) inner: Buffer,
    /// `[batch, vocab]` f32.
    pub(super) scores: Buffer,
    pub(super) partial: Buffer,
    pub(super) tickets: Buffer,
    pub(super) best: Buffer,
    pub(super) best_tokens: Buffer,
    pub(super) ticket: Buffer,
    /// Sums of cubes that share a product's k, and how many of them have come.
    pub(super) shares: Buffer,
    pub(super) share_tickets: Buffer,
    pub(super) seen: RefCell<Seen>,
}

/// What was captured and replayed, over all caches of this batch size.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) graphs: u64,
    pub(super) replays: u64,
    /// Nodes of a graph by type, as the driver tells them.
    pub(super) nodes: Vec<(&'static str, u64)>,
    /// Launches of each kernel in one graph.
    pub(super) launches: Vec<(String, u64)>,
}

impl StepWork {
    pub(super) fn new(engine: &Engine, batch: usize) -> Result<Self, BurnError> {
        let (config, gpu) = (&engine.config, &engine.gpu);
        // Four bytes an element serve every format.
        let floats = |what, elements: usize| gpu.buffer(what, batch * elements * 4);
        let heads = engine.heads(batch);
        let (shares, tiles) = engine.share_room(batch);
        let partial = heads.map_or(0, |heads| heads.partial(batch) * 4);
        Ok(Self {
            batch,
            heads,
            x: floats("a step's activations", config.hidden)?,
            normed: floats("a step's activations", config.hidden)?,
            qkv: floats("a step's activations", config.q_dim() + 2 * config.kv_dim())?,
            q: floats("a step's activations", config.q_dim())?,
            attended: floats("a step's activations", config.q_dim())?,
            inner: floats("a step's activations", config.intermediate)?,
            scores: floats("a step's scores", config.vocab)?,
            partial: gpu.buffer("a step's activations", partial.max(16))?,
            tickets: gpu.zeros("a step's counters", batch * config.heads * 4)?,
            best: floats("a step's scores", PICK_BLOCKS)?,
            best_tokens: floats("a step's scores", PICK_BLOCKS)?,
            ticket: gpu.zeros("a step's counters", 16)?,
            shares: gpu.buffer("a step's activations", shares.max(16))?,
            share_tickets: gpu.zeros("a step's counters", tiles.max(1) * 4)?,
            seen: RefCell::default(),
        })
    }
}

/// A step on one cache as one graph.
pub(super) struct Graph(CudaGraph);

// SAFETY: a graph may be used from any one thread at a time; it is only reached through its model, exclusively.
unsafe impl Send for Graph {}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Graph").finish()
    }
}

impl Graph {
    /// Captures one step. Everything it launches must be loaded, so that nothing is while it is captured.
    pub(super) fn capture(engine: &Engine, work: &StepWork, at: &At) -> Result<Self, BurnError> {
        let gpu = &engine.gpu;
        let _alone = alone();
        let before = engine.kernels.launches();
        gpu.bind()?;
        gpu.stream
            .begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .map_err(classify("begin to capture a graph"))?;
        let enqueued = engine.step(work, at);
        let captured = gpu.stream.end_capture(sys::CUgraphInstantiate_flags(0));
        enqueued?;
        let Some(graph) = captured.map_err(classify("capture a graph"))? else {
            return Err(BurnError::Unsupported { what: "a step without work".to_owned() });
        };
        graph.upload().map_err(classify("upload a graph"))?;
        let mut seen = work.seen.borrow_mut();
        seen.graphs += 1;
        seen.nodes = node_types(&graph)?;
        let launches = engine.kernels.launches().into_iter().map(|(name, after)| {
            let launches = after - before.get(&name).copied().unwrap_or(0);
            (name, launches)
        });
        seen.launches = launches.filter(|(_, launches)| *launches > 0).collect();
        Ok(Self(graph))
    }

    pub(super) fn replay(&self, work: &StepWork) -> Result<(), BurnError> {
        self.0.launch().map_err(classify("launch a graph"))?;
        work.seen.borrow_mut().replays += 1;
        Ok(())
    }
}

/// Words of a control before its tokens.
pub(super) const CONTROL: usize = 4;

impl Gpu {
    /// Copies position and tokens of a cache's next step to the device, through pinned memory.
    pub(super) fn upload_control(&self, pinned: &mut Pinned, position: usize, tokens: &[TokenId], to: Region) -> Result<(), BurnError> {
        let bytes = &mut pinned.bytes()?[..(CONTROL + tokens.len()) * 4];
        // A position is within the model's context, which fits.
        let words = [u32::try_from(position).unwrap_or(u32::MAX), 0, 0, 0].into_iter().chain(tokens.iter().map(|token| token.0));
        bytes.chunks_exact_mut(4).zip(words).for_each(|(to, word)| to.copy_from_slice(&word.to_ne_bytes()));
        self.upload(bytes, to)
    }
}
