//! What a model is, fully resolved: every default filled in, every spelling of a key read. Weights are elsewhere.

mod gguf;
mod hf;
mod keys;

use phase_core::{DType, TokenId};

pub(crate) use self::{
    gguf::{TensorFacts, from_metadata},
    hf::{from_hf, read_json},
};

/// Shape and features of a decoder-only transformer, resolved from `config.json` or GGUF metadata.
///
/// Per layer: `x += attention(norm(x))`, then `x += mlp(norm(x))`. Attention scores are scaled by
/// [`attention_scale`](Self::attention_scale); a key at position `j` is visible to a query at `i` when `j <= i` and,
/// under a [`sliding_window`](Self::sliding_window) of `w`, `i - j < w`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ModelConfig {
    /// The family whose rules apply.
    pub architecture: Architecture,
    /// Rows of the token embedding, and the number of scores per position.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub intermediate: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads per layer.
    pub heads: usize,
    /// Key and value heads per layer; divides [`heads`](Self::heads). Query head `h` reads head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Elements per head; `heads * head_dim` may differ from `hidden`.
    pub head_dim: usize,
    /// Positions the model was made for.
    pub max_context: usize,
    /// Normalisation before attention, before the feed-forward layer and at the end.
    pub norm: Norm,
    /// Added to the variance inside every norm.
    pub norm_eps: f64,
    /// Non-linearity of the feed-forward layer.
    pub activation: Activation,
    /// Structure of the feed-forward layer.
    pub mlp: Mlp,
    /// How positions enter.
    pub position: Position,
    /// Which linear layers have a bias.
    pub biases: Biases,
    /// Whether queries and keys pass an RMS norm over `head_dim` before the rotation.
    pub qk_norm: bool,
    /// Positions a query sees, itself included; `None` when it sees all. The same in every layer.
    pub sliding_window: Option<usize>,
    /// Whether the output layer is the token embedding.
    pub tied_embeddings: bool,
    /// Number format that the checkpoint declares for its weights, if it does.
    pub declared_dtype: Option<DType>,
    /// Token that starts a text.
    pub bos: Option<TokenId>,
    /// Tokens that end a text: the union of what configuration, generation configuration and tokenizer say.
    pub eos: Vec<TokenId>,
}

impl ModelConfig {
    /// Width of all query heads together: `heads * head_dim`.
    pub const fn q_dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key heads together: `kv_heads * head_dim`.
    pub const fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Query heads that share one key and value head.
    pub const fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Factor on the scores of queries and keys: `1 / sqrt(head_dim)`.
    #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is what the reference does")]
    pub fn attention_scale(&self) -> f32 {
        (1.0 / (self.head_dim as f64).sqrt()) as f32
    }

    /// The rotary embedding's parameters; `None` for learned positions.
    pub const fn rope(&self) -> Option<&Rope> {
        match &self.position {
            Position::Rope(rope) => Some(rope),
            Position::Learned => None,
        }
    }

    /// Number of parameters; a tied output layer counts once.
    pub fn parameters(&self) -> u64 {
        let roles = crate::role::expected(self);
        roles.iter().map(|(_, shape)| shape.iter().map(|&d| d as u64).product::<u64>()).sum()
    }
}

/// Families of models that can be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Architecture {
    /// GPT-2: learned positions, layer norm, plain feed-forward layer.
    Gpt2,
    /// Llama 2 and 3, SmolLM2, TinyLlama.
    Llama,
    /// Mistral: Llama with an optional sliding window.
    Mistral,
    /// Qwen 2 and 2.5: Llama with biases on queries, keys and values.
    Qwen2,
    /// Qwen 3: Llama with normalised queries and keys.
    Qwen3,
}

impl Architecture {
    /// Every architecture, in the order of their names.
    pub const ALL: [Self; 5] = [Self::Gpt2, Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3];

    /// The `model_type` of `config.json`: `gpt2`, `llama`, `mistral`, `qwen2`, `qwen3`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt2",
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    pub(crate) const fn class(self) -> &'static str {
        match self {
            Self::Gpt2 => "GPT2LMHeadModel",
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.as_str() == name)
    }
}

/// Normalisation of the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Norm {
    /// Subtracts the mean; has weight and bias.
    Layer,
    /// Divides by the root of the mean square; has a weight.
    Rms,
}

/// Non-linearity of the feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activation {
    /// GELU through the error function.
    Gelu,
    /// GELU through its hyperbolic tangent approximation (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `x * sigmoid(x)`.
    Silu,
}

/// Structure of the feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mlp {
    /// `down(activation(gate(x)) * up(x))`.
    Gated,
    /// `down(activation(up(x)))`.
    Plain,
}

/// How positions enter.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Position {
    /// A learned vector per position is added to the token's embedding.
    Learned,
    /// Queries and keys are rotated, element `i` with element `i + head_dim / 2`.
    Rope(Rope),
}

/// Parameters of the rotary embedding. See [`rope_tables`](crate::rope_tables).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Change of the frequencies for longer contexts.
    pub scaling: RopeScaling,
}

/// Change of the rotary frequencies for longer contexts.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// None.
    Default,
    /// Frequency `i` is divided by element `i` of these `head_dim / 2` factors, which a GGUF file carries as a tensor.
    Factors(Vec<f32>),
    /// Every frequency is divided by `factor`.
    Linear {
        /// At least 1.
        factor: f64,
    },
    /// Llama 3: low frequencies are divided by `factor`, high ones kept, those between interpolated.
    Llama3 {
        /// At least 1.
        factor: f64,
        /// Wavelengths above `original_context / low_freq_factor` are scaled.
        low_freq_factor: f64,
        /// Wavelengths below `original_context / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Positions before the extension.
        original_context: usize,
    },
}

/// Which linear layers have a bias. Norms have one when they are [`Norm::Layer`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Biases {
    /// Queries, keys and values.
    pub qkv: bool,
    /// Attention output.
    pub attention_output: bool,
    /// Feed-forward layer.
    pub mlp: bool,
}
