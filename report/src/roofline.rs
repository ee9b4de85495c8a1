//! What a call achieved against what the machine can do. A row above 100 % is a wrong number and fails the run, unless the
//! ceiling may be the wrong one.

use crate::figure::{Figure, bucket, real, real_size};
use phase_core::{DType, Fact, Layer, MeasurementBoundary, Phase, Shape};
use phase_policy::{Cell, RegimeClass};
use phase_scenario::{Ceilings, ModelEntry, arm_of};
use serde::Serialize;
use std::collections::BTreeMap;

/// A ceiling in the unit of its plot.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Roof {
    /// The processor or GPU, where the ceilings name it.
    pub device: Option<String>,
    /// GB/s of reading memory.
    pub gigabytes_per_s: f64,
    /// GFLOP/s in the run's number format.
    pub gigaflops_per_s: f64,
}

impl Roof {
    fn of(ceilings: &Ceilings, dtype: DType) -> Self {
        let gigaflops_per_s = ceilings.flops_per_s_of(dtype) / 1e9;
        Self { device: ceilings.device.clone(), gigabytes_per_s: ceilings.bytes_per_s / 1e9, gigaflops_per_s }
    }
}

/// The section.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RooflineSection {
    /// One point a steady cell whose work is known.
    pub points: Vec<RooflinePoint>,
    /// The measured ceilings that cells were held against, one a device; none when nobody gave any.
    pub roofs: Vec<Roof>,
    /// How they were measured, or why there are none.
    pub source: String,
    /// Rows surely above 100 %, by the near end of their interval: cell and percentage. Any entry fails the report.
    pub above: Vec<String>,
    /// The same against what a run measured of its own processor, which others may have shared at that moment without any
    /// counter telling: row or ceiling is wrong, and nobody knows which.
    pub doubted: Vec<String>,
}

/// One cell against the ceilings.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RooflinePoint {
    /// The cell.
    pub id: String,
    /// Who.
    pub arm: String,
    /// The phase.
    pub phase: Phase,
    /// The bucket in words.
    pub label: String,
    /// Operations a byte that must be read.
    pub intensity: f64,
    /// GFLOP/s.
    pub gigaflops_per_s: Figure,
    /// GB/s of weights and cached keys and values.
    pub gigabytes_per_s: Figure,
    /// The larger of the two shares of the ceilings; bytes that a cache may hold are held against the cache's. `None` without
    /// ceilings, and where fewer bytes were never read and products alone bound nothing.
    pub share: Option<f64>,
    /// The same at the slow end of the interval, by products alone where only they are known: above 1 the row is wrong.
    pub surely: Option<f64>,
}

/// The least work of one call: every weight and every cached key and value read once, every matrix product done once.
struct Work {
    bytes: f64,
    flops: f64,
}

fn work(cell: &Cell, model: &ModelEntry) -> Option<Work> {
    let Shape { batch, new_tokens, context } = cell.key.shape;
    let cached = cell.contexts.map_or(context, |c| c.median);
    let bytes = real(model.weight_bytes) + real_size(batch * cached) * real(model.kv_bytes_per_position);
    let flops = real(model.flops_per_token) * real_size(batch * new_tokens);
    (model.weight_bytes > 0 && model.flops_per_token > 0).then_some(Work { bytes, flops })
}

pub(crate) fn section(
    cells: &[Cell],
    boundaries: &BTreeMap<String, MeasurementBoundary>,
    model: impl Fn(&Cell) -> Option<ModelEntry>,
    ceilings: &[Ceilings],
    given: bool,
) -> RooflineSection {
    let steady = cells.iter().filter(|c| c.key.regime == RegimeClass::Steady && c.key.phase != Phase::Request);
    let (mut points, mut roofs, mut unknown) = (Vec::new(), BTreeMap::new(), None);
    let (mut above, mut doubted) = (Vec::new(), Vec::new());
    for cell in steady {
        let Some(model) = model(cell) else { continue };
        let boundary = boundaries.get(&cell.boundary);
        let own = ceilings.iter().find(|c| match judges(c, boundary) {
            Ok(()) => true,
            Err(why) => {
                unknown.get_or_insert(why);
                false
            }
        });
        if let Some(c) = own {
            roofs.entry(c.source.as_str()).or_insert_with(|| Roof::of(c, model.dtype));
        }
        let Some(point) = point(cell, &model, own) else { continue };
        if point.surely.is_some_and(|s| s > 1.0) {
            let exclusive = boundary.is_some_and(|b| matches!(b.stack.fact(Layer::Runtime, "gpu"), Some(Fact::Known(_))));
            let rows = if given || exclusive { &mut above } else { &mut doubted };
            rows.push(format!("{}: {:.0} % of the ceiling", point.id, point.share.or(point.surely).unwrap_or(0.0) * 100.0));
        }
        points.push(point);
    }
    let source = match (roofs.is_empty(), unknown) {
        (false, _) => roofs.keys().copied().collect::<Vec<_>>().join("; "),
        (true, Some(why)) => format!("no_data: {why}"),
        (true, None) => {
            "no_data: no measured ceiling was given (`--ceilings FILE`), so nothing can be called too fast to be true".to_owned()
        }
    };
    let roofs = roofs.into_values().collect();
    RooflineSection { points, roofs, source, above, doubted }
}

/// Why ceilings say nothing of calls under a boundary.
fn judges(ceilings: &Ceilings, boundary: Option<&MeasurementBoundary>) -> Result<(), String> {
    let fact = |layer, key| match boundary?.stack.fact(layer, key)? {
        Fact::Known(value) => Some(value.as_str()),
        Fact::Unknown(_) => None,
    };
    let here = fact(Layer::Runtime, "gpu").or_else(|| fact(Layer::Machine, "cpu"));
    if let Some(device) = ceilings.device.as_deref().filter(|device| Some(*device) != here) {
        return Err(format!("the ceilings are of {device}, the run is of {}", here.unwrap_or("an unknown device")));
    }
    let threads = fact(Layer::Runtime, "threads").and_then(|n| n.parse::<usize>().ok());
    match ceilings.threads.zip(threads) {
        Some((measured, used)) if used > measured && fact(Layer::Runtime, "gpu").is_none() => {
            Err(format!("the ceilings are of {measured} threads, the run used {used}"))
        }
        _ => Ok(()),
    }
}

fn point(cell: &Cell, model: &ModelEntry, ceilings: Option<&Ceilings>) -> Option<RooflinePoint> {
    let Work { bytes, flops } = work(cell, model)?;
    let median = Figure::median_ms(cell)?;
    let (gigaflops, gigabytes) = (median.rate(flops / 1e9, "GFLOP/s"), median.rate(bytes / 1e9, "GB/s"));
    let memory = |bytes_rate: f64| Some(bytes_rate / (ceilings?.bytes_per_s_of(bytes)? / 1e9));
    let products = |flops_rate: f64| Some(flops_rate / (ceilings?.flops_per_s_of(model.dtype) / 1e9));
    // What is smaller than every set that was read is read no slower: products alone may bound it, or nobody knows its ceiling.
    let bounded =
        ceilings.is_some_and(|c| c.bytes_per_s_of(bytes).is_some() || flops / bytes * c.bytes_per_s >= c.flops_per_s_of(model.dtype));
    let of_ceilings = |bytes_rate, flops_rate| products(flops_rate).map(|p| memory(bytes_rate).map_or(p, |m| p.max(m)));
    let least = |f: &Figure| f.low.unwrap_or(f.value);
    Some(RooflinePoint {
        id: cell.key.id(),
        arm: arm_of(&cell.key.backend, &cell.key.mode).to_string(),
        phase: cell.key.phase,
        label: bucket(cell.key.phase, cell.key.shape),
        intensity: flops / bytes,
        share: of_ceilings(gigabytes.value, gigaflops.value).filter(|_| bounded),
        surely: of_ceilings(least(&gigabytes), least(&gigaflops)),
        gigaflops_per_s: gigaflops,
        gigabytes_per_s: gigabytes,
    })
}
