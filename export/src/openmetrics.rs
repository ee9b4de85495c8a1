//! A run as one OpenMetrics text: the same metrics that a live application exports.

use phase_core::ManualClock;
use phase_metrics::{Exporter, TextFormat};
use phase_scenario::{Record, Run};
use std::time::Duration;

/// An exporter that holds what `run` measured: its cells and boundaries, its calls replayed, its loads, its evidence. It is of no
/// process, so there are no idle ages in it.
pub fn exporter(run: &Run) -> Exporter {
    let exporter = Exporter::new(ManualClock::default());
    for record in run.records() {
        match record {
            Record::Phase(call) if call.role.counts() => exporter.replay(&call.seen),
            Record::Load(load) => exporter.record_load(&load.backend.to_string(), Duration::from_nanos(load.load_ns)),
            _ => {}
        }
    }
    if let Some(matrix) = run.matrix() {
        exporter.set_cells(matrix.cells());
    }
    for entry in &run.manifest().backends {
        if let Some(boundary) = run.boundary(&entry.backend) {
            exporter.set_boundary(&entry.backend.to_string(), boundary);
        }
    }
    for file in run.evidence() {
        if let Some(evidence) = &file.evidence {
            exporter.set_evidence(&file.backend.to_string(), evidence);
        }
    }
    exporter
}

/// `run` as OpenMetrics 1.0.
pub fn openmetrics(run: &Run) -> String {
    exporter(run).render(TextFormat::OpenMetrics)
}
