//! What a call achieved against what the machine can do. A row above 100 % is a wrong number, and fails the run.

use crate::{
    ReportError,
    figure::{Figure, bucket, real, real_size},
};
use phase_core::{Fact, Layer, MeasurementBoundary, Phase, Shape};
use phase_policy::{Cell, RegimeClass};
use phase_scenario::{ModelEntry, arm_of};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Schema of a file of ceilings.
pub const CEILINGS_SCHEMA: &str = "phase.ceilings/1";

/// What a machine was measured to be able to do at most, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Ceilings {
    /// [`CEILINGS_SCHEMA`].
    pub schema: String,
    /// How and when they were measured.
    pub source: String,
    /// The processor or GPU, as the boundary's `machine.cpu` or `runtime.gpu` has it; compared where it is given.
    #[serde(default)]
    pub device: Option<String>,
    /// Bytes a second that a read of memory can reach.
    pub bytes_per_s: f64,
    /// Floating-point operations a second that a matrix product can reach.
    pub flops_per_s: f64,
}

/// A ceiling in the unit of its plot.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Roof {
    /// GB/s.
    pub gigabytes_per_s: f64,
    /// GFLOP/s.
    pub gigaflops_per_s: f64,
}

/// The section.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RooflineSection {
    /// One point a steady cell whose work is known.
    pub points: Vec<RooflinePoint>,
    /// The measured ceilings; `None` when nobody gave any.
    pub roof: Option<Roof>,
    /// How they were measured, or why there are none.
    pub source: String,
    /// Rows above 100 %: cell and percentage. Any entry fails the report.
    pub above: Vec<String>,
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
    /// The larger of the two shares of the ceilings.
    pub share: Option<f64>,
}

impl Ceilings {
    /// Reads and checks a file of ceilings.
    ///
    /// # Errors
    /// [`ReportError::Ceilings`] for another schema or numbers that are not positive.
    pub fn from_json(json: &str) -> Result<Self, ReportError> {
        let read: Self = serde_json::from_str(json).map_err(|e| ReportError::Ceilings(e.to_string()))?;
        let positive = [read.bytes_per_s, read.flops_per_s].iter().all(|v| v.is_finite() && *v > 0.0);
        match (read.schema.as_str(), positive) {
            (CEILINGS_SCHEMA, true) => Ok(read),
            (CEILINGS_SCHEMA, false) => Err(ReportError::Ceilings("both rates must be positive".to_owned())),
            (other, _) => Err(ReportError::Ceilings(format!("schema `{other}` is not `{CEILINGS_SCHEMA}`"))),
        }
    }
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
    ceilings: Option<&Ceilings>,
) -> RooflineSection {
    let mut source = ceilings.map_or_else(
        || "no_data: no measured ceiling was given (`--ceilings FILE`), so nothing can be called too fast to be true".to_owned(),
        |c| c.source.clone(),
    );
    let ceilings = ceilings.filter(|c| match other_device(c, boundaries) {
        Some(here) => {
            source = format!("no_data: the ceilings are of {}, the run is of {here}", c.device.as_deref().unwrap_or("nothing"));
            false
        }
        None => true,
    });
    let roof = ceilings.map(|c| Roof { gigabytes_per_s: c.bytes_per_s / 1e9, gigaflops_per_s: c.flops_per_s / 1e9 });
    let steady = cells.iter().filter(|c| c.key.regime == RegimeClass::Steady && c.key.phase != Phase::Request);
    let points: Vec<_> = steady.filter_map(|cell| point(cell, &model(cell)?, roof)).collect();
    let above = points.iter().filter(|p| p.share.is_some_and(|s| s > 1.0));
    let above = above.map(|p| format!("{}: {:.0} % of the ceiling", p.id, p.share.unwrap_or(0.0) * 100.0)).collect();
    RooflineSection { points, roof, source, above }
}

/// The device of the run, when the ceilings name another one.
fn other_device(ceilings: &Ceilings, boundaries: &BTreeMap<String, MeasurementBoundary>) -> Option<String> {
    let wanted = ceilings.device.as_ref()?;
    let facts = boundaries.values().flat_map(|b| [b.stack.fact(Layer::Runtime, "gpu_name"), b.stack.fact(Layer::Machine, "cpu")]);
    let known: Vec<_> = facts.flatten().filter_map(|f| if let Fact::Known(name) = f { Some(name) } else { None }).collect();
    (!known.contains(&wanted)).then(|| known.first().map_or_else(|| "an unknown device".to_owned(), |n| (*n).clone()))
}

fn point(cell: &Cell, model: &ModelEntry, roof: Option<Roof>) -> Option<RooflinePoint> {
    let Work { bytes, flops } = work(cell, model)?;
    let median = Figure::median_ms(cell)?;
    let (gigaflops, gigabytes) = (median.rate(flops / 1e9, "GFLOP/s"), median.rate(bytes / 1e9, "GB/s"));
    Some(RooflinePoint {
        id: cell.key.id(),
        arm: arm_of(&cell.key.backend, &cell.key.mode).to_string(),
        phase: cell.key.phase,
        label: bucket(cell.key.phase, cell.key.shape),
        intensity: flops / bytes,
        share: roof.map(|r| (gigabytes.value / r.gigabytes_per_s).max(gigaflops.value / r.gigaflops_per_s)),
        gigaflops_per_s: gigaflops,
        gigabytes_per_s: gigabytes,
    })
}
