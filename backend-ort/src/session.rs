//! Sessions with this crate's settings.

use crate::{
    config::Optimization,
    error::OrtError,
    library::Library,
};
use ort::session::{Session, builder::GraphOptimizationLevel};
use std::path::Path;

/// What a session is made with.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) library: Library,
    pub(crate) optimization: Optimization,
    pub(crate) threads: usize,
}

impl Setup {
    /// Loads a model file; with `profile`, records every operator into a file of that prefix.
    pub(crate) fn session(&self, model: &Path, profile: Option<&Path>) -> Result<Session, OrtError> {
        let fail = OrtError::runtime("setting up a session");
        let builder = Session::builder(&self.library.environment).map_err(fail)?;
        let fail = || OrtError::runtime("setting up a session");
        let level = match self.optimization {
            Optimization::Off => GraphOptimizationLevel::Disable,
            Optimization::Basic => GraphOptimizationLevel::Level1,
            Optimization::Extended => GraphOptimizationLevel::Level2,
            Optimization::All => GraphOptimizationLevel::All,
        };
        let mut builder = builder
            .with_optimization_level(level)
            .map_err(fail())?
            .with_intra_threads(self.threads)
            .map_err(fail())?
            .with_inter_threads(1)
            .map_err(fail())?;
        for (key, value) in Self::ENTRIES {
            builder = builder.with_config_entry(key, value).map_err(fail())?;
        }
        if let Some(prefix) = profile {
            builder = builder.with_profiling(prefix).map_err(fail())?;
        }
        builder.commit_from_file(model).map_err(|e| OrtError::Graph { path: model.to_owned(), message: e.to_string() })
    }

    /// Threads spin while a graph runs, because waking one costs as much as a small operator, and stop when it has run,
    /// because other runtimes share the processor.
    const ENTRIES: [(&'static str, &'static str); 2] = [("session.intra_op.allow_spinning", "1"), ("session.force_spinning_stop", "1")];

    /// Settings that change speed, as facts.
    pub(crate) fn facts() -> impl Iterator<Item = (&'static str, &'static str)> {
        Self::ENTRIES.into_iter()
    }
}
