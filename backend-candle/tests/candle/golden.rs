//! Logits of every small checkpoint against Hugging Face transformers.

use crate::check::check;
use phase_backend_candle::CandleConfig;
use phase_core::DType;

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
