//! How much of the machine others used while a block ran.

use std::{fmt, fs};

/// Share of the processor time above which a block is flagged.
pub const OTHER_LOAD_LIMIT: f64 = 0.03;

/// Processor time since some origin, in one unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "three counters of one reading")]
pub struct CpuTicks {
    /// Time that processors worked, for whomever.
    pub busy: u64,
    /// Time they worked for this process and the children it waited for.
    pub own: u64,
    /// All time of all processors.
    pub total: u64,
}

impl CpuTicks {
    /// Share of all processor time since `earlier` that others used: `(busy - own) / total`. `None` when no time passed.
    ///
    /// ```
    /// use phase_scenario::CpuTicks;
    /// let (a, b) = (CpuTicks::default(), CpuTicks { busy: 60, own: 50, total: 100 });
    /// assert_eq!(b.other_load_since(a), Some(0.1));
    /// ```
    #[expect(clippy::cast_precision_loss, reason = "ticks of one block")]
    pub fn other_load_since(self, earlier: Self) -> Option<f64> {
        let since = |now: u64, then: u64| now.saturating_sub(then) as f64;
        let total = since(self.total, earlier.total);
        let other = since(self.busy, earlier.busy) - since(self.own, earlier.own);
        (total > 0.0).then(|| (other / total).clamp(0.0, 1.0))
    }
}

/// Reads the counters.
pub trait LoadProbe: fmt::Debug + Send {
    /// The counters now; `None` where the system does not tell.
    fn read(&mut self) -> Option<CpuTicks>;
}

/// Linux: `/proc/stat` and `/proc/self/stat`, in clock ticks (10 ms as a rule).
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "there is nothing in it")]
pub struct ProcLoad;

impl LoadProbe for ProcLoad {
    fn read(&mut self) -> Option<CpuTicks> {
        parse(&fs::read_to_string("/proc/stat").ok()?, &fs::read_to_string("/proc/self/stat").ok()?)
    }
}

/// Does not look.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "there is nothing in it")]
pub struct NoLoad;

impl LoadProbe for NoLoad {
    fn read(&mut self) -> Option<CpuTicks> {
        None
    }
}

fn parse(machine: &str, process: &str) -> Option<CpuTicks> {
    // user nice system idle iowait irq softirq steal; guest time is part of user time already.
    let line = machine.lines().find_map(|l| l.strip_prefix("cpu "))?;
    let states: Vec<u64> = line.split_whitespace().take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
    let [user, nice, system, idle, iowait, irq, softirq, steal] = <[u64; 8]>::try_from(states).ok()?;
    // The command name may hold spaces and brackets, so fields are counted from the last bracket.
    let (_, after) = process.rsplit_once(')')?;
    let own: u64 = after.split_whitespace().skip(11).take(4).map(str::parse::<u64>).sum::<Result<_, _>>().ok()?;
    let busy = user + nice + system + irq + softirq + steal;
    Some(CpuTicks { busy, own, total: busy + idle + iowait })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_are_the_right_fields() {
        let machine = "cpu  100 1 20 1000 5 2 3 4 50 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        let process = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 11 22 3 4 20 0 2 0 100 0 0";
        assert_eq!(parse(machine, process), Some(CpuTicks { busy: 130, own: 40, total: 1135 }));
        assert_eq!(parse("intr 1", process), None);
        assert_eq!(parse(machine, "7 (x) S 1"), Some(CpuTicks { busy: 130, own: 0, total: 1135 }));
    }

    #[test]
    fn own_work_is_not_other_load_and_no_time_is_no_answer() {
        let a = CpuTicks { busy: 100, own: 50, total: 1000 };
        assert_eq!(CpuTicks { busy: 150, own: 100, total: 1100 }.other_load_since(a), Some(0.0));
        assert_eq!(a.other_load_since(a), None);
    }
}
