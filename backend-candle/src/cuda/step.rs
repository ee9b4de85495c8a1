//! Working memory of decode steps of one batch size, and the graph that one of them is captured into.

use candle_core::cuda_backend::cudarc::driver::{CudaGraph, sys};
use phase_capture::alone;
use phase_kernels::cuda::{Kernels, Region, Step, classify, node_types};

use super::{
    device::{Buffer, Gpu},
    engine::{At, Engine, Path},
};
use crate::CandleError;

/// Activations of one position of each sequence. Addresses stay, because graphs hold them.
#[derive(Debug)]
pub(super) struct StepWork {
    pub(super) graph: Option<Graph>,
    pub(super) batch: usize,
    pub(super) path: Path,
    /// A [`Step`], then a token for each sequence: one copy brings both.
    pub(super) control: Buffer,
    pub(super) tokens: Region,
    /// The residual stream, f32.
    pub(super) x: Buffer,
    pub(super) normed: Buffer,
    /// Shares of the squares of few rows, where norms divide late.
    pub(super) squares: Buffer,
    pub(super) qkv: Buffer,
    /// Rotated queries, f32.
    pub(super) q: Buffer,
    pub(super) attended: Buffer,
    /// Gates and ups of many rows.
    pub(super) wide: Buffer,
    pub(super) inner: Buffer,
    /// `[batch, vocab]` f32.
    pub(super) scores: Buffer,
    pub(super) partial: Buffer,
    pub(super) tickets: Buffer,
    pub(super) best: Region,
    pub(super) ticket: Region,
    pub(super) splits: usize,
    #[expect(dead_code, reason = "owns `best` and `ticket`")]
    counters: Buffer,
}

impl StepWork {
    pub(super) fn new(engine: &Engine, batch: usize) -> Result<Self, CandleError> {
        let (config, gpu) = (&engine.config, &engine.gpu);
        let path = engine.path(batch);
        // Four bytes an element serve every format.
        let floats = |what, elements: usize| gpu.buffer(what, batch * elements * 4);
        let control = gpu.zeros("a step's tokens", size_of::<Step>() + batch * 4)?;
        let tokens = Region::new(control.region().address() + size_of::<Step>() as u64, batch * 4);
        let counters = gpu.zeros("a step's counters", 16)?;
        let at = counters.region().address();
        let splits = engine.kernels.splits(batch, config.heads, config.kv_heads);
        Ok(Self {
            batch,
            path,
            control,
            tokens,
            x: floats("a step's activations", config.hidden)?,
            normed: floats("a step's activations", config.hidden)?,
            squares: floats("a step's activations", config.hidden.div_ceil(16))?,
            qkv: floats("a step's activations", config.q_dim() + 2 * config.kv_dim())?,
            q: floats("a step's activations", config.q_dim())?,
            attended: floats("a step's activations", config.q_dim())?,
            wide: floats("a step's activations", if path == Path::Many { 2 * config.intermediate } else { 0 })?,
            inner: floats("a step's activations", config.intermediate)?,
            scores: floats("a step's scores", config.vocab)?,
            partial: gpu.buffer("a step's activations", Kernels::partial_bytes(batch, config.heads, config.head_dim, splits))?,
            tickets: gpu.zeros("a step's counters", batch * config.heads * 4)?,
            best: Region::new(at, 8),
            ticket: Region::new(at + 8, 4),
            splits,
            graph: None,
            counters,
        })
    }

    /// Where a step of this work reads its position from.
    pub(super) fn at(&self) -> At {
        At { step: Some(self.control.region()), cache: Region::new(0, 0), capacity: 0, start: 0, batch: self.batch }
    }
}

/// A step as one graph.
pub(super) struct Graph {
    graph: CudaGraph,
    /// Nodes of each type.
    pub(super) nodes: Vec<(&'static str, u64)>,
    /// Launches of each kernel in one replay.
    pub(super) launches: Vec<(String, u64)>,
    /// Products of cuBLAS in one replay.
    pub(super) products: u64,
    pub(super) replays: u64,
}

// SAFETY: a graph may be used from any one thread at a time; it is only reached through its model, exclusively.
unsafe impl Send for Graph {}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Graph").field("nodes", &self.nodes).field("replays", &self.replays).finish_non_exhaustive()
    }
}

impl Graph {
    /// Captures one step. Everything it launches must have run before, so that nothing is loaded while it is captured.
    pub(super) fn capture(engine: &Engine, work: &StepWork) -> Result<Self, CandleError> {
        let gpu = &engine.gpu;
        let _alone = alone();
        let before: Vec<_> = engine.kernels.launches().map(|(_, launches)| launches).collect();
        let products = engine.products.get();
        gpu.stream
            .begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .map_err(classify("begin to capture a graph"))?;
        let enqueued = engine.step(work, &work.at());
        let captured = gpu.stream.end_capture(sys::CUgraphInstantiate_flags(0));
        enqueued?;
        let Some(graph) = captured.map_err(classify("capture a graph"))? else {
            return Err(CandleError::Feature("a step without work".to_owned()));
        };
        graph.upload().map_err(classify("upload a graph"))?;
        let launches = engine
            .kernels
            .launches()
            .zip(before)
            .map(|((name, after), before)| (name.to_owned(), after - before))
            .filter(|(_, launches)| *launches > 0)
            .collect();
        Ok(Self { nodes: node_types(&graph)?, launches, products: engine.products.get() - products, replays: 0, graph })
    }

    pub(super) fn replay(&mut self) -> Result<(), CandleError> {
        self.graph.launch().map_err(classify("launch a graph"))?;
        self.replays += 1;
        Ok(())
    }
}

/// The numbers of a step as bytes, and its tokens behind them.
pub(super) fn control_bytes(step: Step, tokens: impl Iterator<Item = u32>, to: &mut [u8]) {
    let Step { cache, tokens_out, capacity, position, index, reserved } = step;
    let wide = [cache, tokens_out].into_iter().flat_map(u64::to_ne_bytes);
    let narrow = [capacity, position, index, reserved].into_iter().chain(tokens).flat_map(u32::to_ne_bytes);
    to.iter_mut().zip(wide.chain(narrow)).for_each(|(to, from)| *to = from);
}

/// Bytes of [`control_bytes`].
pub(super) const fn control_len(batch: usize) -> usize {
    size_of::<Step>() + batch * 4
}

impl Gpu {
    /// Copies a step's numbers and tokens to the device, through pinned memory.
    pub(super) fn upload_control(
        &self,
        pinned: &mut super::device::Pinned,
        step: Step,
        tokens: &[phase_core::TokenId],
        to: Region,
    ) -> Result<(), CandleError> {
        let bytes = &mut pinned.bytes()?[..control_len(tokens.len())];
        control_bytes(step, tokens.iter().map(|token| token.0), bytes);
        self.upload(bytes, to)
    }
}
