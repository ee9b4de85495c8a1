//! The CUDA path: contract, references, agreement with the host's processor, faults. Without a device each test says why it
//! passes, unless `PHASE_TEST_CUDA` says that there is one.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests: a failure ends the test, and its numbers are printed")]

mod check;
mod common;

use std::path::Path;

use phase_backend_candle::{Candle, CandleConfig, CandleError, CandleModel, Device, Products};
use phase_core::{
    Backend, BackendId, CacheSpec, DType, Decode, ErrorKind, Fact, KvCache, Layer, LoadSpec, Logits, Mode, Model, PhaseError, Prefill,
    PromptBatch, TokenId,
};
use phase_model::{Architecture, random};

/// Whether there is a device; prints why not.
#[expect(clippy::disallowed_methods, reason = "whether there is a device is the tester's to say")]
fn here() -> bool {
    match Candle::cuda(0).probe() {
        Ok(_) => true,
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");
            assert!(std::env::var_os("PHASE_TEST_CUDA").is_none(), "{e}");
            println!("skipped: {e}");
            false
        }
    }
}

fn eager() -> Candle {
    Candle::new(CandleConfig::default().with_device(Device::Cuda(0)).with_mode(Mode::Eager))
}

fn load(backend: &Candle, name: &str, dtype: DType) -> CandleModel {
    backend.load(&LoadSpec::new(common::dir(name)).with_dtype(dtype)).expect("a small checkpoint")
}

macro_rules! conformance {
    ($($module:ident: $name:literal in $dtype:ident on $backend:expr;)+) => {
        $(mod $module {
            phase_core::conformance_suite!(when super::here() => || super::load(&$backend, $name, phase_core::DType::$dtype));
        })+
    };
}

conformance! {
    llama_f32: "tiny/llama-gqa-tied" in F32 on super::Candle::cuda(0);
    llama_f16: "tiny/llama-f16" in F16 on super::Candle::cuda(0);
    llama_bf16: "tiny/llama-bf16" in Bf16 on super::Candle::cuda(0);
    llama_f16_eager: "tiny/llama-f16" in F16 on super::eager();
    gpt2: "tiny/gpt2" in F32 on super::Candle::cuda(0);
    gpt2_f16: "tiny/gpt2" in F16 on super::Candle::cuda(0);
    qwen3: "tiny/qwen3" in F32 on super::Candle::cuda(0);
    mistral_window: "tiny/mistral-window" in F32 on super::Candle::cuda(0);
}

/// Fast kernels for heads of 64 and 128 elements, which no small golden has.
mod wide_heads {
    phase_core::conformance_suite!(when super::here() => || super::wide(64));
}

fn wide(head_dim: usize) -> CandleModel {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wide");
    random::write(&path, &shape(Architecture::Llama, head_dim), 5, DType::F16).unwrap();
    Candle::cuda(0).load(&LoadSpec::new(&path).with_dtype(DType::F16)).unwrap()
}

fn shape(architecture: Architecture, head_dim: usize) -> random::Shape {
    let mut shape = random::Shape::tiny(architecture);
    (shape.hidden, shape.intermediate, shape.heads, shape.kv_heads, shape.head_dim) = (192, 352, 6, 2, head_dim);
    shape
}

#[test]
fn goldens_in_f32() {
    if !here() {
        return;
    }
    for name in [
        "tiny/gpt2/golden",
        "tiny/gpt2-bare/golden",
        "tiny/llama-bf16/golden",
        "tiny/llama-bias/golden",
        "tiny/llama-f16/golden",
        "tiny/llama-gqa-tied/golden",
        "tiny/llama-mha-untied/golden",
        "tiny/llama-mqa/golden",
        "tiny/llama-sharded/golden",
        "tiny/llama3-rope-new/golden",
        "tiny/llama3-rope-old/golden",
        "tiny/mistral-window/golden",
        "tiny/qwen2/golden",
        "tiny/qwen3/golden",
        "gguf/llama-f16",
        "gguf/llama-k",
        "gguf/llama-mixed",
        "gguf/llama-q4_1-tied",
    ] {
        for rows in [None, Some(10)] {
            let mut config = CandleConfig::default().with_device(Device::Cuda(0));
            config.prefill_rows = rows;
            check::check(name, DType::F32, &config, 1e-3);
        }
    }
}

#[test]
fn goldens_in_sixteen_bits() {
    if !here() {
        return;
    }
    for mode in [Mode::Compiled, Mode::Eager] {
        let config = CandleConfig::default().with_device(Device::Cuda(0)).with_mode(mode);
        // A prompt's activations are in 16 bits, too, which the host's are not.
        check::check("tiny/llama-bf16/golden", DType::Bf16, &config, 3e-1);
        for name in [
            "tiny/llama-f16/golden",
            "tiny/gpt2/golden",
            "tiny/qwen2/golden",
            "tiny/qwen3/golden",
            "tiny/mistral-window/golden",
            "tiny/llama-bias/golden",
        ] {
            check::check(name, DType::F16, &config, 5e-2);
        }
    }
}

/// Products that cublasLt chooses give what cuBLAS's give, in prompts, in captured steps of many rows and in pieces.
#[test]
fn goldens_through_cublaslt() {
    if !here() {
        return;
    }
    for rows in [None, Some(10)] {
        let mut config = CandleConfig::default().with_device(Device::Cuda(0)).with_products(Products::Fastest);
        config.prefill_rows = rows;
        for name in ["tiny/gpt2/golden", "tiny/llama-bias/golden", "tiny/llama-gqa-tied/golden", "tiny/qwen3/golden"] {
            check::check(name, DType::F32, &config, 1e-3);
            check::check(name, DType::F16, &config, 5e-2);
        }
        check::check("tiny/llama-bf16/golden", DType::Bf16, &config, 3e-1);
    }
}

/// Everything that is off by default, against the host, and what says that it was on.
#[test]
fn other_ways_of_a_prompt_agree_with_the_host() {
    if !here() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (architecture, head_dim, dtype, tolerance) in [
        (Architecture::Llama, 64, DType::Bf16, 1e-1),
        (Architecture::Qwen3, 128, DType::F16, 2e-2),
        (Architecture::Mistral, 64, DType::F16, 2e-2),
    ] {
        let path = dir.path().join(format!("{architecture:?}"));
        let shape = shape(architecture, head_dim);
        random::write(&path, &shape, 11, DType::F32).unwrap();
        let config = CandleConfig::default().with_device(Device::Cuda(0)).with_products(Products::Fastest).with_prompt_parts(true);
        for config in [config.clone().with_product_workspace(0), config.with_prefill_rows(100)] {
            let mut model = Candle::new(config).load(&LoadSpec::new(&path).with_dtype(dtype)).unwrap();
            agree_on(&mut model, &path, dtype, tolerance, &format!("{architecture:?} of {head_dim}, other ways"));
            let stack = &model.info().stack;
            assert!(stack.fact(Layer::Runtime, "products").is_some(), "{stack:?}");
            let kernels = model.evidence().unwrap().kernels;
            assert!(kernels.iter().any(|kernel| kernel.starts_with("cublasLtMatmul")), "{kernels:?}");
            let mut cache = model.allocate(CacheSpec { batch: 1, capacity: 8 }).unwrap();
            model.prefill(&mut cache, PromptBatch::single(&[1, 2, 3, 4].map(TokenId)).unwrap(), &mut Logits::new()).unwrap();
            let parts = model.prompt_parts();
            let products = parts.iter().find(|part| part.name == "q, k, v").unwrap();
            assert!(
                parts.iter().all(|part| !part.time.is_zero()) && products.times == shape.layers && products.operations > 0,
                "{parts:?}"
            );
            assert!(parts.iter().map(|part| part.time).sum::<std::time::Duration>() <= model.device_time().unwrap(), "{parts:?}");
        }
    }
}

#[test]
fn smollm2_logits() {
    if here() {
        check::check_logits(&Candle::cuda(0), DType::F32, 2e-3);
        check::check_logits(&Candle::cuda(0), DType::F16, 2e-1);
    }
}

#[test]
fn smollm2_greedy() {
    if here() {
        check::check_greedy(&Candle::cuda(0));
        check::check_greedy(&eager());
    }
}

/// Scores after a prompt and after some steps, of every architecture, head size, format and batch, against the host's in f32.
#[test]
fn agrees_with_the_host() {
    if !here() {
        return;
    }
    for architecture in Architecture::ALL {
        for head_dim in [16, 64, 128] {
            if architecture == Architecture::Gpt2 && head_dim != 16 {
                continue;
            }
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("random");
            let shape = if head_dim == 16 { random::Shape::tiny(architecture) } else { shape(architecture, head_dim) };
            random::write(&path, &shape, 11, DType::F32).unwrap();
            for (dtype, tolerance) in [(DType::F32, 2e-4), (DType::F16, 2e-2), (DType::Bf16, 1e-1)] {
                agree(&path, dtype, tolerance, &format!("{architecture:?} of {head_dim}"));
            }
        }
    }
}

fn agree(path: &Path, dtype: DType, tolerance: f32, what: &str) {
    let mut device = Candle::cuda(0).load(&LoadSpec::new(path).with_dtype(dtype)).unwrap();
    agree_on(&mut device, path, dtype, tolerance, what);
}

fn agree_on(device: &mut CandleModel, path: &Path, dtype: DType, tolerance: f32, what: &str) {
    let mut host = Candle::cpu().load(&LoadSpec::new(path).with_threads(2)).unwrap();
    for batch in [1, 2, 8, 11] {
        let tokens: Vec<_> = (0..150u32 * 11).map(|i| TokenId((i * 37 + i / 7) % 512)).collect();
        let prompt = PromptBatch::new(&tokens[..130 * batch], batch).unwrap();
        let spec = CacheSpec { batch, capacity: 140 };
        let (mut a, mut b) = (host.allocate(spec).unwrap(), device.allocate(spec).unwrap());
        let (mut want, mut got) = (Logits::new(), Logits::new());
        host.prefill(&mut a, prompt, &mut want).unwrap();
        device.prefill(&mut b, prompt, &mut got).unwrap();
        close(&got, &want, tolerance, &format!("{what} in {dtype}, batch {batch}, prompt"));
        for step in 0..4 {
            let next = &tokens[step * batch..(step + 1) * batch];
            host.decode(&mut a, next, &mut want).unwrap();
            device.decode(&mut b, next, &mut got).unwrap();
            close(&got, &want, tolerance, &format!("{what} in {dtype}, batch {batch}, step {step}"));
        }
    }
}

fn close(got: &Logits, want: &Logits, tolerance: f32, what: &str) {
    let spread = want.as_slice().iter().fold(1.0f32, |m, v| m.max(v.abs()));
    let worst = common::difference(got.as_slice(), want.as_slice());
    assert!(got.as_slice().iter().all(|v| v.is_finite()) && worst <= tolerance * spread, "{what}: off by {worst} of {spread}");
}

/// Graph and single launches are the same kernels in the same order: not a bit differs.
#[test]
fn a_replayed_step_is_an_eager_one() {
    if !here() {
        return;
    }
    let (mut compiled, mut single) =
        (load(&Candle::cuda(0), "tiny/llama-bf16", DType::Bf16), load(&eager(), "tiny/llama-bf16", DType::Bf16));
    let run = |model: &mut CandleModel, batch: usize| {
        let tokens: Vec<_> = (0..5 * batch).map(|i| TokenId(u32::try_from(i * 31 % 288).unwrap())).collect();
        let mut cache = model.allocate(CacheSpec { batch, capacity: 16 }).unwrap();
        let mut logits = Logits::new();
        model.prefill(&mut cache, PromptBatch::new(&tokens, batch).unwrap(), &mut logits).unwrap();
        let mut all = vec![logits.clone()];
        for step in 0..4 {
            model.decode(&mut cache, &tokens[step * batch..(step + 1) * batch], &mut logits).unwrap();
            all.push(logits.clone());
        }
        all
    };
    for batch in [1, 3, 9] {
        assert_eq!(run(&mut compiled, batch), run(&mut single, batch), "batch {batch}");
    }
}

/// With the memory it is given by default, cuBLAS allocates nothing inside a captured step, and the scores are what they are without.
#[test]
fn products_in_given_memory() {
    if !here() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep");
    // Few outputs of long sums are what is split.
    let mut deep = shape(Architecture::Llama, 64);
    (deep.intermediate, deep.layers) = (8192, 2);
    random::write(&path, &deep, 5, DType::Bf16).unwrap();
    let run = |bytes: usize| {
        let config = CandleConfig::default().with_device(Device::Cuda(0)).with_product_workspace(bytes);
        let mut model = Candle::new(config).load(&LoadSpec::new(&path).with_dtype(DType::Bf16)).unwrap();
        let mut cache = model.allocate(CacheSpec { batch: 64, capacity: 4 }).unwrap();
        let tokens: Vec<_> = (0..64).map(TokenId).collect();
        let mut logits = Logits::new();
        model.decode(&mut cache, &tokens, &mut logits).unwrap();
        (logits, model.evidence().unwrap().kernels, model.info().stack.clone())
    };
    let ((want, _, none), (got, kernels, given)) = (run(0), run(CandleConfig::default().product_workspace_bytes));
    close(&got, &want, 2e-2, "with memory for products");
    let graph = kernels.iter().find(|kernel| kernel.starts_with("graph of a decode step, batch 64")).unwrap();
    assert!(!graph.contains("mem_alloc"), "{graph}");
    let key = "product_workspace_bytes";
    assert_eq!(given.fact(Layer::Runtime, key), Some(&Fact::Known((32 << 20).to_string())));
    assert_ne!(none.fact(Layer::Runtime, key), given.fact(Layer::Runtime, key));
}

/// What is claimed is there: times of each step, graph nodes and replays, the device's name.
#[test]
fn evidence_of_a_run() {
    if !here() {
        return;
    }
    let backend = Candle::cuda(0);
    assert_eq!((backend.id(), backend.mode(), eager().mode()), (BackendId::new("candle-cuda"), Mode::Compiled, Mode::Eager));
    let mut model = load(&backend, "tiny/llama-f16", DType::F16);
    let mut cache = model.allocate(CacheSpec { batch: 1, capacity: 32 }).unwrap();
    let mut picked = [TokenId(0); 20];
    model.decode_run(&mut cache, &[TokenId(1)], &mut picked).unwrap();
    assert_eq!((cache.len(), model.device_steps().len()), (20, 20));
    let total: std::time::Duration = model.device_steps().iter().sum();
    assert!(model.device_steps().iter().all(|step| !step.is_zero()) && Some(total) <= model.device_time());
    let evidence = model.evidence().unwrap();
    let graph = evidence.kernels.iter().find(|kernel| kernel.starts_with("graph of a decode step, batch 1")).unwrap();
    assert!(graph.ends_with("11 kernel nodes, 20 replays"), "two layers of five kernels and the head: {graph}");
    let rotate = evidence.kernels.iter().find(|kernel| kernel.contains("matvec_rotate_f16")).unwrap();
    assert!(rotate.ends_with(": 42 launches"), "two layers, 20 steps and one before the capture: {rotate}");
    assert!(evidence.placement.iter().all(|placement| placement.executor.contains("(GPU-")), "{evidence:?}");
    model.decode(&mut cache, &picked[19..], &mut Logits::new()).unwrap();
    assert!(model.device_steps().is_empty(), "steps of a call that was no run");
}

#[test]
fn the_device_is_in_the_stack() {
    if !here() {
        return;
    }
    let model = load(&Candle::cuda(0), "tiny/llama-f16", DType::F16);
    let stack = &model.info().stack;
    assert!(stack.iter().all(|(_, _, fact)| matches!(fact, Fact::Known(_))), "{stack:?}");
    for key in ["gpu", "gpu_driver", "gpu_power_limit_w", "cuda_driver"] {
        assert!(stack.fact(Layer::Runtime, key).is_some(), "{key} in {stack:?}");
    }
}

fn refused(result: Result<CandleModel, CandleError>) -> CandleError {
    result.map(drop).expect_err("this must not load")
}

#[test]
fn a_device_that_is_not_there() {
    if !here() {
        return;
    }
    let error = refused(Candle::cuda(99).load(&LoadSpec::new(common::dir("tiny/llama-f16"))));
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().starts_with("there is no CUDA device 99: the driver shows "), "{error}");
}

/// A cache beyond the device's memory is refused with both sizes, and everything goes on.
#[test]
fn out_of_memory() {
    if !here() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("long");
    let mut long = shape(Architecture::Llama, 64);
    long.max_context = 1 << 21;
    random::write(&path, &long, 3, DType::F16).unwrap();
    let mut model = Candle::cuda(0).load(&LoadSpec::new(&path).with_dtype(DType::F16)).unwrap();
    let mut small = model.allocate(CacheSpec { batch: 1, capacity: 8 }).unwrap();
    let error = model.allocate(CacheSpec { batch: 64, capacity: 1 << 21 }).map(drop).expect_err("more than any device has");
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    let CandleError::OutOfMemory { needed_bytes, available_bytes, .. } = error else { panic!("{error}") };
    assert!(needed_bytes == (1 << 27) * model.info().kv_bytes_per_position && available_bytes > 0 && available_bytes < needed_bytes);
    model.decode(&mut small, &[TokenId(1)], &mut Logits::new()).unwrap();
    model.allocate(CacheSpec { batch: 2, capacity: 8 }).unwrap();
}

#[test]
fn a_cache_of_another_device_or_model() {
    if !here() {
        return;
    }
    let name = "tiny/llama-f16";
    let mut here = load(&Candle::cuda(0), name, DType::F16);
    let (mut host, mut other) = (load(&Candle::cpu(), name, DType::F16), load(&Candle::cuda(0), name, DType::F16));
    let spec = CacheSpec { batch: 1, capacity: 4 };
    let (mut a, mut b, mut own) = (host.allocate(spec).unwrap(), other.allocate(spec).unwrap(), here.allocate(spec).unwrap());
    let prompt = [TokenId(1)];
    let mut kind = |cache: &mut _| here.prefill(cache, PromptBatch::single(&prompt).unwrap(), &mut Logits::new()).map_err(|e| e.kind());
    assert_eq!(kind(&mut a), Err(ErrorKind::ForeignCache));
    assert_eq!(kind(&mut b), Err(ErrorKind::ForeignCache));
    assert_eq!(kind(&mut own), Ok(()));
    let foreign = host.prefill(&mut own, PromptBatch::single(&prompt).unwrap(), &mut Logits::new()).unwrap_err();
    assert_eq!(foreign.kind(), ErrorKind::ForeignCache);
}

#[test]
fn ceilings_tell_the_work_they_did() {
    if !here() {
        return;
    }
    let peak = phase_backend_candle::CudaPeak::open(0).unwrap();
    assert_eq!(peak.read(2).unwrap(), 2 * (2 << 30));
    for dtype in phase_backend_candle::CudaPeak::DTYPES {
        assert_eq!(peak.multiply(dtype, [2048, 8192, 2048], 1).unwrap(), 2 * 2048 * 8192 * 2048);
    }
}

/// Every way of a step and of a prompt in a small shape: what is watched for accesses out of bounds, which takes a hundred times
/// as long.
mod small {
    use super::*;

    #[test]
    fn every_path() {
        if !here() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        for (architecture, head_dim, dtype, tolerance) in [
            (Architecture::Llama, 64, DType::Bf16, 1e-1),
            (Architecture::Qwen3, 128, DType::F16, 2e-2),
            (Architecture::Mistral, 80, DType::F32, 2e-4),
        ] {
            let path = dir.path().join(format!("{head_dim}"));
            let mut shape = shape(architecture, head_dim);
            shape.layers = 2;
            random::write(&path, &shape, 11, DType::F32).unwrap();
            agree(&path, dtype, tolerance, &format!("{architecture:?} of {head_dim}"));
        }
    }
}
