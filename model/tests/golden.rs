//! Against transformers: configurations, dequantised weights, tokenizers and chat templates.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and names why it skips")]

mod common;

use common::{golden, ids, json};
use phase_core::{DType, TokenId};
use phase_model::{
    Activation, Architecture, ChatMessage, Checkpoint, Format, GenerationPrompt, LayerRole, Mlp, Norm, Position, Role, RopeScaling,
};
use serde_json::Value;

const TINY: [&str; 14] = [
    "llama-gqa-tied",
    "llama-mha-untied",
    "llama-mqa",
    "llama3-rope-old",
    "llama3-rope-new",
    "llama-bias",
    "llama-sharded",
    "llama-bf16",
    "llama-f16",
    "mistral-window",
    "qwen2",
    "qwen3",
    "gpt2",
    "gpt2-bare",
];
const GGUF: [&str; 4] = ["llama-f16", "llama-mixed", "llama-q4_1-tied", "llama-k"];

fn tiny(name: &str) -> Checkpoint {
    Checkpoint::open(golden("tiny").join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn gguf(name: &str) -> Checkpoint {
    Checkpoint::open(golden("gguf").join(format!("{name}.gguf"))).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Every role's values as the `f32` bytes hash.
fn hash(checkpoint: &Checkpoint, role: Role) -> String {
    let values = checkpoint.weights().to_vec::<f32>(role).unwrap();
    blake3::hash(bytemuck::cast_slice(&values)).to_hex().to_string()
}

#[test]
fn every_tiny_checkpoint_opens_and_reads() {
    for name in TINY {
        let checkpoint = tiny(name);
        assert_eq!(checkpoint.format(), Format::HuggingFace);
        assert_eq!(checkpoint.config().vocab, 288, "{name}");
        for role in checkpoint.weights().roles() {
            let values = checkpoint.weights().to_vec::<f32>(role).unwrap();
            assert!(values.iter().all(|x| x.is_finite()) && values.iter().any(|x| *x != 0.0), "{name} {role:?}");
        }
    }
}

#[test]
fn configurations_are_resolved() {
    let config = tiny("llama-gqa-tied").config().clone();
    assert_eq!((config.heads, config.kv_heads, config.tied_embeddings), (4, 2, true));
    assert_eq!(config.eos.len(), 2, "generation_config.json lists two");

    let config = tiny("llama-mha-untied").config().clone();
    assert!((config.norm_eps - 0.01).abs() < 1e-12 && !config.tied_embeddings);
    assert_eq!(config.position, tiny("llama-mha-untied").config().position);
    assert!((config.rope().unwrap().theta - 500.0).abs() < 1e-9);

    assert_eq!((tiny("llama-mqa").config().heads, tiny("llama-mqa").config().kv_heads), (3, 1));

    let (old, new) = (tiny("llama3-rope-old"), tiny("llama3-rope-new"));
    assert_eq!(old.config().position, new.config().position);
    assert!(matches!(old.config().rope().unwrap().scaling, RopeScaling::Llama3 { original_context: 16, .. }));
    assert_ne!(old.digest().unwrap(), new.digest().unwrap(), "config.json is part of it");

    let biases = tiny("llama-bias").config().biases;
    assert!(biases.qkv && biases.attention_output && biases.mlp);
    let biases = tiny("qwen2").config().biases;
    assert!(biases.qkv && !biases.attention_output && !biases.mlp);

    assert_eq!(tiny("mistral-window").config().sliding_window, Some(8));
    let config = tiny("qwen3").config().clone();
    assert!(config.qk_norm && config.head_dim == 16 && config.hidden == 40 && config.q_dim() == 64);
    assert_eq!(tiny("llama-bf16").config().declared_dtype, Some(DType::Bf16));

    let config = tiny("gpt2").config().clone();
    assert_eq!(
        (config.norm, config.mlp, config.activation, config.position, config.intermediate),
        (Norm::Layer, Mlp::Plain, Activation::GeluTanh, Position::Learned, 128)
    );
    assert_eq!(tiny("gpt2-bare").config().intermediate, 80);
}

#[test]
fn gpt2_tensors_are_split_and_transposed() {
    let checkpoint = tiny("gpt2");
    let (config, weights) = (checkpoint.config(), checkpoint.weights());
    let bytes = std::fs::read(golden("tiny/gpt2/model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let stored = |name: &str| -> Vec<f32> { floats(file.tensor(name).unwrap().data()) };
    let width = config.hidden;
    let joined = stored("transformer.h.1.attn.c_attn.weight");
    let bias = stored("transformer.h.1.attn.c_attn.bias");
    let parts = [(LayerRole::Q, LayerRole::QBias), (LayerRole::K, LayerRole::KBias), (LayerRole::V, LayerRole::VBias)];
    for (part, (role, bias_role)) in parts.into_iter().enumerate() {
        let values = weights.to_vec::<f32>(Role::Layer(1, role)).unwrap();
        for out in 0..width {
            for input in 0..width {
                assert_eq!(values[out * width + input].to_bits(), joined[input * 3 * width + part * width + out].to_bits());
            }
        }
        let values = weights.to_vec::<f32>(Role::Layer(1, bias_role)).unwrap();
        assert_eq!(values, bias[part * width..][..width]);
        assert!(weights.view(Role::Layer(1, bias_role)).unwrap().is_borrowed(), "a part of a row needs no copy");
    }
    let up = stored("transformer.h.0.mlp.c_fc.weight");
    let mut transposed = vec![0.0f32; up.len()];
    weights.read_transposed(&[Role::Layer(0, LayerRole::Up)], &mut transposed).unwrap();
    assert_eq!(transposed, up, "transposing what was transposed gives the file's own order");
}

#[test]
fn ggufs_dequantise_bit_for_bit() {
    for name in GGUF {
        let checkpoint = gguf(name);
        let expected = json(golden("gguf").join(format!("{name}.json")));
        let weights = checkpoint.weights();
        let mut seen = 0;
        for tensor in expected["tensors"].as_array().unwrap() {
            let stored = tensor["name"].as_str().unwrap();
            let role = weights.roles().find(|role| weights.name(*role).unwrap() == stored).unwrap();
            assert_eq!(weights.stored_type(role).unwrap().as_str(), tensor["type"].as_str().unwrap());
            assert_eq!(hash(&checkpoint, role), tensor["hf_blake3"].as_str().unwrap(), "{name} {stored} in rows of Hugging Face");
            let values = weights.to_vec::<f32>(role).unwrap();
            if tensor["blake3"] == tensor["hf_blake3"] {
                let bits: Vec<u32> = values.iter().map(|x| x.to_bits()).collect();
                assert!(bits.starts_with(&ids(&tensor["first_bits"])) && bits.ends_with(&ids(&tensor["last_bits"])));
            }
            seen += 1;
        }
        assert_eq!(seen, weights.roles().len(), "{name}");
    }
}

#[test]
fn gguf_configurations_agree_with_their_description() {
    for name in GGUF {
        let checkpoint = gguf(name);
        let expected = &json(golden("gguf").join(format!("{name}.json")))["config"];
        let config = checkpoint.config();
        let found = [
            ("layers", config.layers),
            ("hidden", config.hidden),
            ("ffn", config.intermediate),
            ("heads", config.heads),
            ("kv_heads", config.kv_heads),
            ("head_dim", config.head_dim),
            ("vocab", config.vocab),
            ("context", config.max_context),
        ];
        for (key, found) in found {
            assert_eq!(Some(found as u64), expected[key].as_u64(), "{name} {key}");
        }
        assert_eq!(Some(config.tied_embeddings), expected["tied"].as_bool());
        assert_eq!(Some(config.rope().unwrap().theta), expected["rope_theta"].as_f64());
        assert!((config.norm_eps - expected["rms_norm_eps"].as_f64().unwrap()).abs() < 1e-12);
    }
}

#[test]
fn f16_gguf_has_the_weights_of_the_folder_it_was_made_from() {
    let (file, folder) = (gguf("llama-f16"), tiny("llama-f16"));
    for role in folder.weights().roles() {
        assert_eq!(hash(&file, role), hash(&folder, role), "{role:?}");
    }
}

#[test]
fn blocks_are_the_rows_in_logical_order() {
    let checkpoint = gguf("llama-mixed");
    let weights = checkpoint.weights();
    for role in weights.roles() {
        let Some(blocks) = weights.blocks(role).unwrap() else { continue };
        let stored = blocks.stored_type();
        let [rows, columns] = *blocks.shape() else { panic!("matrices only") };
        let row_bytes = columns / stored.block_elements() * stored.block_bytes();
        assert_eq!(blocks.bytes().len(), rows * row_bytes);
        let candle_type = match stored.as_str() {
            "Q4_0" => candle_core::quantized::GgmlDType::Q4_0,
            "Q4_1" => candle_core::quantized::GgmlDType::Q4_1,
            "Q5_0" => candle_core::quantized::GgmlDType::Q5_0,
            "Q5_1" => candle_core::quantized::GgmlDType::Q5_1,
            _ => candle_core::quantized::GgmlDType::Q8_0,
        };
        let device = candle_core::Device::Cpu;
        let shape = vec![rows, columns];
        let tensor = candle_core::quantized::ggml_file::qtensor_from_ggml(candle_type, blocks.bytes(), shape, &device).unwrap();
        let values = tensor.dequantize(&device).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values, weights.to_vec::<f32>(role).unwrap(), "{role:?}");
    }
}

#[test]
fn tokenizers_give_the_reference_ids() {
    let folder = tiny("llama-gqa-tied");
    check_tokenizer(&folder, "gguf/tokenizer.json");
    for name in GGUF {
        check_tokenizer(&gguf(name), "gguf/tokenizer.json");
    }
}

fn check_tokenizer(checkpoint: &Checkpoint, reference: &str) {
    let tokenizer = checkpoint.tokenizer().unwrap();
    let reference = json(golden(reference));
    for case in reference["encode"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let tokens = tokenizer.encode_rendered(text).unwrap();
        assert_eq!(tokens, ids(&case["ids"]).into_iter().map(TokenId).collect::<Vec<_>>(), "{text:?}");
        assert_eq!(tokenizer.decode_with_special(&tokens).unwrap(), case["decoded"].as_str().unwrap());
        if let Some(plain) = case["decoded_without_special"].as_str() {
            assert_eq!(tokenizer.decode(&tokens).unwrap(), plain);
        }
        let mut stream = tokenizer.stream();
        let mut streamed = String::new();
        for token in &tokens {
            streamed.extend(stream.push(*token).unwrap());
        }
        streamed.extend(stream.finish().unwrap());
        assert_eq!(streamed, tokenizer.decode(&tokens).unwrap(), "{text:?}, token by token");
    }
    let template = checkpoint.chat_template().unwrap();
    for case in reference["chat"].as_array().unwrap() {
        let messages: Vec<ChatMessage> = serde_json::from_value(case["messages"].clone()).unwrap();
        let prompt = if case["add_generation_prompt"] == Value::Bool(true) { GenerationPrompt::Add } else { GenerationPrompt::Omit };
        let text = template.render(&messages, prompt).unwrap();
        assert_eq!(text, case["text"].as_str().unwrap());
        let tokens = tokenizer.encode_rendered(&text).unwrap();
        assert_eq!(tokens.iter().map(|t| t.0).collect::<Vec<_>>(), ids(&case["ids"]));
    }
}

#[test]
fn smollm2_tokenizer_gives_the_reference_ids() {
    let Some(path) = test_model() else { return };
    check_tokenizer(&Checkpoint::open(path).unwrap(), "smollm2/tokenizer.json");
}

#[test]
fn smollm2_is_described_correctly() {
    let Some(path) = test_model() else { return };
    let checkpoint = Checkpoint::open(path).unwrap();
    let config = checkpoint.config();
    assert_eq!(config.architecture, Architecture::Llama);
    assert_eq!((config.layers, config.hidden, config.intermediate, config.heads, config.kv_heads), (30, 576, 1536, 9, 3));
    assert_eq!((config.vocab, config.max_context, config.tied_embeddings), (49_152, 8192, true));
    assert_eq!(config.parameters(), 134_515_008);
    assert_eq!((config.bos, config.eos.as_slice()), (Some(TokenId(1)), [TokenId(2)].as_slice()));
    assert_eq!(checkpoint.tokenizer().unwrap().token_id("<|im_end|>"), Some(TokenId(2)));
}

/// The path in `PHASE_TEST_MODEL`: SmolLM2-135M-Instruct as a GGUF file or a Hugging Face folder.
#[expect(clippy::disallowed_methods, reason = "tests are configured by the environment")]
fn test_model() -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PHASE_TEST_MODEL");
    if path.is_none() {
        println!("skipped: PHASE_TEST_MODEL does not name a SmolLM2-135M-Instruct checkpoint");
    }
    path.map(Into::into)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}
