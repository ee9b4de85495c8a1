//! One test binary: linking burn takes longer than running the tests.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod conformance;
mod data;
mod golden;
mod refusals;
