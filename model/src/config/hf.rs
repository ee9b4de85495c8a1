//! `config.json` of a Hugging Face folder. A key that would change the result and is not implemented is an error.

use std::path::Path;

use phase_core::{DType, TokenId};
use serde_json::Value;

use super::{Activation, Architecture, Biases, Mlp, ModelConfig, Norm, Position, Rope, RopeScaling, keys::Keys};
use crate::ModelError;

/// Most elements of a width (hidden, intermediate, heads): keeps products far from overflow.
pub(super) const MAX_WIDTH: usize = 1 << 24;
pub(super) const MAX_LAYERS: usize = 1 << 12;
pub(super) const MAX_ENTRIES: usize = 1 << 28;

/// Reads one JSON file.
pub(crate) fn read_json(path: &Path) -> Result<Value, ModelError> {
    let bytes = std::fs::read(path).map_err(ModelError::io("read", path))?;
    serde_json::from_slice(&bytes).map_err(ModelError::json(path))
}

/// Resolves `config.json`. The other two files are optional sources of token ids that end a text.
pub(crate) fn from_hf(
    path: &Path,
    config: &Value,
    generation: Option<&Value>,
    tokenizer: Option<&Value>,
) -> Result<ModelConfig, ModelError> {
    let keys = Keys::new(path, config)?;
    let architecture = architecture(&keys)?;
    refuse_unknown_features(&keys)?;
    let mut config = match architecture {
        Architecture::Gpt2 => gpt2(&keys)?,
        _ => llama_family(&keys, architecture)?,
    };
    config.declared_dtype = declared_dtype(&keys)?;
    config.bos = token_ids(&keys, "bos_token_id")?.first().copied().filter(|id| fits(*id, config.vocab));
    let mut eos = Vec::new();
    if let Some(generation) = generation {
        eos.extend(token_ids(&Keys::new(path, generation)?, "eos_token_id")?);
    }
    eos.extend(token_ids(&keys, "eos_token_id")?);
    eos.extend(tokenizer.and_then(eos_of_tokenizer_config));
    for id in eos {
        if fits(id, config.vocab) && !config.eos.contains(&id) {
            config.eos.push(id);
        }
    }
    Ok(config)
}

fn architecture(keys: &Keys<'_>) -> Result<Architecture, ModelError> {
    let known = Architecture::ALL.map(Architecture::as_str).join(", ");
    let Some(name) = keys.text("model_type")? else {
        return Err(keys.wrong("model_type", &format!("one of {known}")));
    };
    let found = Architecture::from_name(name).ok_or_else(|| keys.unsupported("model_type", &known))?;
    if let Some(classes) = keys.value("architectures") {
        let class = found.class();
        if !classes.as_array().is_some_and(|list| list.iter().any(|c| c == class)) {
            return Err(keys.unsupported("architectures", class));
        }
    }
    Ok(found)
}

/// Keys whose value must be one of the neutral ones: any other would change the result.
fn refuse_unknown_features(keys: &Keys<'_>) -> Result<(), ModelError> {
    const OFF: &[&str] = &[
        "quantization_config",
        "auto_map",
        "add_cross_attention",
        "alibi",
        "attention_chunk_size",
        "attention_multiplier",
        "attn_logit_softcapping",
        "cross_attention_layers",
        "final_logit_softcapping",
        "is_encoder_decoder",
        "kv_lora_rank",
        "logit_softcapping",
        "moe_intermediate_size",
        "n_routed_experts",
        "no_rope_layer_interval",
        "no_rope_layers",
        "num_experts",
        "num_local_experts",
        "parallel_attn",
        "pruned_heads",
        "qk_layernorm",
        "query_pre_attn_scalar",
        "rope_interleave",
        "rope_interleaved",
        "router_logits",
        "scale_attn_by_inverse_layer_idx",
        "sliding_window_pattern",
        "text_config",
        "use_mrope",
        "use_parallel_residual",
        "use_qk_norm",
        "vision_config",
    ];
    const ONE: &[&str] = &[
        "embedding_multiplier",
        "logit_scale",
        "logits_scaling",
        "partial_rotary_factor",
        "residual_multiplier",
        "rope_pct",
        "rotary_pct",
    ];
    for key in OFF {
        if let Some(value) = keys.value(key) {
            let off = match value {
                Value::Bool(on) => !on,
                Value::Number(n) => n.as_f64() == Some(0.0),
                Value::Array(a) => a.is_empty(),
                Value::Object(o) => o.is_empty(),
                _ => false,
            };
            if !off {
                return Err(keys.unsupported(key, "absent, null or off"));
            }
        }
    }
    for key in ONE {
        if keys.number(key)?.is_some_and(|x| (x - 1.0).abs() > 0.0) {
            return Err(keys.unsupported(key, "absent or 1"));
        }
    }
    if keys.flag("scale_attn_weights")? == Some(false) {
        return Err(keys.unsupported("scale_attn_weights", "absent or true"));
    }
    if keys.text("position_embedding_type")?.is_some_and(|kind| kind != "absolute") {
        return Err(keys.unsupported("position_embedding_type", "absent or `absolute`"));
    }
    Ok(())
}

fn llama_family(keys: &Keys<'_>, architecture: Architecture) -> Result<ModelConfig, ModelError> {
    let hidden = keys.need(&["hidden_size"], MAX_WIDTH)?;
    let heads = keys.need(&["num_attention_heads"], hidden)?;
    let kv_heads = keys.count("num_key_value_heads", heads)?.unwrap_or(heads);
    let head_dim = match keys.count("head_dim", MAX_WIDTH / heads)? {
        Some(explicit) => explicit,
        None if architecture == Architecture::Qwen3 => 128,
        None => hidden / heads,
    };
    let attention_bias = keys.flag("attention_bias")?.unwrap_or(false);
    let (qkv, attention_output, mlp) = match architecture {
        Architecture::Llama => (attention_bias, attention_bias, keys.flag("mlp_bias")?.unwrap_or(false)),
        Architecture::Qwen2 => (true, false, false),
        Architecture::Qwen3 => (attention_bias, attention_bias, false),
        Architecture::Mistral | Architecture::Gpt2 => (false, false, false),
    };
    let layers = keys.need(&["num_hidden_layers"], MAX_LAYERS)?;
    let max_context = keys.need(&["max_position_embeddings"], MAX_ENTRIES)?;
    let config = ModelConfig {
        architecture,
        vocab: keys.need(&["vocab_size"], MAX_ENTRIES)?,
        hidden,
        intermediate: keys.need(&["intermediate_size"], MAX_WIDTH)?,
        layers,
        heads,
        kv_heads,
        head_dim,
        max_context,
        norm: Norm::Rms,
        norm_eps: keys.positive("rms_norm_eps")?.unwrap_or(1e-6),
        activation: activation(keys, "hidden_act", Activation::Silu)?,
        mlp: Mlp::Gated,
        position: Position::Rope(rope(keys)?),
        biases: Biases { qkv, attention_output, mlp },
        qk_norm: architecture == Architecture::Qwen3,
        sliding_window: sliding_window(keys, architecture, layers)?.filter(|w| *w < max_context),
        tied_embeddings: keys.flag("tie_word_embeddings")?.unwrap_or(false),
        declared_dtype: None,
        bos: None,
        eos: Vec::new(),
    };
    if head_dim_is_guessed(keys, architecture) && hidden % heads != 0 {
        return Err(keys.wrong("num_attention_heads", &format!("a divisor of hidden_size = {hidden}")));
    }
    check_heads(keys, &config, "num_key_value_heads")?;
    Ok(config)
}

fn head_dim_is_guessed(keys: &Keys<'_>, architecture: Architecture) -> bool {
    keys.value("head_dim").is_none() && architecture != Architecture::Qwen3
}

fn gpt2(keys: &Keys<'_>) -> Result<ModelConfig, ModelError> {
    let hidden = keys.need(&["n_embd", "hidden_size"], MAX_WIDTH)?;
    let heads = keys.need(&["n_head", "num_attention_heads"], hidden)?;
    if hidden % heads != 0 {
        return Err(keys.wrong("n_head", &format!("a divisor of n_embd = {hidden}")));
    }
    let inner = keys.first(&["n_inner", "intermediate_size"]);
    let intermediate = match inner {
        Some(key) => keys.need(&[key], MAX_WIDTH)?,
        None => 4 * hidden,
    };
    Ok(ModelConfig {
        architecture: Architecture::Gpt2,
        vocab: keys.need(&["vocab_size"], MAX_ENTRIES)?,
        hidden,
        intermediate,
        layers: keys.need(&["n_layer", "num_hidden_layers"], MAX_LAYERS)?,
        heads,
        kv_heads: heads,
        head_dim: hidden / heads,
        max_context: keys.need(&["n_positions", "max_position_embeddings"], MAX_ENTRIES)?,
        norm: Norm::Layer,
        norm_eps: keys.positive("layer_norm_epsilon")?.unwrap_or(1e-5),
        activation: activation(keys, "activation_function", Activation::GeluTanh)?,
        mlp: Mlp::Plain,
        position: Position::Learned,
        biases: Biases { qkv: true, attention_output: true, mlp: true },
        qk_norm: false,
        sliding_window: None,
        tied_embeddings: keys.flag("tie_word_embeddings")?.unwrap_or(true),
        declared_dtype: None,
        bos: None,
        eos: Vec::new(),
    })
}

pub(super) fn check_heads(keys: &Keys<'_>, config: &ModelConfig, key: &str) -> Result<(), ModelError> {
    if !config.heads.is_multiple_of(config.kv_heads) {
        return Err(keys.wrong(key, &format!("a divisor of the {} query heads", config.heads)));
    }
    if config.rope().is_some() && !config.head_dim.is_multiple_of(2) {
        return Err(keys.wrong("head_dim", "an even number, for the rotary embedding"));
    }
    Ok(())
}

fn activation(keys: &Keys<'_>, key: &str, default: Activation) -> Result<Activation, ModelError> {
    Ok(match keys.text(key)? {
        None => default,
        Some("silu" | "swish") => Activation::Silu,
        Some("gelu" | "gelu_python") => Activation::Gelu,
        Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_accurate") => Activation::GeluTanh,
        Some("relu") => Activation::Relu,
        Some(_) => return Err(keys.unsupported(key, "silu, gelu, gelu_new, gelu_pytorch_tanh, relu")),
    })
}

/// Reads both spellings: `rope_theta` with `rope_scaling`, and `rope_parameters`. Where both are given they must agree.
fn rope(keys: &Keys<'_>) -> Result<Rope, ModelError> {
    const DEFAULT_THETA: f64 = 10_000.0;
    let old_theta = keys.positive("rope_theta")?;
    let old_scaling = keys.object("rope_scaling")?;
    let new = keys.object("rope_parameters")?;
    let theta_of = |scope: &Option<Keys<'_>>| scope.as_ref().map_or(Ok(None), |s| s.positive("rope_theta"));
    let thetas = [old_theta, theta_of(&new)?, theta_of(&old_scaling)?];
    let theta = thetas.iter().flatten().next().copied().unwrap_or(DEFAULT_THETA);
    if thetas.iter().flatten().any(|t| t.total_cmp(&theta).is_ne()) {
        return Err(keys.wrong("rope_theta", "the same value in every place where it is given"));
    }
    let old = old_scaling.as_ref().map(|scope| scaling(keys, scope)).transpose()?;
    let new = new.as_ref().map(|scope| scaling(keys, scope)).transpose()?;
    let scaling = match (old, new) {
        (Some(old), Some(new)) if old != new => {
            return Err(keys.wrong("rope_scaling", "what `rope_parameters` says"));
        }
        (old, new) => new.or(old).unwrap_or(RopeScaling::Default),
    };
    Ok(Rope { theta, scaling })
}

fn scaling(keys: &Keys<'_>, scope: &Keys<'_>) -> Result<RopeScaling, ModelError> {
    const KINDS: &str = "default, linear, llama3";
    if scope.number("partial_rotary_factor")?.is_some_and(|x| (x - 1.0).abs() > 0.0) {
        return Err(scope.unsupported("partial_rotary_factor", "absent or 1"));
    }
    if scope.value("mrope_section").is_some() {
        return Err(scope.unsupported("mrope_section", "absent"));
    }
    let need = |key: &str| scope.positive(key)?.ok_or_else(|| scope.wrong(key, "a number above 0"));
    let factor = || match need("factor")? {
        below if below < 1.0 => Err(scope.wrong("factor", "a number of at least 1")),
        factor => Ok(factor),
    };
    let key = scope.first(&["rope_type", "type"]).unwrap_or("rope_type");
    match scope.text(key)? {
        Some("default") => Ok(RopeScaling::Default),
        Some("linear") => Ok(RopeScaling::Linear { factor: factor()? }),
        Some("llama3") => {
            let original = "original_max_position_embeddings";
            let original_context = match scope.count(original, MAX_ENTRIES)? {
                Some(n) => n,
                None => keys.count(original, MAX_ENTRIES)?.ok_or_else(|| scope.wrong(original, "an integer"))?,
            };
            let (low_freq_factor, high_freq_factor) = (need("low_freq_factor")?, need("high_freq_factor")?);
            if low_freq_factor >= high_freq_factor {
                return Err(scope.wrong("low_freq_factor", "a number below high_freq_factor"));
            }
            Ok(RopeScaling::Llama3 { factor: factor()?, low_freq_factor, high_freq_factor, original_context })
        }
        Some(_) => Err(scope.unsupported(key, KINDS)),
        // transformers 5 leaves the type out of `rope_parameters` when it is the default one.
        None if scope.value("factor").is_none() => Ok(RopeScaling::Default),
        None => Err(scope.wrong("rope_type", KINDS)),
    }
}

fn sliding_window(keys: &Keys<'_>, architecture: Architecture, layers: usize) -> Result<Option<usize>, ModelError> {
    const MISTRAL_DEFAULT: usize = 4096;
    let window = keys.count("sliding_window", MAX_ENTRIES)?;
    match architecture {
        Architecture::Gpt2 | Architecture::Llama => Ok(None),
        // An explicit null switches the window off; an absent key is the family's default.
        Architecture::Mistral if keys.has("sliding_window") => Ok(window),
        Architecture::Mistral => Ok(Some(MISTRAL_DEFAULT)),
        Architecture::Qwen2 | Architecture::Qwen3 => {
            if !keys.flag("use_sliding_window")?.unwrap_or(false) {
                return Ok(None);
            }
            let Some(window) = window else { return Ok(None) };
            let slides: Vec<bool> = match keys.value("layer_types").and_then(Value::as_array) {
                Some(types) => types.iter().map(|kind| kind == "sliding_attention").collect(),
                None => {
                    let first = keys.number("max_window_layers")?.unwrap_or(28.0);
                    (0..layers).map(|layer| layer as f64 >= first).collect()
                }
            };
            match (slides.iter().all(|s| *s), slides.iter().any(|s| *s)) {
                (true, true) => Ok(Some(window)),
                (_, false) => Ok(None),
                _ => Err(keys.unsupported("use_sliding_window", "the same window in all layers, or in none")),
            }
        }
    }
}

fn declared_dtype(keys: &Keys<'_>) -> Result<Option<DType>, ModelError> {
    let key = keys.first(&["dtype", "torch_dtype"]).unwrap_or("dtype");
    Ok(match keys.text(key)?.map(|text| text.trim_start_matches("torch.")) {
        Some("float32") => Some(DType::F32),
        Some("float16") => Some(DType::F16),
        Some("bfloat16") => Some(DType::Bf16),
        _ => None,
    })
}

/// One id or a list of them.
fn token_ids(keys: &Keys<'_>, key: &str) -> Result<Vec<TokenId>, ModelError> {
    let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok()).map(TokenId);
    let ids = match keys.value(key) {
        None => Some(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(id).collect(),
        Some(one) => id(one).map(|id| vec![id]),
    };
    ids.ok_or_else(|| keys.wrong(key, "a token id or a list of them"))
}

fn fits(id: TokenId, vocab: usize) -> bool {
    (id.0 as usize) < vocab
}

/// The id of `eos_token`, where `tokenizer_config.json` lists its added tokens.
fn eos_of_tokenizer_config(config: &Value) -> Option<TokenId> {
    let eos = config.get("eos_token")?;
    let text = eos.as_str().or_else(|| eos.get("content")?.as_str())?;
    let added = config.get("added_tokens_decoder")?.as_object()?;
    let (id, _) = added.iter().find(|(_, token)| token.get("content").is_some_and(|c| c == text))?;
    id.parse().ok().map(TokenId)
}

#[cfg(test)]
mod tests;
