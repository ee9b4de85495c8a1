//! What is told now and then, and kept until it is told again.

use phase_core::Evidence;
use phase_policy::{BackendValidity, Cell, Changes, LedgerSnapshot, Policy, Severity, Validity, cost::PerMillion, severity};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub(crate) struct State {
    /// Backend and boundary.
    pub(crate) boundaries: BTreeSet<(String, String)>,
    pub(crate) evidence: BTreeMap<String, Seen>,
    pub(crate) costs: BTreeMap<String, PerMillion>,
    pub(crate) cells: Vec<Cell>,
    pub(crate) policy: Option<PolicyState>,
    pub(crate) standing: Option<Standing>,
    pub(crate) ledger: Option<LedgerSnapshot>,
}

/// Evidence in numbers: the records themselves may have megabytes.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) operators: Vec<(String, u64)>,
    pub(crate) kernels: usize,
    /// Bytes of records by form.
    pub(crate) records: BTreeMap<&'static str, usize>,
}

impl Seen {
    pub(crate) fn of(evidence: &Evidence) -> Self {
        let mut records = BTreeMap::new();
        for artefact in &evidence.artefacts {
            *records.entry(artefact.form.file_name()).or_default() += artefact.bytes.len();
        }
        Self {
            operators: evidence.placement.iter().map(|p| (p.executor.clone(), p.nodes)).collect(),
            kernels: evidence.kernels.len(),
            records,
        }
    }
}

#[derive(Debug)]
pub(crate) struct PolicyState {
    pub(crate) digest: String,
    pub(crate) default_safe: String,
    pub(crate) created_unix_s: u64,
}

/// Whether the policy holds here.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    pub(crate) valid: bool,
    /// Backend and state: one of [`BACKEND_STATES`].
    pub(crate) backends: BTreeMap<String, &'static str>,
    /// Fields by backend and severity.
    pub(crate) changed: BTreeMap<(String, Severity), u64>,
}

pub(crate) const BACKEND_STATES: [&str; 3] = ["changed", "not_live", "valid"];

impl State {
    pub(crate) fn set_policy(&mut self, policy: &Policy) {
        self.policy = Some(PolicyState {
            digest: policy.digest().to_owned(),
            default_safe: policy.default_safe().to_string(),
            created_unix_s: policy.created_unix_s(),
        });
        self.standing = None;
    }

    pub(crate) fn set_validity(&mut self, validity: &Validity) {
        let mut standing = Standing { valid: validity.is_valid(), ..Standing::default() };
        for (backend, state) in &validity.backends {
            let name = match state {
                BackendValidity::Valid => "valid",
                BackendValidity::Changed(mismatch) => {
                    for field in &mismatch.fields {
                        *standing.changed.entry((backend.to_string(), severity(&field.field))).or_default() += 1;
                    }
                    "changed"
                }
                // Whatever else a later version knows, it does not run here under the policy's boundary.
                _ => "not_live",
            };
            standing.backends.insert(backend.to_string(), name);
        }
        self.standing = Some(standing);
    }

    pub(crate) fn set_changes(&mut self, policy: &Policy, changes: &Changes) {
        let mut standing = Standing { valid: changes.severity().is_none_or(Severity::holds), ..Standing::default() };
        standing.backends = policy.backends().map(|b| (b.to_string(), "valid")).collect();
        for change in &changes.changes {
            *standing.changed.entry((change.backend.to_string(), change.severity)).or_default() += 1;
            if !change.severity.holds() {
                standing.backends.insert(change.backend.to_string(), "changed");
            }
        }
        for backend in &changes.missing {
            standing.backends.insert(backend.to_string(), "not_live");
        }
        self.standing = Some(standing);
    }
}
