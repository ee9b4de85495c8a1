//! Logits of every small checkpoint against Hugging Face transformers.

use crate::common::{Case, Golden, difference};
use phase_backend_candle::{Candle, CandleConfig, CandleModel};
use phase_core::{Backend, CacheSpec, DType, Decode, LoadSpec, Logits, Model, Prefill, PromptBatch};

pub(crate) fn load(name: &str, dtype: DType, config: CandleConfig) -> CandleModel {
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

macro_rules! goldens {
    ($($test:ident: $name:literal;)+) => {
        $(
            #[test]
            fn $test() {
                check($name, DType::F32, &CandleConfig::default(), 1e-3);
            }
        )+
    };
}

goldens! {
    gpt2: "tiny/gpt2/golden";
    gpt2_bare: "tiny/gpt2-bare/golden";
    llama_bf16_widened: "tiny/llama-bf16/golden";
    llama_bias: "tiny/llama-bias/golden";
    llama_f16_widened: "tiny/llama-f16/golden";
    llama_gqa_tied: "tiny/llama-gqa-tied/golden";
    llama_mha_untied: "tiny/llama-mha-untied/golden";
    llama_mqa: "tiny/llama-mqa/golden";
    llama_sharded: "tiny/llama-sharded/golden";
    llama3_rope_new: "tiny/llama3-rope-new/golden";
    llama3_rope_old: "tiny/llama3-rope-old/golden";
    mistral_window: "tiny/mistral-window/golden";
    qwen2: "tiny/qwen2/golden";
    qwen3: "tiny/qwen3/golden";
    gguf_f16: "gguf/llama-f16";
    gguf_k: "gguf/llama-k";
    gguf_mixed: "gguf/llama-mixed";
    gguf_q4_1_tied: "gguf/llama-q4_1-tied";
}

/// Pieces of 10 rows cut the longer prompts into several, of 1 every prompt into positions.
#[test]
fn long_prompts_go_through_in_pieces() {
    for rows in [10, 1] {
        let config = CandleConfig::default().with_prefill_rows(rows);
        for name in ["tiny/mistral-window/golden", "tiny/gpt2/golden", "tiny/qwen3/golden"] {
            check(name, DType::F32, &config, 1e-3);
        }
    }
}

/// What is stored in 16 bits is held as it is stored; rounding the cache to the same format is all that differs.
#[test]
fn sixteen_bit_weights_and_caches() {
    check("tiny/llama-f16/golden", DType::F16, &CandleConfig::default(), 5e-2);
    check("tiny/llama-bf16/golden", DType::Bf16, &CandleConfig::default(), 2e-1);
}

/// Every architecture has its own operations, so each is run once with weights rounded to 16 bits.
#[test]
fn every_architecture_in_sixteen_bits() {
    for name in ["tiny/gpt2/golden", "tiny/qwen2/golden", "tiny/qwen3/golden", "tiny/mistral-window/golden", "tiny/llama-bias/golden"] {
        check(name, DType::F16, &CandleConfig::default(), 5e-2);
    }
}
