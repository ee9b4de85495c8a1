//! Reading weights in every way the crate offers gives the same numbers.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and names why it skips")]

mod common;

use common::golden;
use half::{bf16, f16};
use phase_core::{DType, ErrorKind, LoadProgress, LoadSpec, PhaseError};
use phase_model::{Architecture, Checkpoint, Element, LayerRole, Role, Values, random};
use std::sync::{Arc, Mutex};

fn written(shape: &random::Shape, dtype: DType) -> (tempfile::TempDir, Checkpoint) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model");
    random::write(&path, shape, 3, dtype).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    (dir, checkpoint)
}

#[test]
fn conversions_round_to_nearest_even() {
    for dtype in [DType::F32, DType::F16, DType::Bf16] {
        let (_dir, checkpoint) = written(&random::Shape::tiny(Architecture::Llama), dtype);
        let weights = checkpoint.weights();
        for role in weights.roles() {
            let exact = weights.to_vec::<f32>(role).unwrap();
            let halves = weights.to_vec::<f16>(role).unwrap();
            let brains = weights.to_vec::<bf16>(role).unwrap();
            for ((x, h), b) in exact.iter().zip(&halves).zip(&brains) {
                assert_eq!((f16::from_f32(*x).to_bits(), bf16::from_f32(*x).to_bits()), (h.to_bits(), b.to_bits()));
            }
            match (dtype, weights.view(role).unwrap().into_values()) {
                (DType::F32, Values::F32(v)) => assert_eq!(*v, exact),
                (DType::F16, Values::F16(v)) => assert_eq!(*v, halves),
                (DType::Bf16, Values::Bf16(v)) => assert_eq!(*v, brains),
                (_, other) => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn who_reads_is_told_how_much_of_it_is_done() {
    let (dir, _) = written(&random::Shape::tiny(Architecture::Llama), DType::F16);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&seen);
    let progress = LoadProgress::new(move |done, total| told.lock().unwrap().push((done, total)));
    let checkpoint = Checkpoint::of(&LoadSpec::new(dir.path().join("model")).with_progress(progress)).unwrap();
    let weights = checkpoint.weights();
    assert!(seen.lock().unwrap().is_empty(), "opening reads no weights");
    for role in weights.roles() {
        weights.to_vec::<f32>(role).unwrap();
    }
    weights.to_vec::<f32>(Role::TokenEmbedding).unwrap();
    let seen = seen.lock().unwrap();
    let all = weights.stored_bytes();
    assert!(seen.iter().all(|(done, total)| done <= total && *total == all));
    assert!(seen[0].0 < all && seen.iter().any(|(done, _)| *done == all), "{seen:?}");
}

#[test]
fn views_borrow_what_lies_aligned_in_the_file() {
    let (_dir, checkpoint) = written(&random::Shape::tiny(Architecture::Qwen2), DType::F32);
    let weights = checkpoint.weights();
    for role in weights.roles() {
        let view = weights.view(role).unwrap();
        assert!(view.is_borrowed(), "{role:?}");
        assert_eq!(view.dtype(), DType::F32);
        assert_eq!(view.bytes().len(), view.as_f32().unwrap().len() * 4);
        assert_eq!(view.shape(), weights.shape(role).unwrap());
    }
    let before = weights.to_vec::<f32>(Role::TokenEmbedding).unwrap();
    let view = weights.view(Role::TokenEmbedding).unwrap();
    weights.release(Role::TokenEmbedding).unwrap();
    assert_eq!(view.as_f32().unwrap(), before, "released pages are read again");
}

#[test]
fn unaligned_tensors_are_copied() {
    let dir = common::copy("tiny/llama-mqa");
    let path = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let header_len = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    let mut header = String::from_utf8(bytes[8..8 + header_len].to_vec()).unwrap().trim_end().to_owned();
    while (header.len() + 8) % 4 != 1 {
        header.push(' ');
    }
    std::fs::write(&path, common::safetensors(&header, &bytes[8 + header_len..])).unwrap();
    let (aligned, unaligned) = (Checkpoint::open(golden("tiny/llama-mqa")).unwrap(), Checkpoint::open(dir.path()).unwrap());
    for role in aligned.weights().roles() {
        let view = unaligned.weights().view(role).unwrap();
        assert!(!view.is_borrowed());
        assert_eq!(view.as_f32(), aligned.weights().view(role).unwrap().as_f32());
        assert_eq!(unaligned.weights().to_vec::<f16>(role).unwrap(), aligned.weights().to_vec::<f16>(role).unwrap());
    }
}

#[test]
fn a_tied_output_layer_is_the_embedding() {
    let tied = Checkpoint::open(golden("tiny/llama-gqa-tied")).unwrap();
    let weights = tied.weights();
    assert!(weights.has(Role::LmHead) && weights.roles().all(|role| role != Role::LmHead));
    assert_eq!(weights.to_vec::<f32>(Role::LmHead).unwrap(), weights.to_vec::<f32>(Role::TokenEmbedding).unwrap());
    let untied = Checkpoint::open(golden("tiny/llama-mha-untied")).unwrap();
    let weights = untied.weights();
    assert_ne!(weights.to_vec::<f32>(Role::LmHead).unwrap(), weights.to_vec::<f32>(Role::TokenEmbedding).unwrap());
}

#[test]
fn joined_and_transposed_reads_agree_with_single_ones() {
    let q4 = golden("gguf/llama-q4_1-tied.gguf");
    for path in [golden("tiny/gpt2"), golden("tiny/qwen3"), golden("tiny/llama-bf16"), golden("gguf/llama-mixed.gguf"), q4] {
        let checkpoint = Checkpoint::open(&path).unwrap();
        joined_and_transposed::<f32>(&checkpoint);
        joined_and_transposed::<f16>(&checkpoint);
        joined_and_transposed::<bf16>(&checkpoint);
    }
}

fn joined_and_transposed<T: Element + PartialEq + std::fmt::Debug>(checkpoint: &Checkpoint) {
    let weights = checkpoint.weights();
    let roles = [LayerRole::Q, LayerRole::K, LayerRole::V].map(|role| Role::Layer(1, role));
    let apart: Vec<T> = roles.iter().flat_map(|role| weights.to_vec::<T>(*role).unwrap()).collect();
    let mut joined = vec![T::default(); apart.len()];
    weights.read_joined(&roles, &mut joined).unwrap();
    assert_eq!(joined, apart);
    let mut transposed = vec![T::default(); apart.len()];
    weights.read_transposed(&roles, &mut transposed).unwrap();
    let (width, height) = (checkpoint.config().hidden, apart.len() / checkpoint.config().hidden);
    for row in 0..height {
        for column in 0..width {
            assert_eq!(transposed[column * height + row], apart[row * width + column]);
        }
    }
}

#[test]
fn large_tensors_are_read_in_parts_without_a_seam() {
    let mut shape = random::Shape::tiny(Architecture::Gpt2);
    (shape.vocab, shape.hidden, shape.head_dim, shape.intermediate, shape.layers) = (3001, 264, 66, 1111, 1);
    let (_dir, checkpoint) = written(&shape, DType::F32);
    let weights = checkpoint.weights();
    let embedding = weights.to_vec::<f32>(Role::TokenEmbedding).unwrap();
    assert_eq!(weights.view(Role::TokenEmbedding).unwrap().as_f32().unwrap(), embedding);
    joined_and_transposed_layer0(&checkpoint);
}

fn joined_and_transposed_layer0(checkpoint: &Checkpoint) {
    let weights = checkpoint.weights();
    let role = Role::Layer(0, LayerRole::Up);
    let rows = weights.to_vec::<f32>(role).unwrap();
    let [height, width] = *weights.shape(role).unwrap() else { panic!("a matrix") };
    let mut transposed = vec![0.0f32; rows.len()];
    weights.read_transposed(&[role], &mut transposed).unwrap();
    for row in 0..height {
        for column in 0..width {
            assert_eq!(transposed[column * height + row].to_bits(), rows[row * width + column].to_bits());
        }
    }
}

#[test]
fn misuse_is_an_error_of_its_kind() {
    let checkpoint = Checkpoint::open(golden("tiny/llama-gqa-tied")).unwrap();
    let weights = checkpoint.weights();
    let mut short = vec![0.0f32; 3];
    let errors = [
        weights.read(Role::FinalNorm, &mut short).unwrap_err(),
        weights.read_joined(&[Role::FinalNorm], &mut short).unwrap_err(),
        weights.read_transposed(&[Role::FinalNorm], &mut short).unwrap_err(),
        weights.read(Role::FinalNormBias, &mut short).unwrap_err(),
        weights.shape(Role::Layer(99, LayerRole::Q)).unwrap_err(),
        weights.read_joined(&[Role::FinalNorm, Role::Layer(0, LayerRole::Down)], &mut short).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
    weights.read_joined::<f32>(&[], &mut []).unwrap();
    weights.read_transposed::<f32>(&[], &mut []).unwrap();
}

#[test]
fn a_file_shortened_after_opening_is_an_error() {
    let dir = common::copy("tiny/llama-mqa");
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let path = dir.path().join("model.safetensors");
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(64).unwrap();
    let error = checkpoint.weights().to_vec::<f32>(Role::TokenEmbedding).unwrap_err();
    assert!(error.to_string().contains("model.safetensors"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Load);
}
