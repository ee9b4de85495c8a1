//! The configuration that GGUF metadata describes. What is not implemented is an error, as for `config.json`.

use std::{collections::BTreeMap, path::Path};

use phase_core::TokenId;

use super::{
    Activation, Architecture, Biases, Mlp, ModelConfig, Norm, Position, Rope, RopeScaling,
    hf::{MAX_ENTRIES, MAX_LAYERS, MAX_WIDTH},
};
use crate::{ModelError, gguf::Value};

/// A GGUF file's metadata with typed access under its architecture's prefix.
struct Metadata<'a> {
    path: &'a Path,
    map: &'a BTreeMap<String, Value>,
    prefix: &'a str,
}

/// What the tensor list, not the metadata, tells about a model.
#[derive(Clone, Debug, Default)]
pub(crate) struct TensorFacts {
    /// Rows of the token embedding.
    pub(crate) vocab: usize,
    /// Whether there is an output layer of its own.
    pub(crate) untied: bool,
    /// Biases present in the first layer.
    pub(crate) biases: Biases,
    /// Divisors of the rotary frequencies (`rope_freqs.weight`), where the file has them.
    pub(crate) rope_factors: Option<Vec<f32>>,
}

/// Resolves the metadata of a GGUF file.
pub(crate) fn from_metadata(path: &Path, map: &BTreeMap<String, Value>, facts: TensorFacts) -> Result<ModelConfig, ModelError> {
    let architecture = architecture(path, map)?;
    let keys = Metadata { path, map, prefix: architecture.as_str() };
    keys.refuse_unknown_features()?;
    let hidden = keys.need("embedding_length", MAX_WIDTH)?;
    let heads = keys.need("attention.head_count", hidden)?;
    let kv_heads = keys.count("attention.head_count_kv", heads)?.unwrap_or(heads);
    let head_dim = match keys.count("attention.key_length", MAX_WIDTH / heads)? {
        Some(explicit) => explicit,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => return Err(keys.wrong("attention.head_count", format!("a divisor of {hidden}"))),
    };
    keys.must_equal("attention.value_length", head_dim)?;
    keys.must_equal("vocab_size", facts.vocab)?;
    let gpt2 = architecture == Architecture::Gpt2;
    let eps = if gpt2 { "attention.layer_norm_epsilon" } else { "attention.layer_norm_rms_epsilon" };
    let max_context = keys.need("context_length", MAX_ENTRIES)?;
    let config = ModelConfig {
        architecture,
        vocab: facts.vocab,
        hidden,
        intermediate: keys.need("feed_forward_length", MAX_WIDTH)?,
        layers: keys.need("block_count", MAX_LAYERS)?,
        heads,
        kv_heads,
        head_dim,
        max_context,
        norm: if gpt2 { Norm::Layer } else { Norm::Rms },
        norm_eps: keys.positive(eps)?.ok_or_else(|| keys.wrong(eps, "a number above 0".to_owned()))?,
        activation: if gpt2 { Activation::GeluTanh } else { Activation::Silu },
        mlp: if gpt2 { Mlp::Plain } else { Mlp::Gated },
        position: if gpt2 { Position::Learned } else { Position::Rope(keys.rope(head_dim, facts.rope_factors)?) },
        biases: if gpt2 { Biases { qkv: true, attention_output: true, mlp: true } } else { facts.biases },
        qk_norm: architecture == Architecture::Qwen3,
        sliding_window: None,
        tied_embeddings: !facts.untied,
        declared_dtype: None,
        bos: keys.token("tokenizer.ggml.bos_token_id", facts.vocab),
        eos: keys.eos(facts.vocab),
    };
    if !heads.is_multiple_of(kv_heads) {
        return Err(keys.wrong("attention.head_count_kv", format!("a divisor of the {heads} query heads")));
    }
    if config.rope().is_some() && !head_dim.is_multiple_of(2) {
        return Err(keys.wrong("attention.key_length", "an even number".to_owned()));
    }
    Ok(config)
}

fn architecture(path: &Path, map: &BTreeMap<String, Value>) -> Result<Architecture, ModelError> {
    const KEY: &str = "general.architecture";
    // Mistral's files say llama.
    const KNOWN: &str = "gpt2, llama, qwen2, qwen3";
    match map.get(KEY).map(|v| (v, v.text())) {
        Some((value, Some(name))) => {
            let found = Architecture::from_name(name).filter(|found| *found != Architecture::Mistral);
            found.ok_or_else(|| ModelError::unsupported(path, KEY, value.shown(), KNOWN))
        }
        Some((value, None)) => Err(ModelError::config(path, KEY, value.shown(), format!("one of {KNOWN}"))),
        None => Err(ModelError::config(path, KEY, "absent", format!("one of {KNOWN}"))),
    }
}

impl Metadata<'_> {
    /// Keys under the architecture's prefix whose value must be neutral: any other would change the result.
    fn refuse_unknown_features(&self) -> Result<(), ModelError> {
        const ZERO: &[&str] = &["expert_count", "attention.sliding_window", "attn_logit_softcapping", "final_logit_softcapping"];
        const ONE: &[&str] = &["logit_scale", "embedding_scale", "residual_scale"];
        for key in ZERO {
            if self.value(key).is_some_and(|v| v.unsigned() != Some(0) && v.float() != Some(0.0)) {
                return Err(self.unsupported(key, "absent or 0"));
            }
        }
        for key in ONE {
            if self.value(key).is_some_and(|v| v.float() != Some(1.0)) {
                return Err(self.unsupported(key, "absent or 1"));
            }
        }
        if self.value("attention.scale").is_some() {
            return Err(self.unsupported("attention.scale", "absent"));
        }
        if self.value("attention.causal").is_some_and(|v| v.flag() != Some(true)) {
            return Err(self.unsupported("attention.causal", "absent or true"));
        }
        if self.value("use_parallel_residual").is_some_and(|v| v.flag() != Some(false)) {
            return Err(self.unsupported("use_parallel_residual", "absent or false"));
        }
        Ok(())
    }

    fn rope(&self, head_dim: usize, factors: Option<Vec<f32>>) -> Result<Rope, ModelError> {
        const DEFAULT_THETA: f64 = 10_000.0;
        self.must_equal("rope.dimension_count", head_dim)?;
        let theta = self.positive("rope.freq_base")?.unwrap_or(DEFAULT_THETA);
        let factor = match self.positive("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.positive("rope.scale_linear")?,
        };
        let kind = self.value("rope.scaling.type").map(|v| v.text().unwrap_or_default());
        let linear = match (kind, factor) {
            (None, factor) | (Some("linear"), factor) => factor.filter(|f| (f - 1.0).abs() > 0.0),
            (Some("none"), _) => None,
            _ => return Err(self.unsupported("rope.scaling.type", "none, linear")),
        };
        if let Some(factors) = &factors
            && (factors.len() != head_dim / 2 || !factors.iter().all(|f| f.is_finite() && *f > 0.0))
        {
            let reason = format!("tensor `rope_freqs.weight` has {} elements, expected {} positive ones", factors.len(), head_dim / 2);
            return Err(ModelError::damaged(self.path, reason));
        }
        let scaling = match (linear, factors) {
            (None, None) => RopeScaling::Default,
            (Some(factor), None) => RopeScaling::Linear { factor },
            (None, Some(factors)) => RopeScaling::Factors(factors),
            (Some(_), Some(_)) => return Err(self.unsupported("rope.scaling.factor", "absent beside rope_freqs.weight")),
        };
        Ok(Rope { theta, scaling })
    }

    fn eos(&self, vocab: usize) -> Vec<TokenId> {
        let keys = ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];
        let mut ids: Vec<TokenId> = Vec::new();
        for id in keys.into_iter().filter_map(|key| self.token(key, vocab)) {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }

    fn token(&self, key: &str, vocab: usize) -> Option<TokenId> {
        let id = self.map.get(key)?.unsigned().and_then(|id| u32::try_from(id).ok())?;
        ((id as usize) < vocab).then_some(TokenId(id))
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.map.get(&self.name(key))
    }

    fn need(&self, key: &str, max: usize) -> Result<usize, ModelError> {
        self.count(key, max)?.ok_or_else(|| self.wrong(key, format!("an integer in 1..={max}")))
    }

    fn count(&self, key: &str, max: usize) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let n = value.unsigned().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=max).contains(n));
        n.map(Some).ok_or_else(|| self.wrong(key, format!("an integer in 1..={max}")))
    }

    fn positive(&self, key: &str) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let x = value.float().filter(|x| x.is_finite() && *x > 0.0);
        x.map(Some).ok_or_else(|| self.wrong(key, "a number above 0".to_owned()))
    }

    fn must_equal(&self, key: &str, expected: usize) -> Result<(), ModelError> {
        match self.value(key) {
            Some(value) if value.unsigned() != Some(expected as u64) => Err(self.wrong(key, expected.to_string())),
            _ => Ok(()),
        }
    }

    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    fn shown(&self, key: &str) -> String {
        self.value(key).map_or_else(|| "absent".to_owned(), |v| super::keys::shorten(&v.shown()))
    }

    fn wrong(&self, key: &str, expected: String) -> ModelError {
        ModelError::config(self.path, &self.name(key), self.shown(key), expected)
    }

    fn unsupported(&self, key: &str, supported: &str) -> ModelError {
        ModelError::unsupported(self.path, &self.name(key), self.shown(key), supported)
    }
}
