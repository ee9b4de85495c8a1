//! One decode step of one sequence, made of this crate's own operators: see `kernels/step.cu`.
//!
//! Activations are f32, weights and cache have the weights' format. Keys and values are extended in place through the
//! inputs, so the graph has no outputs for them.

use super::{DOMAIN, Graph, Source, Weights, names};
use crate::onnx::{Dim, data_type};
use phase_model::{Activation, LayerRole as L, Mlp, ModelConfig, Norm, Role};

/// Writes the graph; weights have the names that [`decoder`](super::decoder()) gives them.
///
/// # Errors
/// What the operators do not do.
pub(crate) fn step(config: &ModelConfig, weights: Weights) -> Result<Graph, &'static str> {
    check(config)?;
    let mut graph = Graph::new(weights);
    let (one, element) = (Dim::Fixed(1), weights.element());
    graph.input(names::TOKENS, data_type::INT64, &[one, one]);
    graph.input(names::LENGTHS, data_type::INT32, &[one]);
    graph.output(names::LOGITS, data_type::FLOAT, &[one, Dim::Fixed(config.vocab)]);
    for layer in 0..config.layers {
        for part in ["key", "value"] {
            let kv = [one, Dim::Fixed(config.kv_heads), Dim::Named("capacity"), Dim::Fixed(config.head_dim)];
            graph.input(&format!("past_key_values.{layer}.{part}"), element, &kv);
        }
    }
    let rope = [config.max_context, config.head_dim / 2];
    for table in ["cos_cache", "sin_cache"] {
        graph.constant(table, &rope, Source::Values(Vec::new()));
    }
    let joined = |role: Role| Source::Joined(vec![role]);
    graph.constant("embedding", &[config.vocab, config.hidden], joined(Role::TokenEmbedding));
    let mut stream = own(&mut graph, "Embed", &[names::TOKENS, "embedding"], "embedded");
    for layer in 0..config.layers {
        stream = self::layer(&mut graph, config, layer, &stream);
    }
    graph.constant("final.norm", &[config.hidden], joined(Role::FinalNorm));
    let head = if config.tied_embeddings {
        "embedding"
    } else {
        graph.constant("head", &[config.vocab, config.hidden], joined(Role::LmHead));
        "head"
    };
    own(&mut graph, "Scores", &[&stream, "final.norm", head], names::LOGITS);
    Ok(graph)
}

fn check(config: &ModelConfig) -> Result<(), &'static str> {
    let plain_biases = !config.biases.attention_output && !config.biases.mlp;
    let fits = [
        (config.norm == Norm::Rms, "they normalise by the root mean square only"),
        (config.mlp == Mlp::Gated && config.activation == Activation::Silu, "their feed-forward layer is gated by SiLU"),
        (config.rope().is_some(), "they rotate queries and keys"),
        (!config.qk_norm, "they do not normalise queries and keys"),
        (plain_biases, "they add a bias to queries, keys and values only"),
        (matches!(config.head_dim, 16 | 32 | 64 | 128), "their heads have 16, 32, 64 or 128 elements"),
        (config.group() <= 8, "at most 8 query heads share a key head"),
        (config.hidden.is_multiple_of(8) && config.intermediate.is_multiple_of(8), "they read rows in pieces of 8 elements"),
    ];
    fits.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, limit)| Err(limit))
}

fn own(graph: &mut Graph, op: &str, inputs: &[&str], output: &str) -> String {
    graph.push(DOMAIN, op, inputs, &[output], vec![])
}

fn layer(graph: &mut Graph, config: &ModelConfig, layer: usize, stream: &str) -> String {
    let (hidden, inner, q_dim, kv_dim) = (config.hidden, config.intermediate, config.q_dim(), config.kv_dim());
    let at = |name: &str| format!("layers.{layer}.{name}");
    let joined = |roles: &[L]| Source::Joined(roles.iter().map(|r| Role::Layer(layer, *r)).collect());
    let first = if layer == 0 { at("AttnNorm") } else { at("attention.norm") };
    graph.constant(&first, &[hidden], joined(&[L::AttnNorm]));
    graph.constant(&at("qkv.weight"), &[q_dim + 2 * kv_dim, hidden], joined(&[L::Q, L::K, L::V]));
    let (weight, qkv) = (at("qkv.weight"), at("qkv"));
    if config.biases.qkv {
        graph.constant(&at("QBias"), &[q_dim + 2 * kv_dim], joined(&[L::QBias, L::KBias, L::VBias]));
        own(graph, "Project", &[stream, &first, &weight, &at("QBias")], &qkv);
    } else {
        own(graph, "Project", &[stream, &first, &weight], &qkv);
    }
    let [key, value] = ["key", "value"].map(|part| format!("past_key_values.{layer}.{part}"));
    let attended = own(graph, "Attend", &[&qkv, &key, &value, names::LENGTHS, "cos_cache", "sin_cache"], &at("attended"));
    graph.constant(&at("o.weight"), &[hidden, q_dim], joined(&[L::O]));
    let stream = own(graph, "AddAttended", &[stream, &attended, &at("o.weight")], &at("mlp.residual"));
    graph.constant(&at("mlp.norm"), &[hidden], joined(&[L::MlpNorm]));
    graph.constant(&at("gate.weight"), &[inner, hidden], joined(&[L::Gate]));
    graph.constant(&at("up.weight"), &[inner, hidden], joined(&[L::Up]));
    let gated = own(graph, "Gate", &[&stream, &at("mlp.norm"), &at("gate.weight"), &at("up.weight")], &at("gated"));
    graph.constant(&at("down.weight"), &[hidden, inner], joined(&[L::Down]));
    own(graph, "AddGated", &[&stream, &gated, &at("down.weight")], &at("residual"))
}
