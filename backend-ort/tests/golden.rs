//! Every architecture against Hugging Face transformers: the logits of random checkpoints.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Case, difference};
use phase_core::{CacheSpec, Logits, Model, Prefill, PromptBatch, TokenId};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

/// A tenth of what the weakest mistake moves, see the reference data's own description.
const TOLERANCE: f32 = 1e-3;

fn check(folder: &str, checkpoint: &str, data: &str) {
    let Some(mut model) = common::load(common::golden(&format!("{folder}{checkpoint}"))) else { return };
    let golden: Golden = common::read(&format!("{folder}{data}.json"));
    let tensors = common::tensors(&format!("{folder}{data}.safetensors"));
    for case in &golden.cases {
        let (shape, reference) = &tensors[&format!("{}.logits", case.name)];
        let reference: Vec<_> = reference.chunks_exact(shape[1]).collect();
        for (i, row) in common::scores(&mut model, case).iter().enumerate() {
            let off = difference(row, reference[case.prompt.len() - 1 + i]);
            assert!(off <= TOLERANCE, "{checkpoint}, case {}, row {i}: off by {off}", case.name);
        }
        check_batch(&mut model, case, reference[case.prompt.len() - 1]);
    }
}

/// The same prompt in every row of a batch, once as a whole and once in two chunks.
fn check_batch(model: &mut phase_backend_ort::OrtModel, case: &Case, reference: &[f32]) {
    let len = case.prompt.len();
    for split in [0, len / 2] {
        let mut cache = model.allocate(CacheSpec { batch: 3, capacity: len }).unwrap();
        let mut out = Logits::new();
        for part in [&case.prompt[..split], &case.prompt[split..]].into_iter().filter(|p| !p.is_empty()) {
            let tokens: Vec<TokenId> = part.repeat(3);
            model.prefill(&mut cache, PromptBatch::new(&tokens, 3).unwrap(), &mut out).unwrap();
        }
        for row in out.rows() {
            let off = difference(row, reference);
            assert!(off <= TOLERANCE, "case {}, batch of 3, split at {split}: off by {off}", case.name);
        }
    }
}

macro_rules! tiny {
    ($($test:ident $name:literal,)+) => {
        $(
            #[test]
            fn $test() {
                check("tiny/", $name, concat!($name, "/golden"));
            }
        )+
    };
}

tiny! {
    gpt2 "gpt2",
    gpt2_bare "gpt2-bare",
    llama_bf16 "llama-bf16",
    llama_bias "llama-bias",
    llama_f16 "llama-f16",
    llama_gqa_tied "llama-gqa-tied",
    llama_mha_untied "llama-mha-untied",
    llama_mqa "llama-mqa",
    llama_sharded "llama-sharded",
    llama3_rope_new "llama3-rope-new",
    llama3_rope_old "llama3-rope-old",
    mistral_window "mistral-window",
    qwen2 "qwen2",
    qwen3 "qwen3",
}

#[test]
fn gguf() {
    for name in ["llama-f16", "llama-mixed", "llama-q4_1-tied", "llama-k"] {
        check("gguf/", &format!("{name}.gguf"), name);
    }
}
