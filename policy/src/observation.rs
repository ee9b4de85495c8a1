//! What a recorded event says to the policy. Does not judge it: that is the matrix's work.

use phase_core::{BackendId, Outcome, Phase, PhaseEvent, Regime, Shape};
use serde::{Deserialize, Serialize};

/// The mode of a backend that was asked for nothing special: no compilation, no graph capture.
pub const DEFAULT_MODE: &str = "default";

/// One timed call, reduced to what statistics need. Its serialised form may be flattened into a longer record: fields
/// it does not know are ignored.
///
/// ```
/// use phase_core::{BackendId, Phase, Shape};
/// use phase_policy::Observation;
/// let shape = Shape { batch: 1, new_tokens: 128, context: 0 };
/// let seen = Observation::new(BackendId::new("ort-cpu"), Phase::Prefill, shape, 1_500_000).with_boundary("b0").with_block(3);
/// let line = serde_json::to_string(&seen)?;
/// assert!(line.contains(r#""duration_ns":1500000"#));
/// assert_eq!(serde_json::from_str::<Observation>(&line)?, seen);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Observation {
    /// The path it ran on.
    pub backend: BackendId,
    /// The mode the backend was in; [`DEFAULT_MODE`] where a record does not say.
    #[serde(default = "default_mode")]
    pub mode: String,
    /// Prefill, decode, or the request around them.
    pub phase: Phase,
    /// How much work it was.
    pub shape: Shape,
    /// How warm the path was.
    pub regime: Regime,
    /// Names the measurement boundary it was taken under.
    pub boundary: String,
    /// The unit of replication it belongs to: one process start, or one randomised block in which every backend ran.
    /// Backends are paired by this number.
    pub block: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// Wall time.
    pub duration_ns: u64,
    /// Time on the device's own clock, where the backend reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_ns: Option<u64>,
}

fn default_mode() -> String {
    DEFAULT_MODE.to_owned()
}

impl Observation {
    /// A steady call that went well, in block 0 of the default mode, under a boundary still to be named.
    pub fn new(backend: BackendId, phase: Phase, shape: Shape, duration_ns: u64) -> Self {
        Self {
            backend,
            mode: default_mode(),
            phase,
            shape,
            regime: Regime::Steady,
            boundary: String::new(),
            block: 0,
            outcome: Outcome::Ok,
            duration_ns,
            device_ns: None,
        }
    }

    /// What `event` says, recorded under the boundary named `boundary` in replication block `block`.
    pub fn from_event(event: &PhaseEvent, boundary: impl Into<String>, block: u32) -> Self {
        let nanos = |d: std::time::Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        Self {
            regime: event.regime,
            boundary: boundary.into(),
            block,
            outcome: event.outcome,
            device_ns: event.device_time.map(nanos),
            ..Self::new(event.backend.clone(), event.phase, event.shape, nanos(event.duration()))
        }
    }

    /// In another mode.
    #[must_use]
    pub fn with_mode(mut self, mode: impl Into<String>) -> Self {
        self.mode = mode.into();
        self
    }

    /// In another regime.
    #[must_use]
    pub fn with_regime(mut self, regime: Regime) -> Self {
        self.regime = regime;
        self
    }

    /// Under the boundary named `boundary`.
    #[must_use]
    pub fn with_boundary(mut self, boundary: impl Into<String>) -> Self {
        self.boundary = boundary.into();
        self
    }

    /// In another replication block.
    #[must_use]
    pub fn with_block(mut self, block: u32) -> Self {
        self.block = block;
        self
    }

    /// With another ending.
    #[must_use]
    pub fn with_outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = outcome;
        self
    }

    /// With the device's own time.
    #[must_use]
    pub fn with_device_ns(mut self, device_ns: u64) -> Self {
        self.device_ns = Some(device_ns);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flattened_record_reads_back_and_a_missing_mode_is_the_default() {
        #[derive(Serialize, Deserialize)]
        struct Line {
            event_id: u64,
            #[serde(flatten)]
            seen: Observation,
        }
        let shape = Shape { batch: 2, new_tokens: 1, context: 40 };
        let seen = Observation::new(BackendId::new("x"), Phase::Decode, shape, u64::MAX)
            .with_regime(Regime::Warmup(2))
            .with_outcome(Outcome::Failed(phase_core::ErrorKind::OutOfMemory))
            .with_device_ns(7);
        let text = serde_json::to_string(&Line { event_id: 9, seen: seen.clone() }).unwrap();
        let back: Line = serde_json::from_str(&text.replace(r#""mode":"default","#, "")).unwrap();
        assert_eq!((back.event_id, back.seen), (9, seen));
    }
}
