//! Disks and backends that fail.

use super::*;
use crate::files::{Disk, RealDisk, list};
use std::io;

/// A disk with room for so many bytes. What does not fit is written in part, as a real one does.
#[derive(Debug)]
struct Full {
    room: usize,
}

impl Disk for Full {
    fn replace(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > self.room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.room -= bytes.len();
        RealDisk.replace(path, bytes)
    }

    fn append(&mut self, path: &Path, at: u64, bytes: &[u8]) -> io::Result<()> {
        let fits = bytes.len().min(self.room);
        self.room -= fits;
        RealDisk.append(path, at, &bytes[..fits])?;
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

#[test]
fn a_full_disk_is_said_and_the_run_can_go_on_later() {
    let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
    let whole = dir.path().join("whole");
    let expected = outline(&stage.complete(Stage2::small(), &whole));
    let total: u64 = list(&whole).unwrap().iter().map(|f| std::fs::metadata(whole.join(f)).unwrap().len()).sum();
    let total = usize::try_from(total).unwrap();
    for part in 0..20 {
        let at = dir.path().join(part.to_string());
        let mut runner = stage.create(Stage2::small(), &at).unwrap();
        runner.set_disk(Box::new(Full { room: total * part / 20 }));
        let error = runner.run(&mut (), &AtomicBool::new(false)).unwrap_err();
        assert!(matches!(&error, ScenarioError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull), "{error}");
        assert!(error.to_string().starts_with("could not "), "{error}");
        let mut again = match run_state(&at).unwrap() {
            RunState::Resumable { .. } => stage.resume(&at).unwrap(),
            RunState::Absent => stage.create(Stage2::small(), &at).unwrap(),
            RunState::Foreign => {
                // Stopped between the agreement check's file and the manifest: nothing was measured yet.
                std::fs::remove_dir_all(&at).unwrap();
                stage.create(Stage2::small(), &at).unwrap()
            }
            other => panic!("{other:?} after {error}"),
        };
        again.run(&mut (), &AtomicBool::new(false)).unwrap();
        assert_eq!(outline(&Run::open(&at).unwrap()), expected);
    }
}

#[test]
fn a_backend_that_fails_mid_run_is_recorded_and_the_other_goes_on() {
    let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
    // 3 calls of the agreement check, then the first visits.
    stage.b.fails_at.store(12, Ordering::Relaxed);
    let mut runner = stage.create(Stage2::small(), dir.path()).unwrap();
    let Finish::Complete { failures, .. } = runner.run(&mut (), &AtomicBool::new(false)).unwrap() else { panic!("stopped") };
    assert!(failures > 0);
    let run = Run::open(dir.path()).unwrap();
    let cells = run.matrix().unwrap().cells();
    assert!(cells.iter().filter(|c| c.key.backend.as_str() == "a").all(|c| c.failures == 0 && c.time.is_some()));
    assert!(cells.iter().any(|c| c.key.backend.as_str() == "b" && c.failures > 0));
    let said = |r: &Record| matches!(r, Record::Failure(f) if f.message.contains("injected failure"));
    assert!(run.records().iter().any(said));
}

#[test]
fn a_cell_that_only_failed_has_no_number() {
    let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
    // The agreement check passes, nothing after it does.
    stage.b.fails_at.store(4, Ordering::Relaxed);
    let run = stage.complete(Stage2::small(), dir.path());
    let cells: Vec<_> = run.matrix().unwrap().cells().iter().filter(|c| c.key.backend.as_str() == "b").collect();
    assert!(!cells.is_empty() && cells.iter().all(|c| c.time.is_none() && c.n == 0 && c.failures > 0));
}

#[test]
fn a_lost_device_is_not_called_again() {
    let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
    stage.b.fails_at.store(6, Ordering::Relaxed);
    *stage.b.kind.lock().unwrap() = Some(ErrorKind::DeviceLost);
    let run = stage.complete(Stage2::small(), dir.path());
    assert_eq!(stage.b.calls.load(Ordering::Relaxed), 6);
    let failures = run.records().iter().filter(|r| matches!(r, Record::Failure(f) if f.backend == arm("b"))).count();
    // One for each of the 8 visits.
    assert_eq!(failures, 8);
}

#[test]
fn a_backend_that_does_not_load_is_left_out_and_named() {
    let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
    stage.a.refuses_to_load.store(true, Ordering::Relaxed);
    let run = stage.complete(Stage2::small(), dir.path());
    let (a, b) = (arm("a"), arm("b"));
    assert_eq!((run.parity().passed(&a), run.parity().passed(&b)), (false, true));
    assert!(run.manifest().backend(&a).unwrap().load_error.as_ref().unwrap().contains("injected"));
    assert!(outline(&run).iter().all(|(id, ..)| id.starts_with("b/")));
    stage.b.refuses_to_load.store(true, Ordering::Relaxed);
    let error = stage.create(Stage2::small(), &dir.path().join("next")).unwrap().run(&mut (), &AtomicBool::new(false)).unwrap_err();
    assert!(matches!(error, ScenarioError::NothingLoaded { .. }), "{error}");
}

#[test]
fn a_workload_beyond_the_models_context_fails_by_kind() {
    let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
    let spec = Stage2::spec(&SMALL.replace("prompt_tokens = 4, decode_steps = 3", "prompt_tokens = 400, decode_steps = 3"));
    let run = stage.complete(Plan::new(&spec).unwrap(), dir.path());
    let kinds: Vec<_> =
        run.records().iter().filter_map(|r| if let Record::Failure(f) = r { Some((f.stage, f.error_kind)) } else { None }).collect();
    assert!(kinds.len() == 8 && kinds.iter().all(|k| *k == (Stage::Allocate, ErrorKind::ContextOverflow)));
}

#[test]
fn an_unknown_backend_is_an_error_of_the_plan() {
    let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
    let mut spec = Stage2::spec(SMALL);
    spec.backends.push(arm("zzz"));
    let error = stage.create(Plan::new(&spec).unwrap(), dir.path()).unwrap_err().to_string();
    assert!(error.contains("unknown backend `zzz`: one of a, b"), "{error}");
}
