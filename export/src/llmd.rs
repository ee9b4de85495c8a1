//! llm-d's Benchmark Report, version 0.2.1: one report for every competitor and planned cell.
//!
//! Their schema has no place for phases and forbids further fields at most levels, so our own numbers, with the boundary they hold
//! under, are in `results.profiling`, which is free. What a pass of ours is not is left out: it has no queue, no network and no
//! sampling, so there is no request latency and no system-wide token rate, and TTFT is that of the model alone; `run.description`
//! says so. Power is absent wherever energy is `no_data`.

use crate::{
    ExportError,
    llama_bench::{known, mean, real, stddev, whole},
    passes::{Pass, PassKey, passes},
};
use phase_core::Layer;
use phase_policy::stats::Ordered;
use phase_scenario::Run;
use serde_json::{Value, json};

/// The version of the form.
pub const LLMD_VERSION: &str = "0.2.1";

const DESCRIPTION: &str = "Phase calls of one model in one process, without server, queue, tokenizer and sampling: TTFT is the prefill alone, \
                           and numbers are comparable only under the same measurement boundary (results.profiling.boundary).";

/// One report, and a name for its file.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LlmdReport {
    /// Without extension: competitor and cell.
    pub name: String,
    /// The report.
    pub report: Value,
}

/// The reports of `run`.
///
/// # Errors
/// [`ExportError::Nothing`] for a run without steady calls.
pub fn llmd(run: &Run) -> Result<Vec<LlmdReport>, ExportError> {
    let reports: Vec<_> = passes(run).iter().filter_map(|(key, passes)| report(run, key, passes)).collect();
    if reports.is_empty() {
        return Err(ExportError::Nothing { format: "llmd", why: "no pass of steady calls went well".to_owned() });
    }
    Ok(reports)
}

fn report(run: &Run, key: &PassKey, passes: &[Pass]) -> Option<LlmdReport> {
    let manifest = run.manifest();
    let well: Vec<&Pass> = passes.iter().filter(|p| p.failed == 0).collect();
    let first = well.first()?;
    let prompt: usize = first.prefill.iter().map(|c| c.tokens).sum();
    let new: usize = first.decode.iter().map(|c| c.tokens).sum();
    let name = format!("{}-{}", key.arm, key.cell).replace(|c: char| !c.is_ascii_alphanumeric() && !"-.".contains(c), "_");
    let seconds = |ns: Vec<u64>| ns.into_iter().map(|ns| whole(ns) / 1e9).collect::<Vec<_>>();
    let ttft = seconds(well.iter().filter(|p| !p.prefill.is_empty()).map(|p| p.first_token_ns).collect());
    let itl = seconds(well.iter().flat_map(|p| p.decode.iter().map(|c| c.ns)).collect());
    let tpot: Vec<f64> = well
        .iter()
        .filter(|p| !p.prefill.is_empty() && !p.decode.is_empty())
        .map(|p| whole(p.last_token_ns - p.first_token_ns) / 1e9 / real(p.decode.iter().map(|c| c.tokens).sum()))
        .collect();
    let report = json!({
        "version": LLMD_VERSION,
        "run": {
            "uid": format!("{}-{name}", run.run_id()),
            "eid": run.run_id(),
            "time": { "start": manifest.created },
            "description": DESCRIPTION,
            "keywords": ["phase", key.cell],
        },
        "scenario": { "stack": [component(run, key)], "load": load(run, key, prompt, new) },
        "results": {
            "request_performance": { "aggregate": {
                "requests": { "total": passes.len() * key.batch, "failures": (passes.len() - well.len()) * key.batch },
                "latency": {
                    "time_to_first_token": statistics("s", &ttft),
                    "inter_token_latency": statistics("s/token", &itl),
                    "time_per_output_token": statistics("s/token", &tpot),
                },
            } },
            "profiling": profiling(run, key),
        },
    });
    Some(LlmdReport { name, report })
}

fn component(run: &Run, key: &PassKey) -> Value {
    let boundary = run.boundaries().get(&key.boundary);
    let fact = |layer, name| known(boundary, layer, name);
    let library = fact(Layer::Runtime, "library").unwrap_or_else(|| key.arm.backend.to_string());
    let (tool, version) = library.rsplit_once(' ').unwrap_or((library.as_str(), "unknown"));
    let model = run.manifest().load.path.file_name().map_or_else(|| "unknown".to_owned(), |name| name.to_string_lossy().into_owned());
    let device = fact(Layer::Runtime, "gpu").or_else(|| fact(Layer::Machine, "cpu")).unwrap_or_else(|| "unknown".to_owned());
    json!({
        "metadata": { "label": key.arm.to_string(), "cfg_id": key.boundary, "description": "in-process runtime; cfg_id is the measurement boundary" },
        "standardized": {
            "kind": "inference_engine",
            "tool": tool,
            "tool_version": version,
            "role": "replica",
            "replicas": 1,
            "model": { "name": model },
            "accelerator": { "model": device, "count": 1, "parallelism": { "tp": 1, "dp": 1, "pp": 1 } },
        },
        "native": { "config": boundary },
    })
}

fn load(run: &Run, key: &PassKey, prompt: usize, new: usize) -> Value {
    let fixed = |value: usize| json!({ "distribution": "fixed", "value": value });
    let manifest = run.manifest();
    // The first token comes out of prefill.
    let output = if new == 0 { fixed(1) } else { fixed(new + 1) };
    json!({
        "metadata": { "cfg_id": key.cell, "description": "static batches of drawn tokens, one after the other" },
        "standardized": {
            "tool": "phase",
            "tool_version": manifest.program,
            "source": "random",
            "input_seq_len": fixed(prompt),
            "output_seq_len": output,
            "concurrency": key.batch,
        },
        "native": { "config": { "plan_seed": manifest.plan.seed, "scale": manifest.plan.scale, "effort": manifest.plan.effort } },
    })
}

/// `null` without values; percentiles only where there are values enough for them.
fn statistics(units: &str, values: &[f64]) -> Value {
    let Some(ordered) = Ordered::new(values.iter().copied()) else { return Value::Null };
    json!({
        "units": units,
        "mean": mean(values),
        "stddev": (values.len() > 1).then(|| stddev(values)),
        "min": ordered.min(),
        "p50": ordered.median(),
        "p95": ordered.quantile(0.95),
        "p99": ordered.quantile(0.99),
        "max": ordered.max(),
    })
}

/// Ours: the cells of this competitor, with their intervals, energies and boundary.
fn profiling(run: &Run, key: &PassKey) -> Value {
    let arm = |c: &phase_policy::Cell| format!("{}@{}", c.key.backend, c.key.mode).parse().is_ok_and(|arm: phase_core::Arm| arm == key.arm);
    let cells: Vec<_> = run.matrix().into_iter().flat_map(|m| m.cells()).filter(|c| arm(c)).collect();
    json!({
        "tool": run.manifest().program,
        "run_id": run.run_id(),
        "planned_cell": key.cell,
        "boundary": key.boundary,
        "cells": cells,
    })
}
