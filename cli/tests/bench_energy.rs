//! `phase bench --energy` as a user calls it, with a recording in place of a sensor.

#![cfg(feature = "candle")]

use serde_json::Value;
use std::{
    fmt::Write,
    fs,
    path::Path,
    process::{Command, Output},
};

/// A counter that gains 300 W in steps of 50 ms, for ten minutes.
fn readings() -> String {
    let mut text = String::from("{\"schema\":\"phase.samples/1\",\"kind\":\"counter\",\"unit\":\"mJ\",\"device\":\"known\"}\n");
    for i in 0..12_000_u64 {
        writeln!(text, "{{\"t_ns\":{},\"value\":{}}}", i * 50_000_000, i * 15_000).expect("a string takes everything");
    }
    text
}

const CALIBRATION: &str = r#"{"kind":"integrating","update_ns":50000000,"window_ns":50000000,"lag_ns":0,"min_w":60,"max_w":700}"#;

fn phase(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_phase"))
        .current_dir(folder)
        .args(["--cache", "cache", "--threads", "1"])
        .args(arguments)
        .output()
        .expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, text) in [("readings", readings().as_str()), ("calibration", CALIBRATION)] {
        fs::write(folder.path().join(name), text).expect("a file in a temporary folder");
    }
    let made = phase(folder.path(), &["model", "random", "--shape", "tiny", "--out", "model"]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    folder
}

const BENCH: [&str; 10] = ["bench", "--model", "model", "--backends", "candle", "-p", "16", "-r", "3", "--energy"];

fn json(folder: &Path, file: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(folder.join(file)).expect("the file is there")).expect("JSON")
}

#[test]
fn a_known_power_comes_out_in_cells_report_and_policy() {
    let folder = folder();
    let rest = ["--energy-source", "readings", "--energy-calibration", "calibration", "--energy-window", "0.5", "--out", "run"];
    let done = phase(folder.path(), &[&BENCH[..], &rest].concat());
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(text(&done.stderr).contains("readings are not of this machine"), "{}", text(&done.stderr));
    let energy = json(folder.path(), "run/energy.json");
    let cell = &energy["cells"][0];
    let number = |of: &Value| of.as_f64().unwrap_or_else(|| panic!("{cell}"));
    let truth = 300.0 * number(&cell["call_s"]);
    assert_eq!(cell["energy"]["status"], "macro_window", "{cell}");
    assert!(number(&cell["energy"]["low"]) <= truth && truth <= number(&cell["energy"]["high"]), "{truth} J in {cell}");
    assert!((number(&cell["joules_per_token"][0]) * 16.0 / truth - 1.0).abs() < 0.05, "{truth} J in {cell}");
    // The power at rest is the same, so that nothing is above it.
    let active = &cell["basis"]["active"];
    assert!(number(&active["low"]) < 0.0 && 0.0 < number(&active["high"]), "{cell}");
    let valid = phase(folder.path(), &["validate", "run"]);
    assert!(valid.status.success(), "{}", text(&valid.stderr));
    let report = text(&phase(folder.path(), &["report", "run"]).stdout);
    assert!(report.contains("macro_window") && report.contains("J/request"), "{report}");
    let compiled = phase(folder.path(), &["policy", "run", "--default-safe", "candle", "--out", "policy.json"]);
    assert!(compiled.status.success(), "{}", text(&compiled.stderr));
    // That sensor is not of this machine: its energies don't hold, and the times do.
    let check = phase(folder.path(), &["check", "--policy", "policy.json", "--json"]);
    assert_eq!(check.status.code(), Some(12), "{}", text(&check.stdout));
    assert!(text(&check.stdout).contains("sensor.device"), "{}", text(&check.stdout));
}

#[test]
fn a_budget_is_planned_ahead_and_what_does_not_fit_says_what_it_needs() {
    let folder = folder();
    let sensor = ["-n", "4", "-d", "16", "--energy-source", "readings", "--energy-calibration", "calibration", "--energy-window", "0.5"];
    let within = |seconds, more: &[&str]| phase(folder.path(), &[&BENCH[..], &sensor, &["--energy-budget", seconds], more].concat());
    let planned = within("14", &["--dry-run", "--out", "none"]);
    let said = text(&planned.stdout);
    assert!(planned.status.success() && said.contains("energy, after the blocks:") && !folder.path().join("none").exists(), "{said}");
    let line = |call: &str| said.lines().find(|l| l.contains(call)).unwrap_or_else(|| panic!("{call}: {said}"));
    assert!(line("decode b1 c16..19").contains("5 windows of ") && line("prefill b1 n16").contains("left out: needs "), "{said}");
    // However busy the machine is: a second is not enough for anything, and the run is whole all the same.
    let done = within("1", &["--out", "run"]);
    assert!(done.status.success() && text(&done.stderr).contains("left out: needs "), "{}", text(&done.stderr));
    let energy = json(folder.path(), "run/energy.json");
    for cell in energy["cells"].as_array().expect("cells") {
        assert_eq!(cell["energy"], serde_json::json!({ "status": "no_data", "reason": "budget" }));
        assert!(cell["notes"][0].as_str().is_some_and(|n| n.contains(" s at least; ")), "{cell}");
    }
    // The sampler's own cost is in the files and in the report.
    assert!(energy["sampler"]["cpu_ns"].as_u64().is_some_and(|ns| ns > 0), "{}", energy["sampler"]);
    let report = text(&phase(folder.path(), &["report", "run"]).stdout);
    assert!(report.contains("no_data: budget") && report.contains(" % of a core"), "{report}");
    assert!(phase(folder.path(), &["validate", "run"]).status.success());
}

#[test]
fn without_a_calibrated_sensor_there_is_a_reason_and_no_number() {
    let folder = folder();
    let done = phase(folder.path(), &[&BENCH[..], &["--out", "run"]].concat());
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(text(&done.stderr).contains("energy: no_data ("), "{}", text(&done.stderr));
    let energy = json(folder.path(), "run/energy.json");
    let reason = energy["reason"].as_str().expect("a reason");
    assert!(["no_source", "uncalibrated", "device_shared", "mig"].contains(&reason), "{reason}");
    for cell in energy["cells"].as_array().expect("cells") {
        assert_eq!(cell["energy"], serde_json::json!({ "status": "no_data", "reason": reason }));
        assert!(cell["joules_per_token"].is_null() && cell["tokens_per_joule"].is_null());
    }
    let report = text(&phase(folder.path(), &["report", "run"]).stdout);
    assert!(report.contains(&format!("`no_data` ({reason}) for every cell")), "{report}");
}

#[test]
fn wrong_use_is_said_before_anything_runs() {
    let folder = folder();
    let code = |rest: &[&str]| {
        let out = phase(folder.path(), &[&BENCH[..], rest].concat());
        (out.status.code(), text(&out.stderr))
    };
    let (found, said) = code(&["--energy-calibration", "none.json"]);
    assert!(found == Some(2) && said.contains("none.json"), "{said}");
    let (found, said) = code(&["--energy-source", "readings", "--energy-calibration", "model"]);
    assert!(found == Some(2) && said.contains("calibration-*.json"), "{said}");
    let (found, said) = code(&["--energy-window", "0"]);
    assert!(found == Some(2) && said.contains("windows of 0 s"), "{said}");
    let without = phase(folder.path(), &["bench", "--model", "model", "-p", "16", "--energy-calibration", "calibration"]);
    assert_eq!(without.status.code(), Some(2));
}
