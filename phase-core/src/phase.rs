//! The two phases as traits, and the model and backend that offer them.
//!
//! # For applications
//! Load a [`Backend`], [`allocate`](Model::allocate) a cache, [`prefill`](Prefill::prefill) the prompt, then
//! [`decode`](Decode::decode) one token per sequence at a time. Wrap the model in [`Measured`](crate::Measured) to
//! have every call recorded.
//!
//! # For backend authors
//! - **Completion.** When a call returns `Ok`, all device work it caused has finished and `out` is readable. Pipelining
//!   inside a call is fine, across its return it is not: the caller's clock would time your launch, not your work.
//! - **Failure.** On `Err` the cache is as it was before the call, or the kind is
//!   [`DeviceLost`](ErrorKind::DeviceLost). Check arguments with [`PromptBatch::check`] and [`check_step`] first.
//! - **Silence.** A backend reads no clock, writes no event and reads no environment variable.
//! - **No fallback.** A device that can't be had is [`ErrorKind::Unavailable`], never a quiet move to another one.
//! - Run `conformance_suite!` (feature `conformance`) in your tests.
//!
//! [`check_step`]: crate::check_step
//! [`ErrorKind::Unavailable`]: crate::ErrorKind::Unavailable
//! [`DeviceLost`]: crate::ErrorKind::DeviceLost

#[expect(unused_imports, reason = "for the links above")]
use crate::ErrorKind;
use crate::{BackendId, CallError, Evidence, LoadSpec, Logits, ModelInfo, PhaseError, PromptBatch, TokenId, check_run, check_slots};
use std::fmt::Debug;

/// Keys and values of the positions already processed, for a static batch of sequences of equal length.
pub trait KvCache: Debug + Send + 'static {
    /// Number of sequences.
    fn batch(&self) -> usize;

    /// Positions held per sequence.
    fn len(&self) -> usize;

    /// Positions the cache can hold per sequence.
    fn capacity(&self) -> usize;

    /// Forgets every position from `len` on; does nothing when the cache is not longer than that. The next call
    /// continues from there. Costs no more than setting a number.
    fn truncate(&mut self, len: usize);

    /// Whether no position is held.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How large a cache to allocate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "two dimensions are the whole size")]
pub struct CacheSpec {
    /// Sequences, 1 or more.
    pub batch: usize,
    /// Positions per sequence: prompt and new tokens together.
    pub capacity: usize,
}

impl CacheSpec {
    /// Checks the size against a model's limits.
    ///
    /// # Errors
    /// [`CallError::Batch`] or [`CallError::Context`].
    pub fn check(self, capabilities: &Capabilities) -> Result<Self, CallError> {
        if self.batch == 0 || self.batch > capabilities.max_batch {
            return Err(CallError::Batch { got: self.batch, max: capabilities.max_batch });
        }
        if self.capacity == 0 || self.capacity > capabilities.max_context {
            return Err(CallError::Context { got: self.capacity, max: capabilities.max_context });
        }
        Ok(self)
    }
}

/// What a model can do. Claiming an ability buys its conformance checks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Most sequences in one cache.
    pub max_batch: usize,
    /// Most positions in one cache.
    pub max_context: usize,
    /// Prefill on a non-empty cache continues the sequence.
    pub chunked_prefill: bool,
    /// [`Model::device_time`] reports the device's own clock.
    pub device_timing: bool,
    /// The greedy calls pick the token on the device; only token ids cross to the host.
    pub device_sampling: bool,
    /// [`Decode::decode_run`] goes from step to step without the host.
    pub decode_run: bool,
}

impl Capabilities {
    /// Limits, and no optional ability.
    pub const fn new(max_batch: usize, max_context: usize) -> Self {
        Self { max_batch, max_context, chunked_prefill: false, device_timing: false, device_sampling: false, decode_run: false }
    }

    /// Claims chunked prefill.
    #[must_use]
    pub const fn with_chunked_prefill(mut self) -> Self {
        self.chunked_prefill = true;
        self
    }

    /// Claims device timing.
    #[must_use]
    pub const fn with_device_timing(mut self) -> Self {
        self.device_timing = true;
        self
    }

    /// Claims sampling on the device.
    #[must_use]
    pub const fn with_device_sampling(mut self) -> Self {
        self.device_sampling = true;
        self
    }

    /// Claims runs of steps without the host.
    #[must_use]
    pub const fn with_decode_run(mut self) -> Self {
        self.decode_run = true;
        self
    }
}

/// Ties the two phases to one cache and one error type, so that two models' caches can't be mixed up.
pub trait PhaseTypes {
    /// The cache both phases work on.
    type Cache: KvCache;
    /// What fails; arguments that don't fit among it.
    type Error: PhaseError + From<CallError>;
}

/// Ingests a prompt.
pub trait Prefill: PhaseTypes {
    /// Processes `prompt`, appends its keys and values to `cache`, and writes the scores of each row's last position
    /// to `out` (`batch x vocab`).
    ///
    /// On a non-empty cache it continues the sequence: a chunk, or a later turn of a conversation.
    ///
    /// **Completion:** see the [module](self). **Errors:** [`InvalidInput`](ErrorKind::InvalidInput) for a row count or
    /// token that does not fit, [`ContextOverflow`](ErrorKind::ContextOverflow) when the positions don't fit.
    ///
    /// # Errors
    /// As above; the cache is then as it was.
    fn prefill(&mut self, cache: &mut Self::Cache, prompt: PromptBatch<'_>, out: &mut Logits) -> Result<(), Self::Error>;

    /// As [`prefill`](Self::prefill), and picks the highest-scored token of each row instead of returning the scores.
    /// `out` has one slot per row.
    ///
    /// Its boundary includes sampling, so its times are never compared with those of `prefill`.
    ///
    /// # Errors
    /// As [`prefill`](Self::prefill).
    fn prefill_greedy(&mut self, cache: &mut Self::Cache, prompt: PromptBatch<'_>, out: &mut [TokenId]) -> Result<(), Self::Error> {
        check_slots(cache, out)?;
        let mut logits = Logits::new();
        self.prefill(cache, prompt, &mut logits)?;
        logits.argmax_into(out);
        Ok(())
    }
}

/// Generates one token per sequence.
pub trait Decode: PhaseTypes {
    /// Appends one token per row to `cache` and writes the scores of the next position to `out` (`batch x vocab`).
    ///
    /// On an empty cache it is a one-token prompt.
    ///
    /// **Completion:** see the [module](self). **Errors:** as for [`Prefill::prefill`].
    ///
    /// # Errors
    /// As above; the cache is then as it was.
    fn decode(&mut self, cache: &mut Self::Cache, tokens: &[TokenId], out: &mut Logits) -> Result<(), Self::Error>;

    /// As [`decode`](Self::decode), and picks the highest-scored token of each row. `out` has one slot per row.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    fn decode_greedy(&mut self, cache: &mut Self::Cache, tokens: &[TokenId], out: &mut [TokenId]) -> Result<(), Self::Error> {
        check_slots(cache, out)?;
        let mut logits = Logits::new();
        self.decode(cache, tokens, &mut logits)?;
        logits.argmax_into(out);
        Ok(())
    }

    /// Several steps of [`decode_greedy`](Self::decode_greedy) in one call, each on the tokens that the one before picked.
    /// `out` is `steps x batch`, one step after the other; its length says how many steps. No steps change nothing.
    ///
    /// A backend that claims [`decode_run`](Capabilities::decode_run) makes no host round trip between steps. One event
    /// covers the whole call, so its time is never compared with that of single steps.
    ///
    /// # Errors
    /// As [`decode`](Self::decode), and [`InvalidInput`](ErrorKind::InvalidInput) when `out` holds no whole number of
    /// steps. No step has happened then.
    fn decode_run(&mut self, cache: &mut Self::Cache, tokens: &[TokenId], out: &mut [TokenId]) -> Result<(), Self::Error> {
        run_of_steps(self, cache, tokens, out)
    }
}

/// A [`run`](Decode::decode_run) as so many calls of [`decode_greedy`](Decode::decode_greedy): what the trait provides, and
/// what a backend falls back to on a device that has nothing better.
///
/// # Errors
/// As [`Decode::decode_run`].
pub fn run_of_steps<M: Decode + ?Sized>(
    model: &mut M,
    cache: &mut M::Cache,
    tokens: &[TokenId],
    out: &mut [TokenId],
) -> Result<(), M::Error> {
    let (start, _) = (cache.len(), check_run(cache, out)?);
    let mut given = tokens.to_vec();
    for step in out.chunks_mut(cache.batch()) {
        if let Err(error) = model.decode_greedy(cache, &given, step) {
            cache.truncate(start);
            return Err(error);
        }
        given.copy_from_slice(step);
    }
    Ok(())
}

/// A loaded model: both phases, and what is known about it.
pub trait Model: Prefill + Decode + Debug + Send {
    /// What was loaded, and on what stack.
    fn info(&self) -> &ModelInfo;

    /// What this model can do, and its limits.
    fn capabilities(&self) -> &Capabilities;

    /// Allocates a cache. Allocation is not prefill: it is never inside a phase's time.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) or [`ContextOverflow`](ErrorKind::ContextOverflow) for a size outside
    /// the limits, [`OutOfMemory`](ErrorKind::OutOfMemory) when there is no room.
    fn allocate(&mut self, spec: CacheSpec) -> Result<Self::Cache, Self::Error>;

    /// What was *seen* while this model ran: node placement, kernels. Never what was configured.
    ///
    /// # Errors
    /// When the runtime's record can't be read.
    fn evidence(&mut self) -> Result<Evidence, Self::Error>;

    /// Time of the last phase call on the device's own clock; `None` without
    /// [`device_timing`](Capabilities::device_timing).
    fn device_time(&self) -> Option<std::time::Duration> {
        None
    }

    /// Times of the steps of the last [`decode_run`](Decode::decode_run) on the device's own clock; empty without
    /// [`device_timing`](Capabilities::device_timing), and after any other call.
    fn device_steps(&self) -> &[std::time::Duration] {
        &[]
    }
}

/// What a runtime does with a graph before it runs it. A dimension of the matrix, never a constant: whether compiling
/// pays is measured per phase and shape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Mode {
    /// The one way the path has.
    #[default]
    Default,
    /// Operations are launched one by one.
    Eager,
    /// Whole steps are prepared once and replayed: a captured graph, fused and tuned kernels.
    Compiled,
}

impl Mode {
    /// The name used in files and on the command line: `default`, `eager`, `compiled`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Eager => "eager",
            Self::Compiled => "compiled",
        }
    }
}

impl std::str::FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        let all = [Self::Default, Self::Eager, Self::Compiled];
        all.into_iter().find(|mode| mode.as_str() == text).ok_or_else(|| UnknownMode(text.to_owned()))
    }
}

/// The text names no [`Mode`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown mode `{0}`: one of default, eager, compiled")]
pub struct UnknownMode(String);

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// A runtime on a device: loads models.
pub trait Backend: Debug + Send + Sync {
    /// What it loads.
    type Model: Model<Error = Self::Error>;
    /// What fails, in loading and in the phases.
    type Error: PhaseError;

    /// Names the runtime and device, for example `candle-cpu`.
    fn id(&self) -> BackendId;

    /// What it does with a graph before it runs it.
    fn mode(&self) -> Mode {
        Mode::Default
    }

    /// Whether the libraries and the device are here, and which ones, without loading a model.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable), saying what is missing and how to get it.
    fn probe(&self) -> Result<crate::StackInfo, Self::Error>;

    /// Loads a checkpoint.
    ///
    /// # Errors
    /// [`Load`](ErrorKind::Load) for a damaged or contradictory checkpoint, [`Unsupported`](ErrorKind::Unsupported) for
    /// an architecture or dtype this backend has not, [`Unavailable`](ErrorKind::Unavailable) for a missing library or
    /// device.
    fn load(&self, spec: &LoadSpec) -> Result<Self::Model, Self::Error>;
}

impl<M: PhaseTypes + ?Sized> PhaseTypes for &mut M {
    type Cache = M::Cache;
    type Error = M::Error;
}

#[deny(clippy::missing_trait_methods)]
impl<M: Prefill + ?Sized> Prefill for &mut M {
    fn prefill(&mut self, cache: &mut Self::Cache, prompt: PromptBatch<'_>, out: &mut Logits) -> Result<(), Self::Error> {
        (**self).prefill(cache, prompt, out)
    }

    fn prefill_greedy(&mut self, cache: &mut Self::Cache, prompt: PromptBatch<'_>, out: &mut [TokenId]) -> Result<(), Self::Error> {
        (**self).prefill_greedy(cache, prompt, out)
    }
}

#[deny(clippy::missing_trait_methods)]
impl<M: Decode + ?Sized> Decode for &mut M {
    fn decode(&mut self, cache: &mut Self::Cache, tokens: &[TokenId], out: &mut Logits) -> Result<(), Self::Error> {
        (**self).decode(cache, tokens, out)
    }

    fn decode_greedy(&mut self, cache: &mut Self::Cache, tokens: &[TokenId], out: &mut [TokenId]) -> Result<(), Self::Error> {
        (**self).decode_greedy(cache, tokens, out)
    }

    fn decode_run(&mut self, cache: &mut Self::Cache, tokens: &[TokenId], out: &mut [TokenId]) -> Result<(), Self::Error> {
        (**self).decode_run(cache, tokens, out)
    }
}

#[deny(clippy::missing_trait_methods)]
impl<M: Model + ?Sized> Model for &mut M {
    fn info(&self) -> &ModelInfo {
        (**self).info()
    }

    fn capabilities(&self) -> &Capabilities {
        (**self).capabilities()
    }

    fn allocate(&mut self, spec: CacheSpec) -> Result<Self::Cache, Self::Error> {
        (**self).allocate(spec)
    }

    fn evidence(&mut self) -> Result<Evidence, Self::Error> {
        (**self).evidence()
    }

    fn device_time(&self) -> Option<std::time::Duration> {
        (**self).device_time()
    }

    fn device_steps(&self) -> &[std::time::Duration] {
        (**self).device_steps()
    }
}
