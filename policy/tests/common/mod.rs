//! A made-up machine with made-up backends whose times are known.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test program uses a part of it, and it is all test code")]

use phase_core::{BackendId, Layer, MeasurementBoundary, Phase, Regime, Shape, StackInfo};
use phase_policy::{Observation, Policy, PolicyOptions, Router, ScenarioMatrix};
use std::collections::BTreeMap;

pub const SAFE: BackendId = BackendId::new("safe");
pub const FAST: BackendId = BackendId::new("fast");
pub const BULK: BackendId = BackendId::new("bulk");

pub fn boundary_of(library: &str) -> MeasurementBoundary {
    MeasurementBoundary::call(StackInfo::new().with(Layer::Machine, "cpu", "x").with(Layer::Model, "digest", "m").with(
        Layer::Runtime,
        "library",
        library,
    ))
}

pub fn boundary(backend: &BackendId) -> MeasurementBoundary {
    boundary_of(backend.as_str())
}

pub fn boundaries() -> BTreeMap<String, MeasurementBoundary> {
    [SAFE, FAST, BULK].map(|id| (id.to_string(), boundary(&id))).into()
}

/// Nanoseconds per prompt token and row, and per decode step.
#[derive(Clone, Copy)]
pub struct Speed {
    pub prefill: u64,
    pub decode: u64,
}

/// `safe` is the reference; `fast` decodes in 0.8 of its time and ties in prefill; `bulk` prefills in half the time and
/// decodes in 1.5 times.
pub fn speed(backend: &BackendId) -> Speed {
    match backend.as_str() {
        "fast" => Speed { prefill: 100_000, decode: 4_000_000 },
        "bulk" => Speed { prefill: 50_000, decode: 7_500_000 },
        _ => Speed { prefill: 100_000, decode: 5_000_000 },
    }
}

pub fn prefill(backend: &BackendId, batch: usize, prompt: usize, block: u32) -> Observation {
    let ns = speed(backend).prefill * (prompt * batch) as u64 * u64::from(100 + block % 3) / 100;
    Observation::new(backend.clone(), Phase::Prefill, Shape { batch, new_tokens: prompt, context: 0 }, ns)
        .with_boundary(backend.as_str())
        .with_block(block)
}

pub fn decode(backend: &BackendId, batch: usize, context: usize, block: u32) -> Observation {
    let ns = (speed(backend).decode + 1_000 * context as u64) * u64::from(100 + block % 3) / 100;
    Observation::new(backend.clone(), Phase::Decode, Shape { batch, new_tokens: 1, context }, ns)
        .with_boundary(backend.as_str())
        .with_block(block)
}

/// Batches 1 and 4, prompts 32, 128 and 512, eight steps after each, five blocks, cold calls of the first shape.
pub fn observations(backends: &[BackendId]) -> Vec<Observation> {
    let mut all = Vec::new();
    for backend in backends {
        for block in 0..5 {
            for batch in [1, 4] {
                for prompt in [32, 128, 512] {
                    all.push(prefill(backend, batch, prompt, block));
                    all.extend((0..8).map(|step| decode(backend, batch, prompt + step, block)));
                }
            }
            let mut cold = prefill(backend, 1, 32, block).with_regime(Regime::Cold);
            cold.duration_ns *= 40;
            all.push(cold);
        }
    }
    all
}

pub fn matrix(backends: &[BackendId]) -> ScenarioMatrix {
    ScenarioMatrix::build(&observations(backends), &boundaries()).unwrap()
}

pub fn policy() -> Policy {
    let options = PolicyOptions::new(SAFE, 1_760_000_000).with_runs(["run-1", "run-2"]);
    Policy::compile(&matrix(&[SAFE, FAST, BULK]), &options).unwrap()
}

pub fn router() -> Router {
    Router::new(policy())
}
