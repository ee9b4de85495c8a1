//! The contract, on a Llama and on a GPT-2. A binary of its own, because without the library there is nothing to test.

mod common;

use phase_backend_ort::OrtModel;

fn tiny(name: &str) -> OrtModel {
    common::load(common::golden("tiny").join(name)).unwrap_or_else(|| std::process::exit(0))
}

mod llama {
    phase_core::conformance_suite!(|| super::tiny("llama-gqa-tied"));
}

mod gpt2 {
    phase_core::conformance_suite!(|| super::tiny("gpt2"));
}

mod window {
    phase_core::conformance_suite!(|| super::tiny("mistral-window"));
}
