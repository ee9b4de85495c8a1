//! A loaded model: both phases on one graph.

use crate::{
    cache::{OrtCache, State},
    error::OrtError,
    export::Interface,
    growing::Growing,
    session::Setup,
    shared::{KvShape, Shared},
};
use ort::session::Session;
use phase_core::{
    CacheSpec, Capabilities, Decode, Evidence, Logits, Model, ModelInfo, PhaseTypes, Prefill, PromptBatch, TokenId, check_step,
};
use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// Most tokens in one run of the graph: enough for the matrix products to be bound by arithmetic, few enough for
/// activations to stay small beside the weights.
const CHUNK: usize = 512;
/// Most bytes of attention scores, or of an export's scores for every position, in one run.
const SCORES_BYTES: usize = 96 << 20;
/// Fewest tokens in a chunk, whatever the attention scores take.
const MIN_CHUNK: usize = 64;

/// A model on ONNX Runtime.
pub struct OrtModel {
    pub(crate) id: u64,
    pub(crate) info: ModelInfo,
    pub(crate) capabilities: Capabilities,
    /// None after it was given up for a profiled one that then could not be had.
    pub(crate) session: Option<Session>,
    pub(crate) setup: Setup,
    pub(crate) file: PathBuf,
    pub(crate) program: Program,
}

/// Where the graph comes from, and how it is called.
#[derive(Clone, Debug)]
pub(crate) enum Program {
    /// Another tool wrote it.
    Export(Interface),
    /// This crate wrote it.
    Own {
        /// Keys and values.
        kv: KvShape,
        /// Query heads.
        heads: usize,
        /// Whether it takes position ids.
        learned_positions: bool,
    },
}

/// A number for every model of this process, so that caches know theirs.
pub(crate) fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl OrtModel {
    /// Reopens the graph in a session that records what it runs into a file of this prefix. The present session is given up
    /// first, so that the weights are never in memory twice.
    pub(crate) fn start_profiling(&mut self, prefix: &Path) -> Result<(), OrtError> {
        drop(self.session.take());
        self.session = Some(self.setup.session(&self.file, Some(prefix))?);
        Ok(())
    }

    /// Ends the recording and says which file holds it; the session stays.
    pub(crate) fn end_profiling(&mut self) -> Result<String, OrtError> {
        let session = self.session.as_mut().ok_or(OrtError::Lost)?;
        session.end_profiling().map_err(OrtError::runtime("ending the profile"))
    }

    fn forward(&mut self, cache: &mut OrtCache, prompt: PromptBatch<'_>, out: &mut Logits) -> Result<(), OrtError> {
        if cache.model != self.id {
            return Err(OrtError::ForeignCache);
        }
        prompt.check(cache, self.info.vocab)?;
        let (vocab, batch, len, new) = (self.info.vocab, cache.batch, cache.len, prompt.len());
        let out = out.reset(batch, vocab);
        let session = self.session.as_mut().ok_or(OrtError::Lost)?;
        match (&self.program, &mut cache.state) {
            (Program::Own { heads, .. }, State::Shared(shared)) => {
                for Run { rows, at } in plan(batch, new, len, chunk(*heads, cache.capacity)) {
                    let tokens = prompt.rows().skip(rows.start).take(rows.len()).flat_map(|row| &row[at.clone()]);
                    let out = &mut out[rows.start * vocab..rows.end * vocab];
                    shared.run(session, rows, tokens, at.len(), len + at.start, out)?;
                }
            }
            (Program::Export(interface), State::Growing(growing)) => {
                for at in plan_whole(interface, batch, new, len) {
                    let tokens = prompt.rows().flat_map(|row| &row[at.clone()]);
                    growing.run(session, interface, tokens, at.len(), len + at.start, out)?;
                }
            }
            _ => return Err(OrtError::ForeignCache),
        }
        cache.len += new;
        Ok(())
    }
}

/// Tokens of a chunk for a cache of this capacity.
fn chunk(heads: usize, capacity: usize) -> usize {
    (SCORES_BYTES / (4 * heads * capacity).max(1)).clamp(MIN_CHUNK, CHUNK)
}

/// Equal pieces of at most `most`.
fn pieces(total: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let size = total.div_ceil(total.div_ceil(most));
    (0..total).step_by(size).map(move |from| from..total.min(from + size))
}

/// Divides `new` positions of all rows into runs of an export's graph.
fn plan_whole(interface: &Interface, batch: usize, new: usize, len: usize) -> Vec<Range<usize>> {
    let scores = if interface.last_only { 0 } else { 4 * interface.vocab * batch };
    let most = SCORES_BYTES.checked_div(scores).unwrap_or(CHUNK).clamp(1, CHUNK);
    if !interface.one_row_chunks || batch == 1 {
        return pieces(new, most).collect();
    }
    let first = if len == 0 { new.min(most) } else { 1 };
    std::iter::once(0..first).chain((first..new).map(|i| i..i + 1)).collect()
}

/// Which rows and which of their new positions go through the graph together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) rows: Range<usize>,
    pub(crate) at: Range<usize>,
}

/// Divides `batch` rows of `new` tokens after `len` positions into runs of the graph.
///
/// ONNX Runtime's attention takes several tokens on top of cached ones for one row at a time only. So rows go together
/// when they start from nothing or have one new token each, and one by one otherwise; few tokens for many rows go position
/// by position, because each run reads all the weights.
pub(crate) fn plan(batch: usize, new: usize, len: usize, chunk: usize) -> Vec<Run> {
    if len == 0 && new <= chunk {
        let rows = (chunk / new).max(1);
        return pieces(batch, rows).map(|rows| Run { rows, at: 0..new }).collect();
    }
    if new <= batch {
        return (0..new).map(|i| Run { rows: 0..batch, at: i..i + 1 }).collect();
    }
    (0..batch).flat_map(|row| pieces(new, chunk).map(move |at| Run { rows: row..row + 1, at })).collect()
}

impl fmt::Debug for OrtModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OrtModel").field("file", &self.file).field("program", &self.program).finish_non_exhaustive()
    }
}

impl PhaseTypes for OrtModel {
    type Cache = OrtCache;
    type Error = OrtError;
}

impl Prefill for OrtModel {
    fn prefill(&mut self, cache: &mut OrtCache, prompt: PromptBatch<'_>, out: &mut Logits) -> Result<(), OrtError> {
        self.forward(cache, prompt, out)
    }
}

impl Decode for OrtModel {
    fn decode(&mut self, cache: &mut OrtCache, tokens: &[TokenId], out: &mut Logits) -> Result<(), OrtError> {
        check_step(tokens, cache, self.info.vocab)?;
        self.forward(cache, PromptBatch::new(tokens, tokens.len())?, out)
    }
}

impl Model for OrtModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn allocate(&mut self, spec: CacheSpec) -> Result<OrtCache, OrtError> {
        let CacheSpec { batch, capacity } = spec.check(&self.capabilities)?;
        let state = match &self.program {
            Program::Own { kv, heads, learned_positions } => {
                State::Shared(Shared::new(*kv, batch, capacity, chunk(*heads, capacity), *learned_positions)?)
            }
            Program::Export(interface) => State::Growing(Growing::new(interface, batch, capacity)?),
        };
        Ok(OrtCache { model: self.id, batch, len: 0, capacity, state })
    }

    fn evidence(&mut self) -> Result<Evidence, OrtError> {
        crate::evidence::observe(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rows: Range<usize>, at: Range<usize>) -> Run {
        Run { rows, at }
    }

    #[test]
    fn an_empty_cache_takes_rows_together() {
        assert_eq!(plan(4, 128, 0, 512), [run(0..4, 0..128)]);
        assert_eq!(plan(8, 128, 0, 512), [run(0..4, 0..128), run(4..8, 0..128)]);
        assert_eq!(plan(1, 512, 0, 512), [run(0..1, 0..512)]);
    }

    #[test]
    fn one_token_each_goes_together_at_any_length() {
        assert_eq!(plan(64, 1, 100, 512), [run(0..64, 0..1)]);
        assert_eq!(plan(3, 2, 5, 512), [run(0..3, 0..1), run(0..3, 1..2)]);
    }

    #[test]
    fn longer_prompts_go_in_equal_chunks_row_by_row() {
        assert_eq!(plan(1, 520, 0, 512), [run(0..1, 0..260), run(0..1, 260..520)]);
        assert_eq!(plan(2, 3, 5, 512), [run(0..1, 0..3), run(1..2, 0..3)]);
    }
}
