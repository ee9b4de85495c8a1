//! Which plots a page has.

use super::{
    origin::Origin,
    plot::{Plot, Point, Rule, Series},
};
use crate::{
    CellRow, History, Report, ReportError,
    figure::{digits, real_size},
};
use minijinja::{Value, context};
use phase_core::Phase;
use phase_policy::RegimeClass;
use std::collections::{BTreeMap, BTreeSet};

/// Batches that get a panel of their own.
const PANELS: usize = 6;

pub(super) fn of(report: &Report, origin: &Origin<'_>) -> Result<Value, ReportError> {
    let mut times = times(report, Phase::Prefill)?;
    times.extend(self::times(report, Phase::Decode)?);
    Ok(context! { times, curves => curves(report, origin)?, roofline => roofline(report)? })
}

fn place(report: &Report, arm: &str) -> usize {
    report.arms.iter().position(|a| a == arm).unwrap_or(report.arms.len())
}

fn panel(title: String, svg: String) -> Option<Value> {
    (!svg.is_empty()).then(|| context! { title, svg => Value::from_safe_string(svg) })
}

/// Time over length, a panel a batch: only where a competitor has two lengths.
fn times(report: &Report, phase: Phase) -> Result<Vec<Value>, ReportError> {
    let steady = || report.cells.iter().filter(move |r| r.phase == phase && r.regime == RegimeClass::Steady && r.median.is_some());
    let batches: BTreeSet<_> = steady().map(|r| r.shape.batch).collect();
    let mut panels = Vec::new();
    for batch in batches.into_iter().take(PANELS) {
        let mut lines: BTreeMap<usize, Vec<Point>> = BTreeMap::new();
        for row in steady().filter(|r| r.shape.batch == batch) {
            lines.entry(place(report, &row.arm)).or_default().extend(point(row, phase));
        }
        let mut series = Vec::new();
        let lengths: Vec<_> = lines.values().flatten().map(|p| p.x).collect();
        for (place, mut points) in lines {
            points.sort_by(|a, b| a.x.total_cmp(&b.x));
            // Side by side, so that intervals of one length do not hide each other.
            points.iter_mut().for_each(|p| p.x *= 1.0 + 0.03 * real_size(place));
            series.push(Series { place, joined: true, open: false, points });
        }
        if series.iter().all(|s| s.points.len() < 2) {
            continue;
        }
        let (name, x, unit) = match phase {
            Phase::Prefill => ("prefill time over prompt length", "tokens", "ms a call"),
            _ => ("decode time over context", "context", "ms a step"),
        };
        // The lengths that were measured; contexts of decode are medians over steps.
        let x_at = if phase == Phase::Prefill { lengths } else { Vec::new() };
        let plot = Plot { name, x, log_x: true, log_y: phase == Phase::Prefill, series, x_at, ..Plot::default() };
        let title = format!("{}, batch {batch}: {unit}", if phase == Phase::Prefill { "Prefill" } else { "Decode" });
        panels.extend(panel(title, plot.svg()?));
    }
    Ok(panels)
}

fn point(row: &CellRow, phase: Phase) -> Option<Point> {
    let median = row.median.as_ref()?;
    let x = if phase == Phase::Prefill { row.shape.new_tokens } else { row.contexts.map_or(row.shape.context, |c| c[1]) };
    let told = format!("{}, {}: {}", row.arm, row.bucket, median.provenance());
    Some(Point { x: real_size(x.max(1)), y: median.value, low: median.low, high: median.high, told })
}

fn curves(report: &Report, origin: &Origin<'_>) -> Result<Vec<Value>, ReportError> {
    let mut kinds: Vec<_> = report.cold.curves.iter().map(|c| (!c.cold, c.phase)).collect();
    kinds.dedup();
    let mut panels = Vec::new();
    for (warm, phase) in kinds {
        let own = report.cold.curves.iter().filter(|c| (!c.cold, c.phase) == (warm, phase));
        let mut cell = String::new();
        let series: Vec<_> = own
            .map(|curve| {
                cell.clone_from(&curve.cell);
                let rests = format!("n = {} in {} \u{b7} {}", curve.n, curve.cell, origin.of_arms([curve.arm.as_str()]));
                let told = |k: usize, ms: f64| format!("{}: call {k} of {phase}, {} ms \u{b7} {rests}", curve.arm, digits(ms));
                let points =
                    (1..).zip(&curve.ms).map(|(k, ms)| Point { x: real_size(k), y: *ms, low: None, high: None, told: told(k, *ms) });
                Series { place: place(report, &curve.arm), joined: true, open: false, points: points.collect() }
            })
            .collect();
        let start = if warm { "warm-up in the runner" } else { "fresh process" };
        // A first call may take a thousand times what the others take.
        let ys = || series.iter().flat_map(|s: &Series| &s.points).map(|p| p.y).filter(|y| *y > 0.0);
        let log_y = ys().fold(0.0, f64::max) > 20.0 * ys().fold(f64::INFINITY, f64::min);
        let plot = Plot { name: "time of the first calls", x: "call", whole_x: true, log_y, series, ..Plot::default() };
        panels.extend(panel(format!("{start}, {phase}: ms ({cell})"), plot.svg()?));
    }
    Ok(panels)
}

fn roofline(report: &Report) -> Result<Option<Value>, ReportError> {
    let section = &report.roofline;
    let mut groups: BTreeMap<(usize, bool), Vec<Point>> = BTreeMap::new();
    for p in &section.points {
        let share = p.share.map(|s| format!(", {:.0} % of the ceiling", s * 100.0)).unwrap_or_default();
        let told = format!("{}, {}, {}: {}{share}", p.arm, p.phase, p.label, p.gigaflops_per_s.provenance());
        // Side by side, as the times are.
        let x = p.intensity * (1.0 + 0.05 * real_size(place(report, &p.arm)));
        let point = Point { x, y: p.gigaflops_per_s.value, low: p.gigaflops_per_s.low, high: p.gigaflops_per_s.high, told };
        groups.entry((place(report, &p.arm), p.phase == Phase::Decode)).or_default().push(point);
    }
    let series = groups.into_iter().map(|((place, open), points)| Series { place, joined: false, open, points }).collect();
    let rules = section.roofs.iter().map(|roof| {
        let xs = || section.points.iter().map(|p| p.intensity);
        let ridge = roof.gigaflops_per_s / roof.gigabytes_per_s;
        let (low, high) = (xs().fold(ridge, f64::min) / 1.2, xs().fold(ridge, f64::max) * 1.2);
        let (bandwidth, compute) = (roof.gigabytes_per_s, roof.gigaflops_per_s);
        // The slope's words stand in the middle of it, where nothing can be: points lie below.
        let middle = (low * ridge).sqrt();
        let words = vec![
            ((high, compute), format!("{} GFLOP/s", digits(compute))),
            ((middle, middle * bandwidth), format!("{} GB/s", digits(bandwidth))),
        ];
        Rule { line: vec![(low, low * bandwidth), (ridge, compute), (high, compute)], words }
    });
    let plot = Plot {
        name: "achieved rate over arithmetic intensity",
        x: "operations a byte",
        log_x: true,
        log_y: true,
        alone: true,
        series,
        rules: rules.collect(),
        ..Plot::default()
    };
    Ok(panel("GFLOP/s. Filled: prefill. Open: decode.".to_owned(), plot.svg()?))
}

pub(super) fn history(history: &History) -> Result<Option<Value>, ReportError> {
    let mut series = Vec::new();
    let mut points = Vec::new();
    let mut rules = Vec::new();
    let most = history.points.iter().map(|p| p.median.high.unwrap_or(p.median.value)).fold(0.0, f64::max);
    for (at, p) in history.points.iter().enumerate() {
        // A line across a change of boundary would say that its two ends are one series.
        if p.gap.is_some() {
            series.push(Series { place: 0, joined: true, open: false, points: std::mem::take(&mut points) });
            rules.push(Rule { line: vec![(real_size(at) - 0.5, 0.0), (real_size(at) - 0.5, most)], words: Vec::new() });
        }
        let told = format!("{}: {}", p.run_id, p.median.provenance());
        points.push(Point { x: real_size(at), y: p.median.value, low: p.median.low, high: p.median.high, told });
    }
    series.push(Series { place: 0, joined: true, open: false, points });
    // Day of the year, or the minute where all are of one day.
    let day = |p: &crate::HistoryPoint| p.created.get(..10).map(str::to_owned);
    let one_day = history.points.windows(2).all(|pair| day(&pair[0]) == day(&pair[1]));
    let part = if one_day { 11..16 } else { 5..10 };
    let x_words = history.points.iter().map(|p| p.created.get(part.clone()).unwrap_or_default().to_owned()).collect();
    let x_at = (0..history.points.len()).map(real_size).collect();
    let plot =
        Plot { name: "one cell over many runs", x: "run", whole_x: true, alone: true, series, rules, x_words, x_at, ..Plot::default() };
    Ok(panel("Median with its interval, ms".to_owned(), plot.svg()?))
}
