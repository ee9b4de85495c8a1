//! What all commands share: where things are, and the backends.

use crate::{argument::Global, exit::Failure};
use phase_core::{DynBackend, LoadSpec, Registry};
use std::path::{Path, PathBuf};

/// Where derived files and fetched libraries are, and the backends there are.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) registry: Registry,
    pub(crate) cache: PathBuf,
    pub(crate) ort_library: Option<PathBuf>,
    device: String,
    threads: Option<usize>,
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
            registry: registry(ort_library.as_deref()),
            cache,
            ort_library,
            device: global.device.clone(),
            threads: global.threads.map(usize::from),
        })
    }

    /// The backend that `name` means on the chosen device: `ort` on `cpu` is `ort-cpu`.
    pub(crate) fn backend(&self, name: &str) -> Result<&dyn DynBackend, Failure> {
        let full = if name.contains('-') { name.to_owned() } else { format!("{name}-{}", self.device) };
        self.registry.get(&full).map_err(|e| Failure::Usage(e.to_string()))
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
#[cfg_attr(not(feature = "ort"), expect(unused_variables, reason = "the library is ONNX Runtime's"))]
fn registry(ort_library: Option<&Path>) -> Registry {
    let registry = Registry::new();
    #[cfg(feature = "ort")]
    let registry = registry.with(match ort_library {
        Some(path) => phase_backend_ort::Ort::cpu().with_config(phase_backend_ort::OrtConfig::default().with_library(path)),
        None => phase_backend_ort::Ort::cpu(),
    });
    #[cfg(feature = "candle")]
    let registry = registry.with(phase_backend_candle::Candle::cpu());
    #[cfg(feature = "burn")]
    let registry = registry.with(phase_backend_burn::Burn::cpu());
    registry
}

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
