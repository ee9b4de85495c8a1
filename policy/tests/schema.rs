//! The document against its JSON Schema, and documents of older versions.

#![expect(clippy::unwrap_used, reason = "it is all test code")]

mod common;

use common::{FAST, SAFE, observations};
use jsonschema::Validator;
use phase_core::{ArtefactForm, Energy, ErrorKind, Joules, NoData, Outcome, Phase, Regime, Shape};
use phase_policy::{
    ActiveJoules, CompileEvidence, EnergyBasis, EnergySensor, IdleCurve, IdleSample, Observation, Policy, PolicyError, PolicyOptions,
    Router, SCHEMA, ScenarioMatrix, Sealed, Workload, capacity::Mix,
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};

const SCHEMA_FILE: &str = include_str!("../../docs/schema/policy.v2.schema.json");
const VERSION_1: &str = include_str!("fixtures/policy.v1.json");

fn schema() -> Value {
    serde_json::from_str(SCHEMA_FILE).unwrap()
}

fn validator() -> Validator {
    jsonschema::draft202012::new(&schema()).unwrap()
}

fn problems(validator: &Validator, document: &Value) -> Vec<String> {
    validator.iter_errors(document).map(|e| format!("{}: {e}", e.instance_path())).collect()
}

fn curves() -> Vec<IdleCurve> {
    let shape = Shape { batch: 1, new_tokens: 1, context: 64 };
    let call = |pass: u32, idle: u64| {
        let ns = if idle < 1_000 { 1_000_000 } else { 1_500_000 };
        IdleSample::new(SAFE, Phase::Decode, shape, idle, ns + u64::from(pass)).with_boundary("safe").with_block(pass)
    };
    let samples: Vec<_> = (0..5).flat_map(|pass| [0, 10, 1_000].map(|idle| call(pass, idle))).collect();
    IdleCurve::fit(&samples, &PolicyOptions::new(SAFE, 0).constants).unwrap()
}

/// Between them, every field and every variant that a document can have.
fn documents() -> Vec<Policy> {
    let mut seen = observations(&[SAFE, FAST]);
    // Long blocks: percentiles and steadiness are judged; device times; one that slows down.
    let long = |backend: &phase_core::BackendId, prompt: usize, block: u32, i: u64| {
        let mut call = common::prefill(backend, 2, prompt, block).with_device_ns(900_000);
        let slows = prompt == 64 && *backend == FAST && i >= 60;
        call.duration_ns = 1_000_000 + i * 7919 % 101 * 100 + u64::from(slows) * 200_000;
        call
    };
    for block in 0..5 {
        for backend in [SAFE, FAST] {
            seen.extend(
                [48, 64]
                    .into_iter()
                    .flat_map(|prompt| (0..100).map(move |i| (prompt, i)))
                    .map(|(prompt, i)| long(&backend, prompt, block, i)),
            );
        }
    }
    seen.push(common::prefill(&FAST, 1, 32, 9).with_outcome(Outcome::Failed(ErrorKind::OutOfMemory)));
    seen.extend((0..2).flat_map(|b| [common::prefill(&SAFE, 3, 32, b), common::prefill(&FAST, 3, 32, b)]));
    seen.extend((0..5).flat_map(|b| [common::decode(&SAFE, 3, 128, b), common::decode(&FAST, 3, 250, b)]));
    seen.push(common::prefill(&SAFE, 1, 32, 0).with_regime(Regime::Warmup(1)));
    let failed = Observation::new(SAFE, Phase::Request, Shape { batch: 1, new_tokens: 4, context: 32 }, 10);
    seen.push(failed.with_boundary("safe").with_outcome(Outcome::Cancelled));
    let mut boundaries = common::boundaries();
    for boundary in boundaries.values_mut() {
        boundary.cadence = Some(Duration::from_millis(20));
    }
    let mut matrix = ScenarioMatrix::build(&seen, &boundaries).unwrap();
    let energies = [
        Energy::Measured { joules: Joules(1.0), low: Joules(0.9), high: Joules(1.1) },
        Energy::Interpolated { joules: Joules(1.0), low: Joules(0.9), high: Joules(1.1) },
        Energy::MacroWindow {
            joules: Joules(1.0),
            low: Joules(0.9),
            high: Joules(1.1),
            replays: 10,
            windows: 3,
            method: phase_core::MacroMethod::Replay,
        },
    ];
    let keys: Vec<_> = matrix.cells().iter().map(|c| c.key.clone()).collect();
    for (key, energy) in keys.iter().zip(energies) {
        matrix.set_energy(key, energy).unwrap();
    }
    let basis = EnergyBasis {
        single: Energy::NoData { reason: NoData::TooFewUpdates },
        window: Energy::NoData { reason: NoData::NotRecorded },
        active: Some(ActiveJoules { above: "context_resident".to_owned(), joules: 0.1, low: -0.1, high: 0.3 }),
        sensors: vec![EnergySensor {
            device: "GPU-1".to_owned(),
            driver: "nvml 580".to_owned(),
            field: "total_energy".to_owned(),
            perimeter: "gpu_board".to_owned(),
            calibration: "c".to_owned(),
            calibrated_unix_s: Some(1),
            expires_unix_s: Some(2),
        }],
    };
    matrix.set_energy_with(&keys[3], Energy::NoData { reason: NoData::TooFewUpdates }, basis).unwrap();
    let options = PolicyOptions::new(SAFE, 7).with_runs(["run-1"]).with_idle_curves(curves());
    vec![common::policy(), Policy::compile(&matrix, &options).unwrap(), Policy::from_json(VERSION_1).unwrap(), evidenced()]
}

/// With a mix, and with evidence of every kind of violation.
fn evidenced() -> Policy {
    let profile = include_str!("data/ort-1.32-profile.json");
    let elsewhere = profile.replacen("CPUExecutionProvider", "CUDAExecutionProvider", 1);
    let records = [
        (ArtefactForm::CudaGraphs, r#"{"schema":"phase.cuda-graph/1","phase":"decode","batch":1,"nodes":{"host":1},"replays":3}"#),
        (
            ArtefactForm::CubeclTunings,
            r#"{"table":"t","winner":0,"trials":[{"name":"a","wall":{"secs":0,"nanos":1}}],"short_circuit":"a","dry_run":true}"#,
        ),
        (ArtefactForm::BurnFusionLog, "fusion trace (1 op, 1 block)\nidx  block\n---  -----\n0    \u{25b8} un-fused (1 op)  Float::Exp\n"),
        (ArtefactForm::OrtProfile, &elsewhere),
    ];
    let sealed: Vec<_> = records
        .iter()
        .map(|(form, text)| Sealed::new(*form, &[], text.as_bytes(), blake3::hash(text.as_bytes()).to_hex().as_str()).unwrap())
        .collect();
    let evidence = CompileEvidence::read(FAST.into(), "fast", "run-1", &sealed).unwrap();
    assert_eq!(evidence.violations().len(), 5);
    let options =
        PolicyOptions::new(SAFE, 7).with_runs(["run-1"]).with_evidence([evidence]).with_mix(Mix::parse("128x64:3,2x512x8").unwrap());
    Policy::compile(&common::matrix(&[SAFE, FAST]), &options).unwrap()
}

#[test]
fn every_document_fits_the_schema_and_reads_back() {
    let validator = validator();
    for policy in documents() {
        let json = policy.to_json();
        assert_eq!(problems(&validator, &serde_json::from_str(&json).unwrap()), Vec::<String>::new());
        assert_eq!(Policy::from_json(&json).unwrap(), policy);
    }
}

/// Names of all members below `value`; of those below members called `properties` only, where `described`.
fn names<'v>(value: &'v Value, described: bool, found: &mut BTreeSet<&'v str>) {
    let inner: Vec<&Value> = match value {
        Value::Object(members) => {
            let listed = if described { members.get("properties").and_then(Value::as_object) } else { Some(members) };
            found.extend(listed.into_iter().flat_map(|m| m.keys().map(String::as_str)));
            members.values().collect()
        }
        Value::Array(items) => items.iter().collect(),
        _ => return,
    };
    inner.into_iter().for_each(|value| names(value, described, found));
}

#[test]
fn the_schema_describes_nothing_that_no_document_has() {
    // Every field of every variant is in one of the documents, so a field that is added to a type without the schema fails
    // above, and one that is taken away fails here.
    let (schema, documents) = (schema(), documents().iter().map(|p| serde_json::to_value(p).unwrap()).collect::<Value>());
    let (mut described, mut there) = (BTreeSet::new(), BTreeSet::new());
    names(&schema, true, &mut described);
    names(&documents, false, &mut there);
    let unused: Vec<_> = described.difference(&there).filter(|name| **name != "unknown").collect();
    assert_eq!(unused, Vec::<&&str>::new());
}

#[test]
fn the_schema_lets_no_unknown_field_through() {
    // Every object of every document, with one member more.
    let validator = validator();
    for policy in documents() {
        let document = serde_json::to_value(&policy).unwrap();
        let mut places = Vec::new();
        objects(&document, &mut String::new(), &mut places);
        // Names of boundaries and facts are free.
        let closed =
            places.iter().filter(|p| !p.ends_with("/boundaries") && !["machine", "model", "runtime"].iter().any(|l| p.ends_with(l)));
        let mut tried = 0;
        for place in closed.step_by(7) {
            let mut edited = document.clone();
            edited.pointer_mut(place).unwrap()["another_field"] = json!(1);
            assert!(!validator.is_valid(&edited), "a new field in `{place}` passes");
            tried += 1;
        }
        assert!(tried > 10);
    }
}

fn objects(value: &Value, path: &mut String, found: &mut Vec<String>) {
    let inner: Vec<(String, &Value)> = match value {
        Value::Object(members) => {
            found.push(path.clone());
            members.iter().map(|(name, value)| (name.replace('~', "~0").replace('/', "~1"), value)).collect()
        }
        Value::Array(items) => items.iter().enumerate().map(|(i, item)| (i.to_string(), item)).collect(),
        _ => return,
    };
    for (name, value) in inner {
        let length = path.len();
        path.push('/');
        path.push_str(&name);
        objects(value, path, found);
        path.truncate(length);
    }
}

#[test]
fn what_the_schema_must_refuse() {
    let validator = validator();
    let document = serde_json::to_value(&documents()[1]).unwrap();
    let edits: [fn(&mut Value); 8] = [
        |d| d["schema"] = json!("phase.policy/1"),
        |d| d["digest"] = json!("0"),
        |d| d["cells"] = json!([]),
        |d| d["cells"][0]["time"]["median_ns"] = json!(-1),
        |d| d["cells"][0]["regime"] = json!("lukewarm"),
        |d| d["comparisons"][0]["standing"]["status"] = json!("liked"),
        |d| d["idle_curves"][0]["points"] = json!([]),
        |d| d["constants"]["rope"] = json!(1),
    ];
    for (i, edit) in edits.into_iter().enumerate() {
        let mut edited = document.clone();
        edit(&mut edited);
        assert!(!validator.is_valid(&edited), "edit {i}");
    }
}

/// Version 1 as it was written, after `edit`, under a digest that fits.
fn version_1(edit: impl FnOnce(&mut Value)) -> Result<Policy, PolicyError> {
    let mut document: Value = serde_json::from_str(VERSION_1)?;
    edit(&mut document);
    if let Err(PolicyError::Digest { actual, .. }) = Policy::from_json(&document.to_string()) {
        document["digest"] = actual.into();
    }
    Policy::from_json(&document.to_string())
}

#[test]
fn version_1_is_upgraded_and_says_what_it_lacks() {
    let old: Value = serde_json::from_str(VERSION_1).unwrap();
    let policy = Policy::from_json(VERSION_1).unwrap();
    let upgraded = policy.upgraded().unwrap();
    assert_eq!((upgraded.schema.as_str(), upgraded.digest.as_str()), ("phase.policy/1", old["digest"].as_str().unwrap()));
    assert_eq!(upgraded.lacks, ["idle curves: a loaded model that stood idle counts as warm"]);
    assert!(policy.idle_curves().is_empty() && policy.warmups().len() == 2);
    let warmup = &policy.warmups()[0];
    assert_eq!((json!(warmup.cold_ns), json!(warmup.ratio)), (old["warmups"][0]["cold_ns"].clone(), old["warmups"][0]["ratio"].clone()));
    assert!(warmup.ratio_interval.is_some_and(|i| i.low < warmup.ratio && warmup.ratio < i.high));
    // Cells and comparisons are word for word the old ones, and decide.
    let new: Value = serde_json::from_str(&policy.to_json()).unwrap();
    assert_eq!((&new["cells"], &new["comparisons"]), (&old["cells"], &old["comparisons"]));
    assert_eq!((&new["schema"], Policy::from_json(&policy.to_json()).unwrap()), (&json!(SCHEMA), policy.clone()));
    assert_eq!(Router::new(policy).decide(&Workload::new(1, 32, 64)).route.backend, &FAST);
}

#[test]
fn early_documents_of_version_1_lack_more() {
    let policy = version_1(|d| {
        d["constants"].as_object_mut().unwrap().remove("hysteresis");
        for cell in d["cells"].as_array_mut().unwrap() {
            cell.as_object_mut().unwrap().remove("steady");
            if !cell["time"].is_null() {
                cell["time"]["p95_ns"] = cell["time"]["max_ns"].clone();
            }
        }
    })
    .unwrap();
    let lacks = policy.upgraded().unwrap().lacks.join("\n");
    for part in ["hysteresis: this version's 0.05", "whether 8 cells are steady", "percentiles in 8 cells"] {
        assert!(lacks.contains(part), "{lacks}");
    }
}

#[test]
fn an_old_document_is_no_way_around_the_checks() {
    let edited = VERSION_1.replacen("equivalent", "faster", 1);
    assert!(matches!(Policy::from_json(&edited), Err(PolicyError::Digest { .. })));
    assert!(version_1(|d| d["cells"][0]["n"] = json!(99)).is_err());
    assert!(version_1(|d| d["cells"] = json!({})).is_err());
    assert!(version_1(|d| d["cells"].as_array_mut().unwrap().reverse()).is_err());
    assert!(version_1(|d| d["constants"] = json!(3)).is_err());
    assert!(version_1(|d| d["new_in_2"] = json!(3)).is_err());
    assert!(version_1(|d| d["comparisons"][0]["verdict"] = json!("faster")).is_err());
    // Warm-ups follow from the cells, whatever an old document says.
    let policy = version_1(|d| d["warmups"][0]["ratio"] = json!(2)).unwrap();
    assert!((policy.warmups()[0].ratio - 40.0).abs() < 1e-9);
}

#[test]
fn an_unknown_version_is_refused_by_name() {
    for found in ["phase.policy/3", "phase.policy/0", "phase.run/1", "", "phase.policy/2 "] {
        let error = Policy::from_json(&VERSION_1.replacen("phase.policy/1", found, 1)).unwrap_err();
        assert!(matches!(&error, PolicyError::Schema { found: f } if f == found));
        let words = error.to_string();
        assert!(words.contains(&format!("`{found}`")) && words.contains("phase.policy/1 and phase.policy/2"), "{words}");
    }
}

proptest::proptest! {
    #[test]
    fn no_damage_to_an_old_document_makes_reading_panic(at in 0..16_000_usize, length in 0..40_usize, patch in "[ -~]{0,12}") {
        let (start, end) = (at.min(VERSION_1.len()), (at + length).min(VERSION_1.len()));
        let damaged = format!("{}{patch}{}", &VERSION_1[..start], &VERSION_1[end..]);
        if let Ok(read) = Policy::from_json(&damaged) {
            proptest::prop_assert_eq!(read, Policy::from_json(VERSION_1).unwrap());
        }
    }
}

#[test]
fn a_policy_in_words_fits_a_terminal() {
    let words = documents()[1].summary().to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "phase.policy/2",
        "Default-safe: safe.",
        "decode, fast: won",
        "tied 6 (b1/n128 1.00,",
        "not comparable",
        "safe prefill b1/n32: 40.0 times",
        "must be warm before",
        "safe decode b1/c64: slower from 1.00 us on, 1.50 times",
        "within 2.0%",
    ] {
        // Where a line breaks is not what this is about.
        let flowing = words.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flowing.contains(part), "{part}\n{words}");
    }
    let old = documents()[2].summary().to_string();
    assert!(old.contains("phase.policy/1, which lacks:") && old.contains("- idle curves"), "{old}");
    for policy in documents() {
        let words = policy.summary().to_string();
        assert!(words.lines().all(|line| line.chars().count() <= 80), "{words}");
    }
}
