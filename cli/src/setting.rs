//! What all commands share: where things are, and the backends.

use crate::{
    argument::{Device, Global},
    exit::Failure,
};
use phase_core::{Arm, DynBackend, LoadSpec, Mode, Registry};
use std::path::{Path, PathBuf};

/// Where derived files and fetched libraries are, and the backends there are.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) registry: Registry,
    pub(crate) cache: PathBuf,
    pub(crate) ort_library: Option<PathBuf>,
    pub(crate) device: Device,
    pub(crate) color: clap::ColorChoice,
    pub(crate) threads: Option<usize>,
}

impl Setting {
    pub(crate) fn new(global: &Global) -> Result<Self, Failure> {
        let cache = global
            .cache
            .clone()
            .or_else(default_cache)
            .ok_or_else(|| Failure::Usage("no place for derived files: set --cache or PHASE_CACHE".to_owned()))?;
        let ort_library = global.ort_library.clone().or_else(|| fetched_library(&cache));
        Ok(Self {
            registry: registry(ort_library.as_deref(), global.device),
            cache,
            ort_library,
            device: global.device,
            color: global.color,
            threads: global.threads.map(usize::from),
        })
    }

    /// The backend that `name` means on the chosen device: `ort` on `cpu` is `ort-cpu`, `ort@compiled` on `cuda` is
    /// `ort-cuda@compiled`.
    pub(crate) fn backend(&self, name: &str) -> Result<&dyn DynBackend, Failure> {
        let wanted = self.arm(name)?;
        let found = self.registry.get(&wanted.to_string()).map_err(|e| Failure::Usage(e.to_string()));
        if !cfg!(feature = "cuda") && wanted.backend.as_str().ends_with("-cuda") {
            return found.map_err(|_| Failure::Environment(NO_CUDA.to_owned()));
        }
        found
    }

    /// The competitors that `name` means: all modes of a path where it names none and `modes` is empty.
    pub(crate) fn arms(&self, name: &str, modes: &[Mode]) -> Result<Vec<Arm>, Failure> {
        let wanted = self.arm(name)?;
        let one = self.backend(name)?.arm();
        if wanted.mode != Mode::Default || one.mode == Mode::Default {
            return Ok(vec![one]);
        }
        let all = self.registry.iter().map(DynBackend::arm).filter(|arm| arm.backend == wanted.backend);
        let arms: Vec<_> = all.filter(|arm| modes.is_empty() || modes.contains(&arm.mode)).collect();
        if arms.is_empty() {
            return Err(Failure::Usage(format!("{} has none of the modes asked for: eager and compiled are there", wanted.backend)));
        }
        Ok(arms)
    }

    fn arm(&self, name: &str) -> Result<Arm, Failure> {
        let arm: Arm = name.parse().map_err(|e: phase_core::UnknownMode| Failure::Usage(format!("{name}: {e}")))?;
        if arm.backend.as_str().contains('-') {
            return Ok(arm);
        }
        Ok(Arm::new(format!("{}-{}", arm.backend, self.device.path()).into(), arm.mode))
    }

    /// How to load the checkpoint at `path`.
    pub(crate) fn load_spec(&self, path: &Path, dtype: phase_core::DType) -> LoadSpec {
        let spec = LoadSpec::new(path).with_dtype(dtype).with_cache_dir(&self.cache);
        match self.threads {
            Some(n) => spec.with_threads(n),
            None => spec,
        }
    }
}

/// The backends that this program was built with.
#[cfg_attr(
    not(all(feature = "ort", feature = "cuda")),
    expect(unused_variables, reason = "what names a library or a device that is not built in")
)]
fn registry(ort_library: Option<&Path>, device: Device) -> Registry {
    let registry = Registry::new();
    #[cfg(feature = "ort")]
    let config = match ort_library {
        Some(path) => phase_backend_ort::OrtConfig::default().with_library(path),
        None => phase_backend_ort::OrtConfig::default(),
    };
    #[cfg(feature = "ort")]
    let registry = registry.with(phase_backend_ort::Ort::cpu().with_config(config.clone()));
    #[cfg(feature = "candle")]
    let registry = registry.with(phase_backend_candle::Candle::cpu());
    #[cfg(feature = "burn")]
    let registry = registry.with(phase_backend_burn::Burn::cpu());
    #[cfg(feature = "cuda")]
    let registry = [Mode::Eager, Mode::Compiled].into_iter().fold(registry, |registry, mode| {
        let number = if let Device::Cuda(number) = device { number } else { 0 };
        #[cfg(feature = "ort")]
        let registry = registry.with(phase_backend_ort::Ort::cuda(number).with_config(config.clone()).with_mode(mode));
        #[cfg(feature = "candle")]
        let registry = registry.with(phase_backend_candle::Candle::new(
            phase_backend_candle::CandleConfig::default().with_device(phase_backend_candle::Device::Cuda(number as usize)).with_mode(mode),
        ));
        #[cfg(feature = "burn")]
        let registry = registry.with(phase_backend_burn::Burn::new(burn_on_cuda(number as usize).with_mode(mode)));
        registry
    });
    registry
}

/// burn's kernels are compiled against the headers of the CUDA that the environment names.
#[cfg(all(feature = "burn", feature = "cuda"))]
#[expect(clippy::disallowed_methods, reason = "the program reads the environment so that libraries need not")]
fn burn_on_cuda(number: usize) -> phase_backend_burn::BurnConfig {
    let config = phase_backend_burn::BurnConfig::default().with_device(phase_backend_burn::Device::Cuda(number));
    let home = ["CUDA_HOME", "CUDA_PATH"].into_iter().find_map(|name| std::env::var_os(name).filter(|value| !value.is_empty()));
    match home {
        Some(home) => config.with_cuda_home(home),
        None => config,
    }
}

#[cfg(not(feature = "cuda"))]
const NO_CUDA: &str = "this program was built without CUDA: build it with `cargo xtask gpu build`";
#[cfg(feature = "cuda")]
const NO_CUDA: &str = "this program was built without that backend on CUDA";

#[expect(clippy::disallowed_methods, reason = "the program reads the environment so that libraries need not")]
fn default_cache() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    variable("XDG_CACHE_HOME").map(|p| p.join("phase")).or_else(|| variable("HOME").map(|p| p.join(".cache/phase")))
}

/// The newest ONNX Runtime that `cargo xtask fetch` left in the cache.
fn fetched_library(cache: &Path) -> Option<PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(cache)
        .ok()?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("onnxruntime-"))
        .flat_map(|entry| std::fs::read_dir(entry.path()).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("libonnxruntime.so")))
        .collect();
    found.sort();
    found.pop()
}
