//! What the numbers hold for, and what makes them void.

use phase_core::{Fact, Layer, MeasurementBoundary};
use phase_policy::{Cell, Severity, severity};
use phase_scenario::arm_of;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// One boundary id, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Identity {
    /// The id that numbers carry.
    pub id: String,
    /// The competitors whose cells carry it.
    pub arms: Vec<String>,
    /// What the timed region spans: `call`.
    pub span: String,
    /// What happens inside it: `compute+device_to_host`.
    pub includes: String,
    /// Who took the time.
    pub timing: String,
    /// Version of the definitions.
    pub definitions: u32,
}

/// One captured fact.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[non_exhaustive]
pub struct BoundaryFact {
    /// `machine.cpu`.
    pub field: String,
    /// What was read, or why it could not be.
    pub value: String,
    /// Whether it could be read: an unknown fact never equals anything.
    pub known: bool,
    /// Whose it is; empty for one that all share.
    pub arms: Vec<String>,
    /// What its change does.
    pub severity: Severity,
}

/// What makes the decisions void, by severity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Trigger {
    /// What its change does.
    pub severity: Severity,
    /// What to do then.
    pub action: &'static str,
    /// The fields' short names, each once: `cpu`, `library`.
    pub names: Vec<String>,
    /// Fields, each with its present value.
    pub fields: Vec<[String; 2]>,
}

pub(crate) fn identities(cells: &[Cell], boundaries: &BTreeMap<String, MeasurementBoundary>) -> Vec<Identity> {
    let arms = |id: &str| {
        let own = cells.iter().filter(|c| c.boundary == id).map(|c| arm_of(&c.key.backend, &c.key.mode).to_string());
        own.collect::<BTreeSet<_>>().into_iter().collect()
    };
    let identity = |(id, b): (&String, &MeasurementBoundary)| Identity {
        id: id.clone(),
        arms: arms(id),
        span: format!("{:?}", b.span).to_lowercase(),
        includes: b.includes.to_string(),
        timing: format!("{:?}", b.timing).to_lowercase(),
        definitions: b.definitions,
    };
    boundaries.iter().map(identity).collect()
}

/// Every fact once, with whose it is: first what all share.
pub(crate) fn facts(identities: &[Identity], boundaries: &BTreeMap<String, MeasurementBoundary>) -> Vec<BoundaryFact> {
    let mut found: BTreeMap<(Layer, String, String, bool), BTreeSet<String>> = BTreeMap::new();
    for identity in identities {
        let Some(boundary) = boundaries.get(&identity.id) else { continue };
        for (layer, key, fact) in boundary.stack.iter() {
            let known = matches!(fact, Fact::Known(_));
            found.entry((layer, key.to_owned(), fact.to_string(), known)).or_default().extend(identity.arms.iter().cloned());
        }
    }
    let all: BTreeSet<_> = identities.iter().flat_map(|i| &i.arms).collect();
    let mut facts: Vec<_> = found
        .into_iter()
        .map(|((layer, key, value, known), arms)| {
            let field = format!("{}.{key}", layer.as_str());
            let shared = arms.len() == all.len() && layer != Layer::Runtime || all.len() == 1;
            BoundaryFact {
                severity: severity(&field),
                field,
                value,
                known,
                arms: if shared { Vec::new() } else { arms.into_iter().collect() },
            }
        })
        .collect();
    facts.sort_by_key(|f| !f.arms.is_empty());
    facts
}

pub(crate) fn triggers(facts: &[BoundaryFact]) -> Vec<Trigger> {
    let levels = [
        (Severity::Invalid, "measure again: the numbers do not hold"),
        (Severity::EnergyInvalid, "calibrate and measure energy again, re-check times"),
        (Severity::Recheck, "re-check times in paired blocks"),
    ];
    let of = |(level, action)| {
        let own = facts.iter().filter(|f| f.severity == level);
        let name = |f: &BoundaryFact| if f.arms.is_empty() { f.field.clone() } else { format!("{} ({})", f.field, f.arms.join(", ")) };
        let mut names: Vec<String> = Vec::new();
        for short in own.clone().filter_map(|f| f.field.rsplit('.').next()) {
            if !names.iter().any(|n| n == short) {
                names.push(short.to_owned());
            }
        }
        Trigger { severity: level, action, names, fields: own.map(|f| [name(f), f.value.clone()]).collect() }
    };
    levels.into_iter().map(of).filter(|t| !t.fields.is_empty()).collect()
}
