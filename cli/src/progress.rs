//! Progress on standard error: a spinner for what takes seconds, a bar where the rest is known, a table for runs.
//!
//! A run's is drawn between samples, never inside a timed region; a spinner has a thread of its own and is gone before anything is timed.

use crate::{exit::quiet, watch::Table};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use phase_core::{BoxError, BoxModel, DynBackend, LoadProgress, LoadSpec};
use phase_scenario::{Observer, Plan, Progress};
use std::{borrow::Cow, sync::Once, time::Duration};

/// Does `work` while a spinner says `what` on a terminal.
pub(crate) fn during<T>(what: &'static str, work: impl FnOnce() -> T) -> T {
    let _spinner = Spinner::new(what);
    work()
}

/// Gone when it is dropped, so that errors and answers are printed on a clean line.
struct Spinner(ProgressBar);

impl Spinner {
    fn new(what: impl Into<Cow<'static, str>>) -> Self {
        let bar = if quiet() { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        if !bar.is_hidden() {
            bar.set_style(style("  {spinner} {wide_msg} {elapsed}"));
            bar.set_message(what);
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        Self(bar)
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Loads a model under a spinner, which becomes a bar as soon as weights are read.
pub(crate) fn loading(backend: &dyn DynBackend, spec: LoadSpec) -> Result<BoxModel, BoxError> {
    let spinner = Spinner::new(format!("loading {}", backend.arm()));
    let (bar, first) = (spinner.0.clone(), Once::new());
    let told = LoadProgress::new(move |done, total| {
        first.call_once(|| bar.set_style(style(BAR)));
        bar.set_length(total);
        bar.set_position(done);
    });
    backend.load_dyn(&spec.with_progress(told))
}

/// Does `work` under a bar; `work` tells how much is done, of how much, and what it is at.
pub(crate) fn watched<T>(work: impl FnOnce(&mut dyn FnMut(u64, u64, &str)) -> T) -> T {
    let steps = Steps::new();
    work(&mut |done, total, what| steps.at(done, total, what.to_owned()))
}

/// A bar with the share that is done and the time left, for work that knows how much of it is done.
#[derive(Debug)]
pub(crate) struct Steps(ProgressBar);

impl Steps {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), target());
        bar.set_style(style(BAR));
        Self(bar)
    }

    /// `done` of `total`, at `what`.
    pub(crate) fn at(&self, done: u64, total: u64, what: String) {
        self.0.set_length(total);
        self.0.set_position(done);
        self.0.set_message(what);
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// For work that knows how much of it is done.
const BAR: &str = "  [{elapsed_precise}] {bar:20} {percent:>3}% {eta} left  {wide_msg}";

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

/// Draws a bar with the time left on a terminal, and a line per block elsewhere.
#[derive(Debug)]
pub(crate) struct Bar {
    bar: ProgressBar,
    watch: Option<Watch>,
}

#[derive(Debug)]
struct Watch {
    table: Table,
    /// Where the table is drawn in place; hidden where there is no terminal.
    place: ProgressBar,
}

impl Bar {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), target());
        bar.set_style(style("  [{elapsed_precise}] {bar:20} {pos}/{len} {wide_msg}"));
        Self { bar, watch: None }
    }

    /// With a table of every cell and backend of `plan`.
    pub(crate) fn watching(plan: &Plan) -> Self {
        let screen = MultiProgress::with_draw_target(target());
        let place = screen.add(ProgressBar::new_spinner().with_style(style("{msg}")));
        let mut new = Self::new();
        new.bar = screen.add(new.bar.clone());
        new.watch = Some(Watch { table: Table::new(plan), place });
        new
    }

    fn line(&self, text: &str) {
        if self.bar.is_hidden() {
            crate::exit::note(text);
        } else {
            self.bar.println(text);
        }
    }

    fn watch(&mut self, progress: &Progress<'_>) {
        let Some(Watch { table, place }) = &mut self.watch else { return };
        table.take(progress);
        if place.is_hidden() {
            if matches!(progress, Progress::BlockEnd { .. }) {
                crate::exit::note(table.render(None).trim_end());
            }
        } else if matches!(progress, Progress::Visit { .. } | Progress::BlockEnd { .. }) {
            place.set_message(table.render(Some(screen())));
            place.tick();
        }
    }
}

fn target() -> ProgressDrawTarget {
    if quiet() { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() }
}

/// Columns of the terminal, and lines that the table may have: the bar and what is printed above need some.
fn screen() -> (usize, usize) {
    let (columns, lines) =
        terminal_size::terminal_size_of(std::io::stderr()).map_or((80, 24), |(w, h)| (usize::from(w.0), usize::from(h.0)));
    (columns, lines.saturating_sub(4).max(4))
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        if let Some(Watch { table, place }) = &self.watch {
            let drawn = !place.is_hidden();
            place.finish_and_clear();
            // What stays is the whole table, which may be longer than the screen.
            if drawn {
                crate::exit::note(table.render(None).trim_end());
            }
        }
    }
}

impl Observer for Bar {
    fn progress(&mut self, progress: &Progress<'_>) {
        self.watch(progress);
        match progress {
            Progress::Loading { backend } => self.bar.set_message(format!("loading {backend}")),
            Progress::Loaded { backend, load_ns } => self.line(&format!("  loaded {backend} in {:.2} s", *load_ns as f64 / 1e9)),
            Progress::Failed { backend, stage, message } => self.line(&format!("  {backend} failed in {stage}: {message}")),
            Progress::NoCeilings { message } => self.line(&format!("  ceilings not measured: {message}")),
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
            Progress::EnergyAgenda { replays, left_s } if !replays.is_empty() => self.line(&crate::agenda::text(replays, *left_s)),
            Progress::Energy { call, done, total } if done == total => self.line(&format!("  energy once more: {call}")),
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
