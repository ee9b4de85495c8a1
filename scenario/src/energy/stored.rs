//! The files of one sitting: `energy/<number>.json` says what ran when, `energy/<number>-<sensor>.jsonl` what a sensor said.

use super::planned::Call;
use crate::{
    ScenarioError,
    dir::{RunDir, load},
    files::{json_line, list},
};
use phase_core::Arm;
use phase_energy::{
    BaselineKind, MacroPlan, Recording,
    file::{read_samples, write_samples},
};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Schema of `energy/<number>.json`.
pub const ENERGY_SITTING_SCHEMA: &str = "phase.energy-sitting/1";

/// What a sitting was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum SittingKind {
    /// Replays of a call.
    Replays {
        /// Which.
        #[serde(flatten)]
        call: SittingCall,
        /// Which attempt at it, from 0: the last one counts.
        attempt: u32,
    },
    /// A state of rest.
    Rest {
        /// Which.
        rest: BaselineKind,
    },
}

/// The call that a sitting replays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SittingCall(pub(crate) Call);

/// A quiet time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Rest {
    /// When it began, on the segment's clock.
    pub start_ns: u64,
    /// When it ended.
    pub end_ns: u64,
}

/// One window of replays.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ReplayedWindow {
    /// Who replayed.
    pub backend: Arm,
    /// Which round it belongs to, from 0.
    pub round: u32,
    /// Calls in each replay, back to back.
    pub calls: u32,
    /// How it was planned.
    pub plan: MacroPlan,
    /// When each replay's first call began, on the segment's clock.
    pub starts_ns: Vec<u64>,
    /// When each replay's first call ended.
    pub first_ends_ns: Vec<u64>,
    /// When each replay's last call ended.
    pub ends_ns: Vec<u64>,
    /// Time in the calls of each replay, without what lies between them.
    pub busy_ns: Vec<u64>,
    /// Mean temperature in the first and in the last third, degrees Celsius, where the device tells.
    pub celsius: Option<[f64; 2]>,
    /// Mean clock in the first and in the last third, MHz, where the device tells.
    pub clock_mhz: Option<[f64; 2]>,
    /// Heat or hardware held the clock down.
    pub slowed: bool,
}

/// A backend that could not go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SittingFailure {
    /// Who.
    pub backend: Arm,
    /// Its own words.
    pub message: String,
}

/// A backend whose replays the run's time was not enough for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct LeftOut {
    /// Who.
    pub backend: Arm,
    /// What its replays would have taken by themselves, in the shortest windows, seconds.
    pub needs_s: f64,
    /// What was left of the run's time for this call and those after it, seconds.
    pub left_s: f64,
}

/// One sitting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct EnergySitting {
    /// [`ENERGY_SITTING_SCHEMA`].
    pub schema: String,
    /// The run.
    pub run_id: String,
    /// Its number, from 0.
    pub number: u32,
    /// The process of this run, from 0.
    pub segment: u32,
    /// What it was for.
    pub what: SittingKind,
    /// Quiet times, in order; a sitting of replays has one before and one after its windows.
    pub rests: Vec<Rest>,
    /// Windows, in order of time.
    pub windows: Vec<ReplayedWindow>,
    /// Backends that could not go on.
    pub failures: Vec<SittingFailure>,
    /// Why there are no readings, where the meter failed.
    pub meter_error: Option<String>,
    /// The run's time ended before all windows were made, or before the first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub out_of_time: bool,
    /// Backends that the run's time was not enough for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
    /// What the sensors said, in the plan's order. The readings are in files of their own.
    pub recordings: Vec<Recording>,
}

pub(crate) const FOLDER: &str = "energy";

fn name(number: u32) -> String {
    format!("{FOLDER}/{number:04}.json")
}

fn samples_name(number: u32, sensor: usize) -> String {
    format!("{FOLDER}/{number:04}-{sensor}.jsonl")
}

impl EnergySitting {
    pub(super) fn new(run_id: &str, number: u32, segment: u32, what: SittingKind) -> Self {
        Self {
            schema: ENERGY_SITTING_SCHEMA.to_owned(),
            run_id: run_id.to_owned(),
            number,
            segment,
            what,
            rests: Vec::new(),
            windows: Vec::new(),
            failures: Vec::new(),
            meter_error: None,
            out_of_time: false,
            left_out: Vec::new(),
            recordings: Vec::new(),
        }
    }

    /// Writes it: the readings first, so that a sitting never stands without them.
    pub(super) fn store(&self, dir: &mut RunDir) -> Result<(), ScenarioError> {
        for (sensor, recording) in self.recordings.iter().enumerate() {
            let file = samples_name(self.number, sensor);
            let mut bytes = Vec::new();
            let samples = recording.to_file();
            let wrong = |e: &dyn std::fmt::Display| ScenarioError::damaged(&file, None, e.to_string());
            write_samples(&mut bytes, &samples.header, &samples.samples).map_err(|e| wrong(&e))?;
            dir.write_text(&file, &String::from_utf8(bytes).map_err(|e| wrong(&e))?)?;
        }
        dir.write_text(&name(self.number), &json_line(self)?)
    }

    /// The call it replayed, and which attempt it was.
    pub(super) const fn replayed(&self) -> Option<(Call, u32)> {
        match self.what {
            SittingKind::Replays { call, attempt } => Some((call.0, attempt)),
            SittingKind::Rest { .. } => None,
        }
    }
}

/// How many sittings a run directory holds.
pub(super) fn held(dir: &Path) -> Result<usize, ScenarioError> {
    Ok(list(dir)?.iter().filter(|f| is_sitting(f)).count())
}

fn is_sitting(file: &str) -> bool {
    file.strip_prefix(FOLDER).is_some_and(|name| name.starts_with('/') && name.ends_with(".json"))
}

/// All sittings in a run directory, in order, with their readings.
pub(crate) fn sittings(dir: &Path, run_id: &str) -> Result<Vec<EnergySitting>, ScenarioError> {
    let mut found: Vec<EnergySitting> = Vec::new();
    let there = if dir.exists() { list(dir)? } else { Vec::new() };
    for file in there.iter().filter(|f| is_sitting(f)) {
        let mut sitting: EnergySitting = load(dir, file, ENERGY_SITTING_SCHEMA)?;
        let number = u32::try_from(found.len()).unwrap_or(u32::MAX);
        if sitting.run_id != run_id || sitting.number != number || *file != name(number) {
            let why = format!("sitting {} of run {} where sitting {number} of run {run_id} belongs", sitting.number, sitting.run_id);
            return Err(ScenarioError::damaged(file, None, why));
        }
        check(file, &sitting)?;
        for (sensor, recording) in sitting.recordings.iter_mut().enumerate() {
            let file = samples_name(number, sensor);
            let read = read_samples(&dir.join(&file)).map_err(|e| ScenarioError::damaged(&file, e.line(), e.to_string()))?;
            let wanted = recording.to_file().header;
            if read.header != wanted {
                return Err(ScenarioError::damaged(
                    &file,
                    1,
                    format!("its header is of {}, the sitting's of {}", read.header.device, wanted.device),
                ));
            }
            *recording = recording.clone().with_samples(read.samples);
        }
        found.push(sitting);
    }
    Ok(found)
}

/// Whether the times of a sitting can be true.
fn check(file: &str, sitting: &EnergySitting) -> Result<(), ScenarioError> {
    let wrong = |why: &str| Err(ScenarioError::damaged(file, None, why));
    for window in &sitting.windows {
        let ReplayedWindow { starts_ns, first_ends_ns, ends_ns, busy_ns, calls, .. } = window;
        let n = starts_ns.len();
        if n == 0 || *calls == 0 || [first_ends_ns.len(), ends_ns.len(), busy_ns.len()] != [n; 3] {
            return wrong("a window without replays, or with times missing");
        }
        let ordered = (0..n).all(|i| {
            starts_ns[i] <= first_ends_ns[i]
                && first_ends_ns[i] <= ends_ns[i]
                && busy_ns[i] <= ends_ns[i] - starts_ns[i]
                && starts_ns.get(i + 1).is_none_or(|next| ends_ns[i] <= *next)
        });
        if !ordered {
            return wrong("replays of a window that are not in order of time");
        }
    }
    if sitting.rests.iter().any(|r| r.end_ns < r.start_ns) {
        return wrong("a quiet time that ends before it begins");
    }
    Ok(())
}
