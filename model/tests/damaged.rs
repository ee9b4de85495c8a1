//! What is missing, damaged or contradictory is refused with a message that says what and where. Nothing panics.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and names why it skips")]

mod common;

use std::{fs, path::Path};

use common::{copy, edit_json, golden, refused, safetensors};
use phase_core::{ErrorKind, PhaseError};
use phase_model::Checkpoint;
use serde_json::json;

#[test]
fn paths_that_are_no_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    refused(dir.path().join("absent"), ErrorKind::Load, &["absent"]);
    refused(dir.path(), ErrorKind::Load, &["config.json"]);
    let text = dir.path().join("notes.txt");
    fs::write(&text, "not a model").unwrap();
    refused(&text, ErrorKind::Load, &["notes.txt", "neither a folder", "GGUF"]);
    fs::write(&text, "").unwrap();
    refused(&text, ErrorKind::Load, &["notes.txt", "empty"]);
    fs::write(dir.path().join("config.json"), "{").unwrap();
    refused(dir.path(), ErrorKind::Load, &["config.json", "EOF"]);
    fs::write(dir.path().join("config.json"), "[1]").unwrap();
    refused(dir.path(), ErrorKind::Load, &["config.json", "object"]);
    fs::write(dir.path().join("config.json"), "{}").unwrap();
    refused(dir.path(), ErrorKind::Load, &["model_type", "absent", "llama"]);
    fs::copy(golden("tiny/llama-mqa/config.json"), dir.path().join("config.json")).unwrap();
    refused(dir.path(), ErrorKind::Load, &["model.safetensors", "model.safetensors.index.json"]);
    fs::create_dir(dir.path().join("model.safetensors")).unwrap();
    refused(dir.path(), ErrorKind::Load, &["model.safetensors"]);
}

#[test]
fn configurations_that_contradict_the_weights() {
    let cases = [
        ("num_hidden_layers", json!(3), vec!["layers.2.", "missing"]),
        ("num_hidden_layers", json!(1), vec!["layers.1.", "no place"]),
        ("vocab_size", json!(289), vec!["embed_tokens", "288", "289", "model.safetensors"]),
        ("intermediate_size", json!(64), vec!["mlp.", "64"]),
        ("num_key_value_heads", json!(3), vec!["k_proj"]),
        ("mlp_bias", json!(true), vec!["proj.bias", "missing"]),
        ("tie_word_embeddings", json!(false), vec!["lm_head.weight", "missing"]),
    ];
    for (key, value, parts) in cases {
        let dir = copy("tiny/llama-mqa");
        edit_json(dir.path().join("config.json"), |config| config[key] = value);
        refused(dir.path(), ErrorKind::Load, &parts);
    }
    let dir = copy("tiny/llama-bias");
    edit_json(dir.path().join("config.json"), |config| config["attention_bias"] = json!(false));
    refused(dir.path(), ErrorKind::Load, &["bias", "no place"]);
    let dir = copy("tiny/qwen3");
    edit_json(dir.path().join("config.json"), |config| {
        config["model_type"] = json!("llama");
        config["architectures"] = json!(["LlamaForCausalLM"]);
    });
    refused(dir.path(), ErrorKind::Load, &["k_norm.weight", "no place"]);
}

/// The stored bytes of a golden checkpoint's one file: its header, and its data.
fn parts(dir: &Path) -> (serde_json::Value, Vec<u8>) {
    let bytes = fs::read(dir.join("model.safetensors")).unwrap();
    let len = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    (serde_json::from_slice(&bytes[8..8 + len]).unwrap(), bytes[8 + len..].to_vec())
}

#[test]
fn damaged_safetensors() {
    let dir = copy("tiny/llama-mqa");
    let path = dir.path().join("model.safetensors");
    let (header, data) = parts(dir.path());
    let whole = safetensors(&header.to_string(), &data);
    for len in [0, 1, 7, 8, 9, 100, whole.len() - 1] {
        fs::write(&path, &whole[..len]).unwrap();
        refused(dir.path(), ErrorKind::Load, &["model.safetensors"]);
    }
    let mut longer = whole.clone();
    longer.push(0);
    fs::write(&path, &longer).unwrap();
    refused(dir.path(), ErrorKind::Load, &["model.safetensors"]);
    for len in [u64::MAX, 1 << 40, whole.len() as u64] {
        let mut bytes = whole.clone();
        bytes[..8].copy_from_slice(&len.to_le_bytes());
        fs::write(&path, &bytes).unwrap();
        refused(dir.path(), ErrorKind::Load, &["model.safetensors", "header"]);
    }
    let norm = "model.norm.weight";
    let overlapping =
        |header: &mut serde_json::Value| header[norm]["data_offsets"] = json!([0, header[norm]["shape"][0].as_u64().unwrap() * 4]);
    let reversed = |header: &mut serde_json::Value| header[norm]["data_offsets"] = json!([128, 0]);
    let huge = |header: &mut serde_json::Value| header[norm]["shape"] = json!([u64::MAX, 2]);
    let negative = |header: &mut serde_json::Value| header[norm]["shape"] = json!([-1]);
    let not_a_number = |header: &mut serde_json::Value| header[norm]["shape"] = json!([null]);
    let beyond = |header: &mut serde_json::Value| header[norm]["data_offsets"] = json!([1u64 << 40, (1u64 << 40) + 128]);
    let edits: [&dyn Fn(&mut serde_json::Value); 6] = [&overlapping, &reversed, &huge, &negative, &not_a_number, &beyond];
    for edit in edits {
        let mut header = header.clone();
        edit(&mut header);
        fs::write(&path, safetensors(&header.to_string(), &data)).unwrap();
        refused(dir.path(), ErrorKind::Load, &["model.safetensors"]);
    }
    fs::write(&path, safetensors("not json", &data)).unwrap();
    refused(dir.path(), ErrorKind::Load, &["model.safetensors", "header"]);
}

#[test]
fn tensors_of_the_wrong_type_or_shape() {
    let dir = copy("tiny/llama-mqa");
    let path = dir.path().join("model.safetensors");
    let (header, data) = parts(dir.path());
    let norm = "model.norm.weight";
    let mut other = header.clone();
    other[norm]["dtype"] = json!("I32");
    fs::write(&path, safetensors(&other.to_string(), &data)).unwrap();
    refused(dir.path(), ErrorKind::Unsupported, &[norm, "model.safetensors", "I32", "BF16"]);
    let mut other = header.clone();
    let elements = other[norm]["shape"][0].as_u64().unwrap();
    other[norm]["shape"] = json!([elements / 2, 2]);
    fs::write(&path, safetensors(&other.to_string(), &data)).unwrap();
    refused(dir.path(), ErrorKind::Load, &[norm, "model.safetensors", &format!("[{elements}]"), &format!("[{}, 2]", elements / 2)]);
    let mut other = header;
    let renamed = other.as_object_mut().unwrap().remove(norm).unwrap();
    other["model.norms.weight"] = renamed;
    fs::write(&path, safetensors(&other.to_string(), &data)).unwrap();
    refused(dir.path(), ErrorKind::Load, &[norm, "missing"]);
}

#[test]
fn an_output_layer_beside_a_tie_must_be_the_embedding() {
    let dir = copy("tiny/llama-mqa");
    let path = dir.path().join("model.safetensors");
    let (mut header, mut data) = parts(dir.path());
    let [start, end] = [0, 1].map(|i| usize::try_from(header["model.embed_tokens.weight"]["data_offsets"][i].as_u64().unwrap()).unwrap());
    let at = data.len();
    data.extend_from_within(start..end);
    let mut head = header["model.embed_tokens.weight"].clone();
    head["data_offsets"] = json!([at, data.len()]);
    header["lm_head.weight"] = head;
    fs::write(&path, safetensors(&header.to_string(), &data)).unwrap();
    Checkpoint::open(dir.path()).unwrap();
    data[at] ^= 1;
    fs::write(&path, safetensors(&header.to_string(), &data)).unwrap();
    refused(dir.path(), ErrorKind::Load, &["lm_head.weight", "tie_word_embeddings"]);
}

#[test]
fn damaged_shards() {
    let shard = "model-00002-of-00004.safetensors";
    let dir = copy("tiny/llama-sharded");
    fs::remove_file(dir.path().join(shard)).unwrap();
    refused(dir.path(), ErrorKind::Load, &[shard]);

    let dir = copy("tiny/llama-sharded");
    let index = dir.path().join("model.safetensors.index.json");
    let tensor = common::json(&index)["weight_map"].as_object().unwrap().iter().find(|(_, file)| *file == shard).unwrap().0.clone();
    edit_json(&index, |json| json["weight_map"][&tensor] = json!("model-00001-of-00004.safetensors"));
    refused(dir.path(), ErrorKind::Load, &[&tensor, "model-00001-of-00004.safetensors"]);

    let dir = copy("tiny/llama-sharded");
    let index = dir.path().join("model.safetensors.index.json");
    edit_json(&index, |json| drop(json["weight_map"].as_object_mut().unwrap().remove(&tensor)));
    refused(dir.path(), ErrorKind::Load, &[&tensor]);

    for damage in
        [json!({}), json!({"weight_map": []}), json!({"weight_map": {"a": 1}}), json!({"weight_map": {"a": "../model.safetensors"}})]
    {
        fs::write(&index, damage.to_string()).unwrap();
        refused(dir.path(), ErrorKind::Load, &["model.safetensors.index.json", "weight_map"]);
    }
}

#[test]
fn damaged_ggufs() {
    let whole = fs::read(golden("gguf/llama-q4_1-tied.gguf")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    for len in [4, 5, 8, 15, 23, 24, 100, 5000, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..len]).unwrap();
        refused(&path, ErrorKind::Load, &["model.gguf", "truncated"]);
    }
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = whole.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        fs::write(&path, changed).unwrap();
    };
    for version in [0u32, 1, 4, 0x0300_0000] {
        with(4, &version.to_le_bytes());
        refused(&path, ErrorKind::Unsupported, &["model.gguf", "version", &version.to_string(), "2, 3"]);
    }
    for count in [u64::MAX, 1 << 40] {
        with(8, &count.to_le_bytes());
        refused(&path, ErrorKind::Load, &["model.gguf"]);
        with(16, &count.to_le_bytes());
        refused(&path, ErrorKind::Load, &["model.gguf"]);
    }
    with(24, &u64::MAX.to_le_bytes());
    refused(&path, ErrorKind::Load, &["model.gguf"]);
    let name = b"blk.0.ffn_up.weight";
    let at = whole.windows(name.len()).position(|w| w == name).unwrap() + name.len();
    with(at, &9u32.to_le_bytes());
    refused(&path, ErrorKind::Load, &["blk.0.ffn_up.weight", "9 dimensions"]);
    with(at + 4, &(1u64 << 62).to_le_bytes());
    refused(&path, ErrorKind::Load, &["blk.0.ffn_up.weight"]);
    with(at + 4 + 16, &99u32.to_le_bytes());
    refused(&path, ErrorKind::Unsupported, &["blk.0.ffn_up.weight", "99", "Q4_K"]);
    with(at + 4 + 16 + 4, &u64::MAX.to_le_bytes());
    refused(&path, ErrorKind::Load, &["blk.0.ffn_up.weight"]);
    with(at + 4 + 16 + 4, &0u64.to_le_bytes());
    refused(&path, ErrorKind::Load, &["overlaps"]);
    with(at - 3, b"xyz");
    refused(&path, ErrorKind::Load, &["blk.0.ffn_up.we"]);
}

#[test]
fn gguf_architectures_and_features_that_are_not_known() {
    let whole = fs::read(golden("gguf/llama-f16.gguf")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let replace = |from: &[u8], to: &[u8]| {
        let at = whole.windows(from.len()).position(|w| w == from).unwrap();
        let mut changed = whole.clone();
        changed[at..at + from.len()].copy_from_slice(to);
        fs::write(&path, changed).unwrap();
    };
    replace(b"\x05\x00\x00\x00\x00\x00\x00\x00llama", b"\x05\x00\x00\x00\x00\x00\x00\x00gemma");
    refused(&path, ErrorKind::Unsupported, &["general.architecture", "gemma", "llama"]);
    replace(b"llama.block_count", b"llama.block_coumt");
    refused(&path, ErrorKind::Load, &["llama.block_count", "absent"]);
    replace(b"smollm", b"smollx");
    let error = Checkpoint::open(&path).unwrap().tokenizer().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("smollx") && error.to_string().contains("smollm"), "{error}");
}

#[test]
fn tokenizers_and_templates_that_are_absent_or_damaged() {
    let dir = copy("tiny/llama-gqa-tied");
    fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    let error = Checkpoint::open(dir.path()).unwrap().tokenizer().unwrap_err();
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Load);
    fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let error = checkpoint.tokenizer().unwrap_err();
    assert_eq!((error.kind(), error.to_string().contains("tokenizer.json")), (ErrorKind::Unsupported, true));
    checkpoint.weights().to_vec::<f32>(phase_model::Role::FinalNorm).unwrap();

    fs::write(dir.path().join("chat_template.jinja"), "{% for x in %}").unwrap();
    let error = Checkpoint::open(dir.path()).unwrap().chat_template().unwrap_err();
    assert!(error.to_string().contains("chat_template.jinja"), "{error}");
    let error = Checkpoint::open(golden("tiny/llama-mqa")).unwrap().chat_template().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn a_tokenizer_larger_than_the_vocabulary_is_noticed() {
    let dir = copy("tiny/llama-gqa-tied");
    edit_json(dir.path().join("tokenizer.json"), |json| {
        let added = json!({"id": 400, "content": "<far>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true});
        json["model"]["vocab"]["<far>"] = json!(400);
        json["added_tokens"].as_array_mut().unwrap().push(added);
    });
    let tokenizer = Checkpoint::open(dir.path()).unwrap().tokenizer().unwrap();
    tokenizer.encode("near").unwrap();
    let error = tokenizer.encode("<far>").unwrap_err();
    assert!(error.to_string().contains("400") && error.to_string().contains("288"), "{error}");
}
