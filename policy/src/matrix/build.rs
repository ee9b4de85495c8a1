//! Grouping and summarising.

use super::{Cell, CellKey, Contexts, MatrixError, RegimeClass, ScenarioMatrix, TimeSummary, check_boundaries};
use crate::{
    Observation, constants,
    stats::{BlockMedian, Ordered, Steadiness, SteadyState, effective_size, real, real_size, steady_state},
};
use phase_core::{Energy, MeasurementBoundary, NoData, Outcome, Phase};
use std::collections::BTreeMap;

/// What the bounds of tails assume of calls in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Calls {
    /// They resemble each other as much as they do.
    Correlated,
    /// They don't.
    Independent,
}

struct Group<'a> {
    /// All boundaries of one backend, mode and kind of phase are the same: the first name stands for them.
    boundary: &'a str,
    ok: Vec<&'a Observation>,
    failures: u64,
    cancelled: u64,
}

impl<'a> Group<'a> {
    fn under(boundary: &'a str) -> Self {
        Self { boundary, ok: Vec::new(), failures: 0, cancelled: 0 }
    }
}

pub(super) fn build(
    observations: &[Observation],
    boundaries: &BTreeMap<String, MeasurementBoundary>,
    calls: Calls,
) -> Result<ScenarioMatrix, MatrixError> {
    if observations.is_empty() {
        return Err(MatrixError::Empty);
    }
    check_boundaries(observations.iter().map(|o| (&o.backend, o.mode.as_str(), o.phase, o.boundary.as_str())), boundaries)?;
    let mut groups: BTreeMap<CellKey, Group<'_>> = BTreeMap::new();
    for seen in observations {
        let key = key(seen)?;
        let cell = || key.id();
        let Observation { shape, outcome, duration_ns, block, .. } = *seen;
        if !possible(seen) {
            return Err(MatrixError::Shape { cell: cell(), shape });
        }
        if outcome == Outcome::Ok && duration_ns == 0 {
            return Err(MatrixError::ZeroDuration { cell: cell(), block });
        }
        let group = groups.entry(key).or_insert_with(|| Group::under(&seen.boundary));
        match outcome {
            Outcome::Ok => group.ok.push(seen),
            Outcome::Cancelled => group.cancelled += 1,
            Outcome::Failed(_) => group.failures += 1,
            _ => return Err(MatrixError::UnknownVocabulary { backend: seen.backend.clone(), what: "outcome" }),
        }
    }
    let steadiness = settle(&mut groups);
    let cells: Vec<_> = groups
        .into_iter()
        .map(|(key, group)| {
            let steady = steadiness.get(&key).copied();
            Cell { steady, ..cell(key, group, calls) }
        })
        .collect();
    let used = |id: &String| cells.iter().any(|c| c.boundary == *id);
    let boundaries = boundaries.iter().filter(|(id, _)| used(id)).map(|(id, b)| (id.clone(), b.clone())).collect();
    Ok(ScenarioMatrix { boundaries, cells })
}

/// Classifies each block of each steady cell, and moves what turns out to be warm-up to the warm-up cell.
fn settle(groups: &mut BTreeMap<CellKey, Group<'_>>) -> BTreeMap<CellKey, Steadiness> {
    let mut all = BTreeMap::new();
    let keys: Vec<_> = groups.keys().filter(|k| k.regime == RegimeClass::Steady && k.phase != Phase::Request).cloned().collect();
    for key in keys {
        let Some(group) = groups.get_mut(&key) else { continue };
        let mut steadiness = Steadiness::default();
        let (mut steady, mut warming) = (Vec::with_capacity(group.ok.len()), Vec::new());
        for (_, calls) in by_block(std::mem::take(&mut group.ok)) {
            let state = steady_state(&without_context(&calls));
            steadiness.count(state);
            let from = if let SteadyState::Warmup { from } = state { from } else { 0 };
            warming.extend_from_slice(&calls[..from]);
            steady.extend_from_slice(&calls[from..]);
        }
        group.ok = steady;
        let boundary = group.boundary;
        if !warming.is_empty() {
            let warmup = CellKey { regime: RegimeClass::Warmup, ..key.clone() };
            groups.entry(warmup).or_insert_with(|| Group::under(boundary)).ok.extend(warming);
        }
        all.insert(key, steadiness);
    }
    all
}

/// Calls by block, each in the order they were measured.
fn by_block<'a>(calls: Vec<&'a Observation>) -> BTreeMap<u32, Vec<&'a Observation>> {
    let mut blocks: BTreeMap<u32, Vec<&'a Observation>> = BTreeMap::new();
    for call in calls {
        blocks.entry(call.block).or_default().push(call);
    }
    blocks
}

/// Times with the straight line of context taken out: a generation's context grows, and the next one starts again, which
/// is no change of state.
fn without_context(calls: &[&Observation]) -> Vec<f64> {
    let n = real_size(calls.len());
    let mean = |of: fn(&Observation) -> f64| calls.iter().map(|c| of(c)).sum::<f64>() / n;
    let (context, time) = (mean(|c| real_size(c.shape.context)), mean(|c| real(c.duration_ns)));
    let (mut covariance, mut variance) = (0.0, 0.0);
    for call in calls {
        let d = real_size(call.shape.context) - context;
        covariance += d * (real(call.duration_ns) - time);
        variance += d * d;
    }
    let slope = if variance > 0.0 { covariance / variance } else { 0.0 };
    let flat = |c: &&Observation| (real(c.duration_ns) - slope * (real_size(c.shape.context) - context)).max(f64::MIN_POSITIVE);
    calls.iter().map(flat).collect()
}

fn key(seen: &Observation) -> Result<CellKey, MatrixError> {
    let unknown = |what| MatrixError::UnknownVocabulary { backend: seen.backend.clone(), what };
    let regime = RegimeClass::of(seen.regime).ok_or_else(|| unknown("regime"))?;
    if !matches!(seen.phase, Phase::Prefill | Phase::Decode | Phase::Request) {
        return Err(unknown("phase"));
    }
    Ok(CellKey::new(seen.backend.clone(), seen.mode.clone(), seen.phase, seen.shape, regime))
}

fn possible(seen: &Observation) -> bool {
    let shape = seen.shape;
    let tokens = match seen.phase {
        Phase::Decode => shape.new_tokens == 1,
        // A request that failed in prefill, or that met a stop token at once, generated nothing.
        Phase::Request => true,
        _ => shape.new_tokens > 0,
    };
    shape.batch > 0 && tokens
}

fn cell(key: CellKey, Group { boundary, ok, failures, cancelled }: Group<'_>, calls: Calls) -> Cell {
    let blocks = blocks(&ok);
    Cell {
        boundary: boundary.to_owned(),
        n: ok.len() as u64,
        failures,
        cancelled,
        contexts: contexts(&ok),
        time: summary(&ok, &blocks, calls),
        blocks,
        steady: None,
        energy: Energy::NoData { reason: NoData::NotRecorded },
        energy_basis: None,
        key,
    }
}

fn blocks(ok: &[&Observation]) -> Vec<BlockMedian> {
    let mut times: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    for seen in ok {
        times.entry(seen.block).or_default().push(real(seen.duration_ns));
    }
    let median = |(block, times): (u32, Vec<f64>)| {
        let n = times.len() as u64;
        Ordered::new(times).map(|times| BlockMedian::new(block, n, times.median()))
    };
    times.into_iter().filter_map(median).collect()
}

fn contexts(ok: &[&Observation]) -> Option<Contexts> {
    let mut all: Vec<_> = ok.iter().map(|o| o.shape.context).collect();
    all.sort_unstable();
    Some(Contexts::new(*all.first()?, all[(all.len() - 1) / 2], *all.last()?))
}

/// How many independent calls these are worth: slow calls come in runs, and a run of them is one observation of a tail.
fn independent_calls(ok: &[&Observation]) -> usize {
    let blocks = by_block(ok.to_vec());
    effective_size(&blocks.values().map(|calls| without_context(calls)).collect::<Vec<_>>())
}

fn summary(ok: &[&Observation], blocks: &[BlockMedian], assumed: Calls) -> Option<TimeSummary> {
    let medians = Ordered::new(blocks.iter().map(|b| b.median_ns))?;
    let calls = Ordered::new(ok.iter().map(|o| real(o.duration_ns)))?;
    let device: Option<Vec<_>> = ok.iter().map(|o| o.device_ns.map(real)).collect();
    let independent = match assumed {
        Calls::Correlated => independent_calls(ok),
        Calls::Independent => ok.len(),
    };
    let enough = blocks.len() >= constants::MIN_BLOCKS;
    let point = |p| if enough { calls.quantile(p) } else { None };
    let upper = |p| if enough { calls.quantile_upper_of(independent, p, constants::TAIL_CONFIDENCE) } else { None };
    let durations = ok.iter().map(|o| o.duration_ns);
    Some(TimeSummary {
        median_ns: medians.median(),
        interval: medians.median_interval(constants::CONFIDENCE).or_else(|| medians.widest_median_interval()),
        min_ns: durations.clone().min()?,
        max_ns: durations.max()?,
        p95_ns: point(0.95),
        p95_upper_ns: upper(0.95),
        p99_ns: point(0.99),
        p99_upper_ns: upper(0.99),
        device_median_ns: device.and_then(Ordered::new).map(|d| d.median()),
    })
}
