//! What to load, and what was loaded.

use crate::{BackendId, CallError, DType, StackInfo};
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Which checkpoint to load and how.
///
/// ```
/// use phase_core::{DType, LoadSpec};
/// let spec = LoadSpec::new("models/smollm2").with_dtype(DType::F16).with_threads(2);
/// assert_eq!(spec.dtype, DType::F16);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadSpec {
    /// A Hugging Face folder or a GGUF file.
    pub path: PathBuf,
    /// Number format the weights are held in. The default is f32.
    pub dtype: DType,
    /// Most sequences in one cache. The default is 64.
    pub max_batch: usize,
    /// Host threads; `None` takes one per core.
    pub threads: Option<usize>,
    /// Where a backend may keep what it derives from the checkpoint; `None` takes the backend's own default.
    pub cache_dir: Option<PathBuf>,
    /// Who is told how far reading the weights is.
    pub progress: Option<LoadProgress>,
}

impl LoadSpec {
    /// The checkpoint at `path` with default settings.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().to_owned(), dtype: DType::F32, max_batch: 64, threads: None, cache_dir: None, progress: None }
    }

    /// Holds the weights in `dtype`.
    #[must_use]
    pub fn with_dtype(mut self, dtype: DType) -> Self {
        self.dtype = dtype;
        self
    }

    /// Serves batches of up to `rows`.
    #[must_use]
    pub fn with_max_batch(mut self, rows: usize) -> Self {
        self.max_batch = rows;
        self
    }

    /// Uses `threads` host threads.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Keeps derived files under `dir`.
    #[must_use]
    pub fn with_cache_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.cache_dir = Some(dir.as_ref().to_owned());
        self
    }

    /// Checks its numbers, as every backend must before it loads anything.
    ///
    /// # Errors
    /// [`CallError::Setting`] for batches of no rows, or no threads.
    ///
    /// ```
    /// let error = phase_core::LoadSpec::new("models/smollm2").with_threads(0).check().unwrap_err();
    /// assert_eq!(error.to_string(), "threads is 0, expected 1 or more");
    /// ```
    pub fn check(&self) -> Result<(), CallError> {
        let numbers = [("max_batch", Some(self.max_batch)), ("threads", self.threads)];
        match numbers.into_iter().find(|(_, n)| *n == Some(0)) {
            Some((setting, _)) => Err(CallError::Setting { setting, found: 0, expected: "1 or more" }),
            None => Ok(()),
        }
    }

    /// Tells `progress` how far reading the weights is.
    #[must_use]
    pub fn with_progress(mut self, progress: LoadProgress) -> Self {
        self.progress = Some(progress);
        self
    }
}

/// Is told the bytes of weights that were read so far, and all there are. Called on whatever thread reads, many times a
/// second: keep it short. Loading may go on after the last byte was read: weights are uploaded, kernels compiled.
///
/// ```
/// use phase_core::{LoadProgress, LoadSpec};
/// let spec = LoadSpec::new("models/smollm2").with_progress(LoadProgress::new(|done, total| eprintln!("{done} of {total} bytes")));
/// assert!(spec.progress.is_some());
/// ```
#[derive(Clone)]
pub struct LoadProgress(Arc<dyn Fn(u64, u64) + Send + Sync>);

impl LoadProgress {
    /// Calls `told` with the bytes read and the bytes there are.
    pub fn new(told: impl Fn(u64, u64) + Send + Sync + 'static) -> Self {
        Self(Arc::new(told))
    }

    /// `done` of `total` bytes were read.
    pub fn at(&self, done: u64, total: u64) {
        (self.0)(done, total);
    }
}

impl fmt::Debug for LoadProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LoadProgress")
    }
}

impl PartialEq for LoadProgress {
    /// Whether both tell the same.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for LoadProgress {}

/// What was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModelInfo {
    /// The path it runs on.
    pub backend: BackendId,
    /// Vocabulary size: scores a row of logits.
    pub vocab: usize,
    /// Positions the model was made for.
    pub max_context: usize,
    /// Number format of the weights.
    pub dtype: DType,
    /// Bytes of weights read in one decode step at batch 1: the numerator of the memory floor.
    pub weight_bytes: u64,
    /// Bytes of KV cache one position of one sequence takes.
    pub kv_bytes_per_position: u64,
    /// Multiply-accumulate operations of the matrix products for one prompt token, head excluded, times two.
    pub flops_per_token: u64,
    /// The machine, model and runtime it was loaded on.
    pub stack: StackInfo,
}

impl ModelInfo {
    /// A model of `vocab` entries and `max_context` positions on `backend`; sizes are zero and the stack empty until
    /// set.
    pub fn new(backend: BackendId, vocab: usize, max_context: usize, dtype: DType) -> Self {
        Self { backend, vocab, max_context, dtype, weight_bytes: 0, kv_bytes_per_position: 0, flops_per_token: 0, stack: StackInfo::new() }
    }

    /// Sets the work one step causes.
    #[must_use]
    pub fn with_work(mut self, weight_bytes: u64, kv_bytes_per_position: u64, flops_per_token: u64) -> Self {
        self.weight_bytes = weight_bytes;
        self.kv_bytes_per_position = kv_bytes_per_position;
        self.flops_per_token = flops_per_token;
        self
    }

    /// Sets the stack.
    #[must_use]
    pub fn with_stack(mut self, stack: StackInfo) -> Self {
        self.stack = stack;
        self
    }
}
