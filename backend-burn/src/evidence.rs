//! What was seen: of the stack when a model is loaded, of kernels while it runs.

use phase_core::{Evidence, Layer, StackInfo};

use crate::{BurnConfig, cpu::Seen};

/// The processor's facts that don't depend on a model.
pub(crate) fn runtime(config: &BurnConfig, threads: usize) -> StackInfo {
    let stack = start("burn-cpu")
        .with(Layer::Runtime, "threads", threads.to_string())
        .with(Layer::Runtime, "kernel_path", kernel_path())
        .with(Layer::Runtime, "cache_dtype", "f32")
        .with(Layer::Runtime, "prefill_rows", config.rows().to_string())
        .with(Layer::Runtime, "direct_rows", config.direct_rows.to_string());
    [("burn_flex", "burn-flex", env!("PHASE_BURN_FLEX")), ("gemm", "gemm", env!("PHASE_GEMM"))].into_iter().fold(stack, version)
}

/// What every device's facts begin with.
pub(crate) fn start(backend: &str) -> StackInfo {
    let stack = StackInfo::new().with(Layer::Runtime, "backend", backend).with(
        Layer::Runtime,
        "crate",
        concat!("phase-backend-burn ", env!("CARGO_PKG_VERSION")),
    );
    version(stack, ("library", "burn", env!("PHASE_BURN")))
}

pub(crate) fn version(stack: StackInfo, (key, name, version): (&str, &str, &str)) -> StackInfo {
    if version.is_empty() {
        return stack.with_unknown(Layer::Runtime, key, format!("the build found no lock file that names one version of {name}"));
    }
    stack.with(Layer::Runtime, key, format!("{name} {version}"))
}

/// The vector instructions that gemm and phase-kernels choose by, as this processor reports them.
fn kernel_path() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        return if std::arch::is_x86_feature_detected!("f16c") { "avx2+fma+f16c" } else { "avx2+fma" };
    }
    "portable"
}

/// Kernels and their calls, and where their outputs were.
pub(crate) fn evidence<'a>(seen: impl Iterator<Item = (&'a Seen, u64)> + Clone) -> Evidence {
    let mut evidence = Evidence::new("devices of burn's outputs and a count of every kernel called");
    let mut executors: Vec<(&str, u64)> = Vec::new();
    for (kernel, calls) in seen {
        evidence = evidence.with_kernel(format!("{}: {} x{calls}", kernel.executor, kernel.kernel));
        match executors.iter_mut().find(|(name, _)| *name == kernel.executor) {
            Some((_, sum)) => *sum += calls,
            None => executors.push((&kernel.executor, calls)),
        }
    }
    executors.into_iter().fold(evidence, |evidence, (name, calls)| evidence.with_placement(name, calls))
}
