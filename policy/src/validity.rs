//! Whether a policy still holds in the running process, and what voids it.

use crate::{CheckError, Policy, severity};
use phase_core::{BackendId, BoundaryMismatch, MeasurementBoundary};
use std::fmt;

/// How a policy's boundaries compare with those of the running process.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Validity {
    /// Every backend of the policy, ordered.
    pub backends: Vec<(BackendId, BackendValidity)>,
    /// Live backends that the policy was not measured with: it never routes to them.
    pub unknown: Vec<BackendId>,
}

/// How one backend stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackendValidity {
    /// It runs under another boundary: its numbers don't hold.
    Changed(BoundaryMismatch),
    /// The process does not run it.
    NotLive,
    /// It runs under the boundary that was measured.
    Valid,
}

/// The boundary of a backend that runs in several modes: that of the mode which was measured, where it is among them.
fn closest<'l>(policy: &Policy, backend: &BackendId, live: &'l [(BackendId, MeasurementBoundary)]) -> Option<&'l MeasurementBoundary> {
    let all = live.iter().filter(|(id, _)| id == backend).map(|(_, boundary)| boundary);
    all.min_by_key(|boundary| policy.check(backend, boundary).err().map_or(0, |e| e.differing()))
}

impl Validity {
    pub(crate) fn of(policy: &Policy, live: &[(BackendId, MeasurementBoundary)]) -> Self {
        let judge = |backend: &BackendId| match closest(policy, backend, live) {
            None => BackendValidity::NotLive,
            Some(boundary) => match policy.check(backend, boundary) {
                Ok(()) => BackendValidity::Valid,
                // A change that moves no number voids none.
                Err(CheckError::Changed { mismatch, .. }) if mismatch.fields.iter().all(|d| severity(&d.field).holds()) => {
                    BackendValidity::Valid
                }
                Err(CheckError::Changed { mismatch, .. }) => BackendValidity::Changed(mismatch),
                Err(CheckError::UnknownBackend { .. }) => BackendValidity::NotLive,
            },
        };
        let unknown = live.iter().map(|(id, _)| id).filter(|id| policy.boundary(id).is_none());
        Self { backends: policy.backends().map(|id| (id.clone(), judge(id))).collect(), unknown: unknown.cloned().collect() }
    }

    /// Whether nothing has changed. Backends that don't run here change nothing.
    pub fn is_valid(&self) -> bool {
        !self.backends.iter().any(|(_, v)| matches!(v, BackendValidity::Changed(_)))
    }

    /// How `backend` stands; `None` when the policy does not know it.
    pub fn of_backend(&self, backend: &BackendId) -> Option<&BackendValidity> {
        self.backends.iter().find(|(id, _)| id == backend).map(|(_, v)| v)
    }

    /// Names of the fields that changed, each once, ordered.
    pub fn triggers(&self) -> Vec<&str> {
        let changed = self.backends.iter().filter_map(|(_, v)| match v {
            BackendValidity::Changed(mismatch) => Some(&mismatch.fields),
            _ => None,
        });
        let mut fields: Vec<_> = changed.flatten().map(|d| d.field.as_str()).collect();
        fields.sort_unstable();
        fields.dedup();
        fields
    }
}

impl fmt::Display for Validity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_valid() { "valid" } else { "re-run the scenario matrix: the boundary has changed" })?;
        for (backend, validity) in &self.backends {
            write!(f, "\n  {backend}: ")?;
            match validity {
                BackendValidity::Valid => f.write_str("as measured")?,
                BackendValidity::NotLive => f.write_str("not running here")?,
                BackendValidity::Changed(mismatch) => {
                    for (i, field) in mismatch.fields.iter().enumerate() {
                        write!(f, "{}{field}", if i == 0 { "" } else { "; " })?;
                    }
                }
            }
        }
        self.unknown.iter().try_for_each(|id| write!(f, "\n  {id}: never measured, not routed to"))
    }
}
