//! Two runs against each other.

use super::*;
use phase_core::MeasurementBoundary;

fn paced(us: u64, version: u32) -> Run {
    let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
    *stage.b.pace.lock().unwrap() = Some((stage.clock.clone(), Duration::from_micros(us)));
    stage.b.version.store(version, Ordering::Relaxed);
    stage.complete(Stage2::small(), dir.path())
}

fn verdicts(comparison: &Comparison, backend: &str) -> Vec<String> {
    let own = comparison.rows.iter().filter(|r| r.key.backend.as_str() == backend && r.key.regime == phase_policy::RegimeClass::Steady);
    own.map(|r| if let RowOutcome::Compared { verdict, .. } = &r.outcome { format!("{verdict:?}") } else { "none".to_owned() }).collect()
}

#[test]
fn a_faster_build_of_one_backend_shows_in_its_cells_only() {
    let comparison = compare(&paced(9, 0), &paced(4, 1), Foreign::Refuse).unwrap();
    assert_eq!(verdicts(&comparison, "a"), ["Equivalent"; 3]);
    assert_eq!(verdicts(&comparison, "b"), ["Faster"; 3]);
    assert_eq!(comparison.summary(), Summary::Faster);
    assert!(comparison.to_string().contains("| faster"));
    assert_eq!(compare(&paced(4, 0), &paced(9, 0), Foreign::Refuse).unwrap().summary(), Summary::Slower);
    assert_eq!(compare(&paced(4, 0), &paced(4, 0), Foreign::Refuse).unwrap().summary(), Summary::Equivalent);
}

#[test]
fn other_calls_are_refused_with_the_field_unless_asked_for() {
    let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
    let mut spec = Stage2::spec(SMALL);
    spec.calls = Calls::Greedy;
    let greedy = stage.complete(Plan::new(&spec).unwrap(), dir.path());
    let scores = paced(1, 0);
    let error = compare(&scores, &greedy, Foreign::Refuse).unwrap_err();
    assert!(matches!(error, ScenarioError::NotComparable(_)) && error.to_string().contains("includes"), "{error}");
    let accepted = compare(&scores, &greedy, Foreign::Accept).unwrap();
    assert_eq!(accepted.foreign.len(), 2);
    assert!(serde_json::to_string(&accepted).unwrap().contains("\"outcome\":{\"status\":\"compared\""));
    assert!(accepted.to_string().contains("**Foreign numbers**"));
    let (a, b) = (arm("a"), arm("b"));
    let boundary = |run: &Run, id| MeasurementBoundary::clone(run.boundary(id).unwrap());
    assert!(boundary(&scores, &a).comparable(&boundary(&scores, &b)).is_ok());
}

#[test]
fn cells_of_one_run_only_are_said() {
    let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
    let spec = Stage2::spec(&SMALL.replace("prompt_tokens = 3", "prompt_tokens = 5"));
    let other = stage.complete(Plan::new(&spec).unwrap(), dir.path());
    let comparison = compare(&paced(1, 0), &other, Foreign::Refuse).unwrap();
    let alone = comparison.rows.iter().filter(|r| matches!(&r.outcome, RowOutcome::NotComparable { why } if why.contains("only in run")));
    // Steady and warm-up, two backends, in each run.
    assert_eq!(alone.count(), 8);
}

#[test]
fn runs_are_joined_with_their_blocks_apart() {
    let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
    let dirs = [dir.path().join("1"), dir.path().join("2")];
    stage.complete(Stage2::small(), &dirs[0]);
    stage.complete(Stage2::small(), &dirs[1]);
    let runs = load_runs(&dirs).unwrap();
    let matrix = runs.matrix().unwrap();
    assert!(matrix.cells().iter().filter(|c| c.key.regime == phase_policy::RegimeClass::Steady).all(|c| c.blocks.len() == 8));
    assert_eq!((runs.backends().len(), runs.run_ids().len()), (2, 2));
    assert!(load_runs(&[dirs[0].clone(), dirs[0].clone()]).is_err() && load_runs(&[]).is_err());
    stage.b.wrong.store(true, Ordering::Relaxed);
    let third = dir.path().join("3");
    stage.complete(Stage2::small(), &third);
    let runs = load_runs(&[dirs[0].clone(), third]).unwrap();
    assert_eq!(runs.backends(), [arm("a")]);
    assert!(runs.matrix().unwrap().cells().iter().all(|c| c.key.backend.as_str() == "a"));
}
