//! SmolLM2-135M-Instruct against Hugging Face transformers: logits and greedy continuations.
//!
//! Its weights are not in the repository: `PHASE_TEST_MODEL` names a Hugging Face folder or GGUF file of it.

use crate::common::{Case, difference};
use phase_backend_candle::{Candle, CandleModel};
use phase_core::{Backend, CacheSpec, DType, Decode, KvCache, LoadSpec, Logits, Model, Prefill, PromptBatch, TokenId};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct Golden {
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
pub(crate) fn load(backend: &Candle, dtype: DType) -> Option<CandleModel> {
    let Ok(path) = std::env::var("PHASE_TEST_MODEL") else {
        println!("skipped: PHASE_TEST_MODEL is not set to a SmolLM2-135M-Instruct checkpoint");
        return None;
    };
    Some(backend.load(&LoadSpec::new(path).with_dtype(dtype)).expect("SmolLM2"))
}

pub(crate) fn check_logits(backend: &Candle, dtype: DType, tolerance: f32) {
    let Some(mut model) = load(backend, dtype) else { return };
    let golden: Golden = crate::common::read("smollm2/golden.json");
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

#[test]
fn logits_in_f32() {
    check_logits(&Candle::cpu(), DType::F32, 2e-3);
}

#[test]
fn logits_in_f16() {
    check_logits(&Candle::cpu(), DType::F16, 2e-1);
}

#[test]
fn greedy_continuations_in_f32() {
    check_greedy(&Candle::cpu());
}

/// Token by token, and in one run.
pub(crate) fn check_greedy(backend: &Candle) {
    let Some(mut model) = load(backend, DType::F32) else { return };
    let golden: Golden = crate::common::read("smollm2/golden.json");
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
