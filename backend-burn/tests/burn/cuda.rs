//! The CUDA path: contract, references, agreement with the host's processor, faults. Without a device each test says why it
//! passes, unless `PHASE_TEST_CUDA` says that there is one.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests: a failure ends the test, and its numbers are printed")]

mod data;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use phase_backend_burn::{Burn, BurnConfig, BurnError, BurnModel, Device};
use phase_core::{
    Backend, BackendId, CacheSpec, DType, Decode, ErrorKind, Fact, KvCache, Layer, LoadSpec, Logits, Mode, Model, PhaseError, Prefill,
    PromptBatch, TokenId,
};
use phase_model::{Architecture, random};

/// Whether there is a device; prints why not.
#[expect(clippy::disallowed_methods, reason = "whether there is a device is the tester's to say")]
fn here() -> bool {
    match Burn::cuda(0).probe() {
        Ok(_) => true,
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");
            assert!(std::env::var_os("PHASE_TEST_CUDA").is_none(), "{e}");
            println!("skipped: {e}");
            false
        }
    }
}

fn dir(name: &str) -> PathBuf {
    data::goldens().join(name)
}

fn eager() -> Burn {
    Burn::new(BurnConfig::default().with_device(Device::Cuda(0)).with_mode(Mode::Eager))
}

fn load(backend: &Burn, name: &str, dtype: DType) -> BurnModel {
    backend.load(&LoadSpec::new(dir(name)).with_dtype(dtype)).expect("a small checkpoint")
}

macro_rules! conformance {
    ($($module:ident: $name:literal in $dtype:ident on $backend:expr;)+) => {
        $(mod $module {
            phase_core::conformance_suite!(when super::here() => || super::load(&$backend, $name, phase_core::DType::$dtype));
        })+
    };
}

conformance! {
    llama_f32: "tiny/llama-gqa-tied" in F32 on super::Burn::cuda(0);
    llama_f16: "tiny/llama-f16" in F16 on super::Burn::cuda(0);
    llama_bf16: "tiny/llama-bf16" in Bf16 on super::Burn::cuda(0);
    llama_f16_eager: "tiny/llama-f16" in F16 on super::eager();
    gpt2: "tiny/gpt2" in F32 on super::Burn::cuda(0);
    gpt2_f16: "tiny/gpt2" in F16 on super::Burn::cuda(0);
    qwen3: "tiny/qwen3" in F32 on super::Burn::cuda(0);
    mistral_window: "tiny/mistral-window" in F32 on super::Burn::cuda(0);
}

/// Fast kernels for heads of 64 and 128 elements, which no small golden has.
mod wide_heads {
    phase_core::conformance_suite!(when super::here() => || super::wide(64));
}

fn wide(head_dim: usize) -> BurnModel {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wide");
    random::write(&path, &shape(Architecture::Llama, head_dim), 5, DType::F16).unwrap();
    Burn::cuda(0).load(&LoadSpec::new(&path).with_dtype(DType::F16)).unwrap()
}

fn shape(architecture: Architecture, head_dim: usize) -> random::Shape {
    let mut shape = random::Shape::tiny(architecture);
    (shape.hidden, shape.intermediate, shape.heads, shape.kv_heads, shape.head_dim) = (192, 352, 6, 2, head_dim);
    shape
}

/// The prompt in one call and then token by token; and everything token by token.
fn check(name: &str, dtype: DType, config: &BurnConfig, tolerance: f32) {
    let folder = dir("tiny").join(name);
    let (golden, tensors) = data::read(&folder);
    let mut model = Burn::new(config.clone()).load(&LoadSpec::new(&folder).with_dtype(dtype)).unwrap();
    let vocab = model.info().vocab;
    for case in &golden.cases {
        let all = &tensors[&format!("{}.logits", case.name)];
        let mut worst = 0.0f32;
        let tokens = [&case.prompt[..], &case.then].concat();
        for (prompt, then) in [(&case.prompt[..], &case.then[..]), (&tokens[..1], &tokens[1..])] {
            let got = data::scores(&mut model, prompt, then);
            for (got, want) in got.iter().zip(all.chunks_exact(vocab).skip(prompt.len() - 1)) {
                worst = worst.max(data::worst(got, want));
            }
        }
        println!("{name} {dtype} {}: {worst:.2e}", case.name);
        assert!(worst <= tolerance, "{name} in {dtype}, case {}: off by {worst}", case.name);
        if dtype == DType::F32 {
            assert_eq!(data::greedy(&mut model, &case.prompt, case.greedy.len()), case.greedy, "{name} {}", case.name);
        }
    }
}

#[test]
fn goldens_in_f32() {
    if !here() {
        return;
    }
    for name in [
        "gpt2",
        "gpt2-bare",
        "llama-bf16",
        "llama-bias",
        "llama-f16",
        "llama-gqa-tied",
        "llama-mha-untied",
        "llama-mqa",
        "llama-sharded",
        "llama3-rope-new",
        "llama3-rope-old",
        "mistral-window",
        "qwen2",
        "qwen3",
    ] {
        for rows in [None, Some(10)] {
            let mut config = BurnConfig::default().with_device(Device::Cuda(0));
            config.prefill_rows = rows;
            check(name, DType::F32, &config, 1e-3);
        }
    }
}

#[test]
fn goldens_in_sixteen_bits() {
    if !here() {
        return;
    }
    for mode in [Mode::Compiled, Mode::Eager] {
        let config = BurnConfig::default().with_device(Device::Cuda(0)).with_mode(mode);
        check("llama-bf16", DType::Bf16, &config, 3e-1);
        for name in ["llama-f16", "gpt2", "qwen2", "qwen3", "mistral-window", "llama-bias"] {
            check(name, DType::F16, &config, 5e-2);
        }
    }
}

/// The real model's continuations, token by token and in one run.
#[test]
#[expect(clippy::disallowed_methods, reason = "the test runner says where the model is")]
fn smollm2() {
    let Some(path) = std::env::var_os("PHASE_TEST_MODEL").filter(|_| here()) else {
        println!("skipped: no device, or PHASE_TEST_MODEL names no SmolLM2 checkpoint");
        return;
    };
    let (golden, _) = data::read(&dir("smollm2"));
    let mut model = Burn::cuda(0).load(&LoadSpec::new(PathBuf::from(path))).unwrap();
    for case in &golden.continuations {
        assert_eq!(data::greedy(&mut model, &case.prompt, case.greedy.len()), case.greedy, "{}", case.name);
        let prompt: Vec<_> = case.prompt.iter().copied().map(TokenId).collect();
        let mut cache = model.allocate(CacheSpec { batch: 1, capacity: prompt.len() + case.greedy.len() }).unwrap();
        let mut first = [TokenId(0)];
        model.prefill_greedy(&mut cache, PromptBatch::single(&prompt).unwrap(), &mut first).unwrap();
        let mut run = vec![TokenId(0); case.greedy.len() - 1];
        model.decode_run(&mut cache, &first, &mut run).unwrap();
        let run: Vec<_> = run.iter().map(|token| token.0).collect();
        assert_eq!(run, case.greedy[1..], "{} in one run", case.name);
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
            let shape = if head_dim == 16 { random::Shape::tiny(architecture) } else { shape(architecture, head_dim) };
            let calls = [1, 2, 8, 11].map(|batch| Calls { batch, len: 130 });
            agree(&shape, &[DType::F32, DType::F16, DType::Bf16], &calls, &format!("{architecture:?} of {head_dim}"));
        }
    }
}

/// Products of many outputs, and of all rows that a step can have.
#[test]
fn agrees_with_the_host_where_outputs_are_many() {
    if !here() {
        return;
    }
    let mut shape = shape(Architecture::Llama, 64);
    (shape.intermediate, shape.layers) = (8000, 1);
    let calls = [(20, 3), (40, 9), (64, 70)].map(|(batch, len)| Calls { batch, len });
    agree(&shape, &[DType::F16, DType::Bf16], &calls, "many outputs");
}

/// A prompt of `len` tokens for each of `batch` sequences, and four steps.
#[derive(Clone, Copy)]
struct Calls {
    batch: usize,
    len: usize,
}

impl Calls {
    fn scores(self, model: &mut BurnModel) -> [Logits; 5] {
        let Self { batch, len } = self;
        let tokens: Vec<_> = (0..150u32 * 64).map(|i| TokenId((i * 37 + i / 7) % 512)).collect();
        let mut cache = model.allocate(CacheSpec { batch, capacity: len + 10 }).unwrap();
        let mut scores: [Logits; 5] = Default::default();
        model.prefill(&mut cache, PromptBatch::new(&tokens[..len * batch], batch).unwrap(), &mut scores[0]).unwrap();
        for step in 0..4 {
            model.decode(&mut cache, &tokens[step * batch..(step + 1) * batch], &mut scores[step + 1]).unwrap();
        }
        scores
    }
}

/// What the host says is asked for once, and each format's model is loaded once. Gives the kernels that ran, by name.
fn agree(shape: &random::Shape, dtypes: &[DType], calls: &[Calls], what: &str) -> BTreeSet<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("random");
    random::write(&path, shape, 11, DType::F32).unwrap();
    let mut host = Burn::cpu().load(&LoadSpec::new(&path).with_threads(2)).unwrap();
    let want: Vec<_> = calls.iter().map(|calls| calls.scores(&mut host)).collect();
    let mut ran = BTreeSet::new();
    for dtype in dtypes {
        let tolerance = match dtype {
            DType::F32 => 2e-4,
            DType::F16 => 2e-2,
            _ => 1e-1,
        };
        let mut device = Burn::cuda(0).load(&LoadSpec::new(&path).with_dtype(*dtype)).unwrap();
        for (calls, want) in calls.iter().zip(&want) {
            for (call, (got, want)) in calls.scores(&mut device).iter().zip(want).enumerate() {
                close(got, want, tolerance, &format!("{what} in {dtype}, batch {}, call {call}", calls.batch));
            }
        }
        let kernels = device.evidence().unwrap().kernels;
        ran.extend(kernels.iter().filter_map(|line| kernel_name(line)));
    }
    ran
}

/// The kernel of a line of evidence: `cubecl NAME_HASH: ...`, or `cubecl NAME_e_FORMAT_HASH: ...` where it is compiled by format.
fn kernel_name(line: &str) -> Option<String> {
    let (name, _hash) = line.strip_prefix("cubecl ")?.split(": ").next()?.rsplit_once('_')?;
    Some(name.split("_e_").next()?.to_owned())
}

#[test]
fn kernels_have_names() {
    for (line, name) in [
        ("cubecl last_rows_13364abc: 104 launches", "last_rows"),
        ("cubecl attend_one_e__50d9b493: 184 launches", "attend_one"),
        ("cubecl product_e_f32_04871d5c: 2 launches", "product"),
    ] {
        assert_eq!(kernel_name(line).as_deref(), Some(name));
    }
    assert_eq!(kernel_name("graph of a decode step, batch 1: 13 kernel nodes"), None);
}

fn close(got: &Logits, want: &Logits, tolerance: f32, what: &str) {
    let spread = want.as_slice().iter().fold(1.0f32, |m, v| m.max(v.abs()));
    let worst = data::worst(got.as_slice(), want.as_slice());
    assert!(got.as_slice().iter().all(|v| v.is_finite()) && worst <= tolerance * spread, "{what}: off by {worst} of {spread}");
}

/// Graph and single launches are the same kernels in the same order: not a bit differs.
#[test]
fn a_replayed_step_is_an_eager_one() {
    if !here() {
        return;
    }
    let (mut compiled, mut single) = (load(&Burn::cuda(0), "tiny/llama-bf16", DType::Bf16), load(&eager(), "tiny/llama-bf16", DType::Bf16));
    let run = |model: &mut BurnModel, batch: usize| {
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

/// What is claimed is there: times of each step, graph nodes and replays, the device's name.
#[test]
fn evidence_of_a_run() {
    if !here() {
        return;
    }
    let backend = Burn::cuda(0);
    assert_eq!((backend.id(), backend.mode(), eager().mode()), (BackendId::new("burn-cuda"), Mode::Compiled, Mode::Eager));
    let mut model = load(&backend, "tiny/llama-f16", DType::F16);
    let mut cache = model.allocate(CacheSpec { batch: 1, capacity: 32 }).unwrap();
    let mut picked = [TokenId(0); 20];
    model.decode_run(&mut cache, &[TokenId(1)], &mut picked).unwrap();
    assert_eq!((cache.len(), model.device_steps().len()), (20, 20));
    let total: std::time::Duration = model.device_steps().iter().sum();
    assert!(model.device_steps().iter().all(|step| !step.is_zero()) && Some(total) <= model.device_time());
    let evidence = model.evidence().unwrap();
    let graph = evidence.kernels.iter().find(|kernel| kernel.starts_with("graph of a decode step, batch 1")).unwrap();
    assert!(
        graph.ends_with("13 kernel nodes, captured for 1 caches, 20 replays"),
        "two layers of five kernels, embedding, head and pick: {graph}"
    );
    let attention = evidence.kernels.iter().find(|kernel| kernel.contains("attend_one")).unwrap();
    assert!(attention.ends_with(": 42 launches"), "two layers, 20 steps and one before the capture: {attention}");
    assert!(evidence.placement.iter().all(|placement| placement.executor.contains("(GPU-")), "{evidence:?}");
    model.decode(&mut cache, &picked[19..], &mut Logits::new()).unwrap();
    assert!(model.device_steps().is_empty(), "steps of a call that was no run");
}

#[test]
fn the_device_is_in_the_stack() {
    if !here() {
        return;
    }
    let model = load(&Burn::cuda(0), "tiny/llama-f16", DType::F16);
    let stack = &model.info().stack;
    assert!(stack.iter().all(|(_, _, fact)| matches!(fact, Fact::Known(_))), "{stack:?}");
    for key in ["gpu", "gpu_driver", "gpu_power_limit_w", "cuda_driver", "nvrtc", "cubecl"] {
        assert!(stack.fact(Layer::Runtime, key).is_some(), "{key} in {stack:?}");
    }
}

fn refused(result: Result<BurnModel, BurnError>) -> BurnError {
    result.map(drop).expect_err("this must not load")
}

#[test]
fn a_device_that_is_not_there() {
    if !here() {
        return;
    }
    let error = refused(Burn::cuda(99).load(&LoadSpec::new(dir("tiny/llama-f16"))));
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
    let mut model = Burn::cuda(0).load(&LoadSpec::new(&path).with_dtype(DType::F16)).unwrap();
    let mut small = model.allocate(CacheSpec { batch: 1, capacity: 8 }).unwrap();
    let error = model.allocate(CacheSpec { batch: 64, capacity: 1 << 21 }).map(drop).expect_err("more than any device has");
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    let BurnError::DeviceMemory { needed_bytes, available_bytes, .. } = error else { panic!("{error}") };
    assert!(needed_bytes == (1 << 27) * model.info().kv_bytes_per_position && available_bytes > 0 && available_bytes < needed_bytes);
    model.decode(&mut small, &[TokenId(1)], &mut Logits::new()).unwrap();
    model.allocate(CacheSpec { batch: 2, capacity: 8 }).unwrap();
}

/// A model whose scores are NaN picks its first token, and the step after it reads inside the embedding.
#[test]
fn scores_that_are_no_numbers() {
    if !here() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nan");
    random::write(&path, &shape(Architecture::Llama, 64), 3, DType::F16).unwrap();
    fill(&path.join("model.safetensors"), "model.norm.weight", 0x7e);
    let mut model = Burn::cuda(0).load(&LoadSpec::new(&path).with_dtype(DType::F16)).unwrap();
    let mut cache = model.allocate(CacheSpec { batch: 2, capacity: 8 }).unwrap();
    let mut picked = [TokenId(7); 6];
    model.decode_run(&mut cache, &[TokenId(1), TokenId(2)], &mut picked).unwrap();
    assert_eq!(picked, [TokenId(0); 6]);
    let mut logits = Logits::new();
    model.decode(&mut cache, &picked[..2], &mut logits).unwrap();
    assert!(logits.as_slice().iter().all(|score| score.is_nan()));
}

/// Sets every byte of a safetensors file's tensor.
fn fill(file: &Path, tensor: &str, byte: u8) {
    let mut bytes = std::fs::read(file).unwrap();
    let header = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    let entries: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let offset = |at: usize| usize::try_from(entries[tensor]["data_offsets"][at].as_u64().unwrap()).unwrap();
    bytes[8 + header + offset(0)..8 + header + offset(1)].fill(byte);
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn a_cache_of_another_device_or_model() {
    if !here() {
        return;
    }
    let name = "tiny/llama-f16";
    let mut here = load(&Burn::cuda(0), name, DType::F16);
    let (mut host, mut other) = (load(&Burn::cpu(), name, DType::F16), load(&Burn::cuda(0), name, DType::F16));
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

/// Every kernel in small shapes: what is watched for accesses out of bounds and for races, which takes a hundred times as long.
mod small {
    use super::*;

    #[test]
    fn every_kernel() {
        if !here() {
            return;
        }
        let wide = |head_dim| {
            let mut wide = shape(Architecture::Qwen3, head_dim);
            (wide.layers, wide.vocab, wide.sliding_window) = (2, 512, None);
            wide
        };
        let mut odd = random::Shape::tiny(Architecture::Mistral);
        (odd.hidden, odd.intermediate, odd.layers) = (96, 160, 2);
        let mut learned = random::Shape::tiny(Architecture::Gpt2);
        learned.layers = 2;
        let one = Calls { batch: 1, len: 70 };
        let few = Calls { batch: 3, len: 5 };
        let many = Calls { batch: 11, len: 13 };
        let mut ran = agree(&wide(64), &[DType::F32, DType::Bf16], &[one, few, many], "heads of 64");
        ran.extend(agree(&wide(128), &[DType::F16], &[one, many], "heads of 128"));
        ran.extend(agree(&odd, &[DType::F16], &[one, few], "k not a multiple of 64"));
        ran.extend(agree(&learned, &[DType::F16], &[few], "learned positions"));
        let all = [
            "attend_any",
            "attend_one",
            "attend_tiles",
            "embed",
            "few",
            "last_rows",
            "norm",
            "pick",
            "product",
            "rotate_append",
            "share",
            "tiles",
            "wide_tiles",
        ];
        assert_eq!(ran.iter().map(String::as_str).collect::<Vec<_>>(), all);
    }
}
