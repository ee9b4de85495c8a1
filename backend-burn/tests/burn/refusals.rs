//! What is refused, by which kind, and in which words.

use std::{fs, path::PathBuf};

use phase_backend_burn::{Burn, BurnConfig, BurnError};
use phase_core::{
    Backend, CacheSpec, Decode, ErrorKind, KvCache, Layer, LoadSpec, Logits, Model, PhaseError, Prefill, PromptBatch, TokenId,
};

fn tiny(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../model/tests/golden/tiny")).join(name)
}

fn refused(spec: &LoadSpec) -> BurnError {
    Burn::cpu().load(spec).expect_err("refused")
}

#[test]
fn settings_outside_of_their_range() {
    let spec = LoadSpec::new(tiny("qwen2"));
    let error = refused(&spec.clone().with_threads(0));
    assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::InvalidInput, "threads is 0, expected 1 or more"));
    for rows in [0, 65] {
        assert_eq!(refused(&spec.clone().with_max_batch(rows)).kind(), ErrorKind::InvalidInput);
    }
    let error = Burn::new(BurnConfig::default().with_prefill_rows(0)).load(&spec).expect_err("refused");
    assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::InvalidInput, "prefill_rows is 0, expected 1 or more"));
}

#[test]
fn checkpoints_that_are_absent_or_of_an_unknown_kind() {
    assert_eq!(refused(&LoadSpec::new("no such folder")).kind(), ErrorKind::Load);
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(tiny("llama-mqa").join(file), folder.path().join(file)).unwrap();
    }
    let config = fs::read_to_string(folder.path().join("config.json")).unwrap();
    let mamba = config.replace("\"llama\"", "\"mamba\"").replace("LlamaForCausalLM", "MambaForCausalLM");
    fs::write(folder.path().join("config.json"), mamba).unwrap();
    let error = refused(&LoadSpec::new(folder.path()));
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("mamba"), "{error}");
}

#[test]
fn a_sister_models_cache_is_foreign() {
    let load = || Burn::cpu().load(&LoadSpec::new(tiny("qwen2"))).unwrap();
    let (mut a, mut b) = (load(), load());
    let mut cache = a.allocate(CacheSpec { batch: 1, capacity: 8 }).unwrap();
    let mut out = Logits::new();
    let prompt = [TokenId(1), TokenId(2)];
    for error in [
        b.decode(&mut cache, &prompt[..1], &mut out).unwrap_err(),
        b.prefill(&mut cache, PromptBatch::single(&prompt).unwrap(), &mut out).unwrap_err(),
        b.prefill_greedy(&mut cache, PromptBatch::single(&prompt).unwrap(), &mut [TokenId(0)]).unwrap_err(),
        b.decode_greedy(&mut cache, &prompt[..1], &mut [TokenId(0)]).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::ForeignCache);
    }
    assert!(cache.is_empty());
}

#[test]
fn greedy_calls_with_another_number_of_slots() {
    let mut model = Burn::cpu().load(&LoadSpec::new(tiny("qwen2"))).unwrap();
    let mut cache = model.allocate(CacheSpec { batch: 1, capacity: 8 }).unwrap();
    let error = model.decode_greedy(&mut cache, &[TokenId(1)], &mut [TokenId(0); 2]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let error = model.prefill_greedy(&mut cache, PromptBatch::single(&[TokenId(1)]).unwrap(), &mut []).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(cache.is_empty());
}

#[test]
fn the_stack_is_captured() {
    let model = Burn::cpu().load(&LoadSpec::new(tiny("qwen2")).with_threads(1)).unwrap();
    let info = model.info();
    let fact = |layer, key: &str| info.stack.fact(layer, key).map(ToString::to_string).unwrap_or_default();
    assert_eq!(fact(Layer::Runtime, "backend"), "burn-cpu");
    assert_eq!(fact(Layer::Runtime, "library"), "burn 0.22.1");
    assert_eq!(fact(Layer::Runtime, "threads"), "1");
    assert_eq!(fact(Layer::Model, "architecture"), "qwen2");
    assert_eq!(fact(Layer::Model, "dtype"), "f32");
    assert_eq!(fact(Layer::Model, "digest").len(), 64);
    let keys: Vec<_> = info.stack.iter().filter(|(layer, ..)| *layer == Layer::Model).map(|(_, key, _)| key).collect();
    assert_eq!(keys, ["architecture", "digest", "dtype"], "the keys every backend has");
}

#[test]
fn evidence_names_burns_device_and_counts_kernels() {
    let backend = Burn::new(BurnConfig::default().with_direct_rows(4));
    let mut model = backend.load(&LoadSpec::new(tiny("qwen2"))).unwrap();
    assert!(model.evidence().unwrap().placement.is_empty(), "nothing ran yet");
    // Two layers of four products and a head a call; after the last layer's attention a prompt is one row.
    let (through_burn, direct) = (4 + 1, 3 + 1 + 2 * 4 + 1);
    let mut cache = model.allocate(CacheSpec { batch: 1, capacity: 16 }).unwrap();
    let prompt: Vec<_> = (0..12).map(TokenId).collect();
    model.prefill(&mut cache, PromptBatch::single(&prompt).unwrap(), &mut Logits::new()).unwrap();
    model.decode(&mut cache, &prompt[..1], &mut Logits::new()).unwrap();
    let kernels = model.evidence().unwrap().kernels;
    assert!(kernels.contains(&format!("burn Flex(Cpu): matmul f32 x{through_burn}")), "{kernels:?}");
    assert!(kernels.contains(&format!("phase-kernels: matvec f32 x{direct}")), "{kernels:?}");
}
