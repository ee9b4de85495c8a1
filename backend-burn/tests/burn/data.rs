//! Reference logits, and what both devices' tests do with them.

use std::{collections::BTreeMap, fs, path::PathBuf};

use phase_backend_burn::BurnModel;
use phase_core::{CacheSpec, Decode, Logits, Model, Prefill, PromptBatch, TokenId};
use serde::Deserialize;

#[derive(Deserialize)]
pub(crate) struct Golden {
    pub(crate) cases: Vec<Case>,
    #[serde(default)]
    pub(crate) continuations: Vec<Continuation>,
}

#[derive(Deserialize)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) prompt: Vec<u32>,
    pub(crate) then: Vec<u32>,
    #[serde(default)]
    pub(crate) greedy: Vec<u32>,
}

#[derive(Deserialize)]
pub(crate) struct Continuation {
    pub(crate) name: String,
    pub(crate) prompt: Vec<u32>,
    pub(crate) greedy: Vec<u32>,
}

/// Where this was compiled, or under `PHASE_TEST_DATA` on a machine without the source.
#[expect(clippy::disallowed_methods, reason = "the place of the data is the tester's to say")]
pub(crate) fn goldens() -> PathBuf {
    let compiled = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../model/tests/golden"));
    std::env::var_os("PHASE_TEST_DATA").map_or(compiled, PathBuf::from)
}

pub(crate) fn read(folder: &std::path::Path) -> (Golden, BTreeMap<String, Vec<f32>>) {
    let golden = serde_json::from_slice(&fs::read(folder.join("golden.json")).unwrap()).unwrap();
    (golden, tensors(&fs::read(folder.join("golden.safetensors")).unwrap()))
}

/// The tensors of a safetensors file; 32-bit integers come as their bits.
fn tensors(file: &[u8]) -> BTreeMap<String, Vec<f32>> {
    #[derive(Deserialize)]
    struct Entry {
        data_offsets: [usize; 2],
    }
    let header = usize::try_from(u64::from_le_bytes(file[..8].try_into().unwrap())).unwrap();
    let entries: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&file[8..8 + header]).unwrap();
    let data = &file[8 + header..];
    let entries = entries.into_iter().filter(|(name, _)| name != "__metadata__");
    entries
        .map(|(name, entry)| {
            let Entry { data_offsets: [start, end] } = serde_json::from_value(entry).unwrap();
            (name, data[start..end].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect())
        })
        .collect()
}

pub(crate) fn ids(ids: &[u32]) -> Vec<TokenId> {
    ids.iter().copied().map(TokenId).collect()
}

pub(crate) fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The scores after the prompt and after each token of `then`.
pub(crate) fn scores(model: &mut BurnModel, prompt: &[u32], then: &[u32]) -> Vec<Vec<f32>> {
    let mut cache = model.allocate(CacheSpec { batch: 1, capacity: prompt.len() + then.len() }).unwrap();
    let mut out = Logits::new();
    model.prefill(&mut cache, PromptBatch::single(&ids(prompt)).unwrap(), &mut out).unwrap();
    let mut rows = vec![out.as_slice().to_vec()];
    for token in then {
        model.decode(&mut cache, &[TokenId(*token)], &mut out).unwrap();
        rows.push(out.as_slice().to_vec());
    }
    rows
}

pub(crate) fn greedy(model: &mut BurnModel, prompt: &[u32], new: usize) -> Vec<u32> {
    let mut cache = model.allocate(CacheSpec { batch: 1, capacity: prompt.len() + new }).unwrap();
    let mut next = [TokenId(0)];
    model.prefill_greedy(&mut cache, PromptBatch::single(&ids(prompt)).unwrap(), &mut next).unwrap();
    let mut all = vec![next[0].0];
    while all.len() < new {
        let last = next;
        model.decode_greedy(&mut cache, &last, &mut next).unwrap();
        all.push(next[0].0);
    }
    all
}
