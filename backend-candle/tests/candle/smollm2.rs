//! SmolLM2-135M-Instruct against Hugging Face transformers: logits and greedy continuations.
//!
//! Its weights are not in the repository: `PHASE_TEST_MODEL` names a Hugging Face folder or GGUF file of it.

use crate::check::{check_greedy, check_logits};
use phase_backend_candle::Candle;
use phase_core::DType;

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
