//! What reads run directories: `validate`, `report`, `compare`, `history`.

use clap::Args;
use std::path::PathBuf;

#[derive(Args, Debug)]
#[command(after_help = "Example: phase validate runs/one")]
pub(crate) struct Validate {
    /// The run directory
    pub(crate) run: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "Example: phase report runs/one --html report.html")]
pub(crate) struct Report {
    /// The run directory, or a policy file
    pub(crate) source: PathBuf,
    /// Write one self-contained page
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// The decision card only, for a terminal of 80 columns
    #[arg(long, conflicts_with = "json")]
    pub(crate) card: bool,
    /// Files that `phase import` wrote, shown in tables of their own
    #[cfg(feature = "export")]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["card", "json", "html"])]
    pub(crate) foreign: Vec<PathBuf>,
    /// Print JSON instead of Markdown
    #[arg(long)]
    pub(crate) json: bool,
    /// The backend for ties and doubts [default: the reference of the agreement check]
    #[arg(long, value_name = "BACKEND")]
    pub(crate) default_safe: Option<String>,
    /// A price book for the cost table
    #[arg(long, value_name = "BOOK")]
    pub(crate) prices: Option<PathBuf>,
    /// Files of `phase ceilings` for the roofline, in place of the run's own; a row above them voids the report and ends with code 1
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub(crate) ceilings: Vec<PathBuf>,
}

#[derive(Args, Debug)]
#[command(after_help = "Example: phase compare runs/one runs/two --threshold 0.05")]
pub(crate) struct Compare {
    /// The run to compare with
    pub(crate) base: PathBuf,
    /// The run in question
    pub(crate) run: PathBuf,
    /// Differences below this share are equivalent [default: the policy's region of equivalence, 0.02]
    #[arg(long, value_name = "SHARE")]
    pub(crate) threshold: Option<f64>,
    /// Compare across boundaries all the same; the result says so
    #[arg(long)]
    pub(crate) foreign: bool,
    /// Write one self-contained page
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "Example: phase history runs --html history.html")]
pub(crate) struct History {
    /// A folder of run directories
    pub(crate) dir: PathBuf,
    /// The cell, by its id or the beginning of it [default: the steady cell that most runs have]
    #[arg(long, value_name = "ID")]
    pub(crate) cell: Option<String>,
    /// Write one self-contained page
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
