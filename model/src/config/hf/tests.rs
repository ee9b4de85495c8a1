use std::path::Path;

use serde_json::json;

use super::*;

fn llama() -> Value {
    json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 256, "hidden_size": 64,
        "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "hidden_act": "silu",
    })
}

fn parse(base: Value, changes: Value) -> Result<ModelConfig, ModelError> {
    let mut config = base;
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    from_hf(Path::new("config.json"), &config, None, None)
}

#[track_caller]
fn refused(base: Value, changes: Value, needle: &str) {
    let shown = changes.to_string();
    let error = parse(base, changes).expect_err(&shown).to_string();
    assert!(error.contains(needle) && error.contains("config.json"), "{shown}: {error}");
}

#[test]
fn both_spellings_of_rope_agree() {
    let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64});
    let old = parse(llama(), json!({"rope_theta": 5e5, "rope_scaling": scaling})).unwrap();
    let mut parameters = scaling;
    parameters["rope_theta"] = json!(5e5);
    let new = parse(llama(), json!({"rope_parameters": parameters})).unwrap();
    assert_eq!(old.position, new.position);
    assert!(old.rope().unwrap().theta.total_cmp(&5e5).is_eq());
    assert_eq!(
        parse(llama(), json!({"rope_scaling": {"type": "linear", "factor": 2.0}})).unwrap().rope().unwrap().scaling,
        RopeScaling::Linear { factor: 2.0 }
    );
    let absent = parse(llama(), json!({})).unwrap();
    assert_eq!(absent.position, Position::Rope(Rope { theta: 10_000.0, scaling: RopeScaling::Default }));
}

#[test]
fn contradicting_rope_is_refused() {
    refused(llama(), json!({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e5, "rope_type": "default"}}), "rope_theta");
    refused(
        llama(),
        json!({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_type": "default"}}),
        "rope_scaling",
    );
}

#[test]
fn what_is_not_implemented_is_refused() {
    for kind in ["yarn", "dynamic", "longrope", "su", "mrope"] {
        refused(llama(), json!({"rope_scaling": {"rope_type": kind, "factor": 2.0}}), kind);
    }
    refused(llama(), json!({"rope_scaling": {"factor": 2.0}}), "rope_type");
    refused(llama(), json!({"rope_scaling": {"type": "linear", "factor": 0.5}}), "factor");
    refused(llama(), json!({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}), "partial_rotary_factor");
    refused(llama(), json!({"model_type": "mamba"}), "gpt2, llama, mistral, qwen2, qwen3");
    refused(llama(), json!({"architectures": ["LlamaForSequenceClassification"]}), "LlamaForCausalLM");
    refused(llama(), json!({"hidden_act": "quick_gelu"}), "quick_gelu");
    refused(llama(), json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor");
    refused(llama(), json!({"quantization_config": {"quant_method": "gptq"}}), "quantization_config");
    refused(llama(), json!({"attn_logit_softcapping": 50.0}), "attn_logit_softcapping");
    refused(llama(), json!({"num_local_experts": 8}), "num_local_experts");
    let qwen = json!({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]});
    let mut sliding = qwen.clone();
    sliding["use_sliding_window"] = json!(true);
    sliding["sliding_window"] = json!(32);
    sliding["max_window_layers"] = json!(1);
    refused(llama(), sliding.clone(), "use_sliding_window");
    sliding["max_window_layers"] = json!(2);
    assert_eq!(parse(llama(), sliding.clone()).unwrap().sliding_window, None);
    sliding["max_window_layers"] = json!(0);
    assert_eq!(parse(llama(), sliding).unwrap().sliding_window, Some(32));
}

#[test]
fn gpt2_variants_are_refused() {
    let gpt2 = json!({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 256, "n_embd": 64,
        "n_layer": 2, "n_head": 4, "n_positions": 128});
    let config = parse(gpt2.clone(), json!({})).unwrap();
    assert_eq!((config.intermediate, config.activation, config.tied_embeddings), (256, Activation::GeluTanh, true));
    refused(gpt2.clone(), json!({"scale_attn_by_inverse_layer_idx": true}), "scale_attn_by_inverse_layer_idx");
    refused(gpt2.clone(), json!({"scale_attn_weights": false}), "scale_attn_weights");
    refused(gpt2.clone(), json!({"add_cross_attention": true}), "add_cross_attention");
    refused(gpt2, json!({"n_head": 5}), "n_head");
}

#[test]
fn numbers_out_of_range_are_refused() {
    for (key, value) in [
        ("hidden_size", json!(0)),
        ("hidden_size", json!(-1)),
        ("hidden_size", json!("64")),
        ("hidden_size", json!(1.5)),
        ("hidden_size", json!(u64::MAX)),
        ("hidden_size", Value::Null),
        ("num_hidden_layers", json!(1u64 << 40)),
        ("num_attention_heads", json!(5)),
        ("num_key_value_heads", json!(3)),
        ("head_dim", json!(15)),
        ("rms_norm_eps", json!(0.0)),
        ("rms_norm_eps", json!("small")),
        ("rope_theta", json!(-1.0)),
        ("tie_word_embeddings", json!("yes")),
        ("eos_token_id", json!("</s>")),
    ] {
        refused(llama(), json!({key: value}), key);
    }
}

#[test]
fn windows_follow_the_family() {
    let mistral = |window| json!({"model_type": "mistral", "architectures": null, "sliding_window": window});
    assert_eq!(parse(llama(), mistral(json!(16))).unwrap().sliding_window, Some(16));
    assert_eq!(parse(llama(), mistral(Value::Null)).unwrap().sliding_window, None);
    assert_eq!(parse(llama(), mistral(json!(128))).unwrap().sliding_window, None, "as wide as the context");
    assert_eq!(parse(llama(), json!({"sliding_window": 16})).unwrap().sliding_window, None, "Llama has none");
}

#[test]
fn ends_of_text_are_joined() {
    let generation = json!({"eos_token_id": [7, 9]});
    let tokenizer = json!({"eos_token": {"content": "<end>"}, "added_tokens_decoder": {"11": {"content": "<end>"}}});
    let mut config = llama();
    config["eos_token_id"] = json!(9);
    config["bos_token_id"] = json!(1000);
    let config = from_hf(Path::new("config.json"), &config, Some(&generation), Some(&tokenizer)).unwrap();
    assert_eq!(config.eos, [7, 9, 11].map(TokenId));
    assert_eq!(config.bos, None, "an id outside of the vocabulary is no token");
}
