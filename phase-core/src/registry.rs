//! The backends an application has, by path and mode. A value, not a global.

use crate::{Arm, DynBackend, Mode};
use std::collections::BTreeMap;

/// Backends by path and mode.
///
/// ```
/// use phase_core::{sim::Sim, Registry};
/// let registry = Registry::new().with(Sim::default());
/// assert!(registry.get("sim").is_ok());
/// let error = registry.get("ort-cpu").unwrap_err();
/// assert_eq!(error.to_string(), "unknown backend `ort-cpu`: one of sim");
/// ```
#[derive(Debug, Default)]
pub struct Registry(BTreeMap<Arm, Box<dyn DynBackend>>);

impl Registry {
    /// No backends.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a backend; one of the same path and mode is replaced.
    #[must_use]
    pub fn with(mut self, backend: impl DynBackend + 'static) -> Self {
        self.0.insert(backend.arm(), Box::new(backend));
        self
    }

    /// The backend of this name: a path and a mode as in [`Arm`]. A path alone means its default mode, and eager where it
    /// has several.
    ///
    /// # Errors
    /// [`UnknownBackend`], with the names there are.
    pub fn get(&self, name: &str) -> Result<&dyn DynBackend, UnknownBackend> {
        let found = name.parse().ok().and_then(|arm: Arm| {
            let eager = (arm.mode == Mode::Default).then(|| Arm::new(arm.backend.clone(), Mode::Eager));
            self.0.get(&arm).or_else(|| self.0.get(&eager?))
        });
        found
            .map(|backend| &**backend)
            .ok_or_else(|| UnknownBackend { wanted: name.to_owned(), available: self.0.keys().cloned().collect() })
    }

    /// All backends, ordered by path and mode.
    pub fn iter(&self) -> impl Iterator<Item = &dyn DynBackend> {
        self.0.values().map(|backend| &**backend)
    }
}

/// There is no backend of that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown backend `{wanted}`: one of {}", .available.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
#[non_exhaustive]
pub struct UnknownBackend {
    /// What was asked for.
    pub wanted: String,
    /// What there is.
    pub available: Vec<Arm>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Sim;

    #[test]
    fn a_path_alone_is_the_eager_one_of_several() {
        let registry = Registry::new().with(Sim::default().with_mode(Mode::Compiled)).with(Sim::default().with_mode(Mode::Eager));
        assert_eq!(registry.get("sim").unwrap().mode_dyn(), Mode::Eager);
        assert_eq!(registry.get("sim@compiled").unwrap().mode_dyn(), Mode::Compiled);
        let error = registry.get("sim@fast").unwrap_err().to_string();
        assert_eq!(error, "unknown backend `sim@fast`: one of sim@eager, sim@compiled");
    }
}
