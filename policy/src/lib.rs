#![doc = include_str!("../README.md")]

pub mod constants;
mod observation;
pub mod stats;

pub use observation::{DEFAULT_MODE, Observation};
