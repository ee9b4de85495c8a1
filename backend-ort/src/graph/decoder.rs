//! The decoder as an ONNX graph: one graph for both phases, with the output layer on the last position only.

use super::{DOMAIN, GATED, GATED_MULTIPLE, Graph, Source, Weights};
use crate::{
    error::OrtError,
    onnx::{AttributeProto, Dim, data_type},
};
use phase_model::{Activation, LayerRole, Mlp, ModelConfig, Norm, Role, rope_tables};

use AttributeProto as Attribute;
use LayerRole as L;

/// Names of the graph's inputs and outputs.
pub(crate) mod names {
    pub(crate) const TOKENS: &str = "input_ids";
    pub(crate) const POSITIONS: &str = "position_ids";
    /// Per row: positions after this call, less one.
    pub(crate) const LENGTHS: &str = "seqlens_k";
    /// Positions after this call.
    pub(crate) const TOTAL: &str = "total_sequence_length";
    pub(crate) const LOGITS: &str = "logits";
}

const LAST: &str = "last";
const COS: &str = "cos_cache";
const SIN: &str = "sin_cache";

/// Writes the graph of a model. Keys, values and activations have the weights' format; scores are f32.
///
/// # Errors
/// [`OrtError::Unsupported`] for a head size that ONNX Runtime's attention refuses.
pub(crate) fn decoder(config: &ModelConfig, weights: Weights) -> Result<Graph, OrtError> {
    check(config)?;
    let mut builder = Builder { graph: Graph::new(weights), config };
    builder.interface();
    let embedded = builder.embedding()?;
    let (mut normed, mut residual) = builder.first_norm(&embedded);
    for layer in 0..config.layers {
        (normed, residual) = builder.layer(layer, &normed, &residual);
    }
    builder.head(&normed);
    Ok(builder.graph)
}

fn check(config: &ModelConfig) -> Result<(), OrtError> {
    // GroupQueryAttention rotates in vectors of 16 elements and packs heads in eights.
    let multiple = if config.rope().is_some() { 16 } else { 8 };
    if !config.head_dim.is_multiple_of(multiple) {
        let supported = format!("ONNX Runtime's attention needs a multiple of {multiple}");
        return Err(OrtError::Unsupported { what: "head_dim", found: config.head_dim.to_string(), supported });
    }
    Ok(())
}

struct Builder<'a> {
    graph: Graph,
    config: &'a ModelConfig,
}

impl Builder<'_> {
    fn interface(&mut self) {
        let (batch, new) = (Dim::Named("batch"), Dim::Named("new"));
        let (heads, width) = (Dim::Fixed(self.config.kv_heads), Dim::Fixed(self.config.head_dim));
        self.graph.input(names::TOKENS, data_type::INT64, &[batch, new]);
        if self.config.rope().is_none() {
            self.graph.input(names::POSITIONS, data_type::INT64, &[new]);
        }
        self.graph.input(names::LENGTHS, data_type::INT32, &[batch]);
        self.graph.input(names::TOTAL, data_type::INT32, &[]);
        self.graph.output(names::LOGITS, data_type::FLOAT, &[batch, Dim::Fixed(self.config.vocab)]);
        for layer in 0..self.config.layers {
            for part in ["key", "value"] {
                let kv = [batch, heads, Dim::Named("capacity"), width];
                let element = self.graph.weights().element();
                self.graph.input(&format!("past_key_values.{layer}.{part}"), element, &kv);
                self.graph.output(&format!("present.{layer}.{part}"), element, &kv);
            }
        }
        self.graph.integers(LAST, &[], &[-1]);
    }

    fn embedding(&mut self) -> Result<String, OrtError> {
        let (vocab, hidden) = (self.config.vocab, self.config.hidden);
        self.graph.constant("embedding", &[vocab, hidden], Source::Joined(vec![Role::TokenEmbedding]));
        let tokens = self.graph.node("Gather", &["embedding", names::TOKENS], "embedded", vec![]);
        let Some(tables) = rope_tables(self.config, 0..self.config.max_context)? else {
            let shape = [self.config.max_context, hidden];
            self.graph.constant("positions", &shape, Source::Joined(vec![Role::PositionEmbedding]));
            let positions = self.graph.node("Gather", &["positions", names::POSITIONS], "positioned", vec![]);
            return Ok(self.graph.node("Add", &[&tokens, &positions], "embedded.positioned", vec![]));
        };
        let shape = [tables.positions, tables.half];
        self.graph.constant(COS, &shape, Source::Values(tables.cos));
        self.graph.constant(SIN, &shape, Source::Values(tables.sin));
        Ok(tokens)
    }

    fn epsilon(&self) -> Attribute {
        #[expect(clippy::cast_possible_truncation, reason = "the operator takes f32")]
        Attribute::float("epsilon", self.config.norm_eps as f32)
    }

    fn vector(&mut self, layer: usize, role: L, len: usize) -> String {
        let name = format!("layers.{layer}.{role:?}");
        self.graph.constant(&name, &[len], Source::Joined(vec![Role::Layer(layer, role)]));
        name
    }

    fn first_norm(&mut self, x: &str) -> (String, String) {
        let hidden = self.config.hidden;
        let weight = self.vector(0, L::AttnNorm, hidden);
        let attributes = vec![Attribute::int("axis", -1), self.epsilon()];
        let normed = match self.config.norm {
            Norm::Layer => {
                let bias = self.vector(0, L::AttnNormBias, hidden);
                self.graph.node("LayerNormalization", &[x, &weight, &bias], "layers.0.normed", attributes)
            }
            _ => self.graph.node("SimplifiedLayerNormalization", &[x, &weight], "layers.0.normed", attributes),
        };
        (normed, x.to_owned())
    }

    /// Adds `x` (and a bias) to the residual stream and normalises it: the normed stream and the stream.
    fn skip_norm(&mut self, name: &str, x: &str, bias: &str, residual: &str, weight: Role, norm_bias: Role) -> (String, String) {
        let hidden = self.config.hidden;
        let (normed, sum) = (format!("{name}.normed"), format!("{name}.residual"));
        let gamma = format!("{name}.norm");
        self.graph.constant(&gamma, &[hidden], Source::Joined(vec![weight]));
        let outputs = [normed.as_str(), "", "", sum.as_str()];
        let attributes = vec![self.epsilon()];
        match self.config.norm {
            Norm::Layer => {
                let beta = format!("{name}.norm_bias");
                self.graph.constant(&beta, &[hidden], Source::Joined(vec![norm_bias]));
                self.graph.fused("SkipLayerNormalization", &[residual, x, &gamma, &beta, bias], &outputs, attributes);
            }
            _ => {
                self.graph.fused("SkipSimplifiedLayerNormalization", &[residual, x, &gamma, bias], &outputs, attributes);
            }
        }
        (normed, sum)
    }

    /// `x * W` for one or several tensors side by side.
    fn matmul(&mut self, layer: usize, name: &str, x: &str, roles: &[L], input: usize, output: usize) -> String {
        let (weight, out) = (format!("layers.{layer}.{name}.weight"), format!("layers.{layer}.{name}"));
        let roles = roles.iter().map(|r| Role::Layer(layer, *r)).collect();
        self.product(x, &weight, roles, input, output, &out)
    }

    /// `x * W`, with the weights laid out as they reach the graph.
    fn product(&mut self, x: &str, weight: &str, roles: Vec<Role>, input: usize, output: usize, out: &str) -> String {
        if self.graph.weights().are_inputs() {
            self.graph.constant(weight, &[output, input], Source::Joined(roles));
            return self.graph.fused("FusedMatMul", &[x, weight], &[out], vec![Attribute::int("transB", 1)]);
        }
        self.graph.constant(weight, &[input, output], Source::Transposed(roles));
        self.graph.node("MatMul", &[x, weight], out, vec![])
    }

    fn add(&mut self, layer: usize, x: &str, roles: &[L], len: usize) -> String {
        let name = format!("layers.{layer}.{:?}", roles[0]);
        let roles = roles.iter().map(|r| Role::Layer(layer, *r)).collect();
        self.graph.constant(&name, &[len], Source::Joined(roles));
        self.graph.node("Add", &[x, &name], &format!("{x}.biased"), vec![])
    }

    fn layer(&mut self, layer: usize, normed: &str, residual: &str) -> (String, String) {
        let (hidden, q_dim) = (self.config.hidden, self.config.q_dim());
        let (mut attended, mut residual) = (self.attention(layer, normed), residual.to_owned());
        let is_last = layer + 1 == self.config.layers;
        if is_last {
            // Nothing after the last attention looks at other positions, so only the last one goes on.
            let last = vec![Attribute::int("axis", 1)];
            attended = self.graph.node("Gather", &[&attended, LAST], "last.attended", last.clone());
            residual = self.graph.node("Gather", &[&residual, LAST], "last.residual", last);
        }
        let out = self.matmul(layer, "o", &attended, &[L::O], q_dim, hidden);
        let bias = if self.config.biases.attention_output { self.vector(layer, L::OBias, hidden) } else { String::new() };
        let name = format!("layers.{layer}.mlp");
        let norm = [L::MlpNorm, L::MlpNormBias].map(|r| Role::Layer(layer, r));
        let (normed, residual) = self.skip_norm(&name, &out, &bias, &residual, norm[0], norm[1]);
        let out = self.mlp(layer, &normed);
        let bias = if self.config.biases.mlp { self.vector(layer, L::DownBias, hidden) } else { String::new() };
        let (name, norm) = if is_last {
            ("final".to_owned(), [Role::FinalNorm, Role::FinalNormBias])
        } else {
            (format!("layers.{}.attention", layer + 1), [L::AttnNorm, L::AttnNormBias].map(|r| Role::Layer(layer + 1, r)))
        };
        self.skip_norm(&name, &out, &bias, &residual, norm[0], norm[1])
    }

    fn attention(&mut self, layer: usize, normed: &str) -> String {
        let config = self.config;
        let (q_dim, kv_dim) = (config.q_dim(), config.kv_dim());
        let width = q_dim + 2 * kv_dim;
        let mut qkv = self.matmul(layer, "qkv", normed, &[L::Q, L::K, L::V], config.hidden, width);
        if config.biases.qkv {
            qkv = self.add(layer, &qkv, &[L::QBias, L::KBias, L::VBias], width);
        }
        let (query, key, value) = if config.qk_norm { self.split_and_norm(layer, &qkv) } else { (qkv, String::new(), String::new()) };
        let (past_key, past_value) = (format!("past_key_values.{layer}.key"), format!("past_key_values.{layer}.value"));
        let (cos, sin) = if config.rope().is_some() { (COS, SIN) } else { ("", "") };
        let int = |v: usize| i64::try_from(v).unwrap_or(i64::MAX);
        let attributes = vec![
            Attribute::int("num_heads", int(config.heads)),
            Attribute::int("kv_num_heads", int(config.kv_heads)),
            Attribute::float("scale", config.attention_scale()),
            Attribute::int("do_rotary", i64::from(config.rope().is_some())),
            Attribute::int("rotary_interleaved", 0),
            Attribute::int("local_window_size", config.sliding_window.map_or(-1, int)),
        ];
        let outputs = [format!("layers.{layer}.attended"), format!("present.{layer}.key"), format!("present.{layer}.value")];
        self.graph.fused(
            "GroupQueryAttention",
            &[&query, &key, &value, &past_key, &past_value, names::LENGTHS, names::TOTAL, cos, sin],
            &outputs.each_ref().map(String::as_str),
            attributes,
        )
    }

    /// Normalises each head of the queries and keys.
    fn split_and_norm(&mut self, layer: usize, qkv: &str) -> (String, String, String) {
        let (q_dim, kv_dim, head) = (self.config.q_dim(), self.config.kv_dim(), self.config.head_dim);
        let int = |v: usize| i64::try_from(v).unwrap_or(i64::MAX);
        if layer == 0 {
            self.graph.integers("split", &[3], &[int(q_dim), int(kv_dim), int(kv_dim)]);
            self.graph.integers("to_heads", &[4], &[0, 0, -1, int(head)]);
            self.graph.integers("from_heads", &[3], &[0, 0, -1]);
        }
        let parts = ["q", "k", "v"].map(|p| format!("layers.{layer}.{p}"));
        self.graph.push("", "Split", &[qkv, "split"], &parts.each_ref().map(String::as_str), vec![Attribute::int("axis", -1)]);
        let mut norm = |part: &str, role: L| {
            let weight = self.vector(layer, role, head);
            let heads = self.graph.node("Reshape", &[part, "to_heads"], &format!("{part}.heads"), vec![]);
            let attributes = vec![Attribute::int("axis", -1), self.epsilon()];
            let normed = self.graph.node("SimplifiedLayerNormalization", &[&heads, &weight], &format!("{part}.normed"), attributes);
            self.graph.node("Reshape", &[&normed, "from_heads"], &format!("{part}.flat"), vec![])
        };
        let (q, k) = (norm(&parts[0], L::QNorm), norm(&parts[1], L::KNorm));
        let [_, _, v] = parts;
        (q, k, v)
    }

    fn mlp(&mut self, layer: usize, normed: &str) -> String {
        let (hidden, inner) = (self.config.hidden, self.config.intermediate);
        let biased = self.config.biases.mlp;
        let mut inputs = Vec::new();
        let roles = match self.config.mlp {
            Mlp::Plain => vec![(L::Up, L::UpBias, "up")],
            _ => vec![(L::Gate, L::GateBias, "gate"), (L::Up, L::UpBias, "up")],
        };
        for (role, bias, name) in roles {
            let mut x = self.matmul(layer, name, normed, &[role], hidden, inner);
            if biased {
                x = self.add(layer, &x, &[bias], inner);
            }
            inputs.push(x);
        }
        let gated = format!("layers.{layer}.gated");
        let x = match &inputs[..] {
            [gate, up] if self.gates() => self.graph.push(DOMAIN, GATED, &[gate, up], &[&gated], vec![]),
            [gate, up] => {
                let gate = self.activation(gate);
                self.graph.node("Mul", &[&gate, up], &gated, vec![])
            }
            inputs => self.activation(&inputs[0]),
        };
        self.matmul(layer, "down", &x, &[L::Down], inner, hidden)
    }

    /// Whether this crate's own operator takes a gated layer's activation: one pass, on a device, where the provider has two.
    fn gates(&self) -> bool {
        self.graph.weights().are_inputs()
            && self.config.activation == Activation::Silu
            && self.config.intermediate.is_multiple_of(GATED_MULTIPLE)
    }

    fn activation(&mut self, x: &str) -> String {
        let out = format!("{x}.activated");
        match self.config.activation {
            Activation::Gelu => self.graph.fused("Gelu", &[x], &[&out], vec![]),
            Activation::GeluTanh => self.graph.fused("FastGelu", &[x], &[&out], vec![]),
            Activation::Relu => self.graph.node("Relu", &[x], &out, vec![]),
            _ => self.graph.fused("QuickGelu", &[x], &[&out], vec![Attribute::float("alpha", 1.0)]),
        }
    }

    fn head(&mut self, normed: &str) {
        let (hidden, vocab) = (self.config.hidden, self.config.vocab);
        let rounded = self.graph.weights().element() != data_type::FLOAT;
        let out = if rounded { "scores" } else { names::LOGITS };
        if self.config.tied_embeddings {
            self.graph.fused("FusedMatMul", &[normed, "embedding"], &[out], vec![Attribute::int("transB", 1)]);
        } else {
            self.product(normed, "head", vec![Role::LmHead], hidden, vocab, out);
        }
        if rounded {
            self.graph.node("Cast", &[out], names::LOGITS, vec![Attribute::int("to", i64::from(data_type::FLOAT))]);
        }
    }
}
