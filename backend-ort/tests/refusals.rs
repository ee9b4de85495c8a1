//! What is refused, and with which words.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use phase_backend_ort::{Ort, OrtConfig, OrtError};
use phase_core::{Backend, CacheSpec, DType, ErrorKind, LoadSpec, Logits, Model, PhaseError, Prefill, PromptBatch, TokenId};

fn with_library(path: impl AsRef<std::path::Path>) -> Ort {
    Ort::cpu().with_config(OrtConfig::default().with_library(path))
}

#[test]
fn a_library_that_is_not_there_is_unavailable_and_says_how_to_get_one() {
    // Once a library is loaded, another file is a conflict, so the words are checked before any other test loads one.
    let error = with_library("/nowhere/libonnxruntime.so").probe().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let text = error.to_string();
    assert!(text.contains("/nowhere/libonnxruntime.so"), "{text}");
    if matches!(error, OrtError::Library { .. }) {
        for word in ["no such file", "pip download onnxruntime", "--ort-library", "PHASE_ORT_LIBRARY"] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
}

#[test]
fn a_second_library_is_refused_and_both_are_named() {
    let Some(backend) = common::backend() else { return };
    backend.probe().unwrap();
    let error = with_library("/elsewhere/libonnxruntime.so").probe().unwrap_err();
    assert!(matches!(error, OrtError::LibraryConflict { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("/elsewhere/libonnxruntime.so"), "{error}");
    Ort::cpu().probe().expect("without a name, the library that is there is used");
}

#[test]
fn numbers_without_meaning_are_refused_as_everywhere() {
    let spec = LoadSpec::new(common::golden("tiny/llama-f16"));
    for (spec, says) in [(spec.clone().with_threads(0), "threads is 0"), (spec.with_max_batch(0), "max_batch is 0")] {
        let error = Ort::cpu().load(&spec).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn half_formats_are_unsupported_and_f32_is_named() {
    for dtype in [DType::F16, DType::Bf16] {
        let spec = LoadSpec::new(common::golden("tiny/llama-f16")).with_dtype(dtype);
        let error = Ort::cpu().load(&spec).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("f32"), "{error}");
    }
}

#[test]
fn a_checkpoint_that_is_not_there_is_a_load_error() {
    let Some(backend) = common::backend() else { return };
    let spec = LoadSpec::new("/nowhere/model").with_cache_dir(common::derived());
    assert_eq!(backend.load(&spec).unwrap_err().kind(), ErrorKind::Load);
}

#[test]
fn a_cache_of_another_model_is_foreign() {
    let Some(mut one) = common::load(common::golden("tiny/qwen2")) else { return };
    let Some(mut other) = common::load(common::golden("tiny/qwen2")) else { return };
    let mut cache = other.allocate(CacheSpec { batch: 1, capacity: 4 }).unwrap();
    let prompt = [TokenId(1)];
    let error = one.prefill(&mut cache, PromptBatch::single(&prompt).unwrap(), &mut Logits::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ForeignCache);
}
