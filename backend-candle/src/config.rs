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

/// Who chooses how products of many rows are done on a CUDA device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Products {
    /// cuBLAS, in every call.
    #[default]
    Cublas,
    /// The fastest of cublasLt's first proposals for a shape, timed on the device when the shape is first seen, which then takes
    /// some ten milliseconds. It stays as long as the model; another process may choose another, and round otherwise. That is
    /// why it is not the default: prompts take 2 to 7 % less, measured on two H100s.
    Fastest,
}

impl Products {
    /// `cublas`, `fastest`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cublas => "cublas",
            Self::Fastest => "fastest",
        }
    }
}

/// Settings of the backend.
///
/// ```
/// use phase_backend_candle::{Candle, CandleConfig};
/// let backend = Candle::new(CandleConfig::default().with_prefill_rows(256));
/// # let _ = backend;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
    /// Bytes of device memory that products of many rows may work in on a CUDA device, by default the 32 MiB that NVIDIA recommends
    /// for compute capability 9.0. 0 leaves that to cuBLAS, which then allocates and frees inside every captured product that it
    /// splits along its sums; cublasLt then has none.
    pub product_workspace_bytes: usize,
    /// Who chooses how products of many rows are done on a CUDA device.
    pub products: Products,
    /// Whether the device takes the time of each part of a prompt, for [`CandleModel::prompt_parts`](crate::CandleModel). It costs
    /// some time of its own.
    pub prompt_parts: bool,
}

impl Default for CandleConfig {
    fn default() -> Self {
        Self {
            device: Device::default(),
            prefill_rows: None,
            mode: Mode::default(),
            product_workspace_bytes: 32 << 20,
            products: Products::default(),
            prompt_parts: false,
        }
    }
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

    /// Gives products of many rows so many bytes of device memory to work in.
    #[must_use]
    pub const fn with_product_workspace(mut self, bytes: usize) -> Self {
        self.product_workspace_bytes = bytes;
        self
    }

    /// Lets products of many rows be done in this way on a CUDA device.
    #[must_use]
    pub const fn with_products(mut self, products: Products) -> Self {
        self.products = products;
        self
    }

    /// Takes the time of each part of a prompt on a CUDA device.
    #[must_use]
    pub const fn with_prompt_parts(mut self, parts: bool) -> Self {
        self.prompt_parts = parts;
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
