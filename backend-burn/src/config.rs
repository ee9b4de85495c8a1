//! Settings of the backend: plain values with defaults.

/// How the backend runs.
///
/// ```
/// use phase_backend_burn::BurnConfig;
/// let config = BurnConfig::default().with_prefill_rows(256);
/// assert_eq!(config.prefill_rows, 256);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BurnConfig {
    /// Where the model runs.
    pub device: Device,
    /// Most positions, over all sequences, that pass the layers together, but never less than one of each sequence: it
    /// bounds the memory of a long prompt. At least 1; the default is 512.
    pub prefill_rows: usize,
    /// Products of up to so many rows go through phase-kernels instead of burn's own product, which takes one row on one
    /// core. 0 sends every product through burn. The default, 64, is every decode step and short prompts.
    pub direct_rows: usize,
}

impl Default for BurnConfig {
    fn default() -> Self {
        Self { device: Device::Cpu, prefill_rows: 512, direct_rows: 64 }
    }
}

impl BurnConfig {
    /// Lets up to `rows` positions pass the layers together.
    #[must_use]
    pub fn with_prefill_rows(mut self, rows: usize) -> Self {
        self.prefill_rows = rows;
        self
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
}
