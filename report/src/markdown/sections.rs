//! The sections below the card.

use super::{STEADY, bounds, dash, number, phase_title, share};
use crate::{
    figure::{Figure, between, digits, percent},
    report::{Report, Source},
    table::Table,
};
use phase_core::Phase;
use phase_scenario::{LoadProcess, ParityVerdict};
use std::fmt::Write as _;

pub(super) fn matrix(report: &Report) -> String {
    let mut out =
        "## Matrix\n\nSteady calls: median over the blocks' medians, its interval from order statistics with the confidence that so \
                   many blocks give.\n"
            .to_owned();
    for phase in [Phase::Prefill, Phase::Decode] {
        let mut table = Table::new(&[
            "bucket",
            "backend",
            "median ms",
            "low ms",
            "high ms",
            "conf.",
            "p95 ms",
            "p99 ms",
            "n",
            "blocks",
            "failed",
            "tokens/s",
            "boundary",
        ]);
        for row in report.cells.iter().filter(|r| r.phase == phase && r.regime == STEADY) {
            let median = row.median.as_ref();
            let [low, high] = bounds(median);
            table.row([
                row.bucket.clone(),
                row.arm.clone(),
                number(median),
                low,
                high,
                median.and_then(|m| m.confidence).map_or_else(dash, percent),
                tail(row.p95.as_ref()),
                tail(row.p99.as_ref()),
                median.map_or(0, |m| m.n).to_string(),
                median.map_or(0, |m| m.blocks).to_string(),
                row.failures.to_string(),
                number(row.rate.as_ref()),
                median.map_or_else(dash, |m| m.boundary.clone()),
            ]);
        }
        if !table.is_empty() {
            let _ = write!(out, "\n### {}\n\n{table}", phase_title(phase));
        }
    }
    let mut others = Table::new(&[
        "phase",
        "bucket",
        "backend",
        "regime",
        "median ms",
        "low ms",
        "high ms",
        "conf.",
        "p95 ms",
        "p99 ms",
        "n",
        "blocks",
        "boundary",
    ]);
    for row in report.cells.iter().filter(|r| r.regime != STEADY) {
        let median = row.median.as_ref();
        let [low, high] = bounds(median);
        others.row([
            row.phase.to_string(),
            row.bucket.clone(),
            row.arm.clone(),
            row.regime.as_str().to_owned(),
            number(median),
            low,
            high,
            median.and_then(|m| m.confidence).map_or_else(dash, percent),
            tail(row.p95.as_ref()),
            tail(row.p99.as_ref()),
            median.map_or(0, |m| m.n).to_string(),
            median.map_or(0, |m| m.blocks).to_string(),
            median.map_or_else(dash, |m| m.boundary.clone()),
        ]);
    }
    if !others.is_empty() {
        let _ = write!(out, "\n### Other regimes: cold and warm-up\n\n{others}");
    }
    out
}

/// A percentile, and where it lies at most.
fn tail(figure: Option<&Figure>) -> String {
    match figure.map(|f| (f.value, f.high)) {
        Some((value, Some(high))) => format!("{}, at most {}", digits(value), digits(high)),
        Some((value, None)) => digits(value),
        None => dash(),
    }
}

/// A number with its ends, where it has them.
fn spread(figure: &Figure) -> String {
    match (figure.low, figure.high) {
        (Some(low), Some(high)) => between([figure.value, low, high]),
        _ => digits(figure.value),
    }
}

pub(super) fn winners(report: &Report) -> String {
    let mut table = Table::new(&["phase", "bucket", "winner", "order, time over the first one's"]);
    for bucket in report.buckets.iter().filter(|b| b.places.len() > 1) {
        let places: Vec<_> =
            bucket.places.iter().map(|p| p.ratio.as_ref().map_or_else(|| p.arm.clone(), |r| format!("{} {}", p.arm, r.full()))).collect();
        table.row([
            bucket.phase.to_string(),
            bucket.label.clone(),
            bucket.winner.clone().unwrap_or_else(|| "none is sure".to_owned()),
            places.join(", "),
        ]);
    }
    if table.is_empty() {
        return String::new();
    }
    let mut out = format!("## Winners and inversions\n\n{table}\n");
    let mut duels = Table::new(&["phase", "pair", "faster", "slower", "same", "undecided"]);
    for d in &report.duels {
        let counts = [d.faster, d.slower, d.equivalent, d.ambiguous].map(|n| n.to_string());
        duels.row([d.phase.to_string(), format!("{} against {}", d.ours, d.theirs)].into_iter().chain(counts));
    }
    let _ = writeln!(out, "Pairs, by the number of buckets:\n\n{duels}");
    if report.inversions.is_empty() {
        out.push_str("No pair turns round: whoever is faster somewhere is slower nowhere.\n");
    }
    for turn in &report.inversions {
        let _ = writeln!(
            out,
            "- **{} and {}** turn round: {} is faster for {}; slower for {}.",
            turn.ours,
            turn.theirs,
            turn.ours,
            turn.faster.join("; "),
            turn.slower.join("; ")
        );
    }
    out
}

pub(super) fn fractions(report: &Report) -> String {
    let mut table = Table::new(&["request", "backend", "decode fraction", "low", "high", "n", "boundary"]);
    for row in &report.fractions {
        let ends = [percent(row.decode_fraction), share(row.low), share(row.high)];
        table.row([row.cell.clone(), row.arm.clone()].into_iter().chain(ends).chain([row.n.to_string(), row.boundary.clone()]));
    }
    if table.is_empty() {
        String::new()
    } else {
        format!("## Prefill against decode\n\nMedian over samples of decode / (prefill + decode).\n\n{table}")
    }
}

pub(super) fn cold(report: &Report) -> String {
    let mut out = "## Cold start\n\nFresh processes; the model's files are as a rule in the page cache.\n\n".to_owned();
    let mut loads = Table::new(&["backend", "process", "loads", "load median ms", "min ms", "max ms", "whole process ms", "boundary"]);
    for row in &report.cold.loads {
        let [low, high] = bounds(Some(&row.load));
        let process = if row.process == LoadProcess::Fresh { "fresh" } else { "runner" };
        let whole = row.process_ms.map_or_else(dash, digits);
        loads.row([
            row.arm.clone(),
            process.to_owned(),
            row.load.n.to_string(),
            digits(row.load.value),
            low,
            high,
            whole,
            row.load.boundary.clone(),
        ]);
    }
    if !loads.is_empty() {
        let _ = writeln!(out, "{loads}");
    }
    let mut first = Table::new(&["phase", "bucket", "backend", "cold", "steady", "cold/steady", "warm pool"]);
    for row in &report.cold.first_calls {
        first.row([
            row.phase.to_string(),
            row.label.clone(),
            row.arm.clone(),
            row.cold.provenance(),
            row.steady.as_ref().map_or_else(dash, Figure::provenance),
            row.ratio.map_or_else(dash, digits),
            if row.warm_pool { "required" } else { "-" }.to_owned(),
        ]);
    }
    if first.is_empty() {
        out.push_str("No first calls of fresh processes were measured (they are part of S3).\n");
    } else {
        let _ = write!(out, "First calls:\n\n{first}");
    }
    let mut curves = Table::new(&["start", "phase", "request", "backend", "n", "ms of call 1, 2, 3, ..."]);
    for c in &report.cold.curves {
        let start = if c.cold { "fresh process" } else { "warm-up in the runner" };
        let ms = c.ms.iter().map(|ms| digits(*ms)).collect::<Vec<_>>().join(", ");
        curves.row([start.to_owned(), c.phase.to_string(), c.cell.clone(), c.arm.clone(), c.n.to_string(), ms]);
    }
    if !curves.is_empty() {
        let _ = write!(out, "\nHow calls settle:\n\n{curves}");
    }
    out
}

pub(super) fn roofline(report: &Report) -> String {
    let section = &report.roofline;
    let mut table =
        Table::new(&["phase", "bucket", "backend", "GB/s", "GFLOP/s", "flops a byte", "of ceiling", "conf.", "n", "blocks", "boundary"]);
    for point in &section.points {
        table.row([
            point.phase.to_string(),
            point.label.clone(),
            point.arm.clone(),
            spread(&point.gigabytes_per_s),
            spread(&point.gigaflops_per_s),
            digits(point.intensity),
            share(point.share),
            share(point.gigaflops_per_s.confidence),
            point.gigaflops_per_s.n.to_string(),
            point.gigaflops_per_s.blocks.to_string(),
            point.gigaflops_per_s.boundary.clone(),
        ]);
    }
    if table.is_empty() {
        return "## Roofline\n\nno_data: the backends do not tell their work, or no cell was measured.\n".to_owned();
    }
    let roofs = section.roofs.iter().map(|r| {
        let device = r.device.as_ref().map_or_else(String::new, |d| format!("{d}: "));
        format!("{device}{} GB/s, {} GFLOP/s; ", digits(r.gigabytes_per_s), digits(r.gigaflops_per_s))
    });
    format!("## Roofline\n\nCeiling: {}{}.\n\n{table}", roofs.collect::<String>(), section.source)
}

pub(super) fn parts(report: &Report) -> String {
    let header: Vec<_> = ["part", "seconds", "share"].into_iter().chain(report.arms.iter().map(String::as_str)).collect();
    let mut table = Table::new(&header);
    for row in &report.parts {
        let known = [row.part.words().to_owned(), digits(row.seconds), row.share_text()];
        let arms = report.arms.iter().enumerate().map(|(at, _)| row.by_arm_s.get(at).map_or_else(dash, |s| digits(*s)));
        table.row(known.into_iter().chain(arms));
    }
    if table.is_empty() {
        String::new()
    } else {
        format!("## Time by part\n\nOf the wall time of all {} blocks; the parts add up to it.\n\n{table}", report.parts[0].blocks)
    }
}

pub(super) fn energy(report: &Report) -> String {
    let section = &report.energy;
    let words: Vec<_> = section.statuses.iter().map(|(status, n)| format!("`{status}` {n}")).collect();
    let reasons: Vec<_> = section.reasons.iter().map(|(reason, n)| format!("{reason} {n}")).collect();
    let why = if reasons.is_empty() { String::new() } else { format!(" No data because: {}.", reasons.join(", ")) };
    let mut out =
        format!("## Energy\n\nSteady cells by status: {}.{why}\n", if words.is_empty() { "none".to_owned() } else { words.join(", ") });
    if let Some((plan, summary)) = &section.measured {
        out.push('\n');
        super::energy::measured(&mut out, plan, summary);
    }
    // Where a plan measured them, the tables above have them with what they rest on.
    let told = section.measured.as_ref().is_some_and(|(plan, _)| plan.reason.is_none());
    let mut rows = Table::new(&["phase", "bucket", "backend", "status", "J a call", "low", "high", "J a token", "n"]);
    for row in section.rows.iter().filter(|_| !told) {
        rows.row([
            row.phase.to_string(),
            row.label.clone(),
            row.arm.clone(),
            row.energy.status().to_owned(),
            digits(row.joules),
            digits(row.bounds[0]),
            digits(row.bounds[1]),
            digits(row.joules_per_token),
            row.n.to_string(),
        ]);
    }
    let mut sources = Table::new(&["source", "status", "detail"]);
    for source in &section.sources {
        sources.row([source.name.clone(), if source.available { "available" } else { "absent" }.to_owned(), source.detail.clone()]);
    }
    for table in [rows, sources].iter().filter(|t| !t.is_empty()) {
        let _ = write!(out, "\n{table}");
    }
    out
}

pub(super) fn cost(report: &Report) -> String {
    let section = &report.cost;
    let header: Vec<_> = ["batch", "prompt", "new", "route", "s a request", "s a 1M new tokens"]
        .into_iter()
        .chain(section.columns.iter().map(String::as_str))
        .collect();
    let mut table = Table::new(&header);
    for row in &section.rows {
        let [batch, prompt, new] = row.request.map(|n| n.to_string());
        let bounded = |b: &phase_policy::cost::Bounded| format!("{} [{}, {}]", digits(b.value()), digits(b.low()), digits(b.high()));
        let known = [batch, prompt, new, row.route.clone(), bounded(&row.seconds), bounded(&row.seconds_per_1m)];
        table.row(known.into_iter().chain(row.usd_per_1k.iter().map(bounded)));
    }
    if table.is_empty() {
        return String::new();
    }
    let prices = section.book.as_ref().map_or_else(
        || "no_data: no price book was given (`--prices BOOK`), so there are seconds and no money.".to_owned(),
        |book| format!("Prices: {book}. US dollars a thousand requests, one request at a time on a worker."),
    );
    format!("## Cost\n\n{prices}\n\n{table}")
}

pub(super) fn agreement(report: &Report) -> String {
    let mut table = Table::new(&["backend", "verdict", "max difference", "allowed", "rows", "tokens differ", "near ties", "why"]);
    for row in &report.agreement {
        let verdict = match row.verdict {
            ParityVerdict::Agrees => "agrees",
            ParityVerdict::Differs => "DIFFERS",
            ParityVerdict::Reference => "reference",
            _ => "FAILED",
        };
        table.row([
            row.arm.clone(),
            verdict.to_owned(),
            row.max_abs_diff.map_or_else(dash, digits),
            row.tolerance.map_or_else(dash, digits),
            row.rows.to_string(),
            row.tokens_different.to_string(),
            row.near_ties.to_string(),
            row.why.clone(),
        ]);
    }
    if table.is_empty() {
        return String::new();
    }
    format!("## Agreement\n\nA backend that differs keeps its rows above and can't win a route.\n\n{table}")
}

pub(super) fn evidence(report: &Report) -> String {
    if report.source == Source::Policy {
        return String::new();
    }
    let mut out = "## Evidence\n\n".to_owned();
    for row in &report.evidence {
        let seen = row.placement.iter().chain(&row.kernels).map(String::as_str).collect::<Vec<_>>().join(", ");
        let seen = row.error.as_ref().map_or(seen, |e| format!("not readable: {e}"));
        let _ = writeln!(out, "- {} (`{}`, {}): {seen}", row.arm, row.file, row.source);
    }
    let mut files = Table::new(&["file", "bytes", "BLAKE3"]);
    report.artefacts.iter().for_each(|f| files.row([f.name.clone(), f.bytes.to_string(), f.blake3.clone()]));
    let _ = write!(out, "\n{files}");
    out
}

pub(super) fn boundary(report: &Report) -> String {
    let mut out = "## Boundary\n\nCaptured by code at load, and again, unchanged, after the last block.\n\n".to_owned();
    let mut ids = Table::new(&["id", "backends", "span", "includes", "timing", "definitions"]);
    for b in &report.boundaries {
        ids.row([b.id.clone(), b.arms.join(", "), b.span.clone(), b.includes.clone(), b.timing.clone(), b.definitions.to_string()]);
    }
    let mut facts = Table::new(&["fact", "value", "whose", "a change is"]);
    for fact in &report.facts {
        let whose = if fact.arms.is_empty() { "all".to_owned() } else { fact.arms.join(", ") };
        facts.row([fact.field.clone(), fact.value.clone(), whose, fact.severity.to_string()]);
    }
    let _ = write!(out, "{ids}\n{facts}");
    let mut about = Table::new(&["manifest", "value"]);
    report.manifest.iter().for_each(|[name, value]| about.row([name.clone(), value.clone()]));
    let _ = write!(out, "\n{about}");
    out
}

pub(super) fn failures(report: &Report) -> String {
    let mut table = Table::new(&["backend", "cell", "stage", "kind", "times", "message"]);
    for row in &report.failures {
        table.row([row.arm.clone(), row.cell.clone(), row.stage.clone(), row.kind.clone(), row.times.to_string(), row.message.clone()]);
    }
    if table.is_empty() { "## Failures\n\nNone.\n".to_owned() } else { format!("## Failures\n\n{table}") }
}
