//! The forms of other tools: llama-bench's rows, llm-d's reports, OpenMetrics.

mod common;

use phase_export::{Foreign, Format, LlamaBench, Tool, export, llmd, openmetrics};
use serde_json::Value;
use std::fs;

#[test]
fn llama_bench_rows_are_tests_of_single_sequences() {
    let (folder, dir, run) = common::run();
    let rows = LlamaBench::of(&run).unwrap();
    let json: Vec<Value> = serde_json::from_str(&rows.to_json().unwrap()).unwrap();
    let tests: Vec<_> = json
        .iter()
        .filter(|r| r["backends"] == "sim-a")
        .map(|r| (r["n_prompt"].as_u64().unwrap(), r["n_gen"].as_u64().unwrap(), r["n_depth"].as_u64().unwrap()))
        .collect();
    for test in [(4, 0, 0), (8, 0, 0), (0, 3, 4)] {
        assert!(tests.contains(&test), "{test:?} in {tests:?}");
    }
    assert!(rows.batched > 0);
    let decode = json.iter().find(|r| r["n_gen"] == 3).unwrap();
    // Three calls of 1 µs each, in four blocks.
    assert_eq!(
        (decode["avg_ns"].as_u64(), decode["stddev_ns"].as_u64(), decode["samples_ns"].as_array().unwrap().len()),
        (Some(3000), Some(0), 4)
    );
    assert!((decode["avg_ts"].as_f64().unwrap() - 1e6).abs() < 1e-6);
    let id = run.boundaries().keys().find(|id| decode["build_commit"].as_str().unwrap().ends_with(id.as_str()));
    assert!(id.is_some(), "{}", decode["build_commit"]);
    assert_eq!(decode["model_n_params"], Value::Null, "not known is not zero");
    let out = folder.path().join("rows.json");
    let written = export(&dir, Format::LlamaBench, &out).unwrap();
    assert!(written.left_out[0].contains("more than one sequence"), "{written:?}");
    // What we write is read by what reads theirs.
    let back = Foreign::import(Tool::LlamaBench, "rows.json", &fs::read(&out).unwrap()).unwrap();
    assert_eq!(back.rows.len(), json.len());
    assert!(back.rows.iter().any(|r| r.name == "tg3 @ d4"));
}

#[test]
fn llama_bench_sql_is_read_by_sqlite() {
    let (folder, dir, _) = common::run();
    let out = folder.path().join("rows.sql");
    export(&dir, Format::LlamaBenchSql, &out).unwrap();
    let program = r#"
import sqlite3, sys
db = sqlite3.connect(":memory:")
db.executescript(open(sys.argv[1]).read())
names = [r[1] for r in db.execute("PRAGMA table_info(llama_bench)")]
assert len(names) == 40 and names[0] == "build_commit" and names[-1] == "stddev_ts", names
print(db.execute("SELECT typeof(avg_ns), typeof(avg_ts), typeof(model_n_params), n_gen FROM llama_bench WHERE n_gen > 0 LIMIT 1").fetchone())
"#;
    if let Some(row) = common::python(program, &[&out]) {
        assert_eq!(row.trim(), "('integer', 'real', 'null', 3)");
    }
}

#[test]
fn llmd_reports_keep_their_schema() {
    let (folder, dir, run) = common::run();
    let reports = llmd(&run).unwrap();
    let batched = reports.iter().find(|r| r.report["scenario"]["load"]["standardized"]["concurrency"] == 2).unwrap();
    assert_eq!(batched.report["results"]["request_performance"]["aggregate"]["requests"]["total"], 8);
    assert_eq!(batched.report["results"]["profiling"]["cells"][0]["energy"]["status"], "no_data");
    let latency = &batched.report["results"]["request_performance"]["aggregate"]["latency"];
    assert!(latency["request_latency"].is_null(), "a pass is no request");
    let out = folder.path().join("reports");
    assert_eq!(export(&dir, Format::Llmd, &out).unwrap().files.len(), reports.len());
    let schema = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schema/br_v0_2_1_json_schema.json");
    let program = r#"
import json, jsonschema, pathlib, sys
schema = json.load(open(sys.argv[1]))
validator = jsonschema.validators.validator_for(schema)(schema, format_checker=jsonschema.FormatChecker())
validator.check_schema(schema)
files = sorted(pathlib.Path(sys.argv[2]).glob("*.json"))
for file in files:
    report = json.load(open(file))
    errors = [f"{file.name}: {e.json_path}: {e.message}" for e in validator.iter_errors(report)]
    assert not errors, "\n".join(errors)
    report["results"]["request_performance"]["aggregate"]["latency"]["phase"] = 1
    assert list(validator.iter_errors(report)), "a schema that allows everything proves nothing"
print(len(files))
"#;
    if let Some(n) = common::python(program, &[&schema, &out]) {
        assert_eq!(n.trim(), reports.len().to_string());
    }
}

#[test]
fn openmetrics_is_read_by_a_strict_parser() {
    let (folder, dir, _) = common::run();
    let out = folder.path().join("run.prom");
    export(&dir, Format::OpenMetrics, &out).unwrap();
    let program = r#"
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
families = {f.name: f for f in text_string_to_metric_families(open(sys.argv[1]).read())}
print(families["phase_call_duration_seconds"].type, families["phase_call_duration_seconds"].unit, families["phase_tokens"].type)
"#;
    if let Some(said) = common::python(program, &[&out]) {
        assert_eq!(said.trim(), "histogram seconds counter");
    }
}

#[test]
fn openmetrics_holds_cells_calls_and_boundaries() {
    let (_folder, _dir, run) = common::run();
    let text = openmetrics(&run);
    assert!(text.ends_with("# EOF\n"));
    for begins in [
        r#"phase_call_duration_seconds_count{backend="sim-a",phase="decode",regime="steady"} "#,
        r#"phase_cell_duration_seconds{backend="sim-a",mode="default",phase="prefill",regime="steady",batch="1",new_tokens="4",context="0","#,
        r#"phase_boundary_info{backend="sim-b",boundary=""#,
        r#"phase_model_loads_total{backend="sim-a"} "#,
    ] {
        assert!(text.lines().any(|l| l.starts_with(begins)), "no line begins with {begins}");
    }
    assert!(!text.contains("phase_idle_age_seconds{"), "a run has no idle age");
    assert!(!text.contains("phase_cell_energy_joules{") && text.contains(r#"status="no_data",reason="no"#));
}
