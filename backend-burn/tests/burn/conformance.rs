//! phase-core's conformance kit on small checkpoints.

use std::path::Path;

use phase_backend_burn::{Burn, BurnConfig, BurnModel};
use phase_core::{Backend, DType, LoadSpec};

fn load(name: &str, dtype: DType, config: BurnConfig) -> BurnModel {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../model/tests/golden/tiny")).join(name);
    Burn::new(config).load(&LoadSpec::new(path).with_dtype(dtype)).expect("a valid checkpoint")
}

mod llama_f32 {
    phase_core::conformance_suite!(|| super::load("llama-gqa-tied", super::DType::F32, super::BurnConfig::default()));
}

mod llama_f16 {
    phase_core::conformance_suite!(|| super::load("llama-f16", super::DType::F16, super::BurnConfig::default()));
}

mod llama_bf16 {
    phase_core::conformance_suite!(|| super::load("llama-bf16", super::DType::Bf16, super::BurnConfig::default()));
}

mod mistral {
    phase_core::conformance_suite!(|| super::load("mistral-window", super::DType::F32, super::BurnConfig::default()));
}

mod qwen3 {
    phase_core::conformance_suite!(|| super::load("qwen3", super::DType::F32, super::BurnConfig::default()));
}

mod gpt2_in_small_chunks {
    phase_core::conformance_suite!(|| super::load("gpt2", super::DType::F32, super::BurnConfig::default().with_prefill_rows(5)));
}

mod llama_through_burn_alone {
    phase_core::conformance_suite!(|| super::load("llama-gqa-tied", super::DType::F32, super::BurnConfig::default().with_direct_rows(0)));
}
