//! The backends an application has, by id. A value, not a global.

use crate::{BackendId, DynBackend};
use std::collections::BTreeMap;

/// Backends by id.
///
/// ```
/// use phase_core::{sim::Sim, Registry};
/// let registry = Registry::new().with(Sim::default());
/// assert!(registry.get("sim").is_ok());
/// let error = registry.get("ort-cpu").unwrap_err();
/// assert_eq!(error.to_string(), "unknown backend `ort-cpu`: one of sim");
/// ```
#[derive(Debug, Default)]
pub struct Registry(BTreeMap<BackendId, Box<dyn DynBackend>>);

impl Registry {
    /// No backends.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a backend; one with the same id is replaced.
    #[must_use]
    pub fn with(mut self, backend: impl DynBackend + 'static) -> Self {
        self.0.insert(backend.id_dyn(), Box::new(backend));
        self
    }

    /// The backend with this id.
    ///
    /// # Errors
    /// [`UnknownBackend`], with the ids there are.
    pub fn get(&self, id: &str) -> Result<&dyn DynBackend, UnknownBackend> {
        let found = self.0.iter().find(|(known, _)| known.as_str() == id);
        found
            .map(|(_, backend)| &**backend)
            .ok_or_else(|| UnknownBackend { wanted: id.to_owned(), available: self.0.keys().cloned().collect() })
    }

    /// All backends, ordered by id.
    pub fn iter(&self) -> impl Iterator<Item = &dyn DynBackend> {
        self.0.values().map(|backend| &**backend)
    }
}

/// There is no backend of that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown backend `{wanted}`: one of {}", .available.iter().map(BackendId::as_str).collect::<Vec<_>>().join(", "))]
#[non_exhaustive]
pub struct UnknownBackend {
    /// What was asked for.
    pub wanted: String,
    /// What there is.
    pub available: Vec<BackendId>,
}
