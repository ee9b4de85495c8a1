#![doc = include_str!("../README.md")]

pub mod capacity;
mod change;
pub mod constants;
pub mod cost;
mod drift;
mod evidence;
mod json;
mod ledger;
mod matrix;
mod observation;
pub mod plan;
mod policy;
mod roofline;
mod router;
mod rules;
mod sensors;
mod slo;
pub mod stats;
#[cfg(test)]
mod testing;
mod validity;
mod warm;

pub use change::{Change, Changes, Severity, severity};
pub use drift::{Drift, DriftVerdict};
pub use evidence::{
    CompileEvidence, EvidenceError, Executor, Level, MAX_ELSEWHERE_SHARE, MAX_SHORT_CIRCUIT_SHARE, MAX_UNFUSED_SHARE, Sealed, Source,
    Violation,
};
pub use ledger::{
    Actual, BAD_WINDOWS, Ledger, LedgerEntry, LedgerMismatch, LedgerSnapshot, Part, Regret, Remeasure, WINDOW, WindowReport, WindowVerdict,
};
pub use matrix::{
    ActiveJoules, Calls, Cell, CellKey, Cold, Contexts, EnergyBasis, EnergySensor, MatrixError, RegimeClass, ScenarioMatrix, Steady,
    TimeSummary, Warming, Warmness,
};
pub use observation::{DEFAULT_MODE, Observation};
pub use policy::{CheckError, Comparison, Policy, PolicyError, PolicyOptions, SCHEMA, Summary, Upgraded};
pub use roofline::{Ceilings, LeastWork};
pub use router::{
    Basis, Choice, Decision, Estimate, Expectation, Expected, Explanation, Fallbacks, LastCalls, Limits, ModelTier, Objective,
    ObjectiveError, Prediction, Present, Rest, Router, SharedRouter, TierDecision, TierError, TierReason, TieredRouter, Unpredicted,
    WarmupAdvice, Workload,
};
pub use rules::{
    Class, CompileAdvice, CompileReason, CompileVerdict, Outside, Reason, Standing, Warmth, Warmup, add_energies, repeat_energy,
    reported_energy,
};
pub use sensors::LiveSensor;
pub use slo::{Percentile, Slo, SloError};
pub use validity::{BackendValidity, Validity};
pub use warm::{IdleCurve, IdleError, IdlePoint, IdleSample, PoolAdvice, PoolNeed, WarmFor, WarmupCall, WarmupError, WarmupPlan};
