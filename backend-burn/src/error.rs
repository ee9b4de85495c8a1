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
    #[error("weights in {dtype} are not supported by this backend: one of f32, f16, bf16")]
    DType {
        /// The format asked for.
        dtype: DType,
    },
    /// The model has a part that this backend does not implement.
    #[error("{what} is not implemented by this backend")]
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
    /// No memory on the device.
    #[error("{what} take {needed_bytes} bytes, and {available_bytes} are free on the device")]
    DeviceMemory {
        /// What was to be allocated.
        what: &'static str,
        /// Bytes it takes.
        needed_bytes: u64,
        /// Bytes that are free.
        available_bytes: u64,
    },
    /// There is no such CUDA device.
    #[error("there is no CUDA device {ordinal}: the driver shows {devices}, counted from 0")]
    NoDevice {
        /// The number asked for.
        ordinal: usize,
        /// Devices that are there.
        devices: usize,
    },
    /// The build has no CUDA path.
    #[error("this build has no CUDA path: build phase-backend-burn with its feature `cuda`, which needs nvcc 13")]
    NotBuilt,
    /// A kernel can't be compiled.
    #[error("compiling a kernel: {reason}")]
    Compiler {
        /// What the compiler said, or which one is missing.
        reason: String,
    },
    /// The CUDA driver refused.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Cuda(#[from] phase_kernels::cuda::CudaError),
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
            Self::OutOfMemory { .. } | Self::DeviceMemory { .. } => ErrorKind::OutOfMemory,
            Self::Threads { .. } | Self::NoDevice { .. } | Self::NotBuilt | Self::Compiler { .. } => ErrorKind::Unavailable,
            #[cfg(feature = "cuda")]
            Self::Cuda(e) => cuda_kind(e),
            Self::Runtime { .. } => ErrorKind::Other,
        }
    }
}

#[cfg(feature = "cuda")]
const fn cuda_kind(error: &phase_kernels::cuda::CudaError) -> ErrorKind {
    use phase_kernels::cuda::{CudaError, Refusal};
    match error {
        CudaError::Unavailable { .. } => ErrorKind::Unavailable,
        CudaError::Driver { refusal: Refusal::DeviceLost, .. } => ErrorKind::DeviceLost,
        CudaError::Driver { refusal: Refusal::OutOfMemory, .. } => ErrorKind::OutOfMemory,
        _ => ErrorKind::Other,
    }
}
