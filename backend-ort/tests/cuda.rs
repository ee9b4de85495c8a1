//! The CUDA path: the contract, the reference data, single steps under one graph at every position, faults.
//!
//! Needs a device, and a CUDA build of ONNX Runtime in `PHASE_ORT_LIBRARY`; says what is missing and skips without them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::Case;
use phase_backend_ort::{Ort, OrtConfig, OrtCuda, OrtCudaModel};
use phase_core::{
    Backend, CacheSpec, DType, Decode, ErrorKind, KvCache, LoadSpec, Logits, Mode, Model, PhaseError, Prefill, PromptBatch, TokenId,
    conformance::tolerance,
};
use serde::Deserialize;
use std::{io::Write, sync::OnceLock};

/// The backend, or why there is none here; without one the test fails where `PHASE_TEST_CUDA` says that there is a device.
#[expect(clippy::disallowed_methods, reason = "whether there is a device is the tester's to say")]
fn backend(mode: Mode) -> Option<OrtCuda> {
    static REASON: OnceLock<Option<String>> = OnceLock::new();
    let library = common::library()?;
    let cuda = Ort::cuda(0).with_config(OrtConfig::default().with_library(library)).with_mode(mode);
    let reason = REASON.get_or_init(|| match cuda.probe() {
        Ok(_) => None,
        Err(error) if error.kind() == ErrorKind::Unavailable => Some(error.to_string()),
        Err(error) => panic!("{error}"),
    });
    if let Some(reason) = reason {
        assert!(std::env::var_os("PHASE_TEST_CUDA").is_none(), "{reason}");
        let _ = writeln!(std::io::stderr(), "skipped: {reason}");
        return None;
    }
    Some(cuda)
}

fn load(name: &str, dtype: DType, mode: Mode) -> Option<OrtCudaModel> {
    let spec = LoadSpec::new(common::golden(name)).with_cache_dir(common::derived()).with_dtype(dtype);
    Some(backend(mode)?.load(&spec).expect("the model loads"))
}

macro_rules! conformance {
    ($($module:ident $name:literal $dtype:ident $mode:ident;)+) => {
        $(
            mod $module {
                use super::{DType, Mode, load};
                // Without a device there is nothing to test in this whole binary.
                phase_core::conformance_suite!(|| load(concat!("tiny/", $name), DType::$dtype, Mode::$mode)
                    .unwrap_or_else(|| std::process::exit(0)));
            }
        )+
    };
}

conformance! {
    llama_compiled "llama-gqa-tied" Bf16 Compiled;
    llama_eager "llama-gqa-tied" F16 Eager;
    gpt2_compiled "gpt2" F16 Compiled;
    window_compiled "mistral-window" Bf16 Compiled;
    qwen3_compiled "qwen3" F16 Compiled;
}

#[derive(Debug, Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

/// Scores against transformers in f32: half formats round weights and, in the provider's graph, every activation.
fn close(dtype: DType, row: &[f32], reference: &[f32], what: &str) -> f32 {
    let spread = reference.iter().fold(1.0f32, |m, v| m.max(v.abs()));
    let off = common::difference(row, reference) / spread;
    assert!(off <= tolerance(dtype), "{what}: off by {off} of the spread {spread}");
    off
}

#[expect(clippy::print_stdout, reason = "how close it comes is worth reading")]
fn check(checkpoint: &str) {
    for (dtype, mode) in [(DType::F16, Mode::Compiled), (DType::F16, Mode::Eager), (DType::Bf16, Mode::Compiled)] {
        let Some(mut model) = load(&format!("tiny/{checkpoint}"), dtype, mode) else { return };
        let golden: Golden = common::read(&format!("tiny/{checkpoint}/golden.json"));
        let tensors = common::tensors(&format!("tiny/{checkpoint}/golden.safetensors"));
        let mut worst = 0.0f32;
        for case in &golden.cases {
            let (shape, reference) = &tensors[&format!("{}.logits", case.name)];
            let reference: Vec<_> = reference.chunks_exact(shape[1]).collect();
            for (i, row) in common::scores(&mut model, case).iter().enumerate() {
                let what = format!("{checkpoint} in {dtype}, {mode}, case {}, row {i}", case.name);
                worst = worst.max(close(dtype, row, reference[case.prompt.len() - 1 + i], &what));
            }
        }
        println!("{checkpoint} {dtype} {mode}: off by {worst:.1e} of the spread");
    }
}

macro_rules! tiny {
    ($($test:ident $name:literal,)+) => {
        $(
            #[test]
            fn $test() {
                check($name);
            }
        )+
    };
}

tiny! {
    golden_gpt2 "gpt2",
    golden_gpt2_bare "gpt2-bare",
    golden_llama_bf16 "llama-bf16",
    golden_llama_bias "llama-bias",
    golden_llama_f16 "llama-f16",
    golden_llama_gqa_tied "llama-gqa-tied",
    golden_llama_mha_untied "llama-mha-untied",
    golden_llama_mqa "llama-mqa",
    golden_llama_sharded "llama-sharded",
    golden_llama3_rope_new "llama3-rope-new",
    golden_llama3_rope_old "llama3-rope-old",
    golden_mistral_window "mistral-window",
    golden_qwen2 "qwen2",
    golden_qwen3 "qwen3",
}

/// One captured graph serves every length: each step agrees with a prefill of the whole text so far.
#[test]
fn one_graph_serves_every_position() {
    for (name, batch) in [("tiny/llama-gqa-tied", 1), ("tiny/llama-gqa-tied", 3), ("tiny/mistral-window", 1), ("tiny/gpt2", 2)] {
        let dtype = DType::F16;
        let Some(mut model) = load(name, dtype, Mode::Compiled) else { return };
        let (vocab, len) = (u32::try_from(model.info().vocab).unwrap(), model.info().max_context.min(200));
        let text: Vec<_> = (0..u32::try_from(len).unwrap()).map(|i| TokenId((i * i * 7 + i * 3 + 5) % vocab)).collect();
        let rows = |from: usize, to: usize| -> Vec<TokenId> { (0..batch).flat_map(|_| text[from..to].to_vec()).collect() };
        let mut cache = model.allocate(CacheSpec { batch, capacity: len }).unwrap();
        let (mut out, mut whole) = (Logits::new(), Logits::new());
        model.prefill(&mut cache, PromptBatch::new(&rows(0, 5), batch).unwrap(), &mut out).unwrap();
        for at in 5..len {
            model.decode(&mut cache, &rows(at, at + 1), &mut out).unwrap();
            if at % 13 == 0 || at + 1 == len {
                let mut fresh = model.allocate(CacheSpec { batch, capacity: len }).unwrap();
                model.prefill(&mut fresh, PromptBatch::new(&rows(0, at + 1), batch).unwrap(), &mut whole).unwrap();
                close(dtype, out.as_slice(), whole.as_slice(), &format!("{name}, batch {batch}, position {at}"));
            }
        }
    }
}

/// A run picks the same tokens whether its steps are replayed or launched, and says how long each took on the device.
#[test]
fn runs_agree_between_modes_and_have_a_time_per_step() {
    for batch in [1, 2] {
        let mut picked = Vec::new();
        for mode in [Mode::Eager, Mode::Compiled] {
            let Some(mut model) = load("tiny/llama-gqa-tied", DType::Bf16, mode) else { return };
            let mut cache = model.allocate(CacheSpec { batch, capacity: 64 }).unwrap();
            let prompt: Vec<_> = (0..6 * u32::try_from(batch).unwrap()).map(TokenId).collect();
            let mut first = vec![TokenId(0); batch];
            model.prefill_greedy(&mut cache, PromptBatch::new(&prompt, batch).unwrap(), &mut first).unwrap();
            assert!(model.device_steps().is_empty() && model.device_time().is_some());
            let mut out = vec![TokenId(0); 20 * batch];
            model.decode_run(&mut cache, &first, &mut out).unwrap();
            assert_eq!((model.device_steps().len(), cache.len()), (20, 26));
            assert_eq!(model.device_time(), Some(model.device_steps().iter().sum()));
            picked.push(out);
        }
        assert_eq!(picked[0], picked[1], "batch {batch}");
    }
}

/// Everything runs on the CUDA provider, nothing is copied between providers, and replays are counted.
#[test]
fn nothing_runs_on_the_host() {
    for name in ["tiny/llama-gqa-tied", "tiny/gpt2", "tiny/qwen3"] {
        let Some(mut model) = load(name, DType::Bf16, Mode::Compiled) else { return };
        let mut cache = model.allocate(CacheSpec { batch: 1, capacity: 16 }).unwrap();
        let mut out = [TokenId(0); 3];
        model.decode_run(&mut cache, &[TokenId(1)], &mut out).unwrap();
        let evidence = model.evidence().unwrap();
        let executors: Vec<_> = evidence.placement.iter().map(|p| (p.executor.as_str(), p.nodes)).collect();
        println!("{name}: {executors:?} {:?}", evidence.kernels);
        assert!(matches!(executors[..], [("CUDAExecutionProvider", nodes)] if nodes > 0), "{executors:?}");
        assert!(evidence.kernels.iter().all(|k| !k.contains("Memcpy")), "{:?}", evidence.kernels);
        let replayed = evidence.kernels.iter().find(|k| k.starts_with("graph of a decode step")).expect("a captured graph");
        assert!(replayed.ends_with(" 3 replays"), "{replayed}");
    }
}

/// Loading, running and dropping models disturbs no capture beside it: none even has to be begun again.
#[test]
fn captures_and_other_models_leave_each_other_alone() {
    const ROUNDS: usize = 24;
    let Some(mut model) = load("tiny/mistral-window", DType::Bf16, Mode::Compiled) else { return };
    let mut captures = 0;
    std::thread::scope(|scope| {
        let others = scope.spawn(|| {
            for round in 0..ROUNDS {
                let name = ["tiny/llama-gqa-tied", "tiny/gpt2"][round % 2];
                let mut other = load(name, DType::F16, Mode::Compiled).expect("a device");
                let batch = 1 + round % 3;
                let mut cache = other.allocate(CacheSpec { batch, capacity: 16 }).expect("a capture beside captures");
                let prompt = vec![TokenId(1); 4 * batch];
                other.prefill(&mut cache, PromptBatch::new(&prompt, batch).unwrap(), &mut Logits::new()).expect("a prompt beside captures");
            }
        });
        while !others.is_finished() {
            for batch in [1, 2] {
                let mut cache = model.allocate(CacheSpec { batch, capacity: 16 }).expect("a capture beside other models");
                model.decode(&mut cache, &vec![TokenId(1); batch], &mut Logits::new()).expect("a step beside other models");
                captures += 1;
            }
        }
    });
    println!("{captures} captures beside {ROUNDS} models");
    let evidence = model.evidence().unwrap();
    assert!(evidence.kernels.iter().all(|k| !k.contains("captured again")), "{:?}", evidence.kernels);
}

#[test]
fn a_device_that_is_not_there_is_unavailable_and_those_that_are_are_named() {
    let Some(_) = backend(Mode::Eager) else { return };
    let config = OrtConfig::default().with_library(common::library().unwrap());
    let error = Ort::cuda(99).with_config(config).probe().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("99") && error.to_string().contains("0 to"), "{error}");
}

#[test]
fn a_cache_that_does_not_fit_says_what_was_asked_and_what_is_free() {
    let Some(mut model) = load("tiny/llama-gqa-tied", DType::F16, Mode::Compiled) else { return };
    let spec = LoadSpec::new(common::golden("tiny/llama-gqa-tied")).with_cache_dir(common::derived()).with_dtype(DType::F16);
    let mut wide = backend(Mode::Compiled).unwrap().load(&spec.with_max_batch(1 << 30)).unwrap();
    let capacity = wide.info().max_context;
    let error = wide.allocate(CacheSpec { batch: 1 << 24, capacity }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    println!("{error}");
    for word in ["KV cache", "bytes asked for", "bytes free"] {
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
    let mut cache = model.allocate(CacheSpec { batch: 1, capacity: 4 }).unwrap();
    model.decode(&mut cache, &[TokenId(1)], &mut Logits::new()).expect("the process goes on");
}

#[test]
fn f32_is_unsupported_and_the_formats_are_named() {
    let spec = LoadSpec::new(common::golden("tiny/llama-f16"));
    let error = Ort::cuda(0).load(&spec).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("bf16"), "{error}");
}

#[test]
fn a_cache_of_another_model_is_foreign() {
    let Some(mut one) = load("tiny/qwen2", DType::F16, Mode::Eager) else { return };
    let Some(mut other) = load("tiny/qwen2", DType::F16, Mode::Eager) else { return };
    let mut cache = other.allocate(CacheSpec { batch: 1, capacity: 4 }).unwrap();
    let error = one.decode(&mut cache, &[TokenId(1)], &mut Logits::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ForeignCache);
}
