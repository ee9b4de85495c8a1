//! Settings of the backend: plain values with defaults.

use std::path::PathBuf;

use phase_core::Mode;

/// How the backend runs.
///
/// ```
/// use phase_backend_burn::BurnConfig;
/// let config = BurnConfig::default().with_prefill_rows(256);
/// assert_eq!(config.prefill_rows, Some(256));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BurnConfig {
    /// Where the model runs.
    pub device: Device,
    /// Most positions, over all sequences, that pass the layers together, but never less than one of each sequence: it
    /// bounds the memory of a long prompt. At least 1; `None` takes 512 on the processor and 8,192 on a CUDA device.
    pub prefill_rows: Option<usize>,
    /// Products of up to so many rows go through phase-kernels instead of burn's own product, which takes one row on one
    /// core. 0 sends every product through burn. The default, 64, is every decode step and short prompts. On
    /// a CUDA device it means nothing.
    pub direct_rows: usize,
    /// What is done with a decode step before it runs. On a CUDA device [`Mode::Default`] is [`Mode::Compiled`]: a step is
    /// captured as a graph when a cache is allocated, and replayed. The processor has one way only.
    pub mode: Mode,
    /// Where CUDA is installed: kernels are compiled when a model is loaded, against its headers. `None` looks into
    /// `/usr/local/cuda` and `/opt/cuda`.
    pub cuda_home: Option<PathBuf>,
}

impl Default for BurnConfig {
    fn default() -> Self {
        Self { device: Device::Cpu, prefill_rows: None, direct_rows: 64, mode: Mode::Default, cuda_home: None }
    }
}

impl BurnConfig {
    /// Lets up to `rows` positions pass the layers together.
    #[must_use]
    pub fn with_prefill_rows(mut self, rows: usize) -> Self {
        self.prefill_rows = Some(rows);
        self
    }

    /// Runs models on `device`.
    #[must_use]
    pub fn with_device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// Runs decode steps in this mode.
    #[must_use]
    pub fn with_mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Takes CUDA's headers from the installation in this folder.
    #[must_use]
    pub fn with_cuda_home(mut self, home: impl Into<PathBuf>) -> Self {
        self.cuda_home = Some(home.into());
        self
    }

    /// Most positions at a time on this device.
    pub(crate) fn rows(&self) -> usize {
        self.prefill_rows.unwrap_or(match self.device {
            Device::Cpu => 512,
            Device::Cuda(_) => 8192,
        })
    }

    /// Keeps products of up to `rows` rows from burn's own product.
    #[must_use]
    pub fn with_direct_rows(mut self, rows: usize) -> Self {
        self.direct_rows = rows;
        self
    }
}

/// Where a model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Device {
    /// burn's `Device::flex()`: the processor, through burn-flex.
    #[default]
    Cpu,
    /// The CUDA device of this number, as the driver counts them. Needs the feature `cuda`.
    Cuda(usize),
}
