//! What fails in this backend.

use phase_core::{CallError, DType, ErrorKind, PhaseError};
use phase_model::ModelError;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a model can't be loaded, or a call not be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CandleError {
    /// The arguments of a call don't fit the cache or the model.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The checkpoint can't be used.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The cache was allocated by another model.
    #[error("the cache belongs to another model: a cache serves the model that allocated it")]
    ForeignCache,
    /// The machine has no room.
    #[error("{what} take {needed_bytes} bytes, and {available_bytes} are available")]
    OutOfMemory {
        /// What was to be allocated.
        what: &'static str,
        /// Bytes it takes.
        needed_bytes: u64,
        /// Bytes that the system can still give.
        available_bytes: u64,
    },
    /// A setting of the load specification has no meaning.
    #[error("{setting} is {found}, expected {expected}")]
    Setting {
        /// The setting.
        setting: &'static str,
        /// Its value.
        found: usize,
        /// What would be right.
        expected: &'static str,
    },
    /// A number format this backend has no kernels for.
    #[error("weights in {0} are not supported; supported: f32, f16, bf16")]
    DType(DType),
    /// A part of the model this backend has no kernels for.
    #[error("{0} is not implemented in this backend")]
    Feature(String),
    /// The system refused threads.
    #[error("start {threads} threads")]
    Threads {
        /// Threads asked for.
        threads: usize,
        /// What the system said.
        source: Source,
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
    #[error("this build has no CUDA path: build phase-backend-candle with its feature `cuda`, which needs nvcc 13")]
    NotBuilt,
    /// The CUDA driver or one of our kernels refused.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Cuda(#[from] phase_kernels::cuda::CudaError),
    /// candle refused an operation.
    #[error("candle: {action}")]
    Candle {
        /// What was attempted.
        action: &'static str,
        /// What candle said.
        source: Source,
    },
}

impl CandleError {
    pub(crate) fn candle(action: &'static str) -> impl FnOnce(candle_core::Error) -> Self {
        move |source| Self::Candle { action, source: Box::new(source) }
    }

    pub(crate) fn threads(threads: usize) -> impl FnOnce(Source) -> Self {
        move |source| Self::Threads { threads, source }
    }
}

impl PhaseError for CandleError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Call(e) => e.kind(),
            Self::Model(e) => e.kind(),
            Self::ForeignCache => ErrorKind::ForeignCache,
            Self::OutOfMemory { .. } => ErrorKind::OutOfMemory,
            Self::Setting { .. } => ErrorKind::InvalidInput,
            Self::DType(_) | Self::Feature(_) => ErrorKind::Unsupported,
            Self::Threads { .. } => ErrorKind::Unavailable,
            Self::NoDevice { .. } | Self::NotBuilt => ErrorKind::Unavailable,
            #[cfg(feature = "cuda")]
            Self::Cuda(e) => cuda_kind(e),
            Self::Candle { .. } => ErrorKind::Other,
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
