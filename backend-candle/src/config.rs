//! What a caller may choose beyond the load specification.

/// Where a model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Device {
    /// The host's processor.
    #[default]
    Cpu,
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
    /// The default is 512.
    pub prefill_rows: usize,
}

impl Default for CandleConfig {
    fn default() -> Self {
        Self { device: Device::default(), prefill_rows: 512 }
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
        self.prefill_rows = rows;
        self
    }
}
