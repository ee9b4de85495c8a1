//! What a caller may choose beyond the load specification.

use phase_core::Mode;

/// Where a model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Device {
    /// The host's processor.
    #[default]
    Cpu,
    /// The CUDA device of this number, as the driver counts them. Needs the feature `cuda`.
    Cuda(usize),
}

/// Settings of the backend.
///
/// ```
/// use phase_backend_candle::{Candle, CandleConfig};
/// let backend = Candle::new(CandleConfig::default().with_prefill_rows(256));
/// # let _ = backend;
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct CandleConfig {
    /// Where models run.
    pub device: Device,
    /// Most positions, over all sequences, that go through the layers at a time: it bounds the memory of a long prompt.
    /// `None` takes 512 on the host's processor and 8,192 on a CUDA device.
    pub prefill_rows: Option<usize>,
    /// What is done with a decode step before it runs. On a CUDA device [`Mode::Default`] is [`Mode::Compiled`]: a step is
    /// captured as one graph per batch size when a cache is allocated, and replayed. The host's processor has one way only.
    pub mode: Mode,
    /// Bytes of device memory that cuBLAS's products may work in. 0 leaves that to cuBLAS, which then allocates and frees inside
    /// every captured product that it splits along its sums.
    pub product_workspace_bytes: usize,
    /// Whether, on a CUDA device, decode steps of up to eight rows multiply by an RMS norm's gains only and divide the products by
    /// the root of the mean square. Steps of several rows do so in bf16 alone: f16 does not hold all values before that division.
    pub late_norms: bool,
}

impl CandleConfig {
    /// Runs models on `device`.
    #[must_use]
    pub const fn with_device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// Takes a prompt in pieces of at most `rows` positions, but never less than one position of each sequence.
    #[must_use]
    pub const fn with_prefill_rows(mut self, rows: usize) -> Self {
        self.prefill_rows = Some(rows);
        self
    }

    /// Runs decode steps in this mode.
    #[must_use]
    pub const fn with_mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Gives cuBLAS's products so many bytes of device memory to work in. NVIDIA recommends 32 MiB on compute capability 9.0.
    #[must_use]
    pub const fn with_product_workspace(mut self, bytes: usize) -> Self {
        self.product_workspace_bytes = bytes;
        self
    }

    /// Lets RMS norms divide products, not rows.
    #[must_use]
    pub const fn with_late_norms(mut self, late: bool) -> Self {
        self.late_norms = late;
        self
    }

    /// Most positions at a time on this device.
    pub(crate) fn rows(&self) -> usize {
        self.prefill_rows.unwrap_or(match self.device {
            Device::Cpu => 512,
            Device::Cuda(_) => 8192,
        })
    }
}
