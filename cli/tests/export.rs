//! `phase export`, `import`, `report --foreign`, `compare` and `serve-metrics` as a user calls them.
#![cfg(feature = "export")]

use phase_core::{DynBackend, LoadSpec, ManualClock, Registry, sim::Sim};
use phase_policy::{Policy, PolicyOptions};
use phase_scenario::{BenchCells, Plan, PlanSpec, Run, Runner, ScenarioSet};
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

fn phase(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_phase"));
    command.args(arguments);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn run_in(folder: &Path) -> PathBuf {
    let registry = Registry::new().with(Sim::default());
    let cells = BenchCells { prompt_tokens: vec![4], decode_steps: vec![3], batches: vec![1], depths: vec![4], repetitions: 3 };
    let spec = PlanSpec::new(vec![ScenarioSet::bench(&cells).expect("it is there in a test")], registry.iter().map(DynBackend::arm));
    let dir = folder.join("run");
    let clock = Arc::new(ManualClock::ticking(Duration::from_micros(1)));
    let mut runner = Runner::create(&registry, Plan::new(&spec).expect("it is there in a test"), LoadSpec::new("none"), clock, &dir)
        .expect("it is there in a test");
    runner.run(&mut (), &AtomicBool::new(false)).expect("it is there in a test");
    dir
}

fn succeeds(command: &mut Command) -> Output {
    let out = command.output().expect("it is there in a test");
    assert!(out.status.success(), "{}", text(&out.stderr));
    out
}

#[test]
fn every_format_is_written_and_wrong_ones_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let run = run_in(folder.path());
    let run = run.to_str().unwrap();
    for (format, out, makes) in [
        ("parquet", "tables", "tables/events.parquet"),
        ("csv", "events.csv", "events.csv"),
        ("openmetrics", "run.prom", "run.prom"),
        ("llmd", "reports", "reports"),
        ("llama-bench", "rows.json", "rows.json"),
        ("llama-bench-sql", "rows.sql", "rows.sql"),
    ] {
        let out = folder.path().join(out);
        succeeds(&mut phase(&["export", run, "--format", format, "-o", out.to_str().unwrap()]));
        assert!(folder.path().join(makes).exists(), "{format}");
    }
    let wrong = phase(&["export", run, "--format", "xlsx", "-o", "x"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("one of csv, llama-bench"), "{}", text(&wrong.stderr));
    let missing = phase(&["export", "no-such-run", "--format", "csv", "-o", "x"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(1));
}

#[test]
fn foreign_rows_are_shown_apart_and_never_compared() {
    let folder = tempfile::tempdir().unwrap();
    let run = run_in(folder.path());
    let run = run.to_str().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let row = r#"[{"cpu_info":"X","n_prompt":512,"n_gen":0,"n_depth":0,"avg_ns":1000,"stddev_ns":0,"avg_ts":5.12e8,"samples_ns":[1000]}]"#;
    fs::write(at("bench.json"), row).unwrap();
    succeeds(&mut phase(&["import", "--format", "llama-bench", &at("bench.json"), "-o", &at("foreign.json")]));
    let report = text(&succeeds(&mut phase(&["report", run, "--foreign", &at("foreign.json")])).stdout);
    let (ours, theirs) = report.split_once("## Foreign rows: llama-bench").expect("a section of its own");
    assert!(theirs.contains("pp512") && !ours.contains("pp512"));
    for pair in [[run, &at("foreign.json")], [&at("foreign.json"), run]] {
        let refused = phase(&["compare", pair[0], pair[1]]).output().unwrap();
        assert_eq!(refused.status.code(), Some(2), "{}", text(&refused.stderr));
        assert!(text(&refused.stderr).contains("nothing of ours is compared with them"), "{}", text(&refused.stderr));
    }
    let not_theirs = phase(&["import", "--format", "optimum-benchmark", &at("bench.json"), "-o", &at("x.json")]).output().unwrap();
    assert_eq!(not_theirs.status.code(), Some(1));
    let not_imported = phase(&["report", run, "--foreign", &at("bench.json")]).output().unwrap();
    assert_eq!(not_imported.status.code(), Some(2));
}

#[test]
fn metrics_of_a_run_and_a_policy_are_served_until_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let dir = run_in(folder.path());
    let matrix = Run::open(&dir).unwrap().policy_matrix().unwrap().unwrap();
    let policy = Policy::compile(&matrix, &PolicyOptions::new(phase_core::BackendId::new("sim"), 1_760_000_000)).unwrap();
    let file = folder.path().join("policy.json");
    fs::write(&file, policy.to_json()).unwrap();
    let mut child = phase(&["serve-metrics", dir.to_str().unwrap(), "--policy", file.to_str().unwrap(), "--listen", "127.0.0.1:0"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.strip_prefix("http://").and_then(|l| l.split('/').next()).unwrap_or_else(|| panic!("{line}")).to_owned();
    let mut stream = TcpStream::connect(&address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    for begins in ["phase_cell_duration_seconds{backend=\"sim\"", "phase_policy_info{", "phase_call_duration_seconds_count{backend=\"sim\""]
    {
        assert!(answer.lines().any(|l| l.starts_with(begins)), "no {begins} in\n{answer}");
    }
    // This program has no simulated backend, so the policy decides nothing here.
    assert!(
        answer.contains("\nphase_policy_valid 0.0\n")
            && answer.contains(r#"phase_policy_backend_state{backend="sim",state="not_live"} 1.0"#)
    );
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    assert_eq!(child.wait().unwrap().code(), Some(0), "an interrupt is how it ends");
}
