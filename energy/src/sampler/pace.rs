//! How often a source is read, so that reading it costs no more than a share of a core.

/// Every so often a source is read at every poll until its value changed between two of them: else polls say when a value was
/// shown, but not when it came. One change is enough, and a dear read is not made twice as often as it has to be.
const LOOK_EVERY_NS: u64 = 60_000_000_000;
/// A look ends after this long, whatever was seen.
const LOOK_NS: u64 = 500_000_000;

/// One source's pace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    period_ns: u64,
    due_ns: u64,
    /// Mean cost of the last reads.
    cost_ns: f64,
    memory_ns: Option<u64>,
    look: Look,
    /// The longest that it was not read for, by plan.
    longest_ns: u64,
}

#[derive(Clone, Copy, Debug)]
enum Look {
    /// Since when.
    On { since_ns: u64 },
    /// The next one.
    Off { next_ns: u64 },
}

impl Pace {
    pub(super) fn new(now_ns: u64, period_ns: u64) -> Self {
        Self { period_ns, due_ns: 0, cost_ns: 0.0, memory_ns: None, look: Look::On { since_ns: now_ns }, longest_ns: period_ns }
    }

    /// When it is to be read again; a look and attention read at every poll.
    pub(super) const fn due_ns(&self, attentive: bool) -> u64 {
        if attentive || matches!(self.look, Look::On { .. }) { 0 } else { self.due_ns }
    }

    /// The longest time between two reads that was planned.
    pub(super) const fn longest_ns(&self) -> u64 {
        self.longest_ns
    }

    /// Share of a core that reading it at every poll takes, or at every half of its memory; 0 before its first read.
    pub(super) fn need(&self) -> f64 {
        self.cost_ns / real(self.memory_ns.map_or(self.period_ns, |m| m / 2))
    }

    /// Notes a read that began at `now_ns` and took `took_ns`, and whether the value was another one. `memory_ns` is how long a
    /// source itself may be left alone, `share` the share of a core that its reads may take.
    pub(super) fn read(&mut self, now_ns: u64, took_ns: u64, changed: bool, memory_ns: Option<u64>, share: f64) {
        let took = real(took_ns);
        self.memory_ns = memory_ns;
        self.cost_ns += (took - self.cost_ns) * if self.cost_ns == 0.0 { 1.0 } else { 0.125 };
        self.look = match self.look {
            Look::On { since_ns } => {
                let ends = changed || now_ns.saturating_sub(since_ns) >= LOOK_NS || memory_ns.is_some();
                if ends { Look::Off { next_ns: now_ns.saturating_add(LOOK_EVERY_NS) } } else { Look::On { since_ns } }
            }
            // A source that is read at every poll anyhow needs no looks.
            Look::Off { next_ns } if now_ns >= next_ns && self.step_ns(share) > self.period_ns => Look::On { since_ns: now_ns },
            off @ Look::Off { .. } => off,
        };
        let step_ns = memory_ns.map_or_else(|| self.step_ns(share), |m| m / 2);
        self.due_ns = now_ns.saturating_add(step_ns);
        if memory_ns.is_none() && !matches!(self.look, Look::On { .. }) {
            self.longest_ns = self.longest_ns.max(step_ns);
        }
    }

    /// Time between reads that keeps their cost within the share: a multiple of the poll period.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "casts of floats saturate; a cost is not negative")]
    fn step_ns(&self, share: f64) -> u64 {
        let periods = (self.cost_ns / share / real(self.period_ns)).ceil().max(1.0) as u64;
        periods.saturating_mul(self.period_ns)
    }
}

/// The most that each source may take of a core where all of them may take `whole`: those that need less leave the rest to the others.
pub(super) fn level(paces: &[Pace], whole: f64) -> f64 {
    let mut level = 0.0;
    loop {
        let (needed, dear) = paces
            .iter()
            .map(Pace::need)
            .fold((0.0, 0_u32), |(sum, dear), need| if need <= level { (sum + need, dear) } else { (sum, dear + 1) });
        // Every turn counts a source less among the dear ones.
        let next = (whole - needed) / f64::from(dear.max(1));
        if dear == 0 || next <= level {
            return if dear == 0 { whole } else { level };
        }
        level = next;
    }
}

#[expect(clippy::cast_precision_loss, reason = "times of one read and one period")]
const fn real(ns: u64) -> f64 {
    ns as f64
}
