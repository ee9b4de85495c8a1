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
        Self { cpu_ns: thread_ns(), begun: clock.now() }
    }

    /// Up to now.
    pub fn stop(&self, clock: &dyn Clock) -> SamplerCost {
        let wall = clock.now().since(self.begun);
        let wall_ns = u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX);
        SamplerCost { cpu_ns: thread_ns().saturating_sub(self.cpu_ns), wall_ns }
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

    #[test]
    fn work_is_counted_and_sleep_is_not() {
        let clock = MonotonicClock::new();
        let meter = CostMeter::start(&clock);
        let mut x = 1_u64;
        while meter.stop(&clock).cpu_ns < 20_000_000 {
            x = std::hint::black_box(x.wrapping_mul(6_364_136_223_846_793_005));
        }
        let busy = meter.stop(&clock);
        std::thread::park_timeout(Duration::from_millis(50));
        let rested = meter.stop(&clock);
        assert!(rested.cpu_ns - busy.cpu_ns < 20_000_000 && rested.wall_ns - busy.wall_ns >= 40_000_000, "{busy:?} {rested:?}");
        assert!(rested.share() < 1.0 && busy.and(rested).cpu_ns == busy.cpu_ns + rested.cpu_ns);
        assert!(SamplerCost { cpu_ns: 5, wall_ns: 0 }.share().abs() < f64::EPSILON);
    }
}
