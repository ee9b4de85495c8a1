use std::path::PathBuf;

/// What could not be exported or imported, and why.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The file of another tool is not what it should be.
    #[error("{file}: {what}")]
    Foreign {
        /// Its name.
        file: String,
        /// What is wrong, where.
        what: String,
    },
    /// A file or folder can't be read or written.
    #[error("can't {action} {}", .path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A value that JSON can't hold.
    #[error("can't be written as JSON")]
    Json(#[from] serde_json::Error),
    /// The run has nothing that this format can hold.
    #[error("nothing to export as {format}: {why}")]
    Nothing {
        /// The format.
        format: &'static str,
        /// Why.
        why: String,
    },
    /// The Parquet library refused.
    #[error("can't be written as Parquet")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// A file of the run.
    #[error(transparent)]
    Run(#[from] phase_scenario::ScenarioError),
    /// A samples file of the run.
    #[error(transparent)]
    Samples(#[from] phase_energy::file::FileError),
}

impl ExportError {
    pub(crate) fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    pub(crate) fn foreign(file: &str, what: impl Into<String>) -> Self {
        Self::Foreign { file: file.to_owned(), what: what.into() }
    }
}
