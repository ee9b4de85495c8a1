//! Where the time of a prompt goes: an event behind each part, and what the part has to compute and to move.

use std::time::Duration;

use candle_core::cuda_backend::cudarc::driver::CudaEvent;
use phase_model::ModelConfig;

use super::{device::Gpu, elapsed, engine::Sum, prompt::Piece, weights::Linear};
use crate::CandleError;

/// A part of the last prompt on a CUDA device, over all layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PromptPart {
    /// What is done, for example `gate, up`.
    pub name: &'static str,
    /// How often it was done.
    pub times: usize,
    /// On the device, with the way to the next part.
    pub time: Duration,
    /// Multiplications and additions of products and of attention.
    pub operations: u64,
    /// Bytes that must be read and written, each once, wherever they are.
    pub bytes: u64,
}

/// What a part must compute and move.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    pub(super) operations: usize,
    pub(super) bytes: usize,
}

/// Times of the parts of one prompt.
#[derive(Debug, Default)]
pub(super) struct Profile {
    /// The first is in front of the first part, the others behind one each.
    events: Vec<CudaEvent>,
    parts: Vec<(&'static str, Cost)>,
}

impl Profile {
    /// Forgets the prompt before, and begins here.
    pub(super) fn begin(&mut self, gpu: &Gpu) -> Result<(), CandleError> {
        self.parts.clear();
        self.record(gpu)
    }

    /// Everything since the last call was this part.
    pub(super) fn end(&mut self, gpu: &Gpu, name: &'static str, cost: Cost) -> Result<(), CandleError> {
        self.parts.push((name, cost));
        self.record(gpu)
    }

    fn record(&mut self, gpu: &Gpu) -> Result<(), CandleError> {
        if self.events.len() <= self.parts.len() {
            self.events.push(gpu.event()?);
        }
        gpu.record(&self.events[self.parts.len()])
    }

    /// Equal parts together, in the order of a prompt. The device must be done.
    pub(super) fn sums(&self) -> Result<Vec<PromptPart>, CandleError> {
        let mut sums: Vec<PromptPart> = Vec::new();
        for ((name, cost), events) in self.parts.iter().zip(self.events.windows(2)) {
            let time = elapsed(&events[0], &events[1])?;
            let (operations, bytes) = (cost.operations as u64, cost.bytes as u64);
            match sums.iter_mut().find(|sum| sum.name == *name) {
                Some(sum) => {
                    sum.times += 1;
                    sum.time += time;
                    sum.operations += operations;
                    sum.bytes += bytes;
                }
                None => sums.push(PromptPart { name, times: 1, time, operations, bytes }),
            }
        }
        Ok(sums)
    }
}

/// What the parts of a layer cost in a piece of a prompt.
pub(super) struct Costs<'a> {
    config: &'a ModelConfig,
    /// Bytes of a number.
    element: usize,
    batch: usize,
    rows: usize,
    /// Keys that all queries of a sequence see.
    seen: usize,
    /// Positions of a sequence at the end of the piece.
    end: usize,
}

impl<'a> Costs<'a> {
    /// `start` counts the positions before the piece.
    pub(super) fn new(config: &'a ModelConfig, element: usize, batch: usize, start: usize, piece: Piece) -> Self {
        let window = config.sliding_window.unwrap_or(usize::MAX);
        let seen = (start..start + piece.len).map(|position| (position + 1).min(window)).sum();
        Self { config, element, batch, rows: batch * piece.len, seen, end: start + piece.len }
    }

    pub(super) const fn product(&self, linear: Linear, sum: Sum) -> Cost {
        let Linear { n, k, .. } = linear;
        let out = match sum {
            Sum::Narrow => self.element,
            Sum::Wide => 4,
            Sum::Onto => 8,
        };
        Cost { operations: 2 * self.rows * n * k, bytes: (n * k + self.rows * k) * self.element + self.rows * n * out }
    }

    pub(super) const fn norm(&self) -> Cost {
        self.moved(self.config.hidden * (4 + self.element))
    }

    /// `queries`: whether they are asked for.
    pub(super) fn rotate(&self, queries: bool) -> Cost {
        let width = if queries { self.config.q_dim() } else { 0 } + 2 * self.config.kv_dim();
        self.moved(width * 2 * self.element)
    }

    pub(super) fn attention(&self) -> Cost {
        let (queries, keys) = (self.config.q_dim(), self.config.kv_dim());
        let bytes = (self.rows * queries * 2 + self.batch * self.end * keys * 2) * self.element;
        Cost { operations: 4 * self.batch * self.seen * queries, bytes }
    }

    pub(super) const fn activate(&self, gate_up: Linear) -> Cost {
        self.moved((gate_up.n + self.config.intermediate) * self.element)
    }

    const fn moved(&self, bytes_of_a_row: usize) -> Cost {
        Cost { operations: 0, bytes: self.rows * bytes_of_a_row }
    }
}
