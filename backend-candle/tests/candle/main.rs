//! One binary for all of this crate's tests against its public API.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests: a failure ends the test, and its numbers are printed")]

mod common;
mod conformance;
#[cfg(feature = "cuda")]
mod cuda;
mod golden;
mod refusals;
mod smollm2;
