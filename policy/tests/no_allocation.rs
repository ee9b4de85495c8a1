//! A decision allocates nothing. A program of its own, because it has an allocator of its own.

mod common;

use phase_core::{Phase, Shape};
use phase_policy::Workload;
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
    let routers = [common::router(), common::router().with_live(&live), common::router().with_live(&[])];
    let before = ALLOCATIONS.get();
    for router in &routers {
        for batch in [0, 1, 2, 4] {
            for prompt in [0, 1, 32, 77, 128, 1000, 5000] {
                for new in [0, 1, 8, 64, 4000] {
                    let decision = router.decide(black_box(&Workload::new(batch, prompt, new)));
                    black_box(decision.energy());
                    black_box(decision);
                }
                let shape = Shape { batch, new_tokens: 1, context: prompt };
                black_box(router.decide_phase(Phase::Decode, shape));
            }
        }
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
    black_box(Box::new(1));
    assert_ne!(ALLOCATIONS.get(), before, "the counter counts");
}
