//! What the tests share: the library, a folder for derived files, and reference data.

#![allow(dead_code, unused_imports, reason = "every test binary uses another part")]

use phase_backend_ort::{Ort, OrtConfig, OrtModel};
use phase_core::{Backend, CacheSpec, Decode, LoadSpec, Logits, Model, Prefill, PromptBatch, TokenId};
use serde::de::DeserializeOwned;
use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
};

/// The ONNX Runtime library to test with; says why when there is none.
#[expect(clippy::disallowed_methods, reason = "where the library is, is the tester's to say")]
pub(crate) fn library() -> Option<PathBuf> {
    let library = std::env::var_os("PHASE_ORT_LIBRARY").map(PathBuf::from);
    if library.is_none() {
        // Past the test harness, which shows the output of failed tests only.
        let _ = writeln!(std::io::stderr(), "skipped: PHASE_ORT_LIBRARY names no ONNX Runtime library");
    }
    library
}

/// The backend on that library.
pub(crate) fn backend() -> Option<Ort> {
    library().map(|path| Ort::cpu().with_config(OrtConfig::default().with_library(path)))
}

/// As a test, with derived files in a folder of this test run.
pub(crate) fn load(path: impl AsRef<Path>) -> Option<OrtModel> {
    let spec = LoadSpec::new(path).with_cache_dir(derived());
    Some(backend()?.load(&spec).expect("the model loads"))
}

/// A folder for derived files: inside of the build folder, or where the test runs when it was built elsewhere.
pub(crate) fn derived() -> PathBuf {
    let built = Path::new(env!("CARGO_TARGET_TMPDIR"));
    if built.is_dir() { built.join("derived") } else { std::env::temp_dir().join("phase-ort-derived") }
}

/// A file of the reference data: in the sources, or in `PHASE_TEST_DATA` on a machine without them.
#[expect(clippy::disallowed_methods, reason = "where the data are on another machine, is the tester's to say")]
pub(crate) fn golden(name: &str) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/golden");
    let data = if sources.is_dir() { sources } else { std::env::var_os("PHASE_TEST_DATA").map_or(sources, PathBuf::from) };
    data.join(name)
}

/// Reads JSON of the reference data.
pub(crate) fn read<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_slice(&std::fs::read(golden(name)).expect("reference data")).expect("reference data is JSON")
}

/// The f32 and i32 tensors of a safetensors file, widened to f32, each with its shape.
pub(crate) fn tensors(name: &str) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let bytes = std::fs::read(golden(name)).expect("reference data");
    let (size, rest) = bytes.split_first_chunk::<8>().expect("a safetensors header");
    let (header, data) = rest.split_at(usize::try_from(u64::from_le_bytes(*size)).expect("a header that fits"));
    let header: BTreeMap<String, serde_json::Value> = serde_json::from_slice(header).expect("a safetensors header");
    let tensor = |(name, info): (String, serde_json::Value)| {
        let numbers = |key: &str| -> Vec<usize> { serde_json::from_value(info[key].clone()).unwrap_or_default() };
        let [from, to] = numbers("data_offsets")[..] else { return None };
        let words = data[from..to].as_chunks::<4>().0.iter();
        #[expect(clippy::cast_precision_loss, reason = "ids are small")]
        let values = match info["dtype"].as_str() {
            Some("F32") => words.map(|w| f32::from_le_bytes(*w)).collect(),
            Some("I32") => words.map(|w| i32::from_le_bytes(*w) as f32).collect(),
            other => panic!("reference data in {other:?}"),
        };
        Some((name, (numbers("shape"), values)))
    };
    header.into_iter().filter_map(tensor).collect()
}

/// One prompt of the reference data.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) prompt: Vec<TokenId>,
    pub(crate) then: Vec<TokenId>,
}

pub(crate) fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "rows of equal length");
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

/// Scores after the prompt and after each further token.
pub(crate) fn scores<M: Model>(model: &mut M, case: &Case) -> Vec<Vec<f32>> {
    let mut cache = model.allocate(CacheSpec { batch: 1, capacity: case.prompt.len() + case.then.len() }).expect("a cache");
    let mut out = Logits::new();
    model.prefill(&mut cache, PromptBatch::single(&case.prompt).expect("a prompt"), &mut out).expect("prefill");
    let mut rows = vec![out.as_slice().to_vec()];
    for token in &case.then {
        model.decode(&mut cache, &[*token], &mut out).expect("decode");
        rows.push(out.as_slice().to_vec());
    }
    rows
}
