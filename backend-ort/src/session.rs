//! Sessions with this crate's settings.

use crate::{
    config::{Optimization, Waiting},
    error::OrtError,
    library::Library,
};
use ort::session::{
    Session,
    builder::{GraphOptimizationLevel, SessionBuilder},
};
use std::path::Path;

/// What a session is made with.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) library: Library,
    pub(crate) optimization: Optimization,
    pub(crate) waiting: Waiting,
    pub(crate) threads: usize,
}

impl Setup {
    /// Loads a model file; with `profile`, records every operator into a file of that prefix.
    pub(crate) fn session(&self, model: &Path, profile: Option<&Path>) -> Result<Session, OrtError> {
        let mut builder = self.builder()?;
        if let Some(prefix) = profile {
            builder = builder.with_profiling(prefix).map_err(OrtError::runtime("setting up a session"))?;
        }
        builder.commit_from_file(model).map_err(|e| OrtError::Graph { path: model.to_owned(), message: e.to_string() })
    }

    /// A session to be, with these settings.
    pub(crate) fn builder(&self) -> Result<SessionBuilder, OrtError> {
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
        let spin = if self.waiting == Waiting::Spin { "1" } else { "0" };
        for (key, value) in [("session.intra_op.allow_spinning", spin), ("session.force_spinning_stop", "1")] {
            builder = builder.with_config_entry(key, value).map_err(fail())?;
        }
        Ok(builder)
    }

    /// Settings that change speed, as facts.
    pub(crate) fn facts(&self) -> [(&'static str, String); 3] {
        [
            ("optimization", self.optimization.as_str().to_owned()),
            ("threads", self.threads.to_string()),
            ("waiting", self.waiting.as_str().to_owned()),
        ]
    }
}
