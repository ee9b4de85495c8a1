//! The dependency law of ARCHITECTURE.md, held against `cargo metadata`.

use std::{collections::BTreeMap, process::Command};

/// What the crates at the edge may see; nobody may see them.
const EVERYTHING: &[&str] = &[
    "phase-backend-burn",
    "phase-backend-candle",
    "phase-backend-ort",
    "phase-core",
    "phase-energy",
    "phase-export",
    "phase-metrics",
    "phase-model",
    "phase-policy",
    "phase-report",
    "phase-scenario",
];

/// What the program uses besides, to measure a processor's ceilings.
const PROGRAM: &[&str] = &["phase-kernels"];

/// Which of our crates each of our crates may depend on, in normal dependencies.
const ALLOWED: [(&str, &[&str]); 17] = [
    ("phase-core", &[]),
    ("phase-kernels", &[]),
    ("phase-capture", &[]),
    ("phase-model", &["phase-core"]),
    ("phase-backend-ort", &["phase-capture", "phase-core", "phase-model"]),
    ("phase-backend-candle", &["phase-capture", "phase-core", "phase-kernels", "phase-model"]),
    ("phase-backend-burn", &["phase-capture", "phase-core", "phase-kernels", "phase-model"]),
    ("phase-energy", &["phase-core"]),
    ("phase-policy", &["phase-core"]),
    ("phase-scenario", &["phase-core", "phase-energy", "phase-policy"]),
    ("phase-metrics", &["phase-core", "phase-policy"]),
    ("phase-export", &["phase-core", "phase-energy", "phase-metrics", "phase-policy", "phase-scenario"]),
    ("phase-report", &["phase-core", "phase-energy", "phase-policy", "phase-scenario"]),
    ("phase-cli", EVERYTHING),
    ("phase-examples", EVERYTHING),
    ("phase-benches", EVERYTHING),
    ("xtask", &[]),
];

/// What phase-core may use from outside.
const CORE: [&str; 2] = ["serde", "thiserror"];

fn packages() -> BTreeMap<String, Vec<String>> {
    let cargo = option_env!("CARGO").unwrap_or("cargo");
    let out = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .output()
        .expect("cargo runs");
    let metadata: serde_json::Value = serde_json::from_slice(&out.stdout).expect("cargo metadata is JSON");
    let text = |v: &serde_json::Value| v.as_str().expect("a string").to_owned();
    metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .map(|package| {
            let normal = package["dependencies"].as_array().expect("dependencies").iter().filter(|d| d["kind"].is_null());
            (text(&package["name"]), normal.map(|d| text(&d["name"])).collect())
        })
        .collect()
}

#[test]
fn every_arrow_between_our_crates_is_allowed() {
    let allowed: BTreeMap<_, _> = ALLOWED.into_iter().collect();
    let packages = packages();
    assert_eq!(packages.keys().map(String::as_str).collect::<Vec<_>>(), allowed.keys().copied().collect::<Vec<_>>());
    for (name, dependencies) in &packages {
        for dependency in dependencies.iter().filter(|d| packages.contains_key(*d)) {
            let more: &[&str] = if name == "phase-cli" { PROGRAM } else { &[] };
            let one_of = allowed[name.as_str()].iter().chain(more);
            assert!(one_of.into_iter().any(|allowed| allowed == dependency), "{name} must not depend on {dependency}: see ARCHITECTURE.md");
        }
    }
}

#[test]
fn the_contract_depends_on_almost_nothing() {
    let core = &packages()["phase-core"];
    assert!(core.iter().all(|d| CORE.contains(&d.as_str())), "phase-core depends on {core:?}, allowed: {CORE:?}");
}
