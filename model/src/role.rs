//! Names for the tensors of a decoder by what they do, and the logical shape each must have.

use crate::config::{Mlp, ModelConfig, Norm, Position};

/// What a tensor does in the model, whatever its name in the file is.
///
/// Shapes are logical: a linear layer is `[out, in]`, an embedding `[entries, hidden]`, a norm or bias `[elements]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Role {
    /// `[vocab, hidden]`.
    TokenEmbedding,
    /// `[max_context, hidden]`, for learned positions.
    PositionEmbedding,
    /// A tensor of the layer with this index.
    Layer(usize, LayerRole),
    /// `[hidden]`.
    FinalNorm,
    /// `[hidden]`, for a layer norm.
    FinalNormBias,
    /// `[vocab, hidden]`; the same tensor as [`TokenEmbedding`](Self::TokenEmbedding) when they are tied.
    LmHead,
}

/// What a tensor does inside of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum LayerRole {
    /// Norm before attention, `[hidden]`.
    AttnNorm,
    /// Its bias, for a layer norm.
    AttnNormBias,
    /// Queries, `[heads * head_dim, hidden]`.
    Q,
    /// Bias of the queries, `[heads * head_dim]`.
    QBias,
    /// Keys, `[kv_heads * head_dim, hidden]`.
    K,
    /// Bias of the keys, `[kv_heads * head_dim]`.
    KBias,
    /// Values, `[kv_heads * head_dim, hidden]`.
    V,
    /// Bias of the values, `[kv_heads * head_dim]`.
    VBias,
    /// Norm of each query head, `[head_dim]`.
    QNorm,
    /// Norm of each key head, `[head_dim]`.
    KNorm,
    /// Attention output, `[hidden, heads * head_dim]`.
    O,
    /// Bias of the attention output, `[hidden]`.
    OBias,
    /// Norm before the feed-forward layer, `[hidden]`.
    MlpNorm,
    /// Its bias, for a layer norm.
    MlpNormBias,
    /// Gate of a gated feed-forward layer, `[intermediate, hidden]`.
    Gate,
    /// Its bias, `[intermediate]`.
    GateBias,
    /// First linear layer, `[intermediate, hidden]`.
    Up,
    /// Its bias, `[intermediate]`.
    UpBias,
    /// Last linear layer, `[hidden, intermediate]`.
    Down,
    /// Its bias, `[hidden]`.
    DownBias,
}

/// Every tensor the model has with its logical shape, in the order of execution. A tied output layer is not listed.
pub(crate) fn expected(config: &ModelConfig) -> Vec<(Role, Vec<usize>)> {
    let hidden = config.hidden;
    let mut roles = vec![(Role::TokenEmbedding, vec![config.vocab, hidden])];
    if config.position == Position::Learned {
        roles.push((Role::PositionEmbedding, vec![config.max_context, hidden]));
    }
    for layer in 0..config.layers {
        roles.extend(layer_roles(config).into_iter().map(|(role, shape)| (Role::Layer(layer, role), shape)));
    }
    roles.push((Role::FinalNorm, vec![hidden]));
    if config.norm == Norm::Layer {
        roles.push((Role::FinalNormBias, vec![hidden]));
    }
    if !config.tied_embeddings {
        roles.push((Role::LmHead, vec![config.vocab, hidden]));
    }
    roles
}

fn layer_roles(config: &ModelConfig) -> Vec<(LayerRole, Vec<usize>)> {
    use LayerRole as R;
    let (hidden, inner, q, kv) = (config.hidden, config.intermediate, config.q_dim(), config.kv_dim());
    let layer_norm = config.norm == Norm::Layer;
    let gated = config.mlp == Mlp::Gated;
    let biases = config.biases;
    [
        (true, R::AttnNorm, vec![hidden]),
        (layer_norm, R::AttnNormBias, vec![hidden]),
        (true, R::Q, vec![q, hidden]),
        (biases.qkv, R::QBias, vec![q]),
        (true, R::K, vec![kv, hidden]),
        (biases.qkv, R::KBias, vec![kv]),
        (true, R::V, vec![kv, hidden]),
        (biases.qkv, R::VBias, vec![kv]),
        (config.qk_norm, R::QNorm, vec![config.head_dim]),
        (config.qk_norm, R::KNorm, vec![config.head_dim]),
        (true, R::O, vec![hidden, q]),
        (biases.attention_output, R::OBias, vec![hidden]),
        (true, R::MlpNorm, vec![hidden]),
        (layer_norm, R::MlpNormBias, vec![hidden]),
        (gated, R::Gate, vec![inner, hidden]),
        (gated && biases.mlp, R::GateBias, vec![inner]),
        (true, R::Up, vec![inner, hidden]),
        (biases.mlp, R::UpBias, vec![inner]),
        (true, R::Down, vec![hidden, inner]),
        (biases.mlp, R::DownBias, vec![hidden]),
    ]
    .into_iter()
    .filter(|(present, ..)| *present)
    .map(|(_, role, shape)| (role, shape))
    .collect()
}
