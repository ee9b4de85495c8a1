//! A run as Markdown, for people. Everything in it follows from the run directory.

use crate::{
    FailureRecord, LoadProcess, OTHER_LOAD_LIMIT, ParityVerdict, Record, Residency, Run, card::card, energy::section, results::arm_of,
    table::Table,
};
use phase_core::{Arm, Fact, Layer, Phase, Shape, StackInfo};
use phase_policy::{Cell, RegimeClass};
use std::fmt::Write as _;

/// What a report may be told beside the run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReportOptions {
    /// The path that ties and doubts go to; by default the reference of the agreement check.
    pub default_safe: Option<Arm>,
    /// Nothing but the decision card.
    pub card_only: bool,
}

impl ReportOptions {
    /// Nothing but the decision card.
    pub fn card() -> Self {
        Self { card_only: true, ..Self::default() }
    }

    /// Sends ties and doubts to `backend`.
    #[must_use]
    pub fn with_default_safe(mut self, backend: Arm) -> Self {
        self.default_safe = Some(backend);
        self
    }
}

/// The report: decision card, matrix, agreement, cold against steady, energy, boundary, other load, failures, limits.
pub fn report(run: &Run, options: &ReportOptions) -> String {
    if options.card_only {
        return card(run, options);
    }
    let sections = [
        head(run),
        card(run, options),
        matrix(run),
        parity(run),
        cold(run),
        section(run),
        boundary(run),
        other_load(run),
        failures(run),
        limits(run),
    ];
    sections.join("\n")
}

fn head(run: &Run) -> String {
    let manifest = run.manifest();
    let plan = &manifest.plan;
    let mut sets: Vec<_> = plan.cells.iter().map(|c| c.scenario.to_uppercase()).collect();
    sets.dedup();
    let backends: Vec<_> = plan.backends.iter().map(ToString::to_string).collect();
    format!(
        "# Run {}\n\nStarted {} by {}. Sets {} at scale {}, effort {}, seed {}: {} blocks, {} events. Backends: {}.\n\nThe sets' names come \
         from the source document, which does not define them; their definitions are this project's own.\n",
        run.run_id(),
        manifest.created,
        manifest.program,
        sets.join(", "),
        plan.scale,
        plan.effort,
        plan.seed,
        plan.blocks.len(),
        run.records().len(),
        backends.join(", ")
    )
}

fn matrix(run: &Run) -> String {
    let mut out = "## Matrix\n\nSteady calls: median over the blocks' medians, its interval from order statistics with the confidence that so \
                   many blocks give. GB/s are the weights and cached keys and values that one decode step reads; GFLOP/s the matrix products of \
                   a prefill, head excluded.\n\n"
        .to_owned();
    let Some(matrix) = run.matrix() else { return out + "No call was made.\n" };
    for phase in [Phase::Prefill, Phase::Decode] {
        let rate = if phase == Phase::Prefill { "GFLOP/s" } else { "GB/s" };
        let mut table = Table::new(&[
            "batch",
            "new",
            "context",
            "backend",
            "median ms",
            "low ms",
            "high ms",
            "conf.",
            "p95 ms",
            "n",
            "blocks",
            "failed",
            "tokens/s",
            rate,
        ]);
        let mut cells: Vec<_> = matrix.cells().iter().filter(|c| c.key.phase == phase && c.key.regime == RegimeClass::Steady).collect();
        cells.sort_by_key(|c| (c.key.shape, c.key.backend.clone()));
        for cell in cells {
            table.row(matrix_row(run, cell));
        }
        if !table.is_empty() {
            let _ =
                writeln!(out, "### {}\n\n{table}", if phase == Phase::Prefill { "Prefill" } else { "Decode, per step, by context octave" });
        }
    }
    out
}

fn matrix_row(run: &Run, cell: &Cell) -> [String; 14] {
    let none = || "-".to_owned();
    let Shape { batch, new_tokens, context } = cell.key.shape;
    let contexts =
        cell.contexts.filter(|_| cell.key.phase == Phase::Decode).map_or_else(|| context.to_string(), |c| format!("{}..{}", c.min, c.max));
    let time = cell.time;
    let interval = time.and_then(|t| t.interval);
    let seconds = time.map(|t| t.median_ns / 1e9);
    [
        batch.to_string(),
        new_tokens.to_string(),
        contexts,
        cell.key.backend.to_string(),
        time.map_or_else(none, |t| ms(t.median_ns)),
        interval.map_or_else(none, |i| ms(i.low)),
        interval.map_or_else(none, |i| ms(i.high)),
        interval.map_or_else(none, |i| format!("{:.0}%", i.confidence * 100.0)),
        time.and_then(|t| t.p95_ns).map_or_else(none, ms),
        cell.n.to_string(),
        cell.blocks.len().to_string(),
        cell.failures.to_string(),
        seconds.map_or_else(none, |s| format!("{:.1}", real(batch * new_tokens) / s)),
        seconds.and_then(|s| achieved(run, cell, s)).map_or_else(none, |v| format!("{v:.1}")),
    ]
}

/// GB/s of a decode step, GFLOP/s of a prefill; `None` where the model does not tell its work.
#[expect(clippy::cast_precision_loss, reason = "bytes and operations of one call are far below 2^52")]
fn achieved(run: &Run, cell: &Cell, seconds: f64) -> Option<f64> {
    let model = run.manifest().backend(&arm_of(&cell.key.backend, &cell.key.mode))?.model.as_ref()?;
    let Shape { batch, new_tokens, .. } = cell.key.shape;
    let work = if cell.key.phase == Phase::Prefill {
        model.flops_per_token as f64 * real(batch * new_tokens)
    } else {
        let cached = real(batch * cell.contexts?.median) * model.kv_bytes_per_position as f64;
        if model.weight_bytes == 0 { 0.0 } else { model.weight_bytes as f64 + cached }
    };
    (work > 0.0).then_some(work / seconds / 1e9)
}

fn parity(run: &Run) -> String {
    let mut table = Table::new(&["backend", "verdict", "max difference", "allowed", "rows", "tokens differ", "near ties", "why"]);
    for check in &run.parity().checks {
        let verdict = match check.verdict {
            ParityVerdict::Agrees => "agrees",
            ParityVerdict::Differs => "DIFFERS",
            ParityVerdict::Failed => "FAILED",
            ParityVerdict::Reference => "reference",
        };
        table.row([
            check.backend.to_string(),
            verdict.to_owned(),
            check.max_abs_diff.map_or_else(|| "-".to_owned(), |d| format!("{d:.2e}")),
            check.tolerance.map_or_else(|| "-".to_owned(), |d| d.to_string()),
            check.rows_compared.to_string(),
            check.tokens_different.to_string(),
            check.near_ties.to_string(),
            check.why.clone(),
        ]);
    }
    let spec = &run.parity().spec;
    format!(
        "## Agreement\n\nScores of every backend against the reference's: {} rows of {} prompt tokens and {} decode steps. A backend that \
         differs keeps its rows above and can't win a route.\n\n{table}",
        spec.batch, spec.prompt_tokens, spec.decode_steps
    )
}

fn cold(run: &Run) -> String {
    let mut out = "## Cold start\n\nFresh processes; the model's files are as a rule in the page cache.\n\n".to_owned();
    let mut loads = Table::new(&["backend", "process", "loads", "load median ms", "min ms", "max ms", "whole process ms"]);
    for load in run.loads() {
        loads.row([
            load.backend.to_string(),
            if load.process == LoadProcess::Fresh { "fresh" } else { "runner" }.to_owned(),
            load.n.to_string(),
            ms(load.median_ns),
            ms(load.min_ns),
            ms(load.max_ns),
            load.process_median_ns.map_or_else(|| "-".to_owned(), ms),
        ]);
    }
    let mut first = Table::new(&["phase", "batch", "new", "context", "backend", "cold ms", "steady ms", "cold/steady", "n"]);
    for cell in run.matrix().iter().flat_map(|m| m.cells()).filter(|c| c.key.regime == RegimeClass::Cold) {
        let Some(time) = cell.time else { continue };
        let mut key = cell.key.clone();
        key.regime = RegimeClass::Steady;
        let steady = run.matrix().and_then(|m| m.cell(&key)).and_then(|c| c.time);
        let Shape { batch, new_tokens, context } = cell.key.shape;
        first.row([
            cell.key.phase.to_string(),
            batch.to_string(),
            new_tokens.to_string(),
            context.to_string(),
            cell.key.backend.to_string(),
            ms(time.median_ns),
            steady.map_or_else(|| "-".to_owned(), |s| ms(s.median_ns)),
            steady.map_or_else(|| "-".to_owned(), |s| format!("{:.2}", time.median_ns / s.median_ns)),
            cell.n.to_string(),
        ]);
    }
    let _ = write!(out, "{loads}");
    let _ = if first.is_empty() {
        write!(out, "\nNo first calls of fresh processes were measured in this run (they are part of S3).\n")
    } else {
        write!(out, "\nFirst calls:\n\n{first}")
    };
    out
}

fn boundary(run: &Run) -> String {
    let manifest = run.manifest();
    let mut out = "## Boundary\n\nCaptured by code at load, and again, unchanged, after the last block.\n\n".to_owned();
    let mut shared = Table::new(&["fact", "value"]);
    let mut own = Table::new(&["backend", "fact", "value"]);
    let mut told: Vec<(Layer, &str, &Fact)> = Vec::new();
    for entry in &manifest.backends {
        let Some(boundary) = run.boundary(&entry.backend) else { continue };
        for (layer, key, fact) in StackInfo::iter(&boundary.stack) {
            if layer == Layer::Runtime {
                own.row([entry.backend.to_string(), key.to_owned(), fact.to_string()]);
            } else if !told.contains(&(layer, key, fact)) {
                told.push((layer, key, fact));
                shared.row([format!("{}.{key}", layer.as_str()), fact.to_string()]);
            }
        }
    }
    if let Some((_, b)) = manifest.boundaries.iter().next() {
        for (name, value) in [
            ("span", format!("{:?}", b.span).to_lowercase()),
            ("includes", b.includes.to_string()),
            ("timing", format!("{:?}", b.timing).to_lowercase()),
            ("definitions", b.definitions.to_string()),
        ] {
            shared.row([name.to_owned(), value]);
        }
    }
    let _ = write!(out, "{shared}\n{own}");
    out
}

fn other_load(run: &Run) -> String {
    let mut out = format!(
        "## Other load\n\nShare of all processor time that other processes used during a block; flagged above {:.0}%.\n\n",
        OTHER_LOAD_LIMIT * 100.0
    );
    let mut table = Table::new(&["block", "set", "other load"]);
    let (mut unknown, mut worst) = (0, 0.0_f64);
    for block in run.blocks() {
        match block.other_load_fraction {
            None => unknown += 1,
            Some(share) => {
                worst = worst.max(share);
                if share > OTHER_LOAD_LIMIT {
                    let set = run.manifest().plan.blocks.get(block.block as usize).map_or("", |b| b.scenario.as_str());
                    table.row([block.block.to_string(), set.to_owned(), format!("{:.1}%", share * 100.0)]);
                }
            }
        }
    }
    let all = run.blocks().len();
    let _ = if unknown == all {
        writeln!(out, "Not known: the system does not tell.")
    } else if table.is_empty() {
        writeln!(out, "No block is flagged; the highest share is {:.1}%.", worst * 100.0)
    } else {
        write!(out, "Flagged blocks are kept in every number above.\n\n{table}")
    };
    out
}

fn failures(run: &Run) -> String {
    let all = run.records().iter().filter_map(|r| if let Record::Failure(f) = r { Some(f) } else { None });
    let mut groups: Vec<(&FailureRecord, u32)> = Vec::new();
    for failure in all {
        let same = |f: &FailureRecord| {
            (&f.backend, &f.cell, f.stage, &f.message) == (&failure.backend, &failure.cell, failure.stage, &failure.message)
        };
        match groups.iter_mut().find(|(f, _)| same(f)) {
            Some((_, n)) => *n += 1,
            None => groups.push((failure, 1)),
        }
    }
    let mut table = Table::new(&["backend", "cell", "stage", "kind", "times", "message"]);
    for (failure, times) in groups {
        table.row([
            failure.backend.to_string(),
            failure.cell.clone().unwrap_or_default(),
            failure.stage.to_string(),
            failure.error_kind.to_string(),
            times.to_string(),
            failure.message.clone(),
        ]);
    }
    if table.is_empty() { "## Failures\n\nNone.\n".to_owned() } else { format!("## Failures\n\n{table}") }
}

fn limits(run: &Run) -> String {
    let process = match run.manifest().plan.residency {
        Residency::All => {
            "All blocks of one backend share one load in one process: variation between processes is not in the intervals (`residency = one` \
             and repeated runs show it). All models were in memory at once."
        }
        Residency::One => "Each backend was loaded afresh in every block; one model was in memory at a time.",
    };
    let segments = run.manifest().segments.len();
    let resumed = if segments > 1 { format!("- The run was resumed: {segments} processes worked on it.\n") } else { String::new() };
    format!(
        "## Limits\n\n- {process}\n{resumed}- Numbers hold for the boundary above and for no other. Tokenizing, sampling and queueing are not in \
         them.\n- Decode steps are fed with drawn tokens, the same for every backend, so that all do the same work.\n- Agreement is with another \
         backend, not with the truth: an error that all share does not show.\n"
    )
}

pub(crate) fn ms(ns: f64) -> String {
    let ms = ns / 1e6;
    match ms {
        ms if ms >= 100.0 => format!("{ms:.0}"),
        ms if ms >= 10.0 => format!("{ms:.1}"),
        ms if ms >= 1.0 => format!("{ms:.2}"),
        ms => format!("{ms:.4}"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "token counts are far below 2^52")]
fn real(n: usize) -> f64 {
    n as f64
}
