//! A policy is replaced while requests come in: no decision is lost or mixed, and nobody waits for anybody.

mod common;

use common::{BULK, FAST, SAFE, matrix, router};
use phase_core::BackendId;
use phase_policy::{Policy, PolicyOptions, Router, SharedRouter, Workload};
use std::{
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

const CHAT: Workload = Workload::new(1, 128, 64);
const READERS: usize = 3;
const DECISIONS: usize = 20_000;
/// While the readers read.
const SWAPS: usize = 2_000;

/// Two routers, and who takes a chat by each: `fast` was measured for the first only.
fn routers() -> [(Router, BackendId); 2] {
    let other = Policy::compile(&matrix(&[SAFE, BULK]), &PolicyOptions::new(SAFE, 1)).expect("a policy");
    [(router(), FAST), (Router::new(other), SAFE)]
}

#[test]
fn a_swap_under_load_loses_no_decision() {
    let routers = routers();
    let shared = SharedRouter::new(routers[0].0.clone());
    let (reading, swapped) = (AtomicUsize::new(READERS), AtomicUsize::new(0));
    let (asked, by_each) = (AtomicUsize::new(0), [const { AtomicUsize::new(0) }; 2]);
    let replaced: Vec<Weak<Router>> = thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                // One router, held over all swaps, stays what it is.
                let held = shared.load();
                let digest = held.policy().digest().to_owned();
                let mut decisions = 0;
                while decisions < DECISIONS || swapped.load(Ordering::Relaxed) < SWAPS {
                    decisions += 1;
                    asked.fetch_add(1, Ordering::Relaxed);
                    let present = shared.load();
                    // A decision belongs to one policy as a whole.
                    let which = routers.iter().position(|(r, _)| r.policy().digest() == present.policy().digest()).expect("one of them");
                    assert_eq!(present.decide(&CHAT).route.backend, &routers[which].1);
                    by_each[which].fetch_add(1, Ordering::Relaxed);
                }
                assert_eq!(held.policy().digest(), digest);
                reading.fetch_sub(1, Ordering::Relaxed);
            });
        }
        let (mut swaps, mut replaced) = (0, Vec::new());
        while reading.load(Ordering::Relaxed) > 0 {
            swaps += 1;
            let before = shared.replace(routers[swaps % 2].0.clone());
            assert_eq!(before.policy().digest(), routers[(swaps + 1) % 2].0.policy().digest(), "no swap is lost");
            replaced.push(Arc::downgrade(&before));
            swapped.store(swaps, Ordering::Relaxed);
        }
        assert_eq!(shared.load().policy().digest(), routers[swaps % 2].0.policy().digest());
        drop(shared.replace(routers[0].0.clone()));
        replaced
    });
    let [first, second] = by_each.map(AtomicUsize::into_inner);
    assert_eq!(first + second, asked.into_inner(), "every question has an answer");
    assert!(first > 0 && second > 0, "{first} by one policy and {second} by the other: nothing was swapped under load");
    assert!(replaced.iter().all(|old| old.upgrade().is_none()), "a writer frees what its last reader is done with");
}

#[test]
fn a_reader_that_keeps_its_router_holds_no_writer_up() {
    let shared = Arc::new(SharedRouter::new(router()));
    let kept = shared.load();
    let (done, swapped) = mpsc::channel();
    let writer = Arc::clone(&shared);
    thread::spawn(move || {
        (0..100).for_each(|_| drop(writer.replace(router())));
        done.send(()).expect("somebody waits");
    });
    swapped.recv_timeout(Duration::from_secs(60)).expect("100 swaps while a router is in use");
    assert_eq!(kept.decide(&CHAT).route.backend, &FAST);
}

/// How often this thread gave up its processor by itself, as it does to wait for a lock.
#[cfg(target_os = "linux")]
fn waits() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").expect("this thread's status");
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count.and_then(|count| count.trim().parse().ok()).expect("a count")
}

#[cfg(target_os = "linux")]
#[test]
fn a_reader_never_waits_for_a_writer() {
    let routers = routers();
    let shared = SharedRouter::new(routers[0].0.clone());
    let (stop, swaps) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let number = swaps.fetch_add(1, Ordering::Relaxed);
                    drop(shared.replace(routers[number % 2].0.clone()));
                }
            });
        }
        let waited = scope.spawn(|| {
            // A thread's first call makes its place in the list of readers.
            drop(shared.load());
            let (before, from) = (waits(), swaps.load(Ordering::Relaxed));
            let mut decided = 0_usize;
            while decided < DECISIONS || swaps.load(Ordering::Relaxed) < from + 500 {
                decided += usize::from(shared.load().decide(&CHAT).route.backend != &BULK);
            }
            waits() - before
        });
        let waited = waited.join();
        stop.store(true, Ordering::Relaxed);
        assert_eq!(waited.expect("a reader"), 0);
    });
    // What a lock would do, so that the count is known to count.
    let lock = Mutex::new(());
    let held = lock.lock().expect("a lock");
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let before = waits();
            drop(lock.lock());
            waits() - before
        });
        thread::sleep(Duration::from_millis(100));
        drop(held);
        assert_ne!(reader.join().expect("a reader"), 0, "the counter counts");
    });
}
