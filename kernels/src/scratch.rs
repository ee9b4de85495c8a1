//! Working memory that each thread keeps between calls, so that a step allocates nothing once it is warm.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};

thread_local! {
    static KEPT: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Floats borrowed from the thread; a guard and not a function of a closure, which might be compiled without vectors
/// (see [`crate::simd::Kernel`]).
pub(crate) struct Scratch {
    memory: Vec<f32>,
    len: usize,
}

impl Scratch {
    /// `len` floats, holding what earlier calls left; a second one taken before the first is dropped is fresh memory.
    pub(crate) fn take(len: usize) -> Self {
        let mut memory = KEPT.take();
        if memory.len() < len {
            memory.resize(len, 0.0);
        }
        Self { memory, len }
    }
}

impl Deref for Scratch {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.memory[..self.len]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.memory[..self.len]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A thread that is shutting down has no storage left, and frees the memory instead.
        let _ = KEPT.try_with(|kept| {
            let other = kept.take();
            let memory = std::mem::take(&mut self.memory);
            kept.set(if memory.len() >= other.len() { memory } else { other });
        });
    }
}
