//! Keys and values of an export that reads what it was given and writes all of it again, longer: two buffers in turn.

use crate::{
    binding::{Binding, Memory, c_name},
    error::OrtError,
    export::Interface,
    shared::{int, kv_names},
};
use ort::session::Session;
use phase_core::TokenId;

/// The memory of one cache.
#[derive(Debug)]
pub(crate) struct Growing {
    /// Declared before the memory, so that it is dropped before it. None until the first run.
    binding: Option<Binding>,
    /// Two buffers per layer and part: the one read, and the one written.
    kv: [Vec<Memory<f32>>; 2],
    tokens: Memory<i64>,
    mask: Memory<i64>,
    positions: Memory<i64>,
    scores: Vec<f32>,
    /// Which buffer is read next.
    current: usize,
    /// Positions that buffer is laid out for: more than the cache's length after a truncation or a failed call.
    held: usize,
    batch: usize,
}

impl Growing {
    pub(crate) fn new(interface: &Interface, batch: usize, capacity: usize) -> Result<Self, OrtError> {
        let buffers = || Memory::touched(2 * interface.kv.layers, interface.kv.elements(batch, capacity));
        let mut mask = Memory::new(batch * capacity)?;
        mask.as_mut_slice().fill(1);
        Ok(Self {
            binding: None,
            kv: [buffers()?, buffers()?],
            tokens: Memory::new(batch * capacity)?,
            mask,
            positions: Memory::new(batch * capacity)?,
            scores: Vec::new(),
            current: 0,
            held: 0,
            batch,
        })
    }

    /// Appends `new` tokens per row after `len` positions and writes the scores of the last one to `out`.
    pub(crate) fn run<'t>(
        &mut self,
        session: &mut Session,
        interface: &Interface,
        tokens: impl Iterator<Item = &'t TokenId>,
        new: usize,
        len: usize,
        out: &mut [f32],
    ) -> Result<(), OrtError> {
        self.shorten(interface, len);
        for (slot, token) in self.tokens.as_mut_slice().iter_mut().zip(tokens) {
            *slot = i64::from(token.0);
        }
        let positions = (0..self.batch).flat_map(|_| len..len + new);
        self.positions.as_mut_slice().iter_mut().zip(positions).for_each(|(slot, at)| *slot = int(at));
        let mut binding = match self.binding.take().filter(|binding| binding.is_of(session)) {
            Some(binding) => binding,
            None => Binding::new(session)?,
        };
        // Kept only once it is bound to this run's memory as a whole.
        self.bind(&mut binding, interface, new, len)?;
        let binding = self.binding.insert(binding);
        let vocab = interface.vocab;
        let logits = c_name("logits");
        if interface.last_only || new == 1 {
            binding.run(session, &logits, out, &[int(self.batch), 1, int(vocab)])?;
        } else {
            self.scores.resize(self.batch * new * vocab, 0.0);
            binding.run(session, &logits, &mut self.scores, &[int(self.batch), int(new), int(vocab)])?;
            for (to, row) in out.chunks_exact_mut(vocab).zip(self.scores.chunks_exact(new * vocab)) {
                to.copy_from_slice(&row[(new - 1) * vocab..]);
            }
        }
        self.current = 1 - self.current;
        self.held = len + new;
        Ok(())
    }

    fn bind(&self, binding: &mut Binding, interface: &Interface, new: usize, len: usize) -> Result<(), OrtError> {
        let (batch, heads, width) = (self.batch, interface.kv.heads, interface.kv.head_dim);
        let ids = [batch, new].map(int);
        // SAFETY: all memory bound here lives as long as `self`, and the binding is dropped before it.
        unsafe { binding.input(&c_name("input_ids"), &self.tokens, 0, &ids) }?;
        if interface.has_mask {
            // SAFETY: as above.
            unsafe { binding.input(&c_name("attention_mask"), &self.mask, 0, &[batch, len + new].map(int)) }?;
        }
        if interface.has_positions {
            // SAFETY: as above.
            unsafe { binding.input(&c_name("position_ids"), &self.positions, 0, &ids) }?;
        }
        let (past, present) = ([batch, heads, len, width].map(int), [batch, heads, len + new, width].map(int));
        for i in 0..2 * interface.kv.layers {
            let [past_name, present_name] = kv_names(i);
            // SAFETY: as above.
            unsafe { binding.input(&past_name, &self.kv[self.current][i], 0, &past) }?;
            // SAFETY: as above.
            unsafe { binding.output(&present_name, &self.kv[1 - self.current][i], 0, &present) }?;
        }
        Ok(())
    }

    /// Lays the buffer that is read next out for `len` positions.
    fn shorten(&mut self, interface: &Interface, len: usize) {
        let width = interface.kv.head_dim;
        let (from, to) = (self.held * width, len * width);
        if from == to {
            return;
        }
        for memory in &mut self.kv[self.current] {
            let memory = memory.as_mut_slice();
            for head in 0..self.batch * interface.kv.heads {
                memory.copy_within(head * from..head * from + to, head * to);
            }
        }
        self.held = len;
    }
}
