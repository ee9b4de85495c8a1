//! What the unit tests share.

use crate::{Observation, ScenarioMatrix};
use phase_core::{BackendId, Layer, MeasurementBoundary, Phase, Shape, StackInfo};
use std::collections::BTreeMap;

pub(crate) const A: BackendId = BackendId::new("a");
pub(crate) const B: BackendId = BackendId::new("b");

/// A boundary on the machine `cpu` with the runtime `library`.
pub(crate) fn boundary(cpu: &str, library: &str) -> MeasurementBoundary {
    MeasurementBoundary::call(StackInfo::new().with(Layer::Machine, "cpu", cpu).with(Layer::Runtime, "library", library))
}

/// One boundary for each of the two backends, named after it.
pub(crate) fn boundaries() -> BTreeMap<String, MeasurementBoundary> {
    [A, B].map(|id| (id.to_string(), boundary("x", id.as_str()))).into()
}

/// A steady call under the backend's boundary; `tokens` are new ones in prefill and context in decode.
pub(crate) fn seen(backend: &BackendId, phase: Phase, batch: usize, tokens: usize, ns: u64) -> Observation {
    let shape = match phase {
        Phase::Decode => Shape { batch, new_tokens: 1, context: tokens },
        _ => Shape { batch, new_tokens: tokens, context: 0 },
    };
    Observation::new(backend.clone(), phase, shape, ns).with_boundary(backend.as_str())
}

pub(crate) fn cells(seen: &[Observation]) -> ScenarioMatrix {
    ScenarioMatrix::build(seen, &boundaries()).unwrap()
}
