use super::{
    Condition, Wall,
    pace::{Pace, level},
    recording::{Lateness, Recording, Void},
};
use crate::{ReadError, Sample, Source};
use phase_core::{Clock, NoData, Timestamp};
use std::{fmt, sync::Arc, time::Duration};

/// How to sample.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct SamplerPlan {
    /// Time between polls: a quarter of the sensor's update period, and not less than 5 ms, is plenty.
    pub period: Duration,
    /// Readings kept of each source. A reading takes 16 bytes: an hour at 20 ms is 2.9 MB.
    pub capacity: usize,
    /// Share of a core that the reads of all sources may take together while nobody asks for [attention](super::Sampler::attend):
    /// where a poll period is too short for that, the dearest are read every few of them. 1 reads every source at every poll.
    pub share: f64,
}

impl Default for SamplerPlan {
    /// Every 20 ms, for three hours, with 0.3 percent of a core for reads; to wake up 50 times a second takes 0.5 in a virtual
    /// machine. A counter whose read takes 5 ms is then read every 1.8 s, and once a minute at every poll until an update of it comes.
    fn default() -> Self {
        Self { period: Duration::from_millis(20), capacity: 3 * 3600 * 50, share: 0.003 }
    }
}

impl SamplerPlan {
    /// The plan with another period; at least a millisecond.
    #[must_use]
    pub fn with_period(mut self, period: Duration) -> Self {
        self.period = period.max(Duration::from_millis(1));
        self
    }

    /// The plan with every source read at every poll, whatever that costs: for calibrations and windows.
    #[must_use]
    pub const fn attentive(mut self) -> Self {
        self.share = 1.0;
        self
    }

    /// The plan with room for `capacity` readings of each source.
    #[must_use]
    pub const fn with_capacity(mut self, capacity: usize) -> Self {
        self.capacity = capacity;
        self
    }
}

const KEPT_ERRORS: usize = 1024;
const KEPT_VOIDS: usize = 4096;
/// Unix time is adjusted by less than this between two looks, or it was set.
const WALL_STEP_NS: i64 = 5_000_000;
const CONDITION_NS: u64 = 1_000_000_000;
/// Asking takes at most a thousandth of a core: where it takes longer than a millisecond, it is done less often.
const CONDITION_TIMES: u64 = 1000;

/// The sampling loop, one step at a time. [`Sampler`](super::Sampler) runs it; tests step it.
pub struct Poller {
    clock: Arc<dyn Clock>,
    wall: Arc<dyn Wall>,
    period_ns: u64,
    attentive: bool,
    share: f64,
    sources: Vec<(Box<dyn Source>, Recording)>,
    conditions: Vec<Box<dyn Condition>>,
    voids: Vec<Void>,
    /// When the conditions were last asked, and what they said.
    asked: Option<(u64, Option<NoData>)>,
    /// Time between two times that they are asked.
    condition_ns: u64,
    /// Unix time less the clock, nanoseconds.
    wall_offset_ns: i64,
    deadline_ns: u64,
    paces: Vec<Pace>,
    lateness: Lateness,
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poller").field("sources", &self.sources.len()).field("lateness", &self.lateness).finish_non_exhaustive()
    }
}

impl Poller {
    /// A loop over `sources` whose first deadline is now. All memory is taken here.
    pub fn new(
        clock: Arc<dyn Clock>,
        wall: Arc<dyn Wall>,
        sources: Vec<Box<dyn Source>>,
        conditions: Vec<Box<dyn Condition>>,
        plan: SamplerPlan,
    ) -> Self {
        let recording = |source: &dyn Source| Recording {
            id: source.id().clone(),
            kind: source.kind(),
            samples: Vec::with_capacity(plan.capacity),
            errors: Vec::with_capacity(KEPT_ERRORS),
            failed: 0,
            dropped: 0,
            slow: 0,
            time_error_ns: 0,
            pace_ns: nanos(plan.period).max(1),
            reads: 0,
            read_ns: 0,
            lateness: Lateness::default(),
            voids: Vec::with_capacity(64),
        };
        let sources: Vec<_> = sources.into_iter().map(|s| (recording(&*s), s)).map(|(r, s)| (s, r)).collect();
        let deadline_ns = clock.now().as_nanos();
        let wall_offset_ns = offset(&*clock, &*wall);
        let period_ns = nanos(plan.period).max(1);
        // A share that is none would never read again.
        let share = if plan.share > 0.0 { plan.share.min(1.0) } else { 1.0 };
        let paces = vec![Pace::new(deadline_ns, period_ns); sources.len()];
        Self {
            clock,
            wall,
            period_ns,
            attentive: share >= 1.0,
            share,
            sources,
            conditions,
            voids: Vec::with_capacity(KEPT_VOIDS),
            asked: None,
            condition_ns: CONDITION_NS,
            wall_offset_ns,
            deadline_ns,
            paces,
            lateness: Lateness::default(),
        }
    }

    /// When the next poll is due.
    pub const fn deadline(&self) -> Timestamp {
        Timestamp::from_nanos(self.deadline_ns)
    }

    /// Whether every source is to be read at every poll from now on, whatever that costs.
    pub fn attend(&mut self, on: bool) {
        let (before, now) = (std::mem::replace(&mut self.attentive, on), self.now());
        if on && !before && self.deadline_ns > now {
            // Back to the first deadline of the grid that has not passed.
            self.deadline_ns -= (self.deadline_ns - now) / self.period_ns * self.period_ns;
        }
    }

    /// Polls every source that is due and sets the next deadline: the first on the grid that has not passed and at which a
    /// source is due.
    pub fn poll(&mut self) {
        let begin = self.now();
        let late = begin.saturating_sub(self.deadline_ns);
        let Lateness { polls, total_ns, worst_ns, .. } = &mut self.lateness;
        *polls += 1;
        *total_ns += late;
        *worst_ns = (*worst_ns).max(late);
        self.conditions(begin);
        let share = level(&self.paces, self.share);
        for ((source, recording), pace) in self.sources.iter_mut().zip(&mut self.paces) {
            // A source that remembers is asked when half of its memory is full, even under attention.
            let memory_ns = source.memory().map(nanos);
            // Half a period early is on time: a deadline may be served late, and the next one on time.
            if begin.saturating_add(self.period_ns / 2) < pace.due_ns(self.attentive && memory_ns.is_none()) {
                continue;
            }
            let (last, spent_ns) = (recording.samples.last().copied(), recording.read_ns);
            read(source.as_mut(), recording, &*self.clock, self.wall_offset_ns, self.period_ns);
            let changed = last.zip(recording.samples.last()).is_some_and(|(a, b)| a.value.to_bits() != b.value.to_bits());
            pace.read(begin, recording.read_ns - spent_ns, changed, memory_ns, share);
            recording.pace_ns = recording.pace_ns.max(pace.longest_ns());
        }
        let end = self.now();
        self.lateness.busy_ns += end.saturating_sub(begin);
        let missed = end.saturating_sub(self.deadline_ns) / self.period_ns;
        self.lateness.missed += missed;
        self.deadline_ns += (missed + 1) * self.period_ns;
        let attentive = self.attentive;
        let due_ns = self.paces.iter().map(|p| p.due_ns(attentive)).min().unwrap_or(0).min(begin + self.condition_ns);
        self.deadline_ns += due_ns.saturating_sub(self.deadline_ns) / self.period_ns * self.period_ns;
    }

    /// What was recorded so far, one for each source, in their order.
    pub fn recordings(&self) -> impl Iterator<Item = &Recording> {
        self.sources.iter().map(|(_, recording)| recording)
    }

    /// Forgets all readings but each source's last, so that whoever only looks at them runs out of no room.
    pub fn forget(&mut self) {
        for (_, recording) in &mut self.sources {
            recording.samples.drain(..recording.samples.len().saturating_sub(1));
        }
    }

    /// Ends the loop and gives what was recorded, one for each source, in their order.
    pub fn finish(mut self) -> Vec<Recording> {
        // What a memory holds since it was last asked.
        for (source, recording) in &mut self.sources {
            if source.memory().is_some() {
                read(source.as_mut(), recording, &*self.clock, self.wall_offset_ns, self.period_ns);
            }
        }
        let now = self.now();
        if let Some((since, Some(reason))) = self.asked {
            self.void(since, now, reason);
        }
        let Self { sources, voids, lateness, .. } = self;
        let finished = |(_, mut recording): (Box<dyn Source>, Recording)| {
            recording.voids.extend_from_slice(&voids);
            recording.lateness = lateness;
            recording
        };
        sources.into_iter().map(finished).collect()
    }

    /// About once a second: whether what was true of the device still is. What was found holds back to the last look.
    fn conditions(&mut self, now: u64) {
        if self.asked.is_some_and(|(at, _)| now - at < self.condition_ns) {
            return;
        }
        let found = self.conditions.iter_mut().find_map(|c| c.check());
        let since_ns = self.asked.map_or(CONDITION_NS, |(at, _)| now - at);
        self.condition_ns = CONDITION_NS.max(self.now().saturating_sub(now).saturating_mul(CONDITION_TIMES));
        if let Some((since, before)) = self.asked
            && let Some(reason) = found.or(before)
        {
            self.void(since, now, reason);
        }
        self.asked = Some((now, found));
        let wall_offset_ns = offset(&*self.clock, &*self.wall);
        if (wall_offset_ns - self.wall_offset_ns).abs() > WALL_STEP_NS {
            for (_, recording) in &mut self.sources {
                if recording.samples.last().is_some() && recording.voids.len() < recording.voids.capacity() {
                    recording.voids.push(Void { from_ns: now.saturating_sub(since_ns), to_ns: now, reason: NoData::ClockJump });
                }
            }
        }
        self.wall_offset_ns = wall_offset_ns;
    }

    fn void(&mut self, from_ns: u64, to_ns: u64, reason: NoData) {
        // When there are more changes than anybody counts, the last stretch swallows the rest.
        let full = self.voids.len() == self.voids.capacity();
        match self.voids.last_mut() {
            Some(last) if full || (last.reason == reason && last.to_ns >= from_ns) => last.to_ns = to_ns,
            _ => self.voids.push(Void { from_ns, to_ns, reason }),
        }
    }

    fn now(&self) -> u64 {
        self.clock.now().as_nanos()
    }
}

fn read(source: &mut dyn Source, recording: &mut Recording, clock: &dyn Clock, wall_offset_ns: i64, period_ns: u64) {
    let before = clock.now().as_nanos();
    let start = recording.samples.len();
    let (samples, dropped) = (&mut recording.samples, &mut recording.dropped);
    let mut stamped = false;
    let outcome = source.read(&mut |value| {
        stamped |= value.unix_ns.is_some();
        // Without a time of its own a value gets that of the read, below.
        let t_ns = value.unix_ns.map_or(before, |unix| unix.saturating_add_signed(wall_offset_ns.saturating_neg()));
        if samples.len() == samples.capacity() {
            *dropped += 1;
        } else if samples.last().is_none_or(|s| s.t_ns <= t_ns) {
            samples.push(Sample { t_ns, value: value.reading.value() });
        }
    });
    let after = clock.now().as_nanos();
    recording.reads += 1;
    recording.read_ns += after.saturating_sub(before);
    if let Err(error) = outcome {
        failed(recording, after, error);
    }
    if stamped {
        return;
    }
    if after - before > period_ns {
        recording.slow += u64::from(recording.samples.len() > start);
        recording.samples.truncate(start);
        return;
    }
    if let Some(taken) = recording.samples.get_mut(start..).filter(|s| !s.is_empty()) {
        taken.iter_mut().for_each(|s| s.t_ns = before.midpoint(after));
        recording.time_error_ns = recording.time_error_ns.max((after - before).div_ceil(2));
    }
}

fn failed(recording: &mut Recording, at: u64, error: ReadError) {
    recording.failed += 1;
    if recording.errors.len() < recording.errors.capacity() {
        recording.errors.push((Timestamp::from_nanos(at), error));
    }
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// Unix time less the clock's, from a look at the clock on either side.
fn offset(clock: &dyn Clock, wall: &dyn Wall) -> i64 {
    let (before, unix, after) = (clock.now().as_nanos(), wall.unix_ns(), clock.now().as_nanos());
    unix.wrapping_sub(before.midpoint(after)).cast_signed()
}
