//! What was seen while a model ran. A label or a setting is not evidence and has no constructor here.

/// Observations of one loaded model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Evidence {
    /// Where the runtime says that operators ran, by executor.
    pub placement: Vec<Placement>,
    /// Kernels seen running, by name, in a fixed order.
    pub kernels: Vec<String>,
    /// Where the observation comes from: a profile, a dispatch table.
    pub source: String,
}

impl Evidence {
    /// Observations from `source`.
    pub fn new(source: impl Into<String>) -> Self {
        Self { source: source.into(), ..Self::default() }
    }

    /// Adds `nodes` operators seen on `executor`.
    #[must_use]
    pub fn with_placement(mut self, executor: impl Into<String>, nodes: u64) -> Self {
        self.placement.push(Placement { executor: executor.into(), nodes });
        self
    }

    /// Adds a kernel that was seen.
    #[must_use]
    pub fn with_kernel(mut self, kernel: impl Into<String>) -> Self {
        self.kernels.push(kernel.into());
        self
    }
}

/// Operators seen on one executor.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Placement {
    /// The executor's own name, for example `CPUExecutionProvider`.
    pub executor: String,
    /// Operators it ran.
    pub nodes: u64,
}
