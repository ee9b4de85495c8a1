//! Logits and greedy continuations against Hugging Face transformers, for every architecture.

use std::path::PathBuf;

use phase_backend_burn::{Burn, BurnConfig};
use phase_core::{Backend, DType, LoadSpec, Model};

use crate::data::{goldens, greedy, read, scores, worst};

fn check_tiny(name: &str, config: BurnConfig, dtype: DType, tolerance: f32) {
    let folder = goldens().join("tiny").join(name);
    let (golden, tensors) = read(&folder);
    let mut model = Burn::new(config).load(&LoadSpec::new(&folder).with_dtype(dtype)).unwrap();
    let vocab = model.info().vocab;
    for case in &golden.cases {
        let want = &tensors[&format!("{}.logits", case.name)];
        let got = scores(&mut model, &case.prompt, &case.then);
        for (got, want) in got.iter().zip(want.chunks_exact(vocab).skip(case.prompt.len() - 1)) {
            let worst = worst(got, want);
            assert!(worst <= tolerance, "{name} {}: logits differ by {worst}", case.name);
        }
        if dtype == DType::F32 {
            assert_eq!(greedy(&mut model, &case.prompt, case.greedy.len()), case.greedy, "{name} {}", case.name);
        }
    }
}

macro_rules! tiny {
    ($($test:ident $name:literal),+) => {
        /// The default: few rows through our kernels, more through burn.
        mod both { $(#[test] fn $test() { super::check_tiny($name, super::BurnConfig::default(), super::DType::F32, 1e-3); })+ }
        /// Every product through burn.
        mod burn_only {
            $(#[test] fn $test() { super::check_tiny($name, super::BurnConfig::default().with_direct_rows(0), super::DType::F32, 1e-3); })+
        }
        /// No product through burn, and chunks that divide nothing.
        mod direct_only {
            $(#[test] fn $test() {
                let config = super::BurnConfig::default().with_direct_rows(usize::MAX).with_prefill_rows(7);
                super::check_tiny($name, config, super::DType::F32, 1e-3);
            })+
        }
    };
}

tiny!(
    llama_gqa_tied "llama-gqa-tied",
    llama_mha_untied "llama-mha-untied",
    llama_mqa "llama-mqa",
    llama3_rope_old "llama3-rope-old",
    llama3_rope_new "llama3-rope-new",
    llama_bias "llama-bias",
    llama_sharded "llama-sharded",
    llama_bf16 "llama-bf16",
    llama_f16 "llama-f16",
    mistral_window "mistral-window",
    qwen2 "qwen2",
    qwen3 "qwen3",
    gpt2 "gpt2",
    gpt2_bare "gpt2-bare"
);

/// Held in the format they are stored in, the weights are the same, and only they are rounded.
#[test]
fn half_weights_that_are_stored_so_give_the_same_logits() {
    for direct_rows in [0, 8] {
        let config = || BurnConfig::default().with_direct_rows(direct_rows);
        check_tiny("llama-f16", config(), DType::F16, 1e-3);
        check_tiny("llama-bf16", config(), DType::Bf16, 1e-3);
    }
}

#[test]
fn smollm2() {
    #[expect(clippy::disallowed_methods, reason = "the test runner says where the model is")]
    let Some(path) = std::env::var_os("PHASE_TEST_MODEL") else {
        println!("skipped: PHASE_TEST_MODEL names no SmolLM2 checkpoint");
        return;
    };
    let (golden, tensors) = read(&goldens().join("smollm2"));
    let mut model = Burn::cpu().load(&LoadSpec::new(PathBuf::from(path))).unwrap();
    let positions: Vec<_> = tensors["positions"].iter().map(|bits| usize::try_from(bits.to_bits()).unwrap()).collect();
    for case in &golden.cases {
        let rows = scores(&mut model, &case.prompt, &case.then);
        let worst_whole = worst(&rows[0], &tensors[&format!("{}.prefill", case.name)]);
        assert!(worst_whole <= 2e-3, "{}: logits after the prompt differ by {worst_whole}", case.name);
        let subset = &tensors[&format!("{}.subset", case.name)];
        for (row, want) in rows.iter().zip(subset.chunks_exact(positions.len())) {
            let got: Vec<_> = positions.iter().map(|at| row[*at]).collect();
            let worst = worst(&got, want);
            assert!(worst <= 2e-3, "{}: logits differ by {worst}", case.name);
        }
    }
    for case in &golden.continuations {
        assert_eq!(greedy(&mut model, &case.prompt, case.greedy.len()), case.greedy, "{}", case.name);
    }
}
