//! Energy of phases: measured with a bound, or `no_data` with a reason.
//!
//! A GPU tells its energy in steps of tens of milliseconds, and a prefill may last fifty. What a sensor said about a phase
//! is therefore an interval, and this crate computes the one that must contain the truth: from distinct sensor updates
//! (not polls), a calibrated sensor model and the limits of what the device can draw.
//!
//! - [`Series`] attributes a recording to phases; [`bracket`] and [`classify`] are its arithmetic.
//! - [`SensorModel`] says what a reading means; a sensor without a calibration has no energy.
//! - [`Source`] is the one trait of everything that is read; [`Scripted`] replays readings, and [`fake`] is a GPU whose
//!   energy is known.
//! - [`Board`] (NVML, loaded at run time) and [`Rapl`] are sources; [`Sampler`] reads sources on the clock of the phases.
//! - [`calibrate`] finds out what a sensor does; [`SensorCalibration`] is what was found out about one sensor; [`mod@file`] reads and writes recordings.
//! - [`MacroPlan`] and [`verdict`] get the mean of phases that are too short for one, [`guarded_shot`] that of isolated ones.
//! - [`sources`] says which sources this machine has and why the others are absent.
//!
//! Status of an answer: `measured` (both ends bracketed, at least two updates inside, at most 10% uncertain),
//! `interpolated` (at most 50%), `no_data` with a reason, and `macro_window` for means over replays.
//!
//! What is deliberately absent: any number for what is not known, and any estimate of power from utilisation.

mod attribution;
mod availability;
pub mod calibrate;
mod calibration;
pub mod fake;
pub mod file;
mod range;
mod replication;
mod sampler;
mod sensor;
mod source;

pub use attribution::{
    ActiveEnergy, Allocated, AllocationRule, Attribution, AttributionError, Baseline, BaselineKind, BaselineMismatch, Bracket, Cursor,
    Gate, Interval, PowerBounds, Sample, Seen, SensorWindow, Series, allocate, bracket, classify, cross_check, sum,
};
pub use availability::{Availability, Roots, SourceStatus, absence_reason, absence_reason_of, sources, sources_in};
pub use calibration::{CalibratedClock, Estimate, METHOD_VERSION, SensorCalibration, VALID_DAYS};
pub use range::JouleRange;
pub use replication::{FoldWindow, Folded, GuardedWindow, MacroPlan, ReplayWindow, folded, guarded_shot, locked, more_replays, verdict};
pub use sampler::{
    Condition, CostMeter, Lateness, Poller, Recording, RecordingFacts, Sampler, SamplerCost, SamplerError, SamplerPlan, SystemWall, Wall,
};
pub use sensor::{ReadingKind, SensorKind, SensorModel, UpdateClock};
pub use source::{
    Board, BoardCondition, BoardField, BoardState, NvmlError, NvmlLibrary, Perimeter, Rapl, RaplError, ReadError, Reading, Scripted,
    Source, SourceId, Stamped,
};
