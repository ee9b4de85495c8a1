//! Scenario sets S0-S3, the matrix runner, run directories, validation, comparison, report.
