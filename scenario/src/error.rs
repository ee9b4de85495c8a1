//! What goes wrong around a run.

use phase_core::{Arm, BoundaryMismatch};
use std::{io, path::PathBuf};

/// A run, or a run directory, that can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScenarioError {
    /// The run directory is sealed: there is nothing left to resume.
    #[error("{} holds a complete run: nothing to resume", .dir.display())]
    AlreadyComplete {
        /// The directory.
        dir: PathBuf,
    },
    /// The process runs under another boundary than the one the run was started under.
    #[error("{backend} no longer runs under the boundary of this run: {mismatch}")]
    BoundaryChanged {
        /// The path whose boundary changed.
        backend: Arm,
        /// Every field that differs or is unknown.
        mismatch: BoundaryMismatch,
    },
    /// A call of a measurement outside of runs failed.
    #[error("{backend}: a call failed")]
    Call {
        /// The path.
        backend: Arm,
        /// Why.
        #[source]
        source: phase_core::BoxError,
    },
    /// Ceilings that can't be measured or used.
    #[error("ceilings: {0}")]
    Ceilings(String),
    /// A file does not say what it should.
    #[error("{}{}: {why}", .file, .line.map_or_else(String::new, |n| format!(" line {n}")))]
    Damaged {
        /// The file, relative to the run directory.
        file: String,
        /// Its line, counted from 1, where that is known.
        line: Option<usize>,
        /// What is wrong.
        why: String,
    },
    /// A run that was stopped before its end.
    #[error("{} is incomplete: {}; resume it to finish", .dir.display(), .missing.join(", "))]
    Incomplete {
        /// The directory.
        dir: PathBuf,
        /// What is missing.
        missing: Vec<String>,
    },
    /// The file system refused.
    #[error("could not {action} {}: {source}", .path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The events of this run can't be made into a matrix.
    #[error("no matrix can be built from the events")]
    Matrix(#[source] phase_policy::MatrixError),
    /// The directory of a new run must be empty.
    #[error("{} is not empty and holds no run that could be resumed", .dir.display())]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
    },
    /// No backend of the plan could be loaded.
    #[error("no backend could be loaded: {}", .failures.join("; "))]
    NothingLoaded {
        /// Each backend's own message.
        failures: Vec<String>,
    },
    /// The plan contradicts itself or the registry.
    #[error("plan: {0}")]
    Plan(String),
    /// The directory holds an unfinished run and a new one was asked for.
    #[error("{} holds an unfinished run of {done} of {total} blocks: resume it, or take another directory", .dir.display())]
    Resumable {
        /// The directory.
        dir: PathBuf,
        /// Blocks done.
        done: usize,
        /// Blocks planned.
        total: usize,
    },
    /// The file is of another version.
    #[error("{file}: schema `{found}` is not the `{wanted}` this version reads")]
    Schema {
        /// The file.
        file: String,
        /// Its schema.
        found: String,
        /// The one that can be read.
        wanted: &'static str,
    },
    /// A scenario set that can't be used.
    #[error("scenario set `{set}`: {why}")]
    Set {
        /// Its id, or the name of its file.
        set: String,
        /// What is wrong.
        why: String,
    },
}

impl ScenarioError {
    pub(crate) fn damaged(file: &str, line: impl Into<Option<usize>>, why: impl Into<String>) -> Self {
        Self::Damaged { file: file.to_owned(), line: line.into(), why: why.into() }
    }

    pub(crate) fn plan(why: impl Into<String>) -> Self {
        Self::Plan(why.into())
    }
}
