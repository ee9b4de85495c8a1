//! A progress bar on standard error, drawn between samples, never inside a timed region.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
