//! Documents of older versions, step by step to the present one. Nothing is made up: what an old document lacks is absent
//! in the new one, and named.

use super::{PolicyError, SCHEMA, document};
use crate::{
    constants::{Constants, HYSTERESIS},
    matrix::{Cell, RegimeClass},
    rules,
};
use phase_core::Phase;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// That a policy was read from a document of an older version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Upgraded {
    /// The document's schema.
    pub schema: String,
    /// The document's digest.
    pub digest: String,
    /// What the document lacks, one sentence each.
    pub lacks: Vec<String>,
}

/// Schemas that are read, the oldest first.
const READABLE: [&str; 2] = ["phase.policy/1", SCHEMA];

/// The schemas that are read, for people.
pub(super) fn readable() -> String {
    READABLE.join(" and ")
}

/// Position of a schema among those that are read.
pub(super) fn version(schema: &str) -> Result<usize, PolicyError> {
    READABLE.iter().position(|known| *known == schema).ok_or_else(|| PolicyError::Schema { found: schema.to_owned() })
}

/// Whether the version at this position is older than the present one.
pub(super) fn is_older(from: usize) -> bool {
    READABLE[from] != SCHEMA
}

/// Brings a document of version `from` to the present one, under a digest that fits.
pub(super) fn upgrade(document: &mut Value, from: usize) -> Result<(), PolicyError> {
    if !is_older(from) {
        return Ok(());
    }
    let (schema, digest) = (READABLE[from].to_owned(), document["digest"].as_str().unwrap_or_default().to_owned());
    let upgraded = Upgraded { schema, digest, lacks: from_1(document)? };
    document["schema"] = SCHEMA.into();
    document["upgraded"] = serde_json::to_value(upgraded)?;
    document["digest"] = document::digest_of(document).into();
    Ok(())
}

/// Version 1 had no idle curves, and warm-ups without difference and intervals, which follow from the cells.
fn from_1(document: &mut Value) -> Result<Vec<String>, PolicyError> {
    let mut lacks = vec!["idle curves: a loaded model that stood idle counts as warm".to_owned()];
    if document["constants"].get("hysteresis").is_none() && document["constants"].is_object() {
        document["constants"]["hysteresis"] = json!(HYSTERESIS);
        lacks.push(format!("a hysteresis: this version's {HYSTERESIS} is used"));
    }
    let constants: Constants = serde_json::from_value(document["constants"].clone())?;
    let cells: Vec<Cell> = serde_json::from_value(document["cells"].clone())?;
    if cells.windows(2).any(|pair| pair[0].key >= pair[1].key) {
        return Err(PolicyError::Inconsistent("the cells are out of order".to_owned()));
    }
    let calls = || cells.iter().filter(|c| c.key.phase != Phase::Request && c.key.regime == RegimeClass::Steady);
    let unjudged = calls().filter(|c| c.steady.is_none()).count();
    if unjudged > 0 {
        lacks.push(format!("the judgement whether {unjudged} cells are steady: they count as steady"));
    }
    let unbounded = calls().filter(|c| c.time.is_some_and(|t| t.p95_ns.is_some() && t.p95_upper_ns.is_none())).count();
    if unbounded > 0 {
        lacks.push(format!("upper bounds of percentiles in {unbounded} cells: limits at p95 and p99 are not known there"));
    }
    document["warmups"] = serde_json::to_value(rules::warmups(&cells, &constants))?;
    document["idle_curves"] = json!([]);
    Ok(lacks)
}
