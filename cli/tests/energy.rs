//! `phase energy attribute` as a user calls it.

use std::{fmt::Write, fs, path::Path, process::Command};

/// A counter that gains 400 W in steps of 100 ms, polled every 10 ms for 10 s.
fn samples() -> String {
    let mut text = String::from("{\"schema\":\"phase.samples/1\",\"kind\":\"counter\",\"unit\":\"mJ\",\"device\":\"GPU-0\"}\n");
    for i in 0..1000_u64 {
        writeln!(text, "{{\"t_ns\":{},\"value\":{}}}", i * 10_000_000, i / 10 * 40_000).expect("a string takes everything");
    }
    text
}

const EVENTS: &str = concat!(
    r#"{"event":"long","phase":"decode","start_ns":2000000000,"end_ns":6000000000}"#,
    "\n",
    r#"{"event":"short","phase":"prefill","start_ns":2000000000,"end_ns":2050000000}"#,
    "\n",
);
const CALIBRATION: &str = r#"{"kind":"integrating","update_ns":100000000,"window_ns":100000000,"lag_ns":0,"min_w":60,"max_w":700}"#;

struct Answer {
    code: Option<i32>,
    out: String,
    err: String,
}

fn attribute(folder: &Path, json: bool) -> Answer {
    let at = |name: &str| folder.join(name);
    let out = Command::new(env!("CARGO_BIN_EXE_phase"))
        .args(["energy", "attribute", "--events"])
        .arg(at("events"))
        .arg("--samples")
        .arg(at("samples"))
        .arg("--calibration")
        .arg(at("calibration"))
        .args(json.then_some("--json"))
        .output()
        .expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Answer { code: out.status.code(), out: text(out.stdout), err: text(out.stderr) }
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, text) in [("events", EVENTS), ("samples", &samples()), ("calibration", CALIBRATION)] {
        fs::write(folder.path().join(name), text).expect("a file in a temporary folder");
    }
    folder
}

#[test]
fn every_event_has_an_answer_and_unknown_energy_has_no_number() {
    let folder = folder();
    let found = attribute(folder.path(), true);
    assert_eq!(found.code, Some(0), "{}", found.err);
    let lines: Vec<serde_json::Value> = found.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!((&lines[0]["event"], &lines[0]["status"]), (&"long".into(), &"measured".into()));
    assert!(lines[0]["low_j"].as_f64().unwrap() <= 1600.0 && 1600.0 <= lines[0]["high_j"].as_f64().unwrap());
    assert_eq!(lines[0]["updates"], 40);
    assert_eq!(lines[1], serde_json::json!({ "event": "short", "status": "no_data", "reason": "too_few_updates" }));
    let table = attribute(folder.path(), false).out;
    assert!(table.contains("long   measured") && table.contains("short  no_data       too_few_updates"), "{table}");
}

#[test]
fn bad_input_is_named_by_file_and_line() {
    let folder = folder();
    fs::write(folder.path().join("samples"), samples().replacen("\"value\":40000", "\"value\":-1", 1)).unwrap();
    let found = attribute(folder.path(), true);
    assert_eq!((found.code, found.out.as_str()), (Some(1), ""));
    assert!(found.err.contains("samples:12: a value of -1"), "{}", found.err);
    fs::remove_file(folder.path().join("events")).unwrap();
    let found = attribute(folder.path(), true);
    assert_eq!(found.code, Some(2));
    assert!(found.err.contains("events: "), "{}", found.err);
}
