//! What `phase doctor` says of CUDA, on machines with and without it, and three backends on one device at the same time.
//!
//! `PHASE_TEST_CUDA` says that a device is there; `PHASE_TEST_PROGRAM` names the program where it is not cargo's.
#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test fails by panicking, and reads how it is run")]

use serde_json::Value;
use std::process::Command;

fn doctor(arguments: &[&str]) -> String {
    let program = std::env::var_os("PHASE_TEST_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_phase").into());
    let out = Command::new(program).arg("doctor").args(arguments).output().unwrap();
    assert!(matches!(out.status.code(), Some(0 | 3)), "{out:?}");
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn the_driver_and_its_devices_are_named_or_what_is_missing() {
    let json: Value = serde_json::from_str(&doctor(&["--json"])).unwrap();
    let driver = &json["cuda"]["driver"];
    if std::env::var_os("PHASE_TEST_CUDA").is_some() {
        assert_eq!(driver["available"], true, "{driver}");
        let device = &driver["devices"][0];
        assert!(device["memory_bytes"].as_u64().unwrap() > 1 << 30, "{device}");
        assert!(device["name"].as_str().is_some_and(|name| !name.is_empty()), "{device}");
        assert!(device["compute_capability"].as_str().unwrap().contains('.'), "{device}");
        let missing: Vec<_> = json["cuda"]["libraries"].as_array().unwrap().iter().filter(|l| l["available"] == false).collect();
        assert!(missing.is_empty(), "{missing:?}");
    } else if driver["available"] == false {
        assert!(!driver["reason"].as_str().unwrap().is_empty());
    }
    assert!(doctor(&[]).contains("\nCUDA\n"));
}

/// What one backend loads, captures and drops, the others' captures outlive; and what each says stays the same.
#[cfg(all(feature = "cuda", feature = "ort", feature = "candle", feature = "burn"))]
mod one_device {
    use phase_backend_burn::Burn;
    use phase_backend_candle::Candle;
    use phase_backend_ort::{Ort, OrtConfig};
    use phase_core::{CacheSpec, DType, Decode, DynBackend, LoadSpec, Model, Prefill, PromptBatch, TokenId};
    use std::{
        path::{Path, PathBuf},
        thread,
    };

    const ROUNDS: usize = 8;

    fn checkpoint() -> PathBuf {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/golden");
        let data = if sources.is_dir() { sources } else { std::env::var_os("PHASE_TEST_DATA").map_or(sources, PathBuf::from) };
        data.join("tiny/llama-bf16")
    }

    /// A model's life: tokens of caches of several sizes, each of which a step is captured for.
    fn life(backend: &dyn DynBackend, spec: &LoadSpec) -> Vec<TokenId> {
        let mut model = backend.load_dyn(spec).unwrap();
        let mut tokens = Vec::new();
        for batch in [1, 2, 3, 1] {
            let mut cache = model.allocate(CacheSpec { batch, capacity: 16 }).unwrap();
            let prompt: Vec<_> = (1..=4 * u32::try_from(batch).unwrap()).map(TokenId).collect();
            let mut first = vec![TokenId(0); batch];
            model.prefill_greedy(&mut cache, PromptBatch::new(&prompt, batch).unwrap(), &mut first).unwrap();
            let mut run = vec![TokenId(0); 4 * batch];
            model.decode_run(&mut cache, &first, &mut run).unwrap();
            tokens.extend(first.into_iter().chain(run));
        }
        tokens
    }

    #[test]
    fn three_backends_capture_and_drop_beside_each_other() {
        if std::env::var_os("PHASE_TEST_CUDA").is_none() {
            return;
        }
        let library = std::env::var_os("PHASE_ORT_LIBRARY").map(PathBuf::from).expect("PHASE_ORT_LIBRARY names ONNX Runtime with CUDA");
        let ort = Ort::cuda(0).with_config(OrtConfig::default().with_library(library));
        let backends: [&dyn DynBackend; 3] = [&ort, &Candle::cuda(0), &Burn::cuda(0)];
        let derived = tempfile::tempdir().unwrap();
        let spec = LoadSpec::new(checkpoint()).with_cache_dir(derived.path()).with_dtype(DType::Bf16);
        thread::scope(|scope| {
            for backend in backends {
                let spec = &spec;
                scope.spawn(move || {
                    let first = life(backend, spec);
                    for round in 1..ROUNDS {
                        assert_eq!(life(backend, spec), first, "{}, round {round}", backend.id_dyn());
                    }
                });
            }
        });
    }
}
