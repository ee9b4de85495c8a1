//! Runs that go through.

use super::*;
use phase_core::{BackendId, Phase, Regime};

#[test]
fn a_run_holds_what_was_planned_and_validates() {
    let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
    let run = stage.complete(Stage2::small(), dir.path());
    let phases: Vec<_> = run.records().iter().filter_map(|r| if let Record::Phase(p) = r { Some(p) } else { None }).collect();
    for backend in ["a", "b"] {
        let of = |role| phases.iter().filter(|p| p.seen.backend.as_str() == backend && p.role == role).collect::<Vec<_>>();
        // 4 blocks x (prefill and 3 decode steps, and 2 prefills).
        assert_eq!(of(Role::Sample).len(), 4 * (4 + 2));
        // Once each: prefill and 3 decode steps, and one prefill.
        assert_eq!(of(Role::Warmup).len(), 4 + 1);
        assert!(of(Role::Sample).iter().all(|p| p.seen.regime == Regime::Steady));
        assert!(of(Role::Warmup).iter().all(|p| p.seen.regime == Regime::Warmup(1)));
    }
    let decode = |p: &&&PhaseRecord| p.seen.phase == Phase::Decode && p.role == Role::Sample;
    assert!(phases.iter().filter(decode).all(|p| p.seen.shape.context == 4 + p.call as usize - 1));
    assert!(phases.iter().all(|p| p.end_ns - p.start_ns == p.seen.duration_ns && p.seen.duration_ns == 1_000));
    assert!(phases.iter().any(|p| p.role == Role::Settle));
    let steady = run.matrix().unwrap().cells().iter().filter(|c| c.key.regime == phase_policy::RegimeClass::Steady);
    // Per backend: two prefill shapes, decode at context 4 to 6 in one octave.
    assert_eq!(steady.count(), 2 * 3);
    assert_eq!(run.blocks().len(), 4);
    assert_eq!(run.evidence().len(), 2);
    assert_eq!(run.loads().len(), 2);
    assert_eq!(run.run_id().split('-').next(), Some("20261124T035312Z"));
    assert_eq!(run_state(dir.path()).unwrap(), RunState::Complete);
    assert_eq!(validate(dir.path()).unwrap().events, run.records().len());
}

#[test]
fn every_backend_gets_the_same_tokens() {
    // The simulated scores are a hash of all tokens seen, so equal inputs show as equal scores; here by counting calls.
    let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
    stage.complete(Stage2::small(), dir.path());
    assert_eq!(
        stage.a.calls.load(Ordering::Relaxed) - settle_calls(dir.path(), "a"),
        stage.b.calls.load(Ordering::Relaxed) - settle_calls(dir.path(), "b")
    );
}

fn settle_calls(dir: &Path, backend: &str) -> u32 {
    let run = Run::open(dir).unwrap();
    let settles = |r: &&Record| matches!(r, Record::Phase(p) if p.role == Role::Settle && p.seen.backend.as_str() == backend);
    u32::try_from(run.records().iter().filter(settles).count()).unwrap()
}

#[test]
fn greedy_runs_have_another_boundary() {
    let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
    let mut spec = Stage2::spec(SMALL);
    spec.calls = Calls::Greedy;
    let run = stage.complete(Plan::new(&spec).unwrap(), dir.path());
    let boundary = run.boundary(&arm("a")).unwrap();
    assert!(boundary.includes.contains(phase_core::Includes::SAMPLE));
}

#[test]
fn one_resident_model_is_loaded_once_for_every_block() {
    let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
    let mut spec = Stage2::spec(SMALL);
    spec.residency = Residency::One;
    let run = stage.complete(Plan::new(&spec).unwrap(), dir.path());
    // Once for the agreement check, once for each of the 4 blocks.
    assert!(run.loads().iter().all(|l| l.n == 5));
    assert_eq!(run.evidence().iter().filter(|e| e.evidence.is_some()).count(), 2);
    let warmups = run.records().iter().filter(|r| matches!(r, Record::Phase(p) if p.role == Role::Warmup)).count();
    assert_eq!(warmups, 2 * 4 * (4 + 1));
}

#[test]
fn bench_cells_run_like_any_set() {
    let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
    let cells = BenchCells { prompt_tokens: vec![8, 16], decode_steps: vec![4], batches: vec![1, 2], depths: vec![2], repetitions: 3 };
    let spec = PlanSpec::new(vec![ScenarioSet::bench(&cells).unwrap()], vec![BackendId::new("a")]);
    let run = stage.complete(Plan::new(&spec).unwrap(), dir.path());
    let steady = outline(&run);
    assert!(steady.iter().any(|(id, n, ..)| id == "a/default/prefill/b2/n16/c0/steady" && *n == 3), "{steady:?}");
    assert!(steady.iter().any(|(id, ..)| id.starts_with("a/default/decode/b2/n1/c4")), "{steady:?}");
}

#[test]
fn a_backend_whose_scores_differ_keeps_its_rows_and_wins_nothing() {
    let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
    stage.b.wrong.store(true, Ordering::Relaxed);
    let run = stage.complete(Stage2::small(), dir.path());
    let (a, b) = (arm("a"), arm("b"));
    assert_eq!((run.parity().passed(&a), run.parity().passed(&b)), (true, false));
    let check = run.parity().checks.iter().find(|c| c.backend == b).unwrap();
    assert_eq!((check.verdict, check.reference.as_ref()), (ParityVerdict::Differs, Some(&a)));
    assert!(check.max_abs_diff.unwrap() > 99.0);
    assert!(run.matrix().unwrap().cells().iter().any(|c| c.key.backend == b.backend));
    assert!(run.policy_matrix().unwrap().unwrap().cells().iter().all(|c| c.key.backend == a.backend));
}

#[test]
fn other_load_is_recorded_per_block_and_flagged() {
    #[derive(Debug)]
    struct Busy(u64);
    impl LoadProbe for Busy {
        fn read(&mut self) -> Option<CpuTicks> {
            self.0 += 1;
            Some(CpuTicks { busy: self.0 * 10, own: 0, total: self.0 * 100 })
        }
    }
    let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
    let mut runner = stage.create(Stage2::small(), dir.path()).unwrap().with_load_probe(Busy(0));
    runner.run(&mut (), &AtomicBool::new(false)).unwrap();
    let run = Run::open(dir.path()).unwrap();
    assert!(run.blocks().iter().all(|b| b.other_load_fraction == Some(0.1)));
}

#[test]
fn progress_counts_up_to_the_plan() {
    #[derive(Default)]
    struct Log(Vec<(usize, usize)>, Vec<String>, Vec<(String, BackendId, u64)>);
    impl Observer for Log {
        fn progress(&mut self, progress: &Progress<'_>) {
            match progress {
                Progress::Visit { done, total, .. } => self.0.push((*done, *total)),
                Progress::Sampled { backend, cell, wall_ns } => self.2.push(((*cell).to_owned(), backend.backend.clone(), *wall_ns)),
                other => self.1.push(format!("{other:?}").split([' ', '{']).next().unwrap().to_owned()),
            }
        }
    }
    let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
    let mut log = Log::default();
    stage.create(Stage2::small(), dir.path()).unwrap().run(&mut log, &AtomicBool::new(false)).unwrap();
    assert_eq!(log.0, (0..16).map(|n| (n, 16)).collect::<Vec<_>>());
    assert_eq!(log.1[..6], ["Loading", "Loaded", "Parity", "Loading", "Loaded", "Parity"]);
    assert_eq!(log.1.last().unwrap(), "Sealing");
    // Samples are told as they were recorded.
    let run = Run::open(dir.path()).unwrap();
    let mut recorded: Vec<(&PhaseRecord, u64)> = Vec::new();
    for record in run.records() {
        let Record::Phase(r) = record else { continue };
        match recorded.last_mut() {
            _ if !matches!(r.role, Role::Sample | Role::Cold) => {}
            Some((first, end)) if r.call > 0 && first.cell == r.cell => *end = r.end_ns,
            _ => recorded.push((r, r.end_ns)),
        }
    }
    assert!(recorded.len() >= 16, "{recorded:?}");
    let recorded: Vec<_> = recorded.iter().map(|(r, end)| (r.cell.clone(), r.seen.backend.clone(), end - r.start_ns)).collect();
    assert_eq!(log.2, recorded);
}

#[test]
fn a_directory_in_use_is_refused() {
    let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
    let create = |at: &Path| stage.create(Stage2::small(), at).unwrap_err();
    let foreign = dir.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("notes.txt"), "mine").unwrap();
    assert!(matches!(create(&foreign), ScenarioError::NotEmpty { .. }));
    assert!(stage.resume(&foreign).unwrap_err().to_string().contains("no run to resume"));
    let stopped = dir.path().join("stopped");
    stage.stopped_after(2, &stopped);
    assert!(matches!(create(&stopped), ScenarioError::Resumable { done: 2, total: 4, .. }));
    let error = Run::open(&stopped).unwrap_err().to_string();
    assert!(error.contains("2 of 4 blocks") && error.contains("digests.json"), "{error}");
    let done = dir.path().join("done");
    stage.complete(Stage2::small(), &done);
    assert!(matches!(create(&done), ScenarioError::AlreadyComplete { .. }));
    assert!(matches!(stage.resume(&done).unwrap_err(), ScenarioError::AlreadyComplete { .. }));
    assert!(validate(&dir.path().join("none")).unwrap_err().to_string().contains("holds no run"));
}

#[test]
fn who_watches_a_run_being_opened_sees_the_whole_of_it_done() {
    type Watch<'w> = &'w mut dyn FnMut(u64, u64, &str);
    let (stage, one, two) = (Stage2::new(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    stage.complete(Stage2::small(), one.path());
    stage.complete(Stage2::small(), two.path());
    let told = |open: &mut dyn FnMut(Watch<'_>)| {
        let mut steps: Vec<(u64, u64, String)> = Vec::new();
        open(&mut |done, total, what| steps.push((done, total, what.to_owned())));
        let total = steps[0].1;
        assert!(total > 0 && steps.iter().all(|s| s.1 == total), "{steps:?}");
        assert!(steps.windows(2).all(|w| w[0].0 <= w[1].0) && steps.last().unwrap().0 == total, "{steps:?}");
        // Nothing is left over for the word at the end, so that the share means something.
        assert!(steps[steps.len() - 2].0 * 10 >= total * 9, "{steps:?}");
        steps
    };
    let whole = told(&mut |watch| drop(Run::open_with(one.path(), watch).unwrap()));
    let said = |steps: &[(u64, u64, String)], what: &str| steps.iter().any(|s| s.2.contains(what));
    assert!(said(&whole, "block 1 of") && said(&whole, "computing the cells") && said(&whole, "cells.json"), "{whole:?}");
    let checked = told(&mut |watch| drop(validate_with(one.path(), watch).unwrap()));
    assert_eq!(checked, whole);
    let sealed = told(&mut |watch| drop(SealedRun::open_with(one.path(), watch).unwrap()));
    assert!(sealed[0].1 < whole[0].1, "the events are not read");
    let both = [one.path().to_owned(), two.path().to_owned()];
    let name = both[1].display().to_string();
    // Both are one run, which the agreement of a policy's sources finds out after it read them.
    let steps = told(&mut |watch| drop(load_runs_with(&both, watch)));
    assert!(said(&steps, &name) && steps[0].1 > whole[0].1, "{steps:?}");
    let steps = told(&mut |watch| drop(SealedRun::open_all(both.iter().map(std::path::PathBuf::as_path), watch)));
    assert!(said(&steps, &name), "{steps:?}");
}
