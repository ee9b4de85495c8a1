//! Keys and values that the graph extends in place: its inputs and outputs for them are the same memory.

use crate::{
    binding::{Binding, Memory, c_name},
    error::OrtError,
    graph::names,
};
use ort::session::Session;
use phase_core::TokenId;
use std::{ffi::CString, ops::Range};

/// Sizes of the keys or values of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KvShape {
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
}

impl KvShape {
    /// Elements of one layer's keys for `rows` sequences of `positions`.
    pub(crate) fn elements(self, rows: usize, positions: usize) -> usize {
        rows.saturating_mul(positions).saturating_mul(self.heads * self.head_dim)
    }
}

/// The memory of one cache.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Declared before the memory, so that they are dropped before it.
    bindings: Vec<Bound>,
    kv: Vec<Memory<f32>>,
    tokens: Memory<i64>,
    positions: Option<Memory<i64>>,
    lengths: Memory<i32>,
    total: Memory<i32>,
    shape: KvShape,
    capacity: usize,
}

/// A graph bound to some rows of the cache.
#[derive(Debug)]
struct Bound {
    rows: Range<usize>,
    /// New tokens per row that the inputs are bound for.
    new: usize,
    binding: Binding,
}

impl Shared {
    pub(crate) fn new(shape: KvShape, batch: usize, capacity: usize, chunk: usize, learned_positions: bool) -> Result<Self, OrtError> {
        let kv = Memory::touched(2 * shape.layers, shape.elements(batch, capacity))?;
        Ok(Self {
            bindings: Vec::new(),
            kv,
            tokens: Memory::new(batch.max(chunk.min(capacity * batch)))?,
            positions: learned_positions.then(|| Memory::new(chunk.min(capacity))).transpose()?,
            lengths: Memory::new(batch)?,
            total: Memory::new(1)?,
            shape,
            capacity,
        })
    }

    /// Runs the graph for `rows`, which hold `len` positions, and writes their scores to `out`.
    pub(crate) fn run<'t>(
        &mut self,
        session: &mut Session,
        rows: Range<usize>,
        tokens: impl Iterator<Item = &'t TokenId>,
        new: usize,
        len: usize,
        out: &mut [f32],
    ) -> Result<(), OrtError> {
        let count = rows.len();
        for (slot, token) in self.tokens.as_mut_slice().iter_mut().zip(tokens) {
            *slot = i64::from(token.0);
        }
        if let Some(positions) = &mut self.positions {
            positions.as_mut_slice().iter_mut().zip(len..len + new).for_each(|(slot, at)| *slot = int(at));
        }
        let total = i32::try_from(len + new).unwrap_or(i32::MAX);
        self.total.as_mut_slice()[0] = total;
        self.lengths.as_mut_slice()[..count].fill(total - 1);
        let bound = self.bound(session, rows, new)?;
        let vocab = out.len() / count;
        bound.binding.run(session, &c_name(names::LOGITS), out, &[int(count), int(vocab)])
    }

    /// The binding for these rows, made or adapted if need be.
    fn bound(&mut self, session: &Session, rows: Range<usize>, new: usize) -> Result<&mut Bound, OrtError> {
        self.bindings.retain(|bound| bound.binding.is_of(session));
        let at = match self.bindings.iter().position(|b| b.rows == rows) {
            Some(at) => at,
            None => {
                let bound = self.bind_rows(session, rows.clone())?;
                self.bindings.push(bound);
                self.bindings.len() - 1
            }
        };
        let bound = &mut self.bindings[at];
        if bound.new != new {
            bound.new = 0;
            // SAFETY: the memory lives as long as `self`, and the bindings are dropped before it.
            unsafe { bound.binding.input(&c_name(names::TOKENS), &self.tokens, 0, &[int(rows.len()), int(new)]) }?;
            if let Some(positions) = &self.positions {
                // SAFETY: as above.
                unsafe { bound.binding.input(&c_name(names::POSITIONS), positions, 0, &[int(new)]) }?;
            }
            bound.new = new;
        }
        Ok(bound)
    }

    fn bind_rows(&mut self, session: &Session, rows: Range<usize>) -> Result<Bound, OrtError> {
        let mut binding = Binding::new(session)?;
        let shape = [rows.len(), self.shape.heads, self.capacity, self.shape.head_dim].map(int);
        let at = self.shape.elements(rows.start, self.capacity);
        for (i, kv) in self.kv.iter().enumerate() {
            let [past, present] = kv_names(i);
            // SAFETY: the memory lives as long as `self`, and the bindings are dropped before it.
            unsafe { binding.input(&past, kv, at, &shape) }?;
            // SAFETY: as above.
            unsafe { binding.output(&present, kv, at, &shape) }?;
        }
        // SAFETY: as above.
        unsafe { binding.input(&c_name(names::LENGTHS), &self.lengths, 0, &[int(rows.len())]) }?;
        // SAFETY: as above.
        unsafe { binding.input(&c_name(names::TOTAL), &self.total, 0, &[]) }?;
        Ok(Bound { rows, new: 0, binding })
    }
}

/// Names of the i-th input and output for keys and values: keys and values of layer 0, of layer 1, and so on.
pub(crate) fn kv_names(i: usize) -> [CString; 2] {
    let (layer, part) = (i / 2, if i.is_multiple_of(2) { "key" } else { "value" });
    [c_name(&format!("past_key_values.{layer}.{part}")), c_name(&format!("present.{layer}.{part}"))]
}

/// Sizes here are bounded by memory, so they fit.
pub(crate) fn int(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
