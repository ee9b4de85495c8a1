//! A sealed run of two simulated backends, and Python where the tests were given one with DuckDB and jsonschema.

use phase_core::{BackendId, DynBackend, LoadSpec, ManualClock, Registry, sim::Sim};
use phase_scenario::{BenchCells, Plan, PlanSpec, Run, Runner, ScenarioSet};
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};
use tempfile::TempDir;

/// Prompts of 4 and 8 tokens at batch 1 and 2, 3 decode steps at depth 4, 4 blocks. Every reading of the clock moves it by 1 µs.
pub(crate) fn run() -> (TempDir, PathBuf, Run) {
    let registry = Registry::new().with(Sim::named(BackendId::new("sim-a"))).with(Sim::named(BackendId::new("sim-b")));
    let cells = BenchCells { prompt_tokens: vec![4, 8], decode_steps: vec![3], batches: vec![1, 2], depths: vec![4], repetitions: 4 };
    let spec = PlanSpec::new(vec![ScenarioSet::bench(&cells).expect("it is there in a test")], registry.iter().map(DynBackend::arm));
    let folder = tempfile::tempdir().expect("it is there in a test");
    let dir = folder.path().join("run");
    let clock = Arc::new(ManualClock::ticking(Duration::from_micros(1)));
    let mut runner = Runner::create(&registry, Plan::new(&spec).expect("it is there in a test"), LoadSpec::new("none"), clock, &dir)
        .expect("it is there in a test")
        .with_created(1_760_000_000);
    runner.run(&mut (), &AtomicBool::new(false)).expect("it is there in a test");
    drop(runner);
    let run = Run::open(&dir).expect("it is there in a test");
    (folder, dir, run)
}

/// Runs a Python program with DuckDB and jsonschema; `None`, having said so, where `PHASE_TEST_PYTHONPATH` names none.
#[expect(clippy::disallowed_methods, reason = "tests are told by the environment what they may use")]
pub(crate) fn python(program: &str, arguments: &[&Path]) -> Option<String> {
    let Some(modules) = std::env::var_os("PHASE_TEST_PYTHONPATH") else {
        let _ = writeln!(
            std::io::stderr(),
            "skipped: PHASE_TEST_PYTHONPATH names no folder with DuckDB and jsonschema; `cargo xtask test` makes one"
        );
        return None;
    };
    let out = Command::new("python3").env("PYTHONPATH", modules).arg("-c").arg(program).args(arguments).output().expect("python3 starts");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Some(String::from_utf8(out.stdout).expect("it is there in a test"))
}
