//! The one error type of this crate.

use phase_core::{CallError, DType, ErrorKind, PhaseError};
use phase_model::ModelError;

/// What fails in loading and in the phases.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BurnError {
    /// The arguments contradict the contract.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The checkpoint can't be opened or read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The cache was allocated by another model.
    #[error("the cache belongs to another model")]
    ForeignCache,
    /// A setting is outside of its range.
    #[error("{setting} is {found}, expected {expected}")]
    Setting {
        /// The setting's name.
        setting: &'static str,
        /// Its value.
        found: usize,
        /// What would be right.
        expected: &'static str,
    },
    /// A number format that this backend has no kernels for.
    #[error("weights in {dtype} are not supported by burn-cpu: one of f32, f16, bf16")]
    DType {
        /// The format asked for.
        dtype: DType,
    },
    /// The model has a part that this backend does not implement.
    #[error("{what} is not implemented by burn-cpu")]
    Unsupported {
        /// The part.
        what: String,
    },
    /// No memory for the weights or for a cache.
    #[error("no memory for {what}: {bytes} bytes")]
    OutOfMemory {
        /// What was to be allocated.
        what: &'static str,
        /// Its size.
        bytes: u64,
    },
    /// The system refused a thread.
    #[error("{threads} threads can't be started")]
    Threads {
        /// The number asked for.
        threads: usize,
        /// What the system said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// burn gave a tensor that is not where or what it should be.
    #[error("burn {op}: {reason}")]
    Runtime {
        /// The operation.
        op: &'static str,
        /// What was wrong with its output.
        reason: String,
    },
}

impl PhaseError for BurnError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Call(e) => e.kind(),
            Self::Model(e) => e.kind(),
            Self::ForeignCache => ErrorKind::ForeignCache,
            Self::Setting { .. } => ErrorKind::InvalidInput,
            Self::DType { .. } | Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::OutOfMemory { .. } => ErrorKind::OutOfMemory,
            Self::Threads { .. } => ErrorKind::Unavailable,
            Self::Runtime { .. } => ErrorKind::Other,
        }
    }
}
