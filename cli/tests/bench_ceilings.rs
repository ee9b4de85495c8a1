//! `phase bench` measures the machine's ceilings by itself, and the report holds every row against them.

#![cfg(feature = "candle")]

use serde_json::Value;
use std::{
    path::Path,
    process::{Command, Output},
};

fn phase(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_phase"));
    command.current_dir(folder).args(["--cache", "cache", "--threads", "1"]).args(arguments).output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn fine(folder: &Path, arguments: &[&str]) -> String {
    let out = phase(folder, arguments);
    assert!(out.status.success(), "{arguments:?}: {}", text(&out.stderr));
    text(&out.stdout)
}

fn gate(report: &Value) -> &Value {
    let gates = report["gates"].as_array().expect("gates");
    gates.iter().find(|gate| gate["name"] == "roofline").unwrap_or_else(|| panic!("{gates:?}"))
}

#[test]
fn measured_ceilings_are_sealed_with_the_run_and_decide_the_gate() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path();
    fine(folder, &["model", "random", "--shape", "tiny", "--out", "model"]);
    let bench = ["bench", "--model", "model", "--backends", "candle", "-p", "16", "-n", "4", "-r", "5", "--out"];
    fine(folder, &[&bench[..], &["run"]].concat());
    fine(folder, &["validate", "run"]);
    let report: Value = serde_json::from_str(&fine(folder, &["report", "run", "--json"])).expect("JSON");
    // How fast a shared machine was in that second is not this test's to say: that rows were held against it is.
    assert!(["pass", "doubt"].contains(&gate(&report)["state"].as_str().unwrap_or_default()), "{}", gate(&report));
    let rows = report["roofline"]["points"].as_array().expect("rows");
    assert!(!rows.is_empty() && rows.iter().all(|row| row["surely"].as_f64().is_some_and(|s| 0.0 < s)), "{rows:?}");
    // Its weights are smaller than anything that was read: of their steps, products say nothing worth a share.
    assert!(rows.iter().filter(|row| row["phase"] == "decode").all(|row| row["share"].is_null()), "{rows:?}");

    let card = fine(folder, &["report", "run", "--html", "page.html", "--card", "--color", "never"]);
    assert!(card.lines().any(|line| line.contains("roofline")), "{card}");
    assert!(card.lines().all(|line| line.chars().count() <= 80), "{card}");
    let page = std::fs::read_to_string(folder.join("page.html")).expect("the page");
    assert!(page.contains("GFLOP/s"), "the page names the ceiling");

    // Without them the gate has nothing to say, and does not pass.
    fine(folder, &[&bench[..], &["bare", "--ceilings", "none"]].concat());
    let report: Value = serde_json::from_str(&fine(folder, &["report", "bare", "--json"])).expect("JSON");
    assert_eq!(gate(&report)["state"], "no_data", "{}", gate(&report));

    // An edited ceiling breaks the seal.
    let mut files = std::fs::read_dir(folder.join("run/ceilings")).expect("sealed ceilings");
    let file = files.next().expect("one device").expect("an entry").path();
    let kept = std::fs::read_to_string(&file).expect("sealed ceilings");
    std::fs::write(&file, kept + " ").expect("a file");
    assert_eq!(phase(folder, &["validate", "run"]).status.code(), Some(1));
}
