//! One binary for all of this crate's tests against its public API.

mod common;
mod conformance;
mod golden;
mod refusals;
mod smollm2;
