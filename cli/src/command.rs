//! One file per command, or per group that shares its subject.

pub(crate) mod bench;
pub(crate) mod ceilings;
pub(crate) mod check;
pub(crate) mod cold;
pub(crate) mod cost;
pub(crate) mod doctor;
pub(crate) mod energy;
#[cfg(feature = "export")]
pub(crate) mod export;
pub(crate) mod generate;
pub(crate) mod idle;
pub(crate) mod logits;
pub(crate) mod manual;
pub(crate) mod model;
pub(crate) mod plan;
pub(crate) mod policy;
pub(crate) mod report;
pub(crate) mod run_directory;
#[cfg(feature = "export")]
pub(crate) mod serve_metrics;
