//! SmolLM2-135M-Instruct against Hugging Face transformers: logits and greedy continuations.
//!
//! Its weights are not in the repository: `PHASE_TEST_MODEL` names a Hugging Face folder or GGUF file of it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Case, difference};
use phase_backend_ort::OrtModel;
use phase_core::{CacheSpec, Decode, Model, Prefill, PromptBatch, TokenId};
use serde::Deserialize;
use std::io::Write;

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
fn load() -> Option<OrtModel> {
    let Some(path) = std::env::var_os("PHASE_TEST_MODEL") else {
        let _ = writeln!(std::io::stderr(), "skipped: PHASE_TEST_MODEL names no SmolLM2-135M-Instruct checkpoint");
        return None;
    };
    common::load(path)
}

#[test]
fn logits_and_greedy_continuations() {
    let Some(mut model) = load() else { return };
    let golden: Golden = common::read("smollm2/golden.json");
    let tensors = common::tensors("smollm2/golden.safetensors");
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the data are ids")]
    let positions: Vec<_> = tensors["positions"].1.iter().map(|p| *p as usize).collect();
    for case in &golden.cases {
        let rows = common::scores(&mut model, case);
        let mut worst = difference(&rows[0], &tensors[&format!("{}.prefill", case.name)].1);
        let (shape, subset) = &tensors[&format!("{}.subset", case.name)];
        for (row, reference) in rows.iter().zip(subset.chunks_exact(shape[1])) {
            let some: Vec<_> = positions.iter().map(|p| row[*p]).collect();
            worst = worst.max(difference(&some, reference));
        }
        println!("smollm2 {}: off by {worst:.1e}", case.name);
        assert!(worst <= 2e-3, "case {}: off by {worst}", case.name);
    }
    for Continuation { name, prompt, greedy } in &golden.continuations {
        let mut cache = model.allocate(CacheSpec { batch: 1, capacity: prompt.len() + greedy.len() }).unwrap();
        let mut next = [TokenId(0)];
        model.prefill_greedy(&mut cache, PromptBatch::single(prompt).unwrap(), &mut next).unwrap();
        let mut ids = vec![next[0]];
        while ids.len() < greedy.len() {
            model.decode_greedy(&mut cache, &next.clone(), &mut next).unwrap();
            ids.push(next[0]);
        }
        assert_eq!(&ids, greedy, "continuation {name}");
    }
}
