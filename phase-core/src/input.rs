//! What goes into a phase call and what comes out of it.

use crate::{CallError, TokenId};

/// Prompt tokens of a static batch: row-major `batch x len`, every row of the same length.
///
/// Rows of unequal length are different batches: bucket them, or pad at the application's own risk. Padding is
/// never silent here, because padded and semantic tokens give different throughputs.
///
/// ```
/// use phase_core::{PromptBatch, TokenId};
/// let tokens = [1, 2, 3, 4].map(TokenId);
/// let prompt = PromptBatch::new(&tokens, 2)?;
/// assert_eq!((prompt.batch(), prompt.len()), (2, 2));
/// assert!(PromptBatch::new(&tokens, 3).is_err());
/// # Ok::<(), phase_core::CallError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct PromptBatch<'a> {
    tokens: &'a [TokenId],
    batch: usize,
}

impl<'a> PromptBatch<'a> {
    /// Splits `tokens` into `batch` rows of equal length.
    ///
    /// # Errors
    /// [`CallError::Prompt`] when there are no tokens, no rows, or the rows would differ in length.
    pub fn new(tokens: &'a [TokenId], batch: usize) -> Result<Self, CallError> {
        if batch == 0 || tokens.is_empty() || !tokens.len().is_multiple_of(batch) {
            return Err(CallError::Prompt { tokens: tokens.len(), batch });
        }
        Ok(Self { tokens, batch })
    }

    /// One row.
    ///
    /// # Errors
    /// [`CallError::Prompt`] when `tokens` is empty.
    pub fn single(tokens: &'a [TokenId]) -> Result<Self, CallError> {
        Self::new(tokens, 1)
    }

    /// Number of rows, at least 1.
    pub fn batch(self) -> usize {
        self.batch
    }

    /// Tokens per row, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "a prompt is never empty")]
    pub fn len(self) -> usize {
        self.tokens.len() / self.batch
    }

    /// All tokens, row-major.
    pub fn tokens(self) -> &'a [TokenId] {
        self.tokens
    }

    /// The rows, in order.
    pub fn rows(self) -> impl ExactSizeIterator<Item = &'a [TokenId]> {
        self.tokens.chunks_exact(self.len())
    }

    /// Checks the prompt against a cache and a vocabulary, as every backend must before it touches the cache.
    ///
    /// # Errors
    /// [`CallError::Rows`], [`CallError::Overflow`] or [`CallError::Token`].
    pub fn check(self, cache: &(impl crate::KvCache + ?Sized), vocab: usize) -> Result<(), CallError> {
        check(self.tokens, self.batch, cache, vocab)
    }
}

/// Checks that a greedy call has one slot per row for the tokens it picks.
///
/// # Errors
/// [`CallError::Rows`].
pub fn check_slots(cache: &(impl crate::KvCache + ?Sized), out: &[TokenId]) -> Result<(), CallError> {
    if out.len() == cache.batch() { Ok(()) } else { Err(CallError::Rows { got: out.len(), want: cache.batch() }) }
}

/// Checks that a run of decode steps is whole steps that fit the cache; gives how many.
///
/// # Errors
/// [`CallError::Rows`] or [`CallError::Overflow`].
pub fn check_run(cache: &(impl crate::KvCache + ?Sized), out: &[TokenId]) -> Result<usize, CallError> {
    let (rows, len, capacity) = (cache.batch(), cache.len(), cache.capacity());
    if !out.len().is_multiple_of(rows) {
        return Err(CallError::Rows { got: out.len() % rows, want: rows });
    }
    let new = out.len() / rows;
    if len + new > capacity { Err(CallError::Overflow { len, new, capacity }) } else { Ok(new) }
}

/// Checks one decode step's tokens against a cache and a vocabulary.
///
/// # Errors
/// [`CallError::Rows`], [`CallError::Overflow`] or [`CallError::Token`].
pub fn check_step(tokens: &[TokenId], cache: &(impl crate::KvCache + ?Sized), vocab: usize) -> Result<(), CallError> {
    check(tokens, tokens.len(), cache, vocab)
}

fn check(tokens: &[TokenId], rows: usize, cache: &(impl crate::KvCache + ?Sized), vocab: usize) -> Result<(), CallError> {
    if rows != cache.batch() {
        return Err(CallError::Rows { got: rows, want: cache.batch() });
    }
    let new = tokens.len() / rows;
    if cache.len() + new > cache.capacity() {
        return Err(CallError::Overflow { len: cache.len(), new, capacity: cache.capacity() });
    }
    match tokens.iter().position(|t| t.0 as usize >= vocab) {
        Some(i) => Err(CallError::Token { token: tokens[i].0, row: i / new, vocab }),
        None => Ok(()),
    }
}

/// Scores of the last position, one row of `vocab` values per sequence, in host memory.
///
/// Owned by the caller and reused from call to call: no allocation in the loop once it has grown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Logits {
    data: Vec<f32>,
    vocab: usize,
}

impl Logits {
    /// No rows yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes room for `batch` rows of `vocab` scores and gives the whole buffer, row-major, for a backend to fill.
    /// Old values may still be in it.
    pub fn reset(&mut self, batch: usize, vocab: usize) -> &mut [f32] {
        self.vocab = vocab;
        self.data.resize(batch * vocab, 0.0);
        &mut self.data
    }

    /// Scores a row: the vocabulary's size. Zero before the first call.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Number of rows.
    pub fn batch(&self) -> usize {
        self.data.len().checked_div(self.vocab).unwrap_or(0)
    }

    /// All scores, row-major `batch x vocab`.
    pub fn as_slice(&self) -> &[f32] {
        &self.data
    }

    /// The rows, in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.data.chunks_exact(self.vocab.max(1))
    }

    /// Writes the highest-scored token of each row into `out`; among equals the lowest id wins, as in `NumPy` and
    /// `PyTorch`, so that greedy output is the same on every backend.
    ///
    /// # Panics
    /// When `out` has another length than [`batch`](Self::batch).
    pub fn argmax_into(&self, out: &mut [TokenId]) {
        assert_eq!(out.len(), self.batch(), "one token per row");
        for (slot, row) in out.iter_mut().zip(self.rows()) {
            *slot = argmax(row);
        }
    }

    /// The highest-scored token of each row. See [`argmax_into`](Self::argmax_into).
    pub fn argmax(&self) -> Vec<TokenId> {
        self.rows().map(argmax).collect()
    }
}

/// The position of the largest value; the first among equals; NaN never wins.
///
/// ```
/// # use phase_core::{argmax, TokenId};
/// assert_eq!(argmax(&[1.0, 3.0, f32::NAN, 3.0]), TokenId(1));
/// ```
pub fn argmax(row: &[f32]) -> TokenId {
    // Eight running maxima fit a vector register; a single one would be a chain of dependent compares.
    let mut lanes = [f32::NEG_INFINITY; 8];
    let (chunks, rest) = row.as_chunks::<8>();
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane = lane.max(*v);
        }
    }
    let top = lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |m, v| m.max(*v));
    let at = row.iter().position(|v| *v >= top).unwrap_or(0);
    TokenId(u32::try_from(at).unwrap_or(u32::MAX))
}
