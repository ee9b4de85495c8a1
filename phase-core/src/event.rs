//! What is recorded about one phase call.

use crate::{BackendId, ErrorKind, MeasurementBoundary, Phase, SessionId, Timestamp};
use std::{sync::Arc, time::Duration};

/// How warm the path was. Numbers of different regimes are never averaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Regime {
    /// The first call of a phase after loading, and those before it that failed.
    Cold,
    /// The n-th call after the cold one, counted from 1, before the path is trusted to be warm.
    Warmup(u32),
    /// Warmed execution.
    Steady,
}

/// The size of the work of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[expect(clippy::exhaustive_structs, reason = "a shape is compared and built everywhere; a new dimension is a new definition")]
pub struct Shape {
    /// Sequences.
    pub batch: usize,
    /// Positions this call adds per sequence: the prompt's length in prefill, 1 in decode, the steps in a run of
    /// decode. For a request: tokens generated.
    pub new_tokens: usize,
    /// Positions per sequence cached before this call. For a request: the prompt's length, earlier turns included.
    pub context: usize,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Outcome {
    /// It did its work.
    Ok,
    /// The caller gave up before the end. Only requests can be cancelled; a phase call always ends.
    Cancelled,
    /// It failed. Such an event never enters a statistic.
    Failed(ErrorKind),
}

/// One phase call, or one request.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PhaseEvent {
    /// The path it ran on.
    pub backend: BackendId,
    /// The cache it worked on.
    pub session: SessionId,
    /// Prefill, decode, or the request around them.
    pub phase: Phase,
    /// Position of this call among the calls on its cache, from 0.
    pub step: u32,
    /// How warm the path was.
    pub regime: Regime,
    /// How much work it was.
    pub shape: Shape,
    /// Just before the call.
    pub start: Timestamp,
    /// Just after its return.
    pub end: Timestamp,
    /// Time on the device's own clock, when the backend reports it.
    pub device_time: Option<Duration>,
    /// How it ended.
    pub outcome: Outcome,
    /// The conditions its times hold under.
    pub boundary: Arc<MeasurementBoundary>,
}

impl PhaseEvent {
    /// Wall time of the call.
    pub fn duration(&self) -> Duration {
        self.end.since(self.start)
    }
}
