//! What fails, with what was attempted and what would be right.

use phase_core::{CallError, DType, ErrorKind, PhaseError};
use phase_model::ModelError;
use std::path::PathBuf;

/// Why ONNX Runtime can't be had, a model can't be loaded, or a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OrtError {
    /// The arguments of a call don't fit the cache or the model.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The cache was allocated by another model.
    #[error("this cache belongs to another model")]
    ForeignCache,
    /// The checkpoint can't be used.
    #[error(transparent)]
    Checkpoint(#[from] ModelError),
    /// The library file can't be loaded.
    #[error("ONNX Runtime is not available: {}: {reason}; {HOW_TO_GET}", library.display())]
    Library {
        /// The file tried, or the name that the system's loader searched for.
        library: PathBuf,
        /// Why it can't be used.
        reason: String,
    },
    /// The library is older than the interface this crate was built for.
    #[error("ONNX Runtime {found} in {} is too old, {minimum} or newer is needed; {HOW_TO_GET}", library.display())]
    LibraryVersion {
        /// The file.
        library: PathBuf,
        /// What it says it is.
        found: String,
        /// The oldest version that works.
        minimum: String,
    },
    /// One process can hold one ONNX Runtime library, and holds another one already.
    #[error(
        "this process already runs ONNX Runtime from {}, so {} can't be loaded beside it; use one library per process",
        loaded.display(), asked.display()
    )]
    LibraryConflict {
        /// The library in use.
        loaded: PathBuf,
        /// The library asked for.
        asked: PathBuf,
    },
    /// ONNX Runtime's CPU kernels have no matrix product in this number format.
    #[error("ort-cpu can't hold weights in {0}: ONNX Runtime's CPU kernels multiply in f32 only; ask for f32")]
    DType(DType),
    /// The model has a property that the graph can't express.
    #[error("ONNX Runtime does not support {what} = {found}: {supported}")]
    Unsupported {
        /// The property.
        what: &'static str,
        /// Its value.
        found: String,
        /// What is supported.
        supported: String,
    },
    /// A derived file could not be written or read.
    #[error("{action} {}: {source}", path.display())]
    Store {
        /// What was attempted, for example `write`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// No place is known for derived files.
    #[error("no folder for derived files: this user has no home folder, so LoadSpec::cache_dir must be set")]
    NoStore,
    /// An ONNX file is not a decoder export that this crate can run.
    #[error("{} is not a decoder export that can be run: {reason}", path.display())]
    Export {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        reason: String,
    },
    /// There is no memory for a cache.
    #[error("no memory for {bytes} bytes of KV cache")]
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
    },
    /// ONNX Runtime refused a graph.
    #[error("ONNX Runtime can't load {}: {message}", path.display())]
    Graph {
        /// The file.
        path: PathBuf,
        /// What it said.
        message: String,
    },
    /// ONNX Runtime refused a call.
    #[error("ONNX Runtime, {action}: {message}")]
    Runtime {
        /// What was attempted.
        action: &'static str,
        /// What it said.
        message: String,
    },
    /// The session was given up to record what runs where, and could not be opened again.
    #[error("the model's session could not be opened again after its evidence was asked for; load the model anew")]
    Lost,
    /// There is no such device, or no driver for it.
    #[error("CUDA is not available: {reason}")]
    Device {
        /// What is missing.
        reason: String,
    },
    /// Kernels can't be compiled for the device.
    #[error(
        "NVIDIA's run-time compiler is not available: {reason}; `pip install nvidia-cuda-nvrtc` brings libnvrtc.so.13, which must be on the loader's path"
    )]
    Compiler {
        /// What is missing, or what the compiler said.
        reason: String,
    },
    /// The device has no memory for something.
    #[error("no memory for {what} on the device: {bytes} bytes asked for, {free} of {total} bytes free")]
    DeviceMemory {
        /// What the memory was for.
        what: &'static str,
        /// Bytes asked for.
        bytes: usize,
        /// Bytes that were free then.
        free: usize,
        /// Bytes the device has.
        total: usize,
    },
    /// The device no longer answers; the model and its caches are lost.
    #[error("the CUDA device is lost, {action}: {message}")]
    DeviceLost {
        /// What was attempted.
        action: &'static str,
        /// What was said.
        message: String,
    },
    /// The driver refused a call.
    #[error("CUDA, {action}: {message}")]
    Cuda {
        /// What was attempted.
        action: &'static str,
        /// What the driver said.
        message: String,
    },
    /// A profile that ONNX Runtime wrote is not what was expected.
    #[error("ONNX Runtime's profile can't be read: {0}")]
    Profile(String),
}

/// The advice in every message about a library that can't be had.
const HOW_TO_GET: &str = "get one with `pip download onnxruntime` (the file is onnxruntime/capi/libonnxruntime.so.*), and name it \
                          with `--ort-library` or PHASE_ORT_LIBRARY";

impl OrtError {
    /// Turns ONNX Runtime's own error into ours, saying what was attempted.
    pub(crate) fn runtime<R>(action: &'static str) -> impl FnOnce(ort::Error<R>) -> Self {
        move |e| Self::Runtime { action, message: e.to_string() }
    }

    pub(crate) fn store(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Store { action, path, source }
    }
}

impl PhaseError for OrtError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Call(e) => e.kind(),
            Self::Checkpoint(e) => e.kind(),
            Self::ForeignCache => ErrorKind::ForeignCache,
            Self::Library { .. } | Self::LibraryVersion { .. } | Self::LibraryConflict { .. } => ErrorKind::Unavailable,
            Self::Device { .. } | Self::Compiler { .. } => ErrorKind::Unavailable,
            Self::DeviceLost { .. } => ErrorKind::DeviceLost,
            Self::DType(_) | Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::Store { .. } | Self::NoStore | Self::Export { .. } | Self::Graph { .. } => ErrorKind::Load,
            Self::OutOfMemory { .. } | Self::DeviceMemory { .. } => ErrorKind::OutOfMemory,
            Self::Lost => ErrorKind::DeviceLost,
            Self::Runtime { .. } | Self::Cuda { .. } | Self::Profile(_) => ErrorKind::Other,
        }
    }
}
