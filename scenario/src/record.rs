//! The lines of `events.jsonl` and `blocks.jsonl`: one JSON object a line, every number with its unit in its name.

use phase_core::{Arm, BackendId, ErrorKind, Outcome, Phase, Regime, SessionId, Shape};
use phase_policy::Observation;
use serde::{Deserialize, Serialize};

/// Schema of a line of `events.jsonl`.
pub const EVENT_SCHEMA: &str = "phase.event/1";
/// Schema of a line of `blocks.jsonl`.
pub const BLOCK_SCHEMA: &str = "phase.block/1";

/// One line of `events.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Record {
    /// Something that should have run did not.
    Failure(FailureRecord),
    /// A model was loaded.
    Load(LoadRecord),
    /// A phase call.
    Phase(PhaseRecord),
}

impl Record {
    /// Its schema and the run it belongs to.
    pub fn origin(&self) -> (&str, &str) {
        match self {
            Self::Failure(r) => (&r.schema, &r.run_id),
            Self::Load(r) => (&r.schema, &r.run_id),
            Self::Phase(r) => (&r.schema, &r.run_id),
        }
    }
}

/// Why a call was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Role {
    /// First calls of a fresh process.
    Cold,
    /// It is what is measured.
    Sample,
    /// Wakes this backend's threads after another backend ran; enters no statistic.
    Settle,
    /// Before the first sample of this workload.
    Warmup,
}

impl Role {
    /// Whether the call enters the matrix (in its own regime).
    pub const fn counts(self) -> bool {
        !matches!(self, Self::Settle)
    }
}

/// A phase call. The block number is that of the observation: the replication block of the whole run, from 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PhaseRecord {
    /// [`EVENT_SCHEMA`].
    pub schema: String,
    /// The run.
    pub run_id: String,
    /// The set.
    pub scenario: String,
    /// The planned cell: `s1/b1-p128-d64`.
    pub cell: String,
    /// Which replication of its set this is, from 0.
    pub repetition: u32,
    /// The process of this run that made it, from 0: raised by every resume.
    pub segment: u32,
    /// Why the call was made.
    pub role: Role,
    /// The sample (or warm-up pass) within the visit, from 0.
    pub sample: u32,
    /// Position of the call within its sample, from 0.
    pub call: u32,
    /// The cache it worked on, unique within backend and segment.
    pub session: SessionId,
    /// Position among all calls on that cache, from 0.
    pub step: u32,
    /// Just before the call, on the segment's clock.
    pub start_ns: u64,
    /// Just after it.
    pub end_ns: u64,
    /// What the statistics read.
    #[serde(flatten)]
    pub seen: Observation,
}

/// A line of a [`Record::Phase`], read without the detours that a tag and a flattened field take.
#[derive(Deserialize)]
pub(crate) struct PhaseLine {
    #[serde(rename = "kind")]
    _kind: PhaseKind,
    pub(crate) schema: String,
    run_id: String,
    scenario: String,
    cell: String,
    repetition: u32,
    segment: u32,
    role: Role,
    sample: u32,
    call: u32,
    session: SessionId,
    step: u32,
    start_ns: u64,
    end_ns: u64,
    backend: BackendId,
    #[serde(default = "default_mode")]
    mode: String,
    phase: Phase,
    shape: Shape,
    regime: Regime,
    boundary: String,
    block: u32,
    outcome: Outcome,
    duration_ns: u64,
    #[serde(default)]
    device_ns: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum PhaseKind {
    Phase,
}

fn default_mode() -> String {
    phase_policy::DEFAULT_MODE.to_owned()
}

impl From<PhaseLine> for PhaseRecord {
    fn from(line: PhaseLine) -> Self {
        let mut seen = Observation::new(line.backend, line.phase, line.shape, line.duration_ns);
        seen.mode = line.mode;
        (seen.regime, seen.boundary, seen.block) = (line.regime, line.boundary, line.block);
        (seen.outcome, seen.device_ns) = (line.outcome, line.device_ns);
        Self {
            schema: line.schema,
            run_id: line.run_id,
            scenario: line.scenario,
            cell: line.cell,
            repetition: line.repetition,
            segment: line.segment,
            role: line.role,
            sample: line.sample,
            call: line.call,
            session: line.session,
            step: line.step,
            start_ns: line.start_ns,
            end_ns: line.end_ns,
            seen,
        }
    }
}

/// Which process loaded a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LoadProcess {
    /// One that does nothing else before.
    Fresh,
    /// The runner, which may hold other models.
    Runner,
}

/// A model was loaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LoadRecord {
    /// [`EVENT_SCHEMA`].
    pub schema: String,
    /// The run.
    pub run_id: String,
    /// What was loaded.
    pub backend: Arm,
    /// By which process.
    pub process: LoadProcess,
    /// In which block; absent before the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<u32>,
    /// The process of this run, from 0.
    pub segment: u32,
    /// Wall time of the load call.
    pub load_ns: u64,
    /// Wall time of the whole fresh process as its parent saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_ns: Option<u64>,
}

/// What was attempted when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Stage {
    /// Allocating a cache.
    Allocate,
    /// A phase call.
    Call,
    /// A cold start in a fresh process.
    ColdStart,
    /// Reading the evidence.
    Evidence,
    /// Loading the model.
    Load,
    /// The agreement check.
    Parity,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Allocate => "allocate",
            Self::Call => "call",
            Self::ColdStart => "cold start",
            Self::Evidence => "evidence",
            Self::Load => "load",
            Self::Parity => "parity",
        })
    }
}

/// Something that should have run did not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FailureRecord {
    /// [`EVENT_SCHEMA`].
    pub schema: String,
    /// The run.
    pub run_id: String,
    /// Who failed.
    pub backend: Arm,
    /// The planned cell, when it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cell: Option<String>,
    /// The block; absent before the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<u32>,
    /// The process of this run, from 0.
    pub segment: u32,
    /// What was attempted.
    pub stage: Stage,
    /// The class of the failure.
    pub error_kind: ErrorKind,
    /// The backend's own words.
    pub message: String,
}

/// One line of `blocks.jsonl`, written when a block is complete on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct BlockRecord {
    /// [`BLOCK_SCHEMA`].
    pub schema: String,
    /// The run.
    pub run_id: String,
    /// Its number, from 0.
    pub block: u32,
    /// The process of this run, from 0.
    pub segment: u32,
    /// Just before its first task, on the segment's clock.
    pub start_ns: u64,
    /// Just after its last task.
    pub end_ns: u64,
    /// Share of all processor time that others used meanwhile; `null` where the system does not tell.
    pub other_load_fraction: Option<f64>,
    /// Lines of `events.jsonl` up to the end of this block.
    pub events_lines: u64,
    /// Its length in bytes.
    pub events_bytes: u64,
    /// BLAKE3 of that length, hexadecimal.
    pub events_blake3: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_line_is_flat_and_reads_back() {
        let shape = Shape { batch: 2, new_tokens: 1, context: 40 };
        let seen = Observation::new(BackendId::new("sim"), Phase::Decode, shape, 5)
            .with_regime(Regime::Warmup(1))
            .with_outcome(Outcome::Failed(ErrorKind::OutOfMemory));
        let record = Record::Phase(PhaseRecord {
            schema: EVENT_SCHEMA.to_owned(),
            run_id: "r".to_owned(),
            scenario: "s1".to_owned(),
            cell: "s1/x".to_owned(),
            repetition: 0,
            segment: 0,
            role: Role::Warmup,
            sample: 0,
            call: 3,
            session: SessionId(2),
            step: 9,
            start_ns: 10,
            end_ns: 15,
            seen,
        });
        let line = serde_json::to_string(&record).unwrap();
        assert!(line.starts_with(r#"{"kind":"phase","schema":"phase.event/1""#) && line.contains(r#""duration_ns":5"#), "{line}");
        assert_eq!(serde_json::from_str::<Record>(&line).unwrap(), record);
    }

    #[test]
    fn the_short_way_reads_what_the_long_one_does_and_nothing_else() {
        let line = r#"{"kind":"phase","schema":"phase.event/1","run_id":"r","scenario":"s1","cell":"s1/x","repetition":1,"segment":2,
            "role":"settle","sample":3,"call":4,"session":5,"step":6,"start_ns":7,"end_ns":15,"backend":"sim","mode":"graph","phase":"decode",
            "shape":{"batch":2,"new_tokens":1,"context":40},"regime":"steady","boundary":"b","block":9,"outcome":{"failed":"out_of_memory"},
            "duration_ns":8,"device_ns":6,"later":"ignored"}"#;
        let outcome = serde_json::to_string(&Outcome::Failed(ErrorKind::OutOfMemory)).unwrap();
        let line = line.replace(r#"{"failed":"out_of_memory"}"#, &outcome);
        let old = line.replace(r#""mode":"graph","#, "").replace(r#","device_ns":6"#, "");
        for line in [&line, &old] {
            let Record::Phase(long) = serde_json::from_str(line).unwrap() else { panic!("a call") };
            assert_eq!(PhaseRecord::from(serde_json::from_str::<PhaseLine>(line).unwrap()), long);
        }
        assert_ne!(line, old);
        for wrong in [line.replace(r#""kind":"phase""#, r#""kind":"load""#), line.replace(r#""step":6"#, r#""step":-6"#)] {
            assert!(serde_json::from_str::<PhaseLine>(&wrong).is_err() && serde_json::from_str::<Record>(&wrong).is_err(), "{wrong}");
        }
    }
}
