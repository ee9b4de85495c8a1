//! The JSON form: schema, digest, consistency. `docs/schema/policy.v2.schema.json` describes it.

use super::{
    Comparison, Policy, PolicyError, Upgraded,
    compile::{check_evidence, require_measured},
    upgrade,
};
use crate::{
    CompileEvidence,
    capacity::Mix,
    constants::Constants,
    evidence::Recorded,
    matrix::{Cell, check_boundaries, check_cells},
    rules::{Standing, Warmup, warmups as warmups_of},
    warm::IdleCurve,
};
use phase_core::{BackendId, MeasurementBoundary};
use serde::Deserialize;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

/// What a policy's `schema` says: its name and the version of its form.
pub const SCHEMA: &str = "phase.policy/2";

/// A policy as read, before anybody looked at it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    schema: String,
    digest: String,
    created_unix_s: u64,
    default_safe: BackendId,
    runs: Vec<String>,
    constants: Constants,
    boundaries: BTreeMap<String, MeasurementBoundary>,
    cells: Vec<Cell>,
    comparisons: Vec<Comparison>,
    warmups: Vec<Warmup>,
    idle_curves: Vec<IdleCurve>,
    #[serde(default)]
    upgraded: Option<Upgraded>,
    #[serde(default)]
    mix: Option<Mix>,
    #[serde(default)]
    evidence: Vec<Recorded>,
}

pub(super) fn write(policy: &Policy) -> String {
    let mut json = serde_json::to_string_pretty(policy).expect("a policy has string keys and finite numbers");
    json.push('\n');
    json
}

pub(super) fn read(json: &str) -> Result<Policy, PolicyError> {
    let mut value: Value = serde_json::from_str(json)?;
    let text = |field| value.get(field).and_then(Value::as_str).ok_or(PolicyError::NotAPolicy { field });
    let found = text("schema")?;
    let from = upgrade::version(found)?;
    let (stated, actual) = (text("digest")?.to_owned(), digest_of(&value));
    if stated != actual {
        return Err(PolicyError::Digest { stated, actual });
    }
    upgrade::upgrade(&mut value, from)?;
    let Unchecked {
        schema,
        digest,
        created_unix_s,
        default_safe,
        runs,
        constants,
        boundaries,
        cells,
        comparisons,
        warmups,
        idle_curves,
        upgraded,
        mix,
        evidence,
    } = serde_json::from_value(value)?;
    let evidence = evidence.into_iter().map(CompileEvidence::recorded).collect::<Result<_, _>>().map_err(PolicyError::Inconsistent)?;
    let mut policy = Policy {
        schema,
        digest,
        created_unix_s,
        default_safe,
        runs,
        constants,
        boundaries,
        cells,
        comparisons,
        warmups,
        idle_curves,
        upgraded,
        mix,
        evidence,
    };
    if upgrade::is_older(from) {
        // Fields with a default are in what is written from here on.
        policy.digest = self::digest(&policy);
    }
    check(&policy)?;
    Ok(policy)
}

/// The digest can be computed again over edited content, so it does not stand for consistency.
fn check(policy: &Policy) -> Result<(), PolicyError> {
    let Policy {
        schema: _,
        digest: _,
        created_unix_s: _,
        default_safe,
        runs,
        constants,
        boundaries,
        cells,
        comparisons,
        warmups,
        idle_curves,
        upgraded: _,
        mix: _,
        evidence,
    } = policy;
    constants.check().map_err(PolicyError::Inconsistent)?;
    check_cells(cells, boundaries)?;
    check_boundaries(cells.iter().map(|c| (&c.key.backend, c.key.mode.as_str(), c.key.phase, c.boundary.as_str())), boundaries)?;
    require_measured(cells, default_safe)?;
    check_evidence(evidence, runs, cells)?;
    let ids: BTreeSet<_> = cells.iter().map(|c| c.key.id()).collect();
    let rests_on = comparisons.iter().flat_map(|c| &c.cells).chain(warmups.iter().flat_map(|w| &w.cells));
    if let Some(missing) = rests_on.into_iter().find(|id| !ids.contains(*id)) {
        return Err(PolicyError::Inconsistent(format!("the evidence {missing} is not there")));
    }
    for comparison in comparisons {
        let problem = |what: String| PolicyError::Inconsistent(format!("{} against {}: {what}", comparison.cells[0], comparison.cells[1]));
        if let Standing::Measured(ratio) = &comparison.standing {
            ratio.check().map_err(problem)?;
        }
        if comparison.verdict != Comparison::verdict_of(&comparison.standing, constants) {
            return Err(problem(format!("the verdict {:?} does not follow from {:?}", comparison.verdict, comparison.standing)));
        }
    }
    if *warmups != warmups_of(cells, constants) {
        return Err(PolicyError::Inconsistent("the warm-ups do not follow from the cells".to_owned()));
    }
    if let Some(curve) = idle_curves.iter().find(|c| !boundaries.contains_key(&c.boundary)) {
        return Err(PolicyError::Inconsistent(format!("the boundary `{}` of an idle curve is not there", curve.boundary)));
    }
    idle_curves.iter().try_for_each(|c| c.check(constants).map_err(PolicyError::Inconsistent))
}

pub(super) fn digest(policy: &Policy) -> String {
    digest_of(&serde_json::to_value(policy).expect("a policy has string keys and finite numbers"))
}

pub(super) fn digest_of(document: &Value) -> String {
    let mut text = String::new();
    canonical(document, true, &mut text);
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

/// Compact JSON with sorted keys, so that indentation and order of fields are no edits. Depth is bounded by the parser.
fn canonical(value: &Value, outermost: bool, out: &mut String) {
    match value {
        Value::Object(fields) => {
            let sorted: BTreeMap<_, _> = fields.iter().filter(|(key, _)| !(outermost && *key == "digest")).collect();
            out.push('{');
            for (key, value) in sorted {
                let _ = write!(out, "{}:", Value::from(key.as_str()));
                canonical(value, false, out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for item in items {
                canonical(item, false, out);
                out.push(',');
            }
            out.push(']');
        }
        scalar => {
            let _ = write!(out, "{scalar}");
        }
    }
}
