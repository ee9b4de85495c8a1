//! Several runs as one source for a policy.

use super::*;

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
