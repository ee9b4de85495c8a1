//! How much a change of the boundary matters, and what to measure again.

use crate::{CellKey, DriftVerdict, Policy, RegimeClass, Validity, constants::MAX_AGE_S, validity::BackendValidity};
use phase_core::{BackendId, Fact, Layer, Phase, StackInfo};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt};

/// What a changed field does to a policy, from least to most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "whoever acts on severities must know all of them")]
pub enum Severity {
    /// Nothing.
    Info,
    /// Numbers hold; costs and mixes are worked out again.
    Reweight,
    /// Times must be re-checked, in paired blocks, before they are trusted.
    Recheck,
    /// Energy does not hold any more, and times must be re-checked.
    EnergyInvalid,
    /// Numbers don't hold.
    Invalid,
}

impl Severity {
    /// Whether a router may go on with the numbers.
    pub const fn holds(self) -> bool {
        matches!(self, Self::Info | Self::Reweight)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Info => "info",
            Self::Reweight => "reweight",
            Self::Recheck => "recheck",
            Self::EnergyInvalid => "energy_invalid",
            Self::Invalid => "invalid",
        })
    }
}

/// Fields that do less than [`Severity::Invalid`]. A name that ends in a star stands for all that begin so.
const RULES: [(&str, Severity); 27] = [
    ("cadence", Severity::EnergyInvalid),
    ("machine.gpu_uuid", Severity::EnergyInvalid),
    ("machine.sensor*", Severity::EnergyInvalid),
    ("sensor.*", Severity::EnergyInvalid),
    ("machine.clocks*", Severity::Recheck),
    ("machine.container*", Severity::Recheck),
    ("machine.ecc", Severity::Recheck),
    ("machine.governor", Severity::Recheck),
    ("machine.kernel", Severity::Recheck),
    ("machine.memory_gib", Severity::Recheck),
    ("machine.numa*", Severity::Recheck),
    ("machine.pcie*", Severity::Recheck),
    ("machine.persistence", Severity::Recheck),
    ("machine.power_limit*", Severity::Recheck),
    ("machine.thermal*", Severity::Recheck),
    ("machine.turbo*", Severity::Recheck),
    ("machine.workload_profile*", Severity::Recheck),
    ("arrivals*", Severity::Reweight),
    ("pue", Severity::Reweight),
    ("envelope", Severity::Recheck),
    ("policy.age", Severity::Recheck),
    ("mix*", Severity::Reweight),
    ("prices*", Severity::Reweight),
    ("machine.hostname", Severity::Info),
    // A GPU's facts are the runtime's: another backend of the process may run on another one.
    ("runtime.gpu_uuid", Severity::EnergyInvalid),
    ("runtime.gpu_power_limit*", Severity::Recheck),
    // The file's content is a fact of its own.
    ("runtime.library_file", Severity::Info),
];

/// What a change of `field` (with its layer: `machine.kernel`) does. A field that nobody thought of is
/// [`Severity::Invalid`].
///
/// ```
/// use phase_policy::{Severity, severity};
/// assert_eq!(severity("machine.kernel"), Severity::Recheck);
/// assert_eq!(severity("runtime.library_blake3"), Severity::Invalid);
/// assert_eq!(severity("machine.something_new"), Severity::Invalid);
/// ```
pub fn severity(field: &str) -> Severity {
    let fits = |rule: &str| rule.strip_suffix('*').map_or(rule == field, |start| field.starts_with(start));
    RULES.iter().find(|(rule, _)| fits(rule)).map_or(Severity::Invalid, |(_, severity)| *severity)
}

/// One field that changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Change {
    /// The backend whose numbers it concerns.
    pub backend: BackendId,
    /// The field, with its layer.
    pub field: String,
    /// Under which the policy was measured.
    pub measured: String,
    /// What it is now.
    pub now: String,
    /// What it does.
    pub severity: Severity,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backend, field, measured, now, severity } = self;
        write!(f, "{severity}: {backend}: {field} was {measured}, is {now}")
    }
}

/// What changed since a policy was measured, and what to do about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Changes {
    /// Every field that changed or can't be read.
    pub changes: Vec<Change>,
    /// Backends of the policy that this machine does not have.
    pub missing: Vec<BackendId>,
    /// Whether the default-safe backend is one of them: then the policy decides nothing here.
    pub default_missing: bool,
    /// The least that must be measured again before the policy holds.
    pub rerun: Vec<String>,
}

impl Changes {
    /// From the boundaries of a running process.
    pub fn of(policy: &Policy, validity: &Validity) -> Self {
        let mut changes = Self::default();
        for (backend, state) in &validity.backends {
            match state {
                BackendValidity::NotLive => changes.missing.push(backend.clone()),
                BackendValidity::Changed(mismatch) => changes.changes.extend(mismatch.fields.iter().map(|d| Change {
                    backend: backend.clone(),
                    field: d.field.clone(),
                    measured: d.ours.clone(),
                    now: d.theirs.clone(),
                    severity: severity(&d.field),
                })),
                BackendValidity::Valid => {}
            }
        }
        changes.with_rerun(policy)
    }

    /// From what can be seen without loading a model: the whole machine, and the facts that each runtime tells when it is
    /// probed. Facts that only a loaded model has (its digest, threads) are not looked at.
    pub fn of_probes(policy: &Policy, machine: &StackInfo, probes: &[(BackendId, StackInfo)]) -> Self {
        let mut changes = Self::default();
        for backend in policy.backends() {
            let Some((_, probe)) = probes.iter().find(|(id, _)| id == backend) else {
                changes.missing.push(backend.clone());
                continue;
            };
            let Some(boundary) = policy.boundary(backend) else { continue };
            let mut note = |field: String, measured: String, now: String| {
                let severity = severity(&field);
                changes.changes.push(Change { backend: backend.clone(), field, measured, now, severity });
            };
            for d in boundary.stack.differences(machine, Layer::Machine) {
                note(d.field, d.ours, d.theirs);
            }
            for (layer, key, now) in probe.iter().filter(|(layer, ..)| *layer == Layer::Runtime) {
                let measured = boundary.stack.fact(layer, key);
                let same = matches!((measured, now), (Some(Fact::Known(a)), Fact::Known(b)) if a == b);
                if !same {
                    note(
                        format!("{}.{key}", layer.as_str()),
                        measured.map_or_else(|| "absent".to_owned(), Fact::to_string),
                        now.to_string(),
                    );
                }
            }
        }
        changes.with_rerun(policy)
    }

    /// With the policy's age at `now`, seconds since 1970: beyond [`MAX_AGE_S`] its times are to be re-checked.
    #[must_use]
    pub fn with_age(mut self, policy: &Policy, now_unix_s: u64) -> Self {
        let age = now_unix_s.saturating_sub(policy.created_unix_s());
        if age > MAX_AGE_S {
            let days = |s: u64| format!("{} days old", s / 86_400);
            self.changes.extend(policy.backends().map(|backend| Change {
                backend: backend.clone(),
                field: "policy.age".to_owned(),
                measured: days(0),
                now: days(age),
                severity: severity("policy.age"),
            }));
        }
        self.with_rerun(policy)
    }

    /// With what live traffic says: another mix than the policy's is [`Severity::Reweight`], requests outside of what was
    /// measured are [`Severity::Recheck`] of the default-safe backend's cells and of all that are held against it.
    #[must_use]
    pub fn with_drift(mut self, policy: &Policy, verdict: DriftVerdict) -> Self {
        let change = |field: &str, now: String| Change {
            backend: policy.default_safe().clone(),
            field: field.to_owned(),
            measured: "the policy's mix".to_owned(),
            now,
            severity: severity(field),
        };
        match verdict {
            DriftVerdict::Reweight { distance } => self.changes.push(change("mix", format!("{:.0}% of requests moved", distance * 100.0))),
            DriftVerdict::Rerun { outside } => {
                self.changes.push(change("envelope", format!("{:.1}% of requests outside of what was measured", outside * 100.0)));
            }
            DriftVerdict::Same { .. } | DriftVerdict::TooFew { .. } => {}
        }
        self.with_rerun(policy)
    }

    /// The most severe change; `None` when nothing changed. A missing default-safe backend is invalid.
    pub fn severity(&self) -> Option<Severity> {
        if self.default_missing {
            return Some(Severity::Invalid);
        }
        self.changes.iter().map(|c| c.severity).max()
    }

    /// Cells of the backends whose numbers no longer hold, and of the default-safe one in the same buckets: comparisons are
    /// paired, and the other side must run in the same blocks.
    pub(crate) fn with_rerun(mut self, policy: &Policy) -> Self {
        self.default_missing = self.missing.contains(policy.default_safe());
        let changed: BTreeSet<_> = self.changes.iter().filter(|c| !c.severity.holds()).map(|c| &c.backend).collect();
        let all = changed.contains(policy.default_safe());
        let concerned = |key: &CellKey| all || changed.contains(&key.backend);
        let wanted = |key: &CellKey| key.phase != Phase::Request && key.regime != RegimeClass::Warmup;
        let buckets: BTreeSet<_> = policy.cells().iter().map(|c| &c.key).filter(|k| concerned(k)).map(|k| (k.phase, k.shape)).collect();
        let paired = |key: &CellKey| key.backend == *policy.default_safe() && buckets.contains(&(key.phase, key.shape));
        let keys = policy.cells().iter().map(|c| &c.key).filter(|k| wanted(k) && (concerned(k) || paired(k)));
        self.rerun = keys.map(CellKey::id).collect();
        self
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.severity() {
            None => f.write_str("the policy holds: nothing changed")?,
            Some(worst) if worst.holds() => write!(f, "the policy holds; the most that changed is {worst}")?,
            Some(worst) => write!(f, "the policy does not hold: {worst}")?,
        }
        self.changes.iter().try_for_each(|c| write!(f, "\n  {c}"))?;
        self.missing.iter().try_for_each(|id| write!(f, "\n  {id}: not on this machine, never routed to"))?;
        if !self.rerun.is_empty() {
            write!(f, "\nmeasure again:")?;
        }
        self.rerun.iter().try_for_each(|id| write!(f, "\n  {id}"))
    }
}
