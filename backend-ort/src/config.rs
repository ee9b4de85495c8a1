//! How ONNX Runtime is found and set up.

use std::path::{Path, PathBuf};

/// Settings of [`Ort`](crate::Ort).
///
/// ```
/// use phase_backend_ort::{OrtConfig, Optimization};
/// let config = OrtConfig::default().with_library("libs/libonnxruntime.so").with_optimization(Optimization::Basic);
/// assert_eq!(config.optimization, Optimization::Basic);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OrtConfig {
    /// The library file. `None` takes the one this process already runs, else asks the system's loader for
    /// `libonnxruntime.so` and `libonnxruntime.so.1`; this crate reads no environment variable to find it.
    pub library: Option<PathBuf>,
    /// How far ONNX Runtime rewrites the graph at load.
    pub optimization: Optimization,
    /// What its threads do between two operators of one call.
    pub waiting: Waiting,
}

impl OrtConfig {
    /// Uses this library file.
    #[must_use]
    pub fn with_library(mut self, path: impl AsRef<Path>) -> Self {
        self.library = Some(path.as_ref().to_owned());
        self
    }

    /// Sets how far ONNX Runtime rewrites the graph.
    #[must_use]
    pub fn with_optimization(mut self, optimization: Optimization) -> Self {
        self.optimization = optimization;
        self
    }

    /// Sets what threads do between two operators of one call.
    #[must_use]
    pub fn with_waiting(mut self, waiting: Waiting) -> Self {
        self.waiting = waiting;
        self
    }
}

/// What ONNX Runtime's threads do between two operators of one call. After a call they always sleep, because other
/// runtimes of the process want the cores then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Waiting {
    /// They sleep: better when other programs keep the cores busy.
    Sleep,
    /// They look for work without pause: better on cores of their own, because waking a thread takes as long as a small
    /// operator.
    #[default]
    Spin,
}

impl Waiting {
    /// The name used in files: `sleep`, `spin`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sleep => "sleep",
            Self::Spin => "spin",
        }
    }
}

/// How far ONNX Runtime rewrites a graph at load. The graph written here is already made of fused operators, so little is
/// left to rewrite; exports by other tools gain more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Optimization {
    /// Every rewrite.
    #[default]
    All,
    /// Rewrites that keep the operators standard: constant folding, removal of what has no effect.
    Basic,
    /// As `Basic`, and fusion into ONNX Runtime's own operators.
    Extended,
    /// None.
    Off,
}

impl Optimization {
    /// The name used in files: `all`, `basic`, `extended`, `off`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Basic => "basic",
            Self::Extended => "extended",
            Self::Off => "off",
        }
    }
}
