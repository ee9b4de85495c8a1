//! Grouping and summarising.

use super::{
    Calls, Cell, CellKey, Cold, Contexts, MatrixError, RegimeClass, ScenarioMatrix, Steady, TimeSummary, Warming, Warmness,
    check_boundaries,
};
use crate::{
    Observation, constants,
    stats::{BlockMedian, Ordered, Steadiness, SteadyState, effective_size, real, real_size, steady_state},
};
use phase_core::{Energy, MeasurementBoundary, NoData, Outcome, Phase};
use std::collections::BTreeMap;

/// What the bounds of tails assume of calls in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Assumed {
    /// They resemble each other as much as they do.
    Correlated,
    /// They don't.
    Independent,
}

struct Group<'a, R: Warmness> {
    /// All boundaries of one backend, mode and kind of phase are the same: the first name stands for them.
    boundary: &'a str,
    ok: Calls<'a, R>,
    failures: u64,
    cancelled: u64,
}

/// The calls of one regime, by cell.
type Groups<'a, R> = BTreeMap<CellKey, Group<'a, R>>;

impl<'a, R: Warmness> Group<'a, R> {
    fn under(boundary: &'a str) -> Self {
        Self { boundary, ok: Calls::default(), failures: 0, cancelled: 0 }
    }
}

pub(super) fn build<'a>(
    observations: impl Iterator<Item = &'a Observation> + Clone,
    boundaries: &BTreeMap<String, MeasurementBoundary>,
    assumed: Assumed,
) -> Result<ScenarioMatrix, MatrixError> {
    if observations.clone().next().is_none() {
        return Err(MatrixError::Empty);
    }
    check_boundaries(observations.clone().map(|o| (&o.backend, o.mode.as_str(), o.phase, o.boundary.as_str())), boundaries)?;
    let (mut cold, mut warming, mut steady) = (Groups::<Cold>::new(), Groups::<Warming>::new(), Groups::<Steady>::new());
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
        match key.regime {
            RegimeClass::Cold => add(&mut cold, key, seen)?,
            RegimeClass::Warmup => add(&mut warming, key, seen)?,
            RegimeClass::Steady => add(&mut steady, key, seen)?,
        }
    }
    let steadiness = settle(&mut steady, &mut warming);
    let judged = cells(steady, assumed).map(|cell| Cell { steady: steadiness.get(&cell.key).copied(), ..cell });
    let mut cells: Vec<_> = cells(cold, assumed).chain(cells(warming, assumed)).chain(judged).collect();
    cells.sort_by(|a, b| a.key.cmp(&b.key));
    let used = |id: &String| cells.iter().any(|c| c.boundary == *id);
    let boundaries = boundaries.iter().filter(|(id, _)| used(id)).map(|(id, b)| (id.clone(), b.clone())).collect();
    Ok(ScenarioMatrix { boundaries, cells })
}

fn add<'a, R: Warmness>(groups: &mut Groups<'a, R>, key: CellKey, seen: &'a Observation) -> Result<(), MatrixError> {
    let unknown = |what| MatrixError::UnknownVocabulary { backend: seen.backend.clone(), what };
    let group = groups.entry(key).or_insert_with(|| Group::under(&seen.boundary));
    match seen.outcome {
        Outcome::Ok if group.ok.push(seen) => {}
        Outcome::Ok => return Err(unknown("regime")),
        Outcome::Cancelled => group.cancelled += 1,
        Outcome::Failed(_) => group.failures += 1,
        _ => return Err(unknown("outcome")),
    }
    Ok(())
}

/// Classifies each block of each steady cell, and moves what turns out to be warm-up to the warm-up cell.
fn settle<'a>(steady: &mut Groups<'a, Steady>, warming: &mut Groups<'a, Warming>) -> BTreeMap<CellKey, Steadiness> {
    let mut all = BTreeMap::new();
    for (key, group) in steady.iter_mut().filter(|(k, _)| k.phase != Phase::Request) {
        let mut steadiness = Steadiness::default();
        let calls = group.ok.as_slice();
        let mut stays = vec![true; calls.len()];
        for places in by_block(calls).into_values() {
            let block: Vec<_> = places.iter().map(|i| calls[*i]).collect();
            let state = steady_state(&without_context(&block));
            steadiness.count(state);
            let from = if let SteadyState::Warmup { from } = state { from } else { 0 };
            places[..from].iter().for_each(|i| stays[*i] = false);
        }
        if stays.contains(&false) {
            let (settled, early) = std::mem::take(&mut group.ok).demote(|i| stays[i]);
            group.ok = settled;
            let warmup = CellKey { regime: RegimeClass::Warmup, ..key.clone() };
            warming.entry(warmup).or_insert_with(|| Group::under(group.boundary)).ok.append(early);
        }
        all.insert(key.clone(), steadiness);
    }
    all
}

/// Places of the calls of each block, in the order they were measured.
fn by_block(calls: &[&Observation]) -> BTreeMap<u32, Vec<usize>> {
    let mut blocks: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (place, call) in calls.iter().enumerate() {
        blocks.entry(call.block).or_default().push(place);
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

/// The cells of one regime, which their keys take from the type of their calls.
fn cells<R: Warmness>(groups: Groups<'_, R>, assumed: Assumed) -> impl Iterator<Item = Cell> {
    groups.into_iter().map(move |(key, group)| cell(CellKey { regime: R::CLASS, ..key }, group, assumed))
}

fn cell<R: Warmness>(key: CellKey, Group { boundary, ok, failures, cancelled }: Group<'_, R>, assumed: Assumed) -> Cell {
    let ok = ok.as_slice();
    let blocks = blocks(ok);
    Cell {
        boundary: boundary.to_owned(),
        n: ok.len() as u64,
        failures,
        cancelled,
        contexts: contexts(ok),
        time: summary(ok, &blocks, assumed),
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
    let block = |places: Vec<usize>| without_context(&places.into_iter().map(|i| ok[i]).collect::<Vec<_>>());
    effective_size(&by_block(ok).into_values().map(block).collect::<Vec<_>>())
}

fn summary(ok: &[&Observation], blocks: &[BlockMedian], assumed: Assumed) -> Option<TimeSummary> {
    let medians = Ordered::new(blocks.iter().map(|b| b.median_ns))?;
    let calls = Ordered::new(ok.iter().map(|o| real(o.duration_ns)))?;
    let device: Option<Vec<_>> = ok.iter().map(|o| o.device_ns.map(real)).collect();
    let independent = match assumed {
        Assumed::Correlated => independent_calls(ok),
        Assumed::Independent => ok.len(),
    };
    let enough = blocks.len() >= constants::MIN_TAIL_BLOCKS;
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
