//! A decision allocates nothing. A program of its own, because it has an allocator of its own.

mod common;

use phase_core::{Phase, Shape};
use phase_policy::{Actual, LastCalls, Ledger, ModelTier, Objective, SharedRouter, TieredRouter, Workload};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    hint::black_box,
};

struct Counting;

thread_local! {
    /// Of this thread, so that the test harness may do what it likes.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn deciding_does_not_allocate() {
    let live = [common::SAFE, common::FAST].map(|id| (id.clone(), common::boundary(&id)));
    let cost = Objective::Cost { usd_per_hour: [common::SAFE, common::FAST, common::BULK].map(|id| (id, 1.0)).into() };
    let routers = [
        common::router(),
        common::router().with_live(&live),
        common::router().with_live(&[]),
        common::router().with_slo("ttft=20ms,total=1s,p95".parse().unwrap()).with_objective(&cost).unwrap(),
        common::router().with_slo("total=1ms,p50".parse().unwrap()).with_objective(&Objective::Energy).unwrap(),
    ];
    let shared = SharedRouter::new(common::router());
    // A thread's first call makes its place in the list of readers.
    black_box(shared.load().decide(&Workload::new(1, 32, 8)));
    let tiers = ["small", "big"].map(|name| ModelTier::new(name, common::router(), 1.0, 0.9));
    let tiered = TieredRouter::new(tiers.into()).unwrap();
    let mut ledgers: Vec<_> = routers.iter().map(Ledger::new).collect();
    let last_calls: Vec<_> = routers.iter().map(LastCalls::new).collect();
    let before = ALLOCATIONS.get();
    // Windows fill and close.
    for (router, ledger) in routers.iter().zip(&mut ledgers) {
        for i in 0..2000 {
            let decision = router.decide(black_box(&Workload::new(1, 32 + i % 500, 1 + i % 40)));
            ledger.note(decision.expectation().as_ref(), &Actual::new(3_000_000, if i % 40 == 0 { 0 } else { 90_000_000 }));
        }
    }
    for (router, calls) in routers.iter().zip(&last_calls) {
        for batch in [0, 1, 2, 4] {
            for prompt in [0, 1, 32, 77, 128, 1000, 5000] {
                for new in [0, 1, 8, 64, 4000] {
                    let decision = router.decide(black_box(&Workload::new(batch, prompt, new)));
                    black_box(decision.energy());
                    black_box(decision.fallbacks().count());
                    black_box(decision);
                }
                let after = router.decide_after(&Workload::new(batch, prompt, 64), calls, black_box(9_000_000));
                calls.note(after.route.backend, 5_000_000);
                black_box(router.decide_keeping(&Workload::new(batch, prompt, 64), &common::BULK));
                black_box(shared.load().decide(&Workload::new(batch, prompt, 64)).class);
                black_box(tiered.decide(&Workload::new(batch, prompt, 64)).tier);
                let shape = Shape { batch, new_tokens: 1, context: prompt };
                black_box(router.decide_phase(Phase::Decode, shape));
            }
        }
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
    black_box(Box::new(1));
    assert_ne!(ALLOCATIONS.get(), before, "the counter counts");
}
