//! Cold starts, and how calls settle: regimes that are never averaged.

use crate::{
    events::{Digest, median},
    figure::{Figure, bucket},
};
use phase_core::{Phase, Shape};
use phase_policy::{Cell, CellKey, RegimeClass, constants::Constants};
use phase_scenario::{LoadProcess, LoadSummary, SealedRun, arm_of};
use serde::Serialize;

/// Everything about the first calls.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ColdSection {
    /// Load times.
    pub loads: Vec<LoadRow>,
    /// First calls against steady ones.
    pub first_calls: Vec<FirstCall>,
    /// Times of the first calls, one curve a competitor, phase and kind of start.
    pub curves: Vec<Curve>,
    /// Cold over steady from which a warm pool is required.
    pub warm_pool_ratio: f64,
}

/// How long one competitor took to load.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LoadRow {
    /// Who.
    pub arm: String,
    /// `fresh`: a process that did nothing before; `runner`: one that may hold other models.
    pub process: LoadProcess,
    /// Median load call in milliseconds, between the shortest and the longest.
    pub load: Figure,
    /// Median of the whole process, in milliseconds.
    pub process_ms: Option<f64>,
}

/// The first call of a bucket against the steady ones.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct FirstCall {
    /// Who.
    pub arm: String,
    /// The phase.
    pub phase: Phase,
    /// The bucket.
    pub shape: Shape,
    /// The bucket in words.
    pub label: String,
    /// Median of the cold calls.
    pub cold: Figure,
    /// Median of the steady ones.
    pub steady: Option<Figure>,
    /// Cold over steady.
    pub ratio: Option<f64>,
    /// Whether the path must be warm before it is routed to.
    pub warm_pool: bool,
}

/// Times of the first calls of one phase on one competitor, in one planned cell.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Curve {
    /// Who.
    pub arm: String,
    /// The planned cell.
    pub cell: String,
    /// The phase.
    pub phase: Phase,
    /// Of a fresh process, or of the runner's warm-up.
    pub cold: bool,
    /// Median time of the k-th call in milliseconds, from the first one.
    pub ms: Vec<f64>,
    /// Series behind the first call.
    pub n: usize,
}

pub(crate) fn loads(run: &SealedRun) -> Vec<LoadRow> {
    let row = |load: &LoadSummary| {
        let boundary = run.manifest().backend(&load.backend).and_then(|b| b.boundary.clone()).unwrap_or_default();
        LoadRow {
            arm: load.backend.to_string(),
            process: load.process,
            load: Figure {
                value: load.median_ns / 1e6,
                low: Some(load.min_ns / 1e6),
                high: Some(load.max_ns / 1e6),
                confidence: None,
                unit: "ms",
                n: load.n as u64,
                blocks: 0,
                boundary,
            },
            process_ms: load.process_median_ns.map(|ns| ns / 1e6),
        }
    };
    run.loads().iter().map(row).collect()
}

pub(crate) fn first_calls(cells: &[Cell], constants: &Constants) -> Vec<FirstCall> {
    let cold = cells.iter().filter(|c| c.key.regime == RegimeClass::Cold && c.key.phase != Phase::Request);
    cold.filter_map(|cell| {
        let wanted = CellKey::new(cell.key.backend.clone(), cell.key.mode.clone(), cell.key.phase, cell.key.shape, RegimeClass::Steady);
        let steady = cells.iter().find(|c| c.key == wanted).and_then(Figure::median_ms);
        let cold = Figure::median_ms(cell)?;
        let ratio = steady.as_ref().map(|s| cold.value / s.value);
        Some(FirstCall {
            arm: arm_of(&cell.key.backend, &cell.key.mode).to_string(),
            phase: cell.key.phase,
            shape: cell.key.shape,
            label: bucket(cell.key.phase, cell.key.shape),
            warm_pool: ratio.is_some_and(|r| r > constants.warm_pool_ratio),
            cold,
            steady,
            ratio,
        })
    })
    .collect()
}

/// One curve for each competitor, phase and kind of start: that of the planned cell with most series.
pub(crate) fn curves(digest: &Digest) -> Vec<Curve> {
    let mut best: Vec<Curve> = Vec::new();
    for (((arm, cell), cold, phase), calls) in &digest.first {
        let ms: Vec<f64> = calls.iter().map_while(|series| median(series)).map(|ns| ns / 1e6).collect();
        let curve = Curve {
            arm: digest.arms[usize::from(*arm)].clone(),
            cell: digest.cells[usize::from(*cell)].clone(),
            phase: *phase,
            cold: *cold,
            n: calls.first().map_or(0, Vec::len),
            ms,
        };
        if curve.ms.is_empty() {
            continue;
        }
        best.push(curve);
    }
    let mut kinds: Vec<_> = best.iter().map(|c| (c.cold, c.phase)).collect();
    kinds.sort();
    kinds.dedup();
    // All competitors of one plot must come from one planned cell: the one with the longest curves.
    let chosen = |(cold, phase): (bool, Phase)| {
        let mut totals: Vec<(&str, usize)> = Vec::new();
        for curve in best.iter().filter(|c| (c.cold, c.phase) == (cold, phase)) {
            match totals.iter_mut().find(|(cell, _)| *cell == curve.cell) {
                Some((_, n)) => *n += curve.ms.len(),
                None => totals.push((&curve.cell, curve.ms.len())),
            }
        }
        let cell = totals.into_iter().rev().max_by_key(|(_, n)| *n).map(|(cell, _)| cell.to_owned());
        best.iter().filter(move |c| (c.cold, c.phase) == (cold, phase) && Some(&c.cell) == cell.as_ref()).cloned().collect::<Vec<_>>()
    };
    kinds.into_iter().flat_map(chosen).collect()
}

/// The largest cold over steady, for a sentence.
pub(crate) fn worst(calls: &[FirstCall]) -> Option<&FirstCall> {
    let ratio = |c: &&FirstCall| c.ratio.unwrap_or(0.0);
    calls.iter().filter(|c| c.ratio.is_some()).max_by(|a, b| ratio(a).total_cmp(&ratio(b)))
}
