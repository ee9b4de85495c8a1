//! Reference logits against a backend, whatever its device.

use crate::common::{Case, Golden, difference};
use phase_backend_candle::{Candle, CandleConfig, CandleModel};
use phase_core::{Backend, CacheSpec, DType, Decode, KvCache, LoadSpec, Logits, Model, Prefill, PromptBatch, TokenId};
use serde::Deserialize;

fn load(name: &str, dtype: DType, config: CandleConfig) -> CandleModel {
    Candle::new(config).load(&LoadSpec::new(crate::common::dir(name)).with_dtype(dtype).with_threads(2)).unwrap()
}

/// The prompt in one call and then token by token; and everything token by token. Returns the largest difference.
fn worst(model: &mut CandleModel, case: &Case, reference: &[Vec<f32>]) -> f32 {
    let tokens = case.tokens();
    let spec = CacheSpec { batch: 1, capacity: tokens.len() };
    let mut logits = Logits::new();
    let mut worst = 0.0f32;
    for prefilled in [case.prompt.len(), 0] {
        let mut cache = model.allocate(spec).unwrap();
        if prefilled > 0 {
            model.prefill(&mut cache, PromptBatch::single(&tokens[..prefilled]).unwrap(), &mut logits).unwrap();
            worst = worst.max(difference(logits.as_slice(), &reference[prefilled - 1]));
        }
        for at in prefilled..tokens.len() {
            model.decode(&mut cache, &tokens[at..=at], &mut logits).unwrap();
            worst = worst.max(difference(logits.as_slice(), &reference[at]));
        }
    }
    worst
}

pub(crate) fn check(name: &str, dtype: DType, config: &CandleConfig, tolerance: f32) {
    let golden: Golden = crate::common::read(&format!("{name}.json"));
    let tensors = crate::common::tensors(&format!("{name}.safetensors"));
    check_at(name, &load(checkpoint_of(name), dtype, config.clone()).info().clone(), dtype);
    for case in &golden.cases {
        let mut model = load(checkpoint_of(name), dtype, config.clone());
        let reference = crate::common::rows(&tensors[&format!("{}.logits", case.name)]);
        let worst = worst(&mut model, case, &reference);
        println!("{name} {dtype} {}: {worst:.2e}", case.name);
        assert!(worst <= tolerance, "{name} in {dtype}, case {}: off by {worst}", case.name);
    }
}

/// `tiny/NAME/golden` describes the folder it lies in, `gguf/NAME` the file beside it.
fn checkpoint_of(name: &str) -> &'static str {
    let path = match name.strip_suffix("/golden") {
        Some(folder) => folder.to_owned(),
        None => format!("{name}.gguf"),
    };
    path.leak()
}

fn check_at(name: &str, info: &phase_core::ModelInfo, dtype: DType) {
    assert_eq!(info.dtype, dtype, "{name}");
    assert!(info.weight_bytes > 0 && info.kv_bytes_per_position > 0 && info.flops_per_token > 0, "{name}: {info:?}");
}

#[derive(Debug, Deserialize)]
struct SmolLm2 {
    cases: Vec<Case>,
    continuations: Vec<Continuation>,
}

#[derive(Debug, Deserialize)]
struct Continuation {
    name: String,
    prompt: Vec<TokenId>,
    greedy: Vec<TokenId>,
}

#[expect(clippy::disallowed_methods, reason = "the place of a large file is the tester's to say")]
fn smollm2(backend: &Candle, dtype: DType) -> Option<CandleModel> {
    let Ok(path) = std::env::var("PHASE_TEST_MODEL") else {
        println!("skipped: PHASE_TEST_MODEL is not set to a SmolLM2-135M-Instruct checkpoint");
        return None;
    };
    Some(backend.load(&LoadSpec::new(path).with_dtype(dtype)).expect("SmolLM2"))
}

pub(crate) fn check_logits(backend: &Candle, dtype: DType, tolerance: f32) {
    let Some(mut model) = smollm2(backend, dtype) else { return };
    let golden: SmolLm2 = crate::common::read("smollm2/golden.json");
    let tensors = crate::common::tensors("smollm2/golden.safetensors");
    let positions: Vec<i32> = tensors["positions"]
        .to_dtype(candle_core::DType::I64)
        .unwrap()
        .to_vec1::<i64>()
        .unwrap()
        .iter()
        .map(|p| i32::try_from(*p).unwrap())
        .collect();
    let mut logits = Logits::new();
    for case in &golden.cases {
        let subset = crate::common::rows(&tensors[&format!("{}.subset", case.name)]);
        let whole: Vec<f32> = tensors[&format!("{}.prefill", case.name)].to_vec1().unwrap();
        let mut cache = model.allocate(CacheSpec { batch: 1, capacity: case.tokens().len() }).unwrap();
        model.prefill(&mut cache, PromptBatch::single(&case.prompt).unwrap(), &mut logits).unwrap();
        let mut worst = difference(logits.as_slice(), &whole);
        for (token, reference) in case.then.iter().zip(&subset[1..]) {
            model.decode(&mut cache, &[*token], &mut logits).unwrap();
            let some: Vec<f32> = positions.iter().map(|p| logits.as_slice()[usize::try_from(*p).unwrap()]).collect();
            worst = worst.max(difference(&some, reference));
        }
        println!("smollm2 {dtype} {}: {worst:.2e}", case.name);
        assert!(worst <= tolerance, "smollm2 in {dtype}, case {}: off by {worst}", case.name);
    }
}

/// Token by token, and in one run.
pub(crate) fn check_greedy(backend: &Candle) {
    let Some(mut model) = smollm2(backend, DType::F32) else { return };
    let golden: SmolLm2 = crate::common::read("smollm2/golden.json");
    for Continuation { name, prompt, greedy } in &golden.continuations {
        let mut cache = model.allocate(CacheSpec { batch: 1, capacity: prompt.len() + greedy.len() }).unwrap();
        let mut next = [TokenId(0)];
        let mut ids = Vec::new();
        model.prefill_greedy(&mut cache, PromptBatch::single(prompt).unwrap(), &mut next).unwrap();
        while ids.len() < greedy.len() {
            ids.push(next[0]);
            model.decode_greedy(&mut cache, &next.clone(), &mut next).unwrap();
        }
        assert_eq!(&ids, greedy, "continuation {name}");
        cache.truncate(prompt.len());
        let mut run = vec![TokenId(0); greedy.len() - 1];
        model.decode_run(&mut cache, &greedy[..1], &mut run).unwrap();
        assert_eq!(run, greedy[1..], "continuation {name} in one run");
    }
}
