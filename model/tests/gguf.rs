//! GGUF files written here: other architectures, other tokenizers, metadata that must be refused.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and names why it skips")]

mod common;

use std::{collections::BTreeMap, fs::File, path::Path};

use candle_core::{
    Device, Tensor,
    quantized::{
        GgmlDType, QTensor,
        gguf_file::{Content, Value, write},
    },
};
use common::{golden, ids, json, refused};
use phase_core::{ErrorKind, TokenId};
use phase_model::{Architecture, Checkpoint, LayerRole, Role, RopeScaling, inverse_frequencies};

/// What goes into a file.
struct Draft {
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, Tensor>,
}

impl Draft {
    /// The contents of `gguf/llama-f16.gguf`, as f32.
    fn llama() -> Self {
        let mut file = File::open(golden("gguf/llama-f16.gguf")).unwrap();
        let content = Content::read(&mut file).unwrap();
        let device = Device::Cpu;
        let read = |name: &String, file: &mut File| content.tensor(file, name, &device).unwrap().dequantize(&device).unwrap();
        let tensors = content.tensor_infos.keys().map(|name| (name.clone(), read(name, &mut file))).collect();
        Self { metadata: content.metadata.into_iter().collect(), tensors }
    }

    fn with(mut self, key: &str, value: Value) -> Self {
        self.metadata.insert(key.to_owned(), value);
        self
    }

    fn without(mut self, key: &str) -> Self {
        self.metadata.remove(key);
        self
    }

    /// Tables of as many rows as there are tokens.
    fn resized(mut self, vocab: usize) -> Self {
        for name in ["token_embd.weight", "output.weight"] {
            if let Some(table) = self.tensors.get_mut(name) {
                *table = Tensor::zeros((vocab, table.dim(1).unwrap()), candle_core::DType::F32, &Device::Cpu).unwrap();
            }
        }
        self.with("llama.vocab_size", Value::U32(u32::try_from(vocab).unwrap()))
    }

    fn write(&self, path: &Path) {
        let quantized: Vec<(&str, QTensor)> =
            self.tensors.iter().map(|(name, t)| (name.as_str(), QTensor::quantize(t, GgmlDType::F32).unwrap())).collect();
        let tensors: Vec<(&str, &QTensor)> = quantized.iter().map(|(name, t)| (*name, t)).collect();
        let metadata: Vec<(&str, &Value)> = self.metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
        write(&mut File::create(path).unwrap(), &metadata, &tensors).unwrap();
    }

    fn open(&self) -> (tempfile::TempDir, Checkpoint) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        self.write(&path);
        let checkpoint = Checkpoint::open(&path).unwrap();
        (dir, checkpoint)
    }

    #[track_caller]
    fn refused(&self, kind: ErrorKind, parts: &[&str]) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        self.write(&path);
        refused(&path, kind, parts);
    }
}

fn texts(value: &serde_json::Value) -> Value {
    Value::Array(value.as_array().unwrap().iter().map(|v| Value::String(v.as_str().unwrap().to_owned())).collect())
}

fn integers(value: &serde_json::Value) -> Value {
    Value::Array(ids(value).into_iter().map(|n| Value::I32(i32::try_from(n).unwrap())).collect())
}

fn same_ids(checkpoint: &Checkpoint, cases: &serde_json::Value, what: &str) {
    let tokenizer = checkpoint.tokenizer().unwrap();
    for case in cases.as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let tokens = tokenizer.encode_rendered(text).unwrap();
        assert_eq!(tokens.iter().map(|t| t.0).collect::<Vec<_>>(), ids(&case["ids"]), "{what}: {text:?}");
        if let Some(decoded) = case["decoded"].as_str() {
            assert_eq!(tokenizer.decode(&tokens).unwrap(), decoded, "{what}");
        }
    }
}

#[test]
fn each_known_split_gives_its_own_ids() {
    let reference = json(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tokenizers/pre.json"));
    let vocab = reference["tokens"].as_array().unwrap().len();
    for (pre, cases) in reference["encode"].as_object().unwrap() {
        let draft = Draft::llama()
            .resized(vocab)
            .with("tokenizer.ggml.tokens", texts(&reference["tokens"]))
            .with("tokenizer.ggml.token_type", integers(&reference["types"]))
            .with("tokenizer.ggml.merges", texts(&reference["merges"]))
            .with("tokenizer.ggml.pre", Value::String(pre.clone()));
        let (_dir, checkpoint) = draft.open();
        same_ids(&checkpoint, cases, pre);
    }
}

#[test]
fn sentence_piece_vocabularies_give_its_ids() {
    let reference = json(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tokenizers/sentencepiece.json"));
    let scores = reference["scores"].as_array().unwrap();
    #[expect(clippy::cast_possible_truncation, reason = "GGUF scores are f32")]
    let scores = Value::Array(scores.iter().map(|v| Value::F32(v.as_f64().unwrap() as f32)).collect());
    let draft = Draft::llama()
        .resized(reference["tokens"].as_array().unwrap().len())
        .with("tokenizer.ggml.model", Value::String("llama".to_owned()))
        .with("tokenizer.ggml.tokens", texts(&reference["tokens"]))
        .with("tokenizer.ggml.token_type", integers(&reference["types"]))
        .with("tokenizer.ggml.scores", scores)
        .with("tokenizer.ggml.bos_token_id", Value::U32(1))
        .with("tokenizer.ggml.eos_token_id", Value::U32(2))
        .without("tokenizer.ggml.add_bos_token")
        .without("tokenizer.ggml.add_space_prefix")
        .without("tokenizer.ggml.merges")
        .without("tokenizer.ggml.pre");
    let (_dir, checkpoint) = draft.open();
    same_ids(&checkpoint, &reference["encode"], "sentencepiece");
    let tokenizer = checkpoint.tokenizer().unwrap();
    assert_eq!(tokenizer.encode("the cat").unwrap()[0], TokenId(1), "a Llama text starts with its first token");
    assert!(tokenizer.is_eos(TokenId(2)));
    let tokens = tokenizer.encode("日本 the 🙂").unwrap();
    let mut stream = tokenizer.stream();
    let mut pieces: Vec<String> = tokens.iter().filter_map(|t| stream.push(*t).unwrap()).collect();
    pieces.extend(stream.finish().unwrap());
    assert_eq!(pieces.concat(), tokenizer.decode(&tokens).unwrap());
    assert!(pieces.iter().all(|piece| !piece.contains('\u{FFFD}')), "bytes are held back until they are a character: {pieces:?}");
}

#[test]
fn an_incomplete_character_comes_out_at_the_end() {
    let checkpoint = Checkpoint::open(golden("gguf/llama-f16.gguf")).unwrap();
    let tokenizer = checkpoint.tokenizer().unwrap();
    let tokens = tokenizer.encode_rendered("ok 🙂").unwrap();
    let mut stream = tokenizer.stream();
    let mut text = String::new();
    for token in &tokens[..tokens.len() - 1] {
        text.extend(stream.push(*token).unwrap());
    }
    assert_eq!(text, "ok ");
    assert!(stream.finish().unwrap().unwrap().contains('\u{FFFD}'));
}

#[test]
fn tokenizers_that_would_be_guesses_are_refused() {
    let cases = [
        (Draft::llama().without("tokenizer.ggml.pre"), "tokenizer.ggml.pre"),
        (Draft::llama().with("tokenizer.ggml.pre", Value::String("default".to_owned())), "default"),
        (Draft::llama().with("tokenizer.ggml.model", Value::String("t5".to_owned())), "t5"),
        (Draft::llama().without("tokenizer.ggml.model"), "tokenizer.ggml.model"),
        (Draft::llama().without("tokenizer.ggml.merges"), "tokenizer.ggml.merges"),
        (Draft::llama().with("tokenizer.ggml.model", Value::String("llama".to_owned())), "tokenizer.ggml.scores"),
        (Draft::llama().with("tokenizer.ggml.token_type", Value::Array(vec![Value::I32(1)])), "token types"),
    ];
    for (draft, part) in cases {
        let (_dir, checkpoint) = draft.open();
        let error = checkpoint.tokenizer().unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("model.gguf"), "{part}: {error}");
    }
}

#[test]
fn metadata_that_changes_the_result_is_refused() {
    let text = |s: &str| Value::String(s.to_owned());
    for (key, value) in [
        ("llama.expert_count", Value::U32(8)),
        ("llama.attention.sliding_window", Value::U32(4096)),
        ("llama.attn_logit_softcapping", Value::F32(50.0)),
        ("llama.attention.scale", Value::F32(0.1)),
        ("llama.logit_scale", Value::F32(0.5)),
        ("llama.attention.causal", Value::Bool(false)),
        ("llama.rope.scaling.type", text("yarn")),
    ] {
        Draft::llama().with(key, value).refused(ErrorKind::Unsupported, &["model.gguf", key]);
    }
    for (key, value) in [
        ("llama.rope.dimension_count", Value::U32(8)),
        ("llama.attention.value_length", Value::U32(8)),
        ("llama.vocab_size", Value::U32(7)),
        ("llama.embedding_length", text("many")),
        ("llama.attention.head_count_kv", Value::U32(3)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(f32::NAN)),
        ("general.alignment", Value::U32(3)),
    ] {
        Draft::llama().with(key, value).refused(ErrorKind::Load, &["model.gguf", key]);
    }
    Draft::llama().with("general.architecture", text("mamba")).refused(ErrorKind::Unsupported, &["mamba", "qwen3"]);
}

#[test]
fn rope_factors_and_linear_scaling_are_read() {
    let mut draft = Draft::llama();
    let half = 8;
    let factors: Vec<f32> = (0..half).map(|i| if i < 4 { 1.0 } else { 8.0 }).collect();
    draft.tensors.insert("rope_freqs.weight".to_owned(), Tensor::new(factors.clone(), &Device::Cpu).unwrap());
    let (_dir, scaled) = draft.open();
    let plain = Checkpoint::open(golden("gguf/llama-f16.gguf")).unwrap();
    assert_eq!(scaled.config().rope().unwrap().scaling, RopeScaling::Factors(factors));
    let frequencies = |c: &Checkpoint| inverse_frequencies(c.config().rope().unwrap(), c.config().head_dim);
    let (scaled, plain) = (frequencies(&scaled), frequencies(&plain));
    assert_eq!(scaled[..4], plain[..4]);
    assert!(scaled[4..].iter().zip(&plain[4..]).all(|(s, p)| (s * 8.0 - p).abs() < 1e-9));
    draft.tensors.insert("rope_freqs.weight".to_owned(), Tensor::new(vec![1.0f32; 3], &Device::Cpu).unwrap());
    draft.refused(ErrorKind::Load, &["rope_freqs.weight", "3", "8"]);

    let linear = Draft::llama()
        .with("llama.rope.scaling.type", Value::String("linear".to_owned()))
        .with("llama.rope.scaling.factor", Value::F32(4.0));
    assert_eq!(linear.open().1.config().rope().unwrap().scaling, RopeScaling::Linear { factor: 4.0 });
}

#[test]
fn other_architectures_are_read_as_llama_cpp_writes_them() {
    for name in ["qwen2", "qwen3", "gpt2", "llama-bias"] {
        let folder = Checkpoint::open(golden("tiny").join(name)).unwrap();
        let (_dir, file) = converted(&folder).open();
        let (ours, theirs) = (folder.config(), file.config());
        assert_eq!((ours.architecture, ours.biases, ours.qk_norm), (theirs.architecture, theirs.biases, theirs.qk_norm), "{name}");
        assert_eq!((&ours.position, ours.activation, ours.mlp), (&theirs.position, theirs.activation, theirs.mlp), "{name}");
        for role in folder.weights().roles() {
            let (a, b) = (folder.weights().to_vec::<f32>(role).unwrap(), file.weights().to_vec::<f32>(role).unwrap());
            assert_eq!(a, b, "{name} {role:?}");
        }
    }
}

/// A folder's model under llama.cpp's names: joined q|k|v for GPT-2, interleaved q and k for Llama.
fn converted(folder: &Checkpoint) -> Draft {
    let (config, weights) = (folder.config(), folder.weights());
    let arch = config.architecture.as_str();
    let number = |n: usize| Value::U32(u32::try_from(n).unwrap());
    #[expect(clippy::cast_possible_truncation, reason = "GGUF has f32 here")]
    let float = |x: f64| Value::F32(x as f32);
    let eps = if arch == "gpt2" { "attention.layer_norm_epsilon" } else { "attention.layer_norm_rms_epsilon" };
    let keys = [
        ("embedding_length", number(config.hidden)),
        ("block_count", number(config.layers)),
        ("feed_forward_length", number(config.intermediate)),
        ("context_length", number(config.max_context)),
        ("attention.head_count", number(config.heads)),
        ("attention.head_count_kv", number(config.kv_heads)),
        ("attention.key_length", number(config.head_dim)),
        ("rope.freq_base", float(config.rope().map_or(1.0, |rope| rope.theta))),
        (eps, float(config.norm_eps)),
    ];
    let mut metadata: BTreeMap<String, Value> = keys.into_iter().map(|(key, value)| (format!("{arch}.{key}"), value)).collect();
    metadata.insert("general.architecture".to_owned(), Value::String(arch.to_owned()));
    let mut tensors = BTreeMap::new();
    for role in weights.roles() {
        let values = weights.to_vec::<f32>(role).unwrap();
        let mut tensor = Tensor::from_vec(values, weights.shape(role).unwrap(), &Device::Cpu).unwrap();
        if config.architecture == Architecture::Llama
            && let Role::Layer(_, LayerRole::Q | LayerRole::K | LayerRole::QBias | LayerRole::KBias) = role
        {
            let rows = tensor.dim(0).unwrap();
            let rest = tensor.elem_count() / rows;
            let heads = tensor.reshape((rows / config.head_dim, 2, config.head_dim / 2, rest)).unwrap();
            tensor = heads.transpose(1, 2).unwrap().contiguous().unwrap().reshape(tensor.shape()).unwrap();
        }
        tensors.insert(llama_cpp_name(role), tensor);
    }
    if config.architecture == Architecture::Gpt2 {
        for (layer, end) in (0..config.layers).flat_map(|layer| [(layer, "weight"), (layer, "bias")]) {
            let parts = ["q", "k", "v"].map(|part| tensors.remove(&format!("blk.{layer}.attn_{part}.{end}")).unwrap());
            tensors.insert(format!("blk.{layer}.attn_qkv.{end}"), Tensor::cat(&parts, 0).unwrap());
        }
    }
    Draft { metadata, tensors }
}

fn llama_cpp_name(role: Role) -> String {
    let (layer, role) = match role {
        Role::TokenEmbedding => return "token_embd.weight".to_owned(),
        Role::PositionEmbedding => return "position_embd.weight".to_owned(),
        Role::FinalNorm => return "output_norm.weight".to_owned(),
        Role::FinalNormBias => return "output_norm.bias".to_owned(),
        Role::LmHead => return "output.weight".to_owned(),
        Role::Layer(layer, role) => (layer, format!("{role:?}")),
        other => panic!("{other:?}"),
    };
    let (part, end) = role.strip_suffix("Bias").map_or((role.as_str(), "weight"), |part| (part, "bias"));
    let part = match part {
        "AttnNorm" => "attn_norm",
        "Q" => "attn_q",
        "K" => "attn_k",
        "V" => "attn_v",
        "QNorm" => "attn_q_norm",
        "KNorm" => "attn_k_norm",
        "O" => "attn_output",
        "MlpNorm" => "ffn_norm",
        "Gate" => "ffn_gate",
        "Up" => "ffn_up",
        "Down" => "ffn_down",
        other => panic!("{other}"),
    };
    format!("blk.{layer}.{part}.{end}")
}
