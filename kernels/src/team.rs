//! A small spin-then-park team of threads, because one decode step is over a hundred short parallel regions.
//!
//! The gaps between the regions of a step are some 10 to 100 us long. After a gap of 50 us, a region of 75 us of work for
//! each of two threads takes 76 us on a [`Team`], whose workers still spin, and 101 on rayon, whose worker has gone to sleep
//! and takes tens of microseconds to return (two virtual Zen 3 cores; 119 through `ThreadPool::install`, 102 through
//! `broadcast`). `cargo run --release -p phase-kernels --example fork_join` prints this for the machine at hand.
//! A worker without work spins for about 50 us, then yields to whatever else wants its core, then parks.
//!
//! Tasks are claimed one at a time from a counter, and the caller claims too: a worker that the system has not
//! scheduled yet delays nothing, its share is done by those who are awake.
//! What a task computes must therefore not depend on who runs it, and no kernel of this crate does.
//!
//! The team does not pin its threads, has no task queue and no nesting: a region opened while another is under way
//! (from a second thread or from inside a task) runs on its caller alone.

use std::any::Any;
use std::cell::UnsafeCell;
use std::fmt;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::simd::Level;

/// Rounds of `spin_loop` alone before a waiting thread starts to offer its core to others.
const SPINS: u32 = 2_000;
/// Rounds of `yield_now` after that, before an idle worker parks: some tens of microseconds on a quiet machine.
const YIELDS: u32 = 100;

/// Rounds of `spin_loop` that a thread waits for the others to gather: some 2 ms, a small part of what others' turns last.
const PATIENCE: u32 = 80_000;

/// The low half of the state counts the workers inside the region.
const INSIDE: u64 = (1 << 32) - 1;
/// Set while workers may enter.
const OPEN: u64 = 1 << 32;
/// One step of the region number, which fills the rest and may wrap: it only has to differ from the last one seen.
const EPOCH: u64 = 1 << 33;
/// Above any task count, and far enough below the maximum that late claims cannot wrap it.
const NO_MORE: usize = usize::MAX / 2;

/// A fixed set of threads that run one parallel region at a time.
///
/// Dropping the team stops its threads and waits for them.
///
/// ```
/// use std::num::NonZeroUsize;
/// use std::sync::atomic::{AtomicUsize, Ordering};
///
/// let team = phase_kernels::Team::new(NonZeroUsize::new(2).unwrap())?;
/// let sum = AtomicUsize::new(0);
/// team.run(10, |task| {
///     sum.fetch_add(task, Ordering::Relaxed);
/// });
/// assert_eq!(sum.into_inner(), 45);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    busy: AtomicBool,
    level: Level,
}

impl Team {
    /// Starts `threads - 1` workers; the thread that calls [`Team::run`] is the remaining one.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(threads: NonZeroUsize) -> std::io::Result<Self> {
        Self::with_level(threads, Level::detect())
    }

    pub(crate) fn with_level(threads: NonZeroUsize, level: Level) -> std::io::Result<Self> {
        let mut team = Self { shared: Arc::new(Shared::new(threads.get() - 1)), workers: Vec::new(), busy: AtomicBool::new(false), level };
        for index in 0..threads.get() - 1 {
            let shared = Arc::clone(&team.shared);
            let builder = thread::Builder::new().name(format!("phase-kernels-{index}"));
            team.workers.push(builder.spawn(move || shared.work(index))?);
        }
        Ok(team)
    }

    /// The threads that take part in a region, the caller included.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    pub(crate) fn level(&self) -> Level {
        self.level
    }

    /// Calls `task` once for each of `0..tasks`, in no particular order, and returns when all calls have returned.
    ///
    /// Allocates nothing. May be called from several threads and from inside a task: while the team is busy, the later
    /// region runs on its caller alone.
    ///
    /// # Panics
    /// With the panic of a task, after all tasks under way have returned; tasks not yet begun are then skipped.
    pub fn run<F: Fn(usize) + Sync>(&self, tasks: usize, task: F) {
        if tasks <= 1 || self.workers.is_empty() || self.busy.swap(true, Acquire) {
            (0..tasks).for_each(task);
            return;
        }
        assert!(tasks < NO_MORE, "more tasks than a region can count");
        let call: *const (dyn Fn(usize) + Sync + '_) = &raw const task;
        // SAFETY: only the lifetime changes; `close` below returns only once no worker can reach the closure any more.
        let call: *const (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(call) };
        self.shared.open(Job { call, tasks });
        for (flag, worker) in self.shared.parked.iter().zip(&self.workers).take(tasks - 1) {
            if flag.load(SeqCst) && flag.swap(false, SeqCst) {
                worker.thread().unpark();
            }
        }
        let own = catch_unwind(AssertUnwindSafe(|| self.shared.claim(tasks, &task)));
        self.shared.close();
        let theirs = self.shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.busy.store(false, Release);
        if let Some(payload) = own.err().or(theirs) {
            resume_unwind(payload);
        }
    }
}

impl Team {
    /// Waits, but not for long, until all threads are awake and on a core at once; whether they were. A region opened right
    /// after finds them there, where one opened at any time may be run by the caller alone before another thread has woken.
    ///
    /// ```
    /// let team = phase_kernels::Team::new(std::num::NonZeroUsize::MIN)?;
    /// assert!(team.gather(), "there is nobody to wait for");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn gather(&self) -> bool {
        let (here, all) = (AtomicUsize::new(0), AtomicBool::new(false));
        self.run(self.threads(), |_| {
            here.fetch_add(1, AcqRel);
            for _ in 0..PATIENCE {
                if here.load(Acquire) >= self.threads() {
                    all.store(true, Relaxed);
                    return;
                }
                std::hint::spin_loop();
            }
            // Gone again: who comes now comes too late.
            here.fetch_sub(1, AcqRel);
        });
        all.into_inner()
    }
}

impl fmt::Debug for Team {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Team").field("threads", &self.threads()).field("level", &self.level).finish_non_exhaustive()
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches the panics of its tasks, so there is none to report here.
            let _ = worker.join();
        }
    }
}

#[derive(Clone, Copy)]
struct Job {
    call: *const (dyn Fn(usize) + Sync),
    tasks: usize,
}

/// Keeps the words that every thread writes off each other's cache lines; 128 because lines are fetched in pairs.
#[repr(align(128))]
struct Padded<T>(T);

struct Shared {
    state: Padded<AtomicU64>,
    next: Padded<AtomicUsize>,
    job: UnsafeCell<Option<Job>>,
    parked: Box<[AtomicBool]>,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written only by the one caller that holds `busy`, while the region is closed and nobody is inside,
// and read only by workers inside an open region; its closure is `Sync`. All other fields are `Sync` themselves.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is used only inside an open region, whose caller keeps the closure alive.
unsafe impl Send for Shared {}

impl Shared {
    fn new(workers: usize) -> Self {
        Self {
            state: Padded(AtomicU64::new(0)),
            next: Padded(AtomicUsize::new(NO_MORE)),
            job: UnsafeCell::new(None),
            parked: (0..workers).map(|_| AtomicBool::new(false)).collect(),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        }
    }

    fn open(&self, job: Job) {
        let state = self.state.0.load(Relaxed);
        debug_assert!(state & (OPEN | INSIDE) == 0, "two regions at once");
        // SAFETY: the region is closed with nobody inside, and only the holder of `busy` gets here.
        unsafe { *self.job.get() = Some(job) };
        self.next.0.store(0, Relaxed);
        self.state.0.store(state.wrapping_add(EPOCH) | OPEN, SeqCst);
    }

    /// Lets nobody else in, stops further claims and waits for those inside.
    fn close(&self) {
        self.next.0.store(NO_MORE, Relaxed);
        self.state.0.fetch_and(!OPEN, AcqRel);
        let mut rounds = 0;
        while self.state.0.load(Acquire) & INSIDE != 0 {
            wait(&mut rounds);
        }
    }

    fn claim(&self, tasks: usize, call: &(dyn Fn(usize) + Sync)) {
        loop {
            let task = self.next.0.fetch_add(1, Relaxed);
            if task >= tasks {
                return;
            }
            call(task);
        }
    }

    fn work(&self, index: usize) {
        let mut seen = 0;
        loop {
            if !self.wait_for_region(index, seen) {
                return;
            }
            let state = self.state.0.load(Acquire);
            if state & OPEN == 0 || self.state.0.compare_exchange(state, state + 1, AcqRel, Relaxed).is_err() {
                continue;
            }
            seen = state / EPOCH;
            // SAFETY: this thread is counted inside an open region, so the job is not written to now.
            if let Some(job) = unsafe { *self.job.get() } {
                // SAFETY: the caller of the region keeps the closure alive until this thread is out again.
                let call = unsafe { &*job.call };
                if let Err(payload) = catch_unwind(AssertUnwindSafe(|| self.claim(job.tasks, call))) {
                    self.next.0.store(NO_MORE, Relaxed);
                    self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
                }
            }
            self.state.0.fetch_sub(1, Release);
        }
    }

    /// Returns true when a region newer than `seen` is open, false when the team stops.
    fn wait_for_region(&self, index: usize, seen: u64) -> bool {
        let mut rounds = 0;
        loop {
            if self.stop.load(SeqCst) {
                return false;
            }
            let state = self.state.0.load(SeqCst);
            if state & OPEN != 0 && state / EPOCH != seen {
                return true;
            }
            if rounds < SPINS + YIELDS {
                wait(&mut rounds);
                continue;
            }
            self.parked[index].store(true, SeqCst);
            // Read again after the flag is up: a caller that opened before seeing it would never wake this thread.
            let state = self.state.0.load(SeqCst);
            if !(state & OPEN != 0 && state / EPOCH != seen || self.stop.load(SeqCst)) {
                thread::park();
            }
            self.parked[index].store(false, SeqCst);
            rounds = 0;
        }
    }
}

fn wait(rounds: &mut u32) {
    if *rounds < SPINS {
        std::hint::spin_loop();
    } else {
        thread::yield_now();
    }
    *rounds = rounds.saturating_add(1);
}

#[cfg(test)]
mod tests;
