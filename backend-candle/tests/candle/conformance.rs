//! The contract's own checks, on a small Llama in each number format and on one model of every other family.

use phase_backend_candle::{Candle, CandleModel};
use phase_core::{Backend, DType, LoadSpec};

fn load(name: &str, dtype: DType) -> CandleModel {
    Candle::cpu().load(&LoadSpec::new(crate::common::dir(name)).with_dtype(dtype).with_threads(2)).expect("a small checkpoint")
}

mod llama_f32 {
    phase_core::conformance_suite!(|| super::load("tiny/llama-gqa-tied", phase_core::DType::F32));
}

mod llama_f16 {
    phase_core::conformance_suite!(|| super::load("tiny/llama-f16", phase_core::DType::F16));
}

mod llama_bf16 {
    phase_core::conformance_suite!(|| super::load("tiny/llama-bf16", phase_core::DType::Bf16));
}

mod gpt2 {
    phase_core::conformance_suite!(|| super::load("tiny/gpt2", phase_core::DType::F32));
}

mod qwen3 {
    phase_core::conformance_suite!(|| super::load("tiny/qwen3", phase_core::DType::F32));
}

mod mistral_window {
    phase_core::conformance_suite!(|| super::load("tiny/mistral-window", phase_core::DType::F32));
}
