//! One binary for all of this crate's tests against its public API.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests: a failure ends the test, and its numbers are printed")]

mod check;
mod common;
mod conformance;
mod golden;
mod refusals;
mod smollm2;
