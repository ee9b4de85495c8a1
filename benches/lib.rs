//! What the benches share: which model they load and the backends they load it on.

use criterion::Criterion;
use phase_backend_burn::Burn;
use phase_backend_candle::Candle;
use phase_backend_ort::{Ort, OrtConfig};
use phase_core::{BoxModel, CacheSpec, DType, DynBackend, KvCache, LoadSpec, Logits, Model, Registry, TokenId};
use phase_model::{Architecture, random};
use std::{hint::black_box, path::PathBuf};

/// The checkpoint in `PHASE_MODEL`; without one a tiny random one, whose times say nothing but that the bench works.
pub fn checkpoint() -> PathBuf {
    match std::env::var_os("PHASE_MODEL").filter(|v| !v.is_empty()) {
        Some(path) => path.into(),
        None => {
            let folder = std::env::temp_dir().join(format!("phase-benches-{}", std::process::id()));
            if !folder.exists() {
                random::write(&folder, &random::Shape::tiny(Architecture::Llama), 1, DType::F32).expect("a writable temporary folder");
            }
            folder
        }
    }
}

/// Every backend that can be used here, with the checkpoint loaded; says on standard error which can't.
pub fn models() -> Vec<(String, BoxModel)> {
    let ort = match std::env::var_os("PHASE_ORT_LIBRARY").filter(|v| !v.is_empty()) {
        Some(library) => Ort::cpu().with_config(OrtConfig::default().with_library(library)),
        None => Ort::cpu(),
    };
    let registry = Registry::new().with(ort).with(Candle::cpu()).with(Burn::cpu());
    let spec = LoadSpec::new(checkpoint());
    registry.iter().filter_map(|backend| load(backend, &spec)).collect()
}

fn load(backend: &dyn DynBackend, spec: &LoadSpec) -> Option<(String, BoxModel)> {
    match backend.load_dyn(spec) {
        Ok(model) => Some((backend.id_dyn().to_string(), model)),
        Err(e) => {
            eprintln!("{}: not measured: {e}", backend.id_dyn());
            None
        }
    }
}

/// Times decode calls of `model`, [`CALLS`] of them an iteration, so that emptying the cache is next to nothing: what the
/// contract's own layers cost on top of a model that does almost nothing.
pub fn calls<M: Model>(c: &mut Criterion, name: &str, mut model: M) {
    let mut cache = model.allocate(CacheSpec { batch: 1, capacity: CALLS }).expect("a cache");
    let mut logits = Logits::new();
    c.bench_function(name, |b| {
        b.iter(|| {
            cache.truncate(0);
            (0..CALLS).try_for_each(|_| model.decode(&mut cache, black_box(&[TokenId(1)]), &mut logits))
        });
    });
}

/// Decode calls in one iteration of [`calls`].
pub const CALLS: usize = 100;
