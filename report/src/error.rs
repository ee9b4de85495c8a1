//! What goes wrong around a report.

use phase_core::BoundaryMismatch;

/// A report, a comparison or a history that can't be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// Nothing to show.
    #[error("{0}")]
    Nothing(String),
    /// Two runs whose numbers may not be ranked against each other.
    #[error("the runs can't be compared: {0}")]
    NotComparable(BoundaryMismatch),
    /// A plot could not be drawn.
    #[error("could not draw {what}: {why}")]
    Plot {
        /// Which plot.
        what: &'static str,
        /// What the plotting library says.
        why: String,
    },
    /// The run can't be read.
    #[error(transparent)]
    Run(#[from] phase_scenario::ScenarioError),
    /// The page's template failed.
    #[error("could not fill the page")]
    Template(#[from] minijinja::Error),
    /// The report can't be written as JSON.
    #[error("could not write the report as JSON")]
    Json(#[from] serde_json::Error),
}
