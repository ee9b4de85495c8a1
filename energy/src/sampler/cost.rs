//! What a sampler's own thread takes of a core.

use phase_core::{Clock, Timestamp};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Processor time of the sampling thread, as the operating system counts it, and the time it ran for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SamplerCost {
    /// Processor time, nanoseconds.
    pub cpu_ns: u64,
    /// From the first deadline to the stop, nanoseconds of the phases' clock.
    pub wall_ns: u64,
}

impl SamplerCost {
    /// `cpu_ns` of processor time in `wall_ns`.
    pub const fn new(cpu_ns: u64, wall_ns: u64) -> Self {
        Self { cpu_ns, wall_ns }
    }

    /// Share of a core; 0 where it ran for no time.
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a run are below 2^53")]
    pub fn share(self) -> f64 {
        if self.wall_ns == 0 { 0.0 } else { self.cpu_ns as f64 / self.wall_ns as f64 }
    }

    /// Both times added up.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self { cpu_ns: self.cpu_ns.saturating_add(other.cpu_ns), wall_ns: self.wall_ns.saturating_add(other.wall_ns) }
    }
}

/// Measures the thread that it is made and ended in. It allocates nothing.
#[derive(Debug)]
pub struct CostMeter {
    cpu_ns: u64,
    begun: Timestamp,
}

impl CostMeter {
    /// From now on.
    pub fn start(clock: &dyn Clock) -> Self {
        // The span of the clock holds that of the processor time.
        let begun = clock.now();
        Self { cpu_ns: thread_ns(), begun }
    }

    /// Up to now.
    pub fn stop(&self, clock: &dyn Clock) -> SamplerCost {
        let cpu_ns = thread_ns().saturating_sub(self.cpu_ns);
        let wall = clock.now().since(self.begun);
        SamplerCost { cpu_ns, wall_ns: u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX) }
    }
}

/// Processor time of this thread so far.
fn thread_ns() -> u64 {
    let spent = clock_gettime(ClockId::ThreadCPUTime);
    let (Ok(seconds), Ok(nanos)) = (u64::try_from(spent.tv_sec), u32::try_from(spent.tv_nsec)) else { return 0 };
    u64::try_from(Duration::new(seconds, nanos).as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use phase_core::MonotonicClock;

    /// Works until `cpu_ns` of processor time have gone.
    fn work(clock: &dyn Clock, cpu_ns: u64) -> SamplerCost {
        let meter = CostMeter::start(clock);
        let mut x = 1_u64;
        while meter.stop(clock).cpu_ns < cpu_ns {
            x = std::hint::black_box(x.wrapping_mul(6_364_136_223_846_793_005));
        }
        meter.stop(clock)
    }

    #[test]
    fn own_work_is_counted_and_waiting_for_another_thread_is_not() {
        let clock = MonotonicClock::new();
        let busy = work(&clock, 5_000_000);
        assert!(busy.cpu_ns >= 5_000_000 && busy.cpu_ns <= busy.wall_ns, "{busy:?}");
        let meter = CostMeter::start(&clock);
        let other = std::thread::scope(|scope| scope.spawn(|| work(&clock, 20_000_000)).join().unwrap());
        let waited = meter.stop(&clock);
        assert!(waited.cpu_ns < other.cpu_ns && waited.wall_ns >= other.wall_ns, "{waited:?} {other:?}");
        assert_eq!(busy.and(waited).cpu_ns, busy.cpu_ns + waited.cpu_ns);
        assert!(SamplerCost { cpu_ns: 5, wall_ns: 0 }.share().abs() < f64::EPSILON);
    }
}
