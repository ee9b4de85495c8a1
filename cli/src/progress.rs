//! Progress on standard error, drawn between samples, never inside a timed region.

use indicatif::{ProgressBar, ProgressStyle};
use phase_scenario::{Observer, Progress};

/// Draws a bar with the time left on a terminal, and a line per block elsewhere.
#[derive(Debug)]
pub(crate) struct Bar {
    bar: ProgressBar,
}

impl Bar {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("  [{elapsed_precise}] {bar:28} {pos}/{len} {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=> "));
        Self { bar }
    }

    fn line(&self, text: &str) {
        if self.bar.is_hidden() {
            crate::exit::note(text);
        } else {
            self.bar.println(text);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Observer for Bar {
    fn progress(&mut self, progress: &Progress<'_>) {
        match progress {
            Progress::Loading { backend } => self.bar.set_message(format!("loading {backend}")),
            Progress::Loaded { backend, load_ns } => self.line(&format!("  loaded {backend} in {:.2} s", *load_ns as f64 / 1e9)),
            Progress::Failed { backend, stage, message } => self.line(&format!("  {backend} failed in {stage}: {message}")),
            Progress::Parity { backend, passed } => {
                let verdict = if *passed { "agrees with" } else { "DISAGREES with" };
                self.line(&format!("  {backend} {verdict} the reference"));
            }
            Progress::BlockStart { block, blocks, scenario } => {
                self.bar.set_message(format!("block {} of {blocks}, {scenario}", block + 1));
            }
            Progress::Visit { backend, cell, done, total, remaining } => {
                self.bar.set_length(*total as u64);
                self.bar.set_position(*done as u64);
                self.bar.set_message(format!("{:.0} s left  {backend} {cell}", remaining.as_secs_f64()));
            }
            Progress::Energy { call, done, total } => {
                self.bar.set_length(*total as u64);
                self.bar.set_position(*done as u64);
                self.line(&format!("  energy {} of {total}: {call}", done + 1));
            }
            Progress::BlockEnd { block, blocks, other_load_fraction } => {
                let load = other_load_fraction.map_or_else(String::new, |share| format!(", other load {:.0}%", share * 100.0));
                self.line(&format!("  block {} of {blocks} done{load}", block + 1));
            }
            _ => {}
        }
    }
}
