//! Sessions on the CUDA provider and nothing else.

use super::device::Device;
use crate::{error::OrtError, session::Setup};
use ort::{
    ep::{self, ArenaExtendStrategy},
    operator::OperatorDomain,
    session::Session,
};
use std::path::Path;

/// What a session leaves of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Record<'p> {
    Nothing,
    /// Every operator that it runs, into a file of this prefix.
    Profile(&'p Path),
    /// The graph as it was optimised, into this file.
    Optimised(&'p Path),
}

impl<'p> Record<'p> {
    pub(crate) fn profile(prefix: Option<&'p Path>) -> Self {
        prefix.map_or(Self::Nothing, Self::Profile)
    }
}

/// Loads a graph whose weights are inputs.
///
/// # Errors
/// [`OrtError::Device`] when ONNX Runtime has no CUDA provider, or it does not load.
pub(crate) fn open(
    setup: &Setup,
    device: &Device,
    graph: &[u8],
    operators: Option<OperatorDomain>,
    record: Record<'_>,
) -> Result<Session, OrtError> {
    let provider = ep::CUDA::default()
        .with_device_id(i32::try_from(device.ordinal).unwrap_or(i32::MAX))
        .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested)
        .with_tf32(false);
    // SAFETY: every model keeps its device, and with it the stream, longer than its sessions.
    let provider = unsafe { provider.with_compute_stream(device.stream()) };
    let fail = || OrtError::runtime("setting up a session");
    let mut builder = setup
        .builder()?
        .with_execution_providers([provider.build().error_on_failure()])
        .map_err(|e| OrtError::Device { reason: format!("ONNX Runtime's CUDA provider does not load: {e}; {HOW_TO_GET}") })?
        .with_disable_cpu_fallback()
        .map_err(fail())?;
    if let Some(operators) = operators {
        builder = builder.with_operators(operators).map_err(fail())?;
    }
    builder = match record {
        Record::Nothing => builder,
        Record::Profile(prefix) => builder.with_profiling(prefix).map_err(fail())?,
        Record::Optimised(file) => builder.with_optimized_model_path(file).map_err(fail())?,
    };
    builder.commit_from_memory(graph).map_err(|e| super::classified(device, OrtError::runtime("loading the graph")(e)))
}

/// The advice when the provider can't be had.
pub(super) const HOW_TO_GET: &str = "get a CUDA build with `pip download onnxruntime-gpu` (onnxruntime/capi, all of its lib*.so*), name its \
                          libonnxruntime.so.* with `--ort-library` or PHASE_ORT_LIBRARY, and have CUDA's libcublas, libcudart \
                          and libcurand on the loader's path";
