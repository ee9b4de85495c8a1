//! The one source of time. Everything that measures is handed a clock, so tests can hold it still.

use crate::Timestamp;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Tells the time on one time line.
pub trait Clock: Send + Sync {
    /// Now. Never earlier than a value given before.
    fn now(&self) -> Timestamp;
}

/// The operating system's monotonic clock, counted from when this value was made. Share one (in an [`Arc`]) between
/// everything whose times are to be related.
#[derive(Clone, Copy, Debug)]
pub struct MonotonicClock(Instant);

impl MonotonicClock {
    /// A clock whose origin is now.
    #[expect(clippy::disallowed_methods, reason = "this is where time enters")]
    pub fn new() -> Self {
        Self(Instant::now())
    }
}

impl Default for MonotonicClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Timestamp {
        let nanos = self.0.elapsed().as_nanos();
        // 64 bits of nanoseconds last 584 years.
        Timestamp::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// A clock that moves when told, or by a fixed step at every reading: for tests.
///
/// ```
/// use phase_core::{Clock, ManualClock};
/// use std::time::Duration;
/// let clock = ManualClock::default();
/// clock.advance(Duration::from_millis(2));
/// assert_eq!(clock.now().as_nanos(), 2_000_000);
/// ```
#[derive(Debug, Default)]
pub struct ManualClock {
    nanos: AtomicU64,
    step: AtomicU64,
}

impl ManualClock {
    /// A clock that moves by `step` after every reading.
    pub fn ticking(step: Duration) -> Self {
        Self { nanos: AtomicU64::new(0), step: AtomicU64::new(nanos(step)) }
    }

    /// Moves the clock.
    pub fn advance(&self, by: Duration) {
        self.nanos.fetch_add(nanos(by), Ordering::Relaxed);
    }
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.nanos.fetch_add(self.step.load(Ordering::Relaxed), Ordering::Relaxed))
    }
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> Timestamp {
        (**self).now()
    }
}

impl<C: Clock + ?Sized> Clock for &C {
    fn now(&self) -> Timestamp {
        (**self).now()
    }
}
