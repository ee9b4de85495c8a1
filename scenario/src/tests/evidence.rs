//! The runtimes' own records, from the model into the sealed directory and back.

use super::*;
use phase_policy::{EvidenceError, Level};
use std::fs;

const LINE: &str = r#"{"schema":"phase.cuda-graph/1","phase":"decode","batch":1,"nodes":{"kernel":9},"replays":3}"#;

fn made(record: &str) -> (tempfile::TempDir, Run) {
    let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
    *stage.a.record.lock().unwrap() = Some(record.to_owned());
    let run = stage.complete(Stage2::small(), dir.path());
    (dir, run)
}

#[test]
fn a_record_is_kept_as_it_was_sealed_and_read_again() {
    let (dir, run) = made(LINE);
    let path = dir.path().join("evidence/a/cuda-graphs.jsonl");
    assert_eq!(fs::read_to_string(&path).unwrap(), LINE);
    let [(arm, Ok(seen))] = run.compile_evidence() else { panic!("{:?}", run.compile_evidence()) };
    assert_eq!((arm.to_string().as_str(), seen.level(), seen.run()), ("a", Level::Executed, run.run_id()));
    assert_eq!(Some(seen.boundary()), run.manifest().backend(arm).unwrap().boundary.as_deref());
    let runs = load_runs(&[dir.path().to_owned()]).unwrap();
    assert_eq!((runs.evidence(), runs.unproven().len()), (vec![seen.clone()], 0));
    fs::write(&path, LINE.replace(":3}", ":9}")).unwrap();
    let error = validate(dir.path()).unwrap_err().to_string();
    assert!(error.contains("evidence/a/cuda-graphs.jsonl"), "{error}");
}

#[test]
fn a_record_that_shows_nothing_is_named_and_proves_nothing() {
    let (dir, run) = made("{}");
    assert!(matches!(run.compile_evidence(), [(_, Err(EvidenceError::Record { .. }))]));
    let runs = load_runs(&[dir.path().to_owned()]).unwrap();
    assert_eq!((runs.evidence().len(), runs.unproven().len()), (0, 1));
}

#[test]
fn an_entry_can_lead_to_no_file_that_is_not_sealed() {
    let (dir, _) = made(LINE);
    let path = dir.path().join("evidence/a.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("evidence/a/cuda-graphs.jsonl", "../cuda-graphs.jsonl")).unwrap();
    let error = validate(dir.path()).unwrap_err().to_string();
    assert!(error.contains("evidence/a.json"), "{error}");
}
