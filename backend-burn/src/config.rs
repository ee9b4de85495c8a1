//! Settings of the backend: plain values with defaults.

/// How the backend runs.
///
/// ```
/// use phase_backend_burn::Config;
/// let config = Config::default().with_chunk_rows(256);
/// assert_eq!(config.chunk_rows, 256);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Where the model runs.
    pub device: Device,
    /// Rows (sequences times positions) that pass the layers together: bounds the memory for activations. At least 1.
    pub chunk_rows: usize,
    /// Matrix products of up to so many rows are read once at memory bandwidth by our own kernel instead of going
    /// through burn's product, which runs them on one core. 0 sends every product through burn.
    pub direct_rows: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { device: Device::Cpu, chunk_rows: 512, direct_rows: 64 }
    }
}

impl Config {
    /// Lets up to `rows` rows pass the layers together.
    #[must_use]
    pub fn with_chunk_rows(mut self, rows: usize) -> Self {
        self.chunk_rows = rows;
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
