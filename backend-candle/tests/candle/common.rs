//! The reference logits of `model/tests/golden`.

use std::{collections::HashMap, fs, path::PathBuf};

use candle_core::{Device, Tensor};
use phase_core::TokenId;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
pub(crate) struct Golden {
    pub(crate) cases: Vec<Case>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) prompt: Vec<TokenId>,
    pub(crate) then: Vec<TokenId>,
}

impl Case {
    /// Prompt and continuation.
    pub(crate) fn tokens(&self) -> Vec<TokenId> {
        [&self.prompt[..], &self.then].concat()
    }
}

/// A file or folder of the reference data: where this was compiled, or under `PHASE_TEST_DATA` on a machine without the source.
#[expect(clippy::disallowed_methods, reason = "the place of the data is the tester's to say")]
pub(crate) fn dir(name: &str) -> PathBuf {
    let compiled = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../model/tests/golden"));
    std::env::var_os("PHASE_TEST_DATA").map_or(compiled, PathBuf::from).join(name)
}

pub(crate) fn read<T: serde::de::DeserializeOwned>(path: &str) -> T {
    serde_json::from_slice(&fs::read(dir(path)).expect("reference data")).expect("reference JSON")
}

pub(crate) fn tensors(path: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(dir(path), &Device::Cpu).expect("reference tensors")
}

pub(crate) fn rows(tensor: &Tensor) -> Vec<Vec<f32>> {
    tensor.to_vec2().expect("a matrix of f32")
}

pub(crate) fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
