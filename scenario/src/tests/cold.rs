//! Fresh processes, played by this one.

use super::*;
use phase_core::{Phase, Regime};
use phase_policy::RegimeClass;

const COLD: &str = r#"
schema = "phase.scenarios/1"
id = "cold"
title = "Cold"
[scale.cpu.full]
blocks = 3
workloads = [
    { id = "a", kind = "steady", batch = 1, prompt_tokens = 4, decode_steps = 3 },
    { id = "c", kind = "cold", batch = 1, prompt_tokens = 4, decode_steps = 3 },
]
"#;

#[derive(Debug)]
struct InProcess<'a> {
    registry: &'a Registry,
    spoil: fn(&mut ColdReport),
}

impl ColdLauncher for InProcess<'_> {
    fn launch(&mut self, request: &ColdRequest) -> Result<ColdReport, ColdError> {
        // What crosses to a real process is text.
        let request = serde_json::from_str(&serde_json::to_string(request).unwrap()).unwrap();
        let clock = Arc::new(ManualClock::ticking(Duration::from_micros(5)));
        let report = cold_start(self.registry, &request, clock)?;
        let mut report: ColdReport = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        (self.spoil)(&mut report);
        Ok(report)
    }
}

fn run(spoil: fn(&mut ColdReport)) -> (Run, Finish) {
    let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
    let plan = Plan::new(&Stage2::spec(COLD)).unwrap();
    let launcher = InProcess { registry: &stage.registry, spoil };
    let finish = stage.create(plan, dir.path()).unwrap().with_cold_launcher(launcher).run(&mut (), &AtomicBool::new(false)).unwrap();
    (Run::open(dir.path()).unwrap(), finish)
}

#[test]
fn cold_calls_have_cells_of_their_own() {
    let (run, finish) = run(|_| {});
    assert!(matches!(finish, Finish::Complete { failures: 0, .. }));
    let cold: Vec<_> = run.matrix().unwrap().cells().iter().filter(|c| c.key.regime == RegimeClass::Cold).collect();
    // Prefill and first decode step of each backend, once in each of 3 blocks.
    assert_eq!(cold.len(), 4);
    assert!(cold.iter().all(|c| c.n == 3 && c.blocks.len() == 3));
    let fresh = run.loads().iter().filter(|l| l.process == LoadProcess::Fresh);
    assert!(fresh.clone().count() == 2 && fresh.clone().all(|l| l.n == 3 && (l.median_ns - 5_000.0).abs() < 1e-9));
    let later = run.records().iter().filter_map(|r| if let Record::Phase(p) = r { Some(p) } else { None });
    let later: Vec<_> =
        later.filter(|p| p.role == Role::Cold && p.seen.phase == Phase::Decode && p.call > 1).map(|p| p.seen.regime).collect();
    assert!(!later.is_empty() && later.iter().all(|r| matches!(r, Regime::Warmup(_))));
}

#[test]
fn a_fresh_process_under_another_boundary_is_a_failure() {
    let (run, _) = run(|report| report.boundary.definitions += 1);
    assert!(run.matrix().unwrap().cells().iter().all(|c| c.key.regime != RegimeClass::Cold));
    let said = run
        .records()
        .iter()
        .filter(|r| matches!(r, Record::Failure(f) if f.message.contains("definitions") && f.stage == Stage::ColdStart));
    assert_eq!(said.count(), 6);
}

#[test]
fn without_a_launcher_cold_workloads_are_failures() {
    let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
    let run = stage.complete(Plan::new(&Stage2::spec(COLD)).unwrap(), dir.path());
    let said = run.records().iter().filter(|r| matches!(r, Record::Failure(f) if f.message.contains("no launcher")));
    assert_eq!(said.count(), 6);
}

#[cfg(unix)]
#[test]
fn a_program_is_started_with_the_request_and_its_last_line_is_the_report() {
    let stage = Stage2::new();
    let request = ColdRequest {
        backend: BackendId::new("a").into(),
        load: StoredLoad::from(&LoadSpec::new("none")),
        calls: Calls::Scores,
        batch: 1,
        prompt_tokens: 2,
        decode_steps: 1,
        seed: 1,
        stream: "x".to_owned(),
    };
    let report = cold_start(&stage.registry, &request, stage.clock()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("report.json");
    std::fs::write(&file, serde_json::to_string(&report).unwrap()).unwrap();
    let shell = |script: String| CommandLauncher::new("/bin/sh", ["-c".to_owned(), script, "sh".to_owned()]);
    let check = format!("case \"$1\" in *'\"backend\":\"a\"'*) echo noise; cat '{}';; *) exit 3;; esac", file.display());
    let got = shell(check).launch(&request).unwrap();
    assert_eq!((got.calls, got.load_ns), (report.calls, report.load_ns));
    assert!(got.process_ns.is_some());
    let failed = shell("echo broken >&2; exit 4".to_owned()).launch(&request).unwrap_err();
    assert!(failed.message.contains("broken") && failed.message.contains('4'), "{failed}");
    assert!(shell("echo hello".to_owned()).launch(&request).unwrap_err().message.contains("`hello`"));
    assert!(CommandLauncher::new("/no/such/program", ["x"]).launch(&request).is_err());
}
