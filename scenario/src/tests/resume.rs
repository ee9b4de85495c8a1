//! Runs that are stopped, killed and continued.

use super::*;
use crate::dir::{BLOCKS, EVENTS};
use proptest::prelude::*;
use std::{fs, sync::OnceLock};

#[test]
fn a_run_stopped_after_any_block_ends_like_one_that_was_not() {
    let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
    let whole = outline(&stage.complete(Stage2::small(), &dir.path().join("whole")));
    for blocks in 1..4 {
        let at = dir.path().join(blocks.to_string());
        stage.stopped_after(blocks, &at);
        let finish = stage.resume(&at).unwrap().run(&mut (), &AtomicBool::new(false)).unwrap();
        assert!(matches!(finish, Finish::Complete { failures: 0, .. }));
        let run = Run::open(&at).unwrap();
        assert_eq!(outline(&run), whole, "stopped after {blocks}");
        assert_eq!(run.manifest().segments.len(), 2);
        assert_eq!(run.manifest().segments[1].first_block as usize, blocks);
        assert_eq!(run.parity().checks.len(), 4);
    }
}

#[test]
fn cancelling_within_a_block_keeps_nothing_of_it() {
    struct AtVisit<'a>(&'a AtomicBool);
    impl Observer for AtVisit<'_> {
        fn progress(&mut self, progress: &Progress<'_>) {
            if matches!(progress, Progress::Visit { done: 6, .. }) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
    }
    let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
    let cancel = AtomicBool::new(false);
    let finish = stage.create(Stage2::small(), dir.path()).unwrap().run(&mut AtVisit(&cancel), &cancel).unwrap();
    assert_eq!(finish, Finish::Stopped { blocks_done: 1, blocks_total: 4 });
    stage.resume(dir.path()).unwrap().run(&mut (), &AtomicBool::new(false)).unwrap();
    let run = Run::open(dir.path()).unwrap();
    assert!(outline(&run).iter().all(|(_, _, failures, blocks)| *failures == 0 && blocks == &[0, 1, 2, 3]));
}

#[test]
fn cancelled_before_anything_leaves_a_usable_directory() {
    let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
    stage.stopped_after(0, dir.path());
    assert_eq!(run_state(dir.path()).unwrap(), RunState::Absent);
    stage.complete(Stage2::small(), dir.path());
}

#[test]
fn another_boundary_is_refused_and_named() {
    let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
    stage.stopped_after(2, dir.path());
    stage.b.version.store(7, Ordering::Relaxed);
    let error = stage.resume(dir.path()).unwrap().run(&mut (), &AtomicBool::new(false)).unwrap_err();
    assert!(matches!(error, ScenarioError::BoundaryChanged { .. }));
    assert!(error.to_string().contains("runtime.library: b 0 against b 7"), "{error}");
    stage.b.version.store(0, Ordering::Relaxed);
    stage.resume(dir.path()).unwrap().run(&mut (), &AtomicBool::new(false)).unwrap();
    assert!(validate(dir.path()).is_ok());
}

#[test]
fn a_boundary_that_changes_during_the_run_voids_it() {
    struct Upgrade(Arc<Script>);
    impl Observer for Upgrade {
        fn progress(&mut self, progress: &Progress<'_>) {
            if matches!(progress, Progress::BlockEnd { block: 1, .. }) {
                self.0.version.store(1, Ordering::Relaxed);
            }
        }
    }
    let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
    stage.create(Stage2::small(), dir.path()).unwrap().run(&mut Upgrade(stage.a.clone()), &AtomicBool::new(false)).unwrap();
    let error = validate(dir.path()).unwrap_err().to_string();
    assert!(error.contains("boundary of a changed during the run") && error.contains("runtime.library"), "{error}");
}

/// A run with 3 of its 4 blocks done, made once.
fn three_blocks() -> &'static (tempfile::TempDir, Outline) {
    static MADE: OnceLock<(tempfile::TempDir, Outline)> = OnceLock::new();
    MADE.get_or_init(|| {
        let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
        stage.stopped_after(3, &dir.path().join("run"));
        let whole = outline(&stage.complete(Stage2::small(), &dir.path().join("whole")));
        (dir, whole)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_log_torn_at_any_byte_is_continued_to_the_full_plan(share in 0.0..=1.0_f64, which in prop::sample::select(vec![EVENTS, BLOCKS])) {
        let (made, whole) = three_blocks();
        let dir = tempfile::tempdir().unwrap();
        copy_dir(&made.path().join("run"), dir.path());
        let path = dir.path().join(which);
        let bytes = fs::read(&path).unwrap();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a position in a small file")]
        let cut = (bytes.len() as f64 * share) as usize;
        fs::write(&path, &bytes[..cut]).unwrap();
        let stage = Stage2::new();
        stage.resume(dir.path()).unwrap().run(&mut (), &AtomicBool::new(false)).unwrap();
        let run = Run::open(dir.path()).unwrap();
        prop_assert_eq!(&outline(&run), whole);
    }
}

#[test]
fn a_stopped_run_that_was_edited_is_not_continued() {
    let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
    stage.stopped_after(3, dir.path());
    let path = dir.path().join(EVENTS);
    let text = fs::read_to_string(&path).unwrap();
    let at = text.rfind("\"duration_ns\":1000").unwrap();
    let mut edited = text.clone();
    edited.replace_range(at..at + 18, "\"duration_ns\":2000");
    fs::write(&path, edited).unwrap();
    let error = stage.resume(dir.path()).unwrap_err().to_string();
    assert!(error.contains("events.jsonl line") && error.contains("(block 2)"), "{error}");
}
