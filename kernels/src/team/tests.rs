use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

use super::Team;

fn team(threads: usize) -> Team {
    Team::new(NonZeroUsize::new(threads).unwrap()).unwrap()
}

/// Opens a region of `tasks` and checks that each task ran once.
fn check(team: &Team, tasks: usize) {
    let counts: Vec<AtomicU32> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
    team.run(tasks, |task| {
        counts[task].fetch_add(1, Relaxed);
    });
    assert!(counts.iter().all(|count| count.load(Relaxed) == 1));
}

#[test]
fn every_task_runs_once() {
    for threads in [1, 2, 3, 8] {
        let team = team(threads);
        assert_eq!(team.threads(), threads);
        for round in 0..3_000 {
            check(&team, round % 40);
        }
    }
}

#[test]
fn callers_do_not_wait_for_each_other_for_ever() {
    let team = team(3);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..2_000).for_each(|round| check(&team, round % 20)));
        }
    });
}

#[test]
fn a_region_inside_a_task_runs_on_its_caller() {
    let team = team(2);
    let count = AtomicUsize::new(0);
    for _ in 0..200 {
        team.run(4, |_| {
            team.run(5, |_| {
                count.fetch_add(1, Relaxed);
            });
        });
    }
    assert_eq!(count.into_inner(), 200 * 4 * 5);
}

#[test]
fn a_panic_reaches_the_caller_and_leaves_the_team_usable() {
    let team = team(3);
    for bad in 0..50 {
        let result = catch_unwind(AssertUnwindSafe(|| {
            team.run(50, |task| assert!(task != bad, "task {task} fails"));
        }));
        let message = *result.unwrap_err().downcast::<String>().unwrap();
        assert_eq!(message, format!("task {bad} fails"));
        check(&team, 30);
    }
}

#[test]
fn parked_workers_are_woken_and_stopped() {
    let team = team(4);
    for _ in 0..20 {
        // Until all are parked, so that the next region has to wake them.
        while !team.shared.parked.iter().all(|parked| parked.load(Relaxed)) {
            std::thread::yield_now();
        }
        let here = AtomicUsize::new(0);
        // No task returns before all four have begun, which takes four threads.
        team.run(4, |_| {
            here.fetch_add(1, Relaxed);
            while here.load(Relaxed) < 4 {
                std::thread::yield_now();
            }
        });
    }
}

#[test]
fn all_threads_gather_or_none_is_waited_for_for_ever() {
    let team = team(4);
    // Whether four threads find cores at once is the machine's affair; that they come back is ours.
    for _ in 0..20 {
        team.gather();
    }
    let calls = AtomicUsize::new(0);
    team.run(8, |_| _ = calls.fetch_add(1, Relaxed));
    assert_eq!(calls.into_inner(), 8);
    // The team is busy with this very region, so that only its caller can come.
    team.run(2, |task| assert!(task > 0 || !team.gather()));
}
