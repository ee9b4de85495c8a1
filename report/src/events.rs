//! One pass over the events of a run: what the cells don't keep. Memory is bounded by cells and samples, not by events.

use crate::figure::real;
use phase_core::{Arm, Outcome, Phase, SessionId};
use phase_policy::stats::Ordered;
use phase_scenario::{Call, Event, FailureRecord, LoadProcess, LoadRecord, Record, Role, ScenarioError, SealedRun};
use std::collections::{BTreeMap, HashMap};

/// First calls that are kept of each curve.
pub(crate) const CURVE: usize = 48;

/// Calls between two words to who watches.
const WATCHED: u64 = 4096;

/// Who did what: a competitor and a planned cell, by position.
type Key = (u16, u16);

/// Time by what it was for, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    pub(crate) prefill: u64,
    pub(crate) decode: u64,
    pub(crate) warmup: u64,
    pub(crate) settle: u64,
    pub(crate) loads: u64,
    /// Whole fresh processes, loads and calls included.
    pub(crate) cold: u64,
}

/// The prefill and the decode steps of one sample.
#[derive(Clone, Copy, Debug)]
struct Sample {
    id: (u32, u32, SessionId),
    prefill: u64,
    decode: u64,
    failed: bool,
}

/// What one pass over the events gives.
#[derive(Debug, Default)]
pub(crate) struct Digest {
    pub(crate) arms: Vec<String>,
    pub(crate) cells: Vec<String>,
    /// Calls by outcome.
    pub(crate) calls: u64,
    pub(crate) failed: u64,
    pub(crate) spent: BTreeMap<u16, Spent>,
    /// Share of decode in phase time, one entry a sample.
    pub(crate) fractions: BTreeMap<Key, Vec<f32>>,
    /// Times of the first calls of a phase, warm-up and cold, by call number.
    pub(crate) first: BTreeMap<(Key, bool, Phase), Vec<Vec<f32>>>,
    /// Grouped by who, where, at what, with what words.
    pub(crate) failures: Vec<(FailureRecord, u32)>,
    open: HashMap<Key, Sample>,
    ids: HashMap<String, u16>,
    places: HashMap<String, u16>,
    /// Calls so far of one warm-up, for the curve.
    warming: HashMap<(Key, Phase), (u32, usize)>,
}

impl Digest {
    /// Reads the events of `run`, and holds them against the seal. `watch` is told every few thousand.
    pub(crate) fn of(run: &SealedRun, watch: &mut dyn FnMut(u64, u64, &str)) -> Result<Self, ScenarioError> {
        let mut digest = Self::default();
        run.read_events(|event| match event {
            Event::Call(call) => {
                digest.call(call);
                if digest.calls.is_multiple_of(WATCHED) {
                    watch(digest.calls, run.events(), &call.cell);
                }
            }
            Event::Other(Record::Load(load)) => digest.load(load),
            Event::Other(Record::Failure(failure)) => digest.failure(failure),
            _ => {}
        })?;
        for (key, sample) in std::mem::take(&mut digest.open) {
            digest.close(key, sample);
        }
        Ok(digest)
    }

    fn arm(&mut self, name: &str) -> u16 {
        position(&mut self.ids, &mut self.arms, name)
    }

    fn call(&mut self, call: &Call<'_>) {
        let arm = if call.mode == phase_policy::DEFAULT_MODE {
            self.arm(&call.backend)
        } else {
            let name = format!("{}@{}", call.backend, call.mode);
            self.arm(&name)
        };
        let key = (arm, position(&mut self.places, &mut self.cells, &call.cell));
        self.calls += 1;
        let ok = call.outcome == Outcome::Ok;
        self.failed += u64::from(!ok);
        let spent = self.spent.entry(arm).or_default();
        match (call.role, call.phase) {
            (Role::Sample, Phase::Prefill) => spent.prefill += call.duration_ns,
            (Role::Sample, _) => spent.decode += call.duration_ns,
            (Role::Warmup, _) => spent.warmup += call.duration_ns,
            (Role::Settle, _) => spent.settle += call.duration_ns,
            _ => {}
        }
        match call.role {
            Role::Sample => self.sample(key, call, ok),
            Role::Cold if ok => self.curve(key, true, call.phase, usize::try_from(call.call).unwrap_or(usize::MAX), call.duration_ns),
            Role::Warmup if ok => {
                let (segment, at) = self.warming.entry((key, call.phase)).or_insert((call.segment, 0));
                if *segment != call.segment {
                    (*segment, *at) = (call.segment, 0);
                }
                let now = *at;
                *at += 1;
                self.curve(key, false, call.phase, now, call.duration_ns);
            }
            _ => {}
        }
    }

    fn sample(&mut self, key: Key, call: &Call<'_>, ok: bool) {
        let id = (call.block, call.sample, call.session);
        let fresh = Sample { id, prefill: 0, decode: 0, failed: false };
        let sample = self.open.entry(key).or_insert(fresh);
        if sample.id != id {
            let done = std::mem::replace(sample, fresh);
            self.close(key, done);
        }
        if let Some(sample) = self.open.get_mut(&key) {
            sample.failed |= !ok;
            if call.phase == Phase::Prefill {
                sample.prefill += call.duration_ns;
            } else {
                sample.decode += call.duration_ns;
            }
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "a share needs no more than seven digits")]
    fn close(&mut self, key: Key, sample: Sample) {
        let Sample { id: _, prefill, decode, failed } = sample;
        if !failed && prefill > 0 && decode > 0 {
            self.fractions.entry(key).or_default().push((real(decode) / real(prefill + decode)) as f32);
        }
    }

    /// The number of a call counts among those of its phase.
    #[expect(clippy::cast_possible_truncation, reason = "a plotted time needs no more than seven digits")]
    fn curve(&mut self, key: Key, cold: bool, phase: Phase, at: usize, ns: u64) {
        // The first call of a sample is its prefill: decode steps are counted from the one after it.
        let at = if cold && phase == Phase::Decode { at.saturating_sub(1) } else { at };
        if at >= CURVE {
            return;
        }
        let curve = self.first.entry((key, cold, phase)).or_default();
        if curve.len() <= at {
            curve.resize(at + 1, Vec::new());
        }
        curve[at].push(real(ns) as f32);
    }

    fn load(&mut self, load: &LoadRecord) {
        let arm = self.arm(&load.backend.to_string());
        let spent = self.spent.entry(arm).or_default();
        match load.process {
            LoadProcess::Fresh => spent.cold += load.process_ns.unwrap_or(load.load_ns),
            // Loads before the first block are outside of every block's time.
            LoadProcess::Runner if load.block.is_some() => spent.loads += load.load_ns,
            _ => {}
        }
    }

    fn failure(&mut self, failure: &FailureRecord) {
        let same = |f: &FailureRecord| {
            (&f.backend, &f.cell, f.stage, &f.message) == (&failure.backend, &failure.cell, failure.stage, &failure.message)
        };
        match self.failures.iter_mut().find(|(f, _)| same(f)) {
            Some((_, n)) => *n += 1,
            None => self.failures.push((failure.clone(), 1)),
        }
    }

    /// The position of a competitor, when it made a call.
    pub(crate) fn position(&self, arm: &Arm) -> Option<u16> {
        self.ids.get(&arm.to_string()).copied()
    }
}

fn position(ids: &mut HashMap<String, u16>, names: &mut Vec<String>, name: &str) -> u16 {
    if let Some(at) = ids.get(name) {
        return *at;
    }
    let at = u16::try_from(names.len()).unwrap_or(u16::MAX);
    names.push(name.to_owned());
    ids.insert(name.to_owned(), at);
    at
}

/// The median of what is there; `None` of nothing.
pub(crate) fn median(values: &[f32]) -> Option<f64> {
    Ordered::new(values.iter().map(|v| f64::from(*v))).map(|o| o.median())
}
