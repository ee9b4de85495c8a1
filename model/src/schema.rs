//! Where each role's tensor is found: names and stored shapes of Hugging Face folders and of GGUF files.

use crate::{
    config::{Architecture, ModelConfig},
    role::{LayerRole, Role, expected},
};

/// How a tensor's logical rows lie in the stored one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Logical row `r` is stored row `start + r`.
    Rows { start: usize },
    /// Logical row `r` is stored column `start + r`.
    Columns { start: usize },
    /// ggml's order for its own rotary embedding: pairs of rows interleaved within each head.
    Interleaved { head_dim: usize },
}

/// One role's place.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) role: Role,
    pub(crate) name: String,
    /// Shape in the model.
    pub(crate) shape: Vec<usize>,
    /// Shape in the file.
    pub(crate) stored_shape: Vec<usize>,
    pub(crate) layout: Layout,
}

impl Slot {
    fn plain(role: Role, name: String, shape: Vec<usize>) -> Self {
        Self { role, name, stored_shape: shape.clone(), shape, layout: Layout::Rows { start: 0 } }
    }

    fn transposed(role: Role, name: String, shape: Vec<usize>) -> Self {
        let stored_shape = shape.iter().rev().copied().collect();
        Self { role, name, stored_shape, shape, layout: Layout::Columns { start: 0 } }
    }
}

/// Places in a Hugging Face folder whose tensor names start with `prefix`.
pub(crate) fn hugging_face(config: &ModelConfig, prefix: &str) -> Vec<Slot> {
    let slot = |(role, shape)| match config.architecture {
        Architecture::Gpt2 => gpt2_slot(config, prefix, role, shape),
        _ => Slot::plain(role, llama_name(prefix, role), shape),
    };
    expected(config).into_iter().map(slot).collect()
}

/// What tensor names start with when the whole model, not just its decoder, was saved.
pub(crate) const fn full_prefix(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Gpt2 => "transformer.",
        _ => "model.",
    }
}

fn llama_name(prefix: &str, role: Role) -> String {
    use LayerRole as R;
    let (layer, role) = match role {
        Role::TokenEmbedding => return format!("{prefix}embed_tokens.weight"),
        Role::PositionEmbedding => return format!("{prefix}embed_positions.weight"),
        Role::FinalNorm => return format!("{prefix}norm.weight"),
        Role::FinalNormBias => return format!("{prefix}norm.bias"),
        Role::LmHead => return "lm_head.weight".to_owned(),
        Role::Layer(layer, role) => (layer, role),
    };
    let rest = match role {
        R::AttnNorm => "input_layernorm.weight",
        R::AttnNormBias => "input_layernorm.bias",
        R::Q => "self_attn.q_proj.weight",
        R::QBias => "self_attn.q_proj.bias",
        R::K => "self_attn.k_proj.weight",
        R::KBias => "self_attn.k_proj.bias",
        R::V => "self_attn.v_proj.weight",
        R::VBias => "self_attn.v_proj.bias",
        R::QNorm => "self_attn.q_norm.weight",
        R::KNorm => "self_attn.k_norm.weight",
        R::O => "self_attn.o_proj.weight",
        R::OBias => "self_attn.o_proj.bias",
        R::MlpNorm => "post_attention_layernorm.weight",
        R::MlpNormBias => "post_attention_layernorm.bias",
        R::Gate => "mlp.gate_proj.weight",
        R::GateBias => "mlp.gate_proj.bias",
        R::Up => "mlp.up_proj.weight",
        R::UpBias => "mlp.up_proj.bias",
        R::Down => "mlp.down_proj.weight",
        R::DownBias => "mlp.down_proj.bias",
    };
    format!("{prefix}layers.{layer}.{rest}")
}

fn gpt2_slot(config: &ModelConfig, prefix: &str, role: Role, shape: Vec<usize>) -> Slot {
    use LayerRole as R;
    let (layer, part) = match role {
        Role::TokenEmbedding => return Slot::plain(role, format!("{prefix}wte.weight"), shape),
        Role::PositionEmbedding => return Slot::plain(role, format!("{prefix}wpe.weight"), shape),
        Role::FinalNorm => return Slot::plain(role, format!("{prefix}ln_f.weight"), shape),
        Role::FinalNormBias => return Slot::plain(role, format!("{prefix}ln_f.bias"), shape),
        Role::LmHead => return Slot::plain(role, "lm_head.weight".to_owned(), shape),
        Role::Layer(layer, part) => (layer, part),
    };
    let name = |rest: &str| format!("{prefix}h.{layer}.{rest}");
    let (width, third) = (config.hidden, qkv_start(config, part));
    let plain = |rest: &str, shape| Slot::plain(role, name(rest), shape);
    let transposed = |rest: &str, shape| Slot::transposed(role, name(rest), shape);
    match part {
        R::Q | R::K | R::V => {
            Slot { layout: Layout::Columns { start: third }, stored_shape: vec![width, 3 * width], ..plain("attn.c_attn.weight", shape) }
        }
        R::QBias | R::KBias | R::VBias => {
            Slot { layout: Layout::Rows { start: third }, stored_shape: vec![3 * width], ..plain("attn.c_attn.bias", shape) }
        }
        R::AttnNorm => plain("ln_1.weight", shape),
        R::AttnNormBias => plain("ln_1.bias", shape),
        R::MlpNorm => plain("ln_2.weight", shape),
        R::MlpNormBias => plain("ln_2.bias", shape),
        R::O => transposed("attn.c_proj.weight", shape),
        R::OBias => plain("attn.c_proj.bias", shape),
        R::Up => transposed("mlp.c_fc.weight", shape),
        R::UpBias => plain("mlp.c_fc.bias", shape),
        R::Down => transposed("mlp.c_proj.weight", shape),
        R::DownBias => plain("mlp.c_proj.bias", shape),
        R::Gate | R::GateBias | R::QNorm | R::KNorm => unreachable!("GPT-2 has no {part:?}"),
    }
}

/// First row of a role in the joined q|k|v tensor.
const fn qkv_start(config: &ModelConfig, role: LayerRole) -> usize {
    match role {
        LayerRole::K | LayerRole::KBias => config.q_dim(),
        LayerRole::V | LayerRole::VBias => config.q_dim() + config.kv_dim(),
        _ => 0,
    }
}

/// Places in a GGUF file, whose linear layers are all stored `[out, in]`.
pub(crate) fn gguf(config: &ModelConfig) -> Vec<Slot> {
    expected(config).into_iter().map(|(role, shape)| gguf_slot(config, role, shape)).collect()
}

fn gguf_slot(config: &ModelConfig, role: Role, shape: Vec<usize>) -> Slot {
    use LayerRole as R;
    let slot = Slot::plain(role, gguf_name(role), shape);
    let Role::Layer(layer, part) = role else { return slot };
    match (config.architecture, part) {
        (Architecture::Gpt2, R::Q | R::K | R::V | R::QBias | R::KBias | R::VBias) => {
            let joined = config.q_dim() + 2 * config.kv_dim();
            let stored_shape = std::iter::once(joined).chain(slot.shape.get(1).copied()).collect::<Vec<_>>();
            let end = if stored_shape.len() == 1 { "bias" } else { "weight" };
            let layout = Layout::Rows { start: qkv_start(config, part) };
            Slot { name: format!("blk.{layer}.attn_qkv.{end}"), stored_shape, layout, ..slot }
        }
        (Architecture::Llama | Architecture::Mistral, R::Q | R::K | R::QBias | R::KBias) => {
            Slot { layout: Layout::Interleaved { head_dim: config.head_dim }, ..slot }
        }
        _ => slot,
    }
}

fn gguf_name(role: Role) -> String {
    use LayerRole as R;
    let (layer, role) = match role {
        Role::TokenEmbedding => return "token_embd.weight".to_owned(),
        Role::PositionEmbedding => return "position_embd.weight".to_owned(),
        Role::FinalNorm => return "output_norm.weight".to_owned(),
        Role::FinalNormBias => return "output_norm.bias".to_owned(),
        Role::LmHead => return "output.weight".to_owned(),
        Role::Layer(layer, role) => (layer, role),
    };
    let rest = match role {
        R::AttnNorm => "attn_norm.weight",
        R::AttnNormBias => "attn_norm.bias",
        R::Q => "attn_q.weight",
        R::QBias => "attn_q.bias",
        R::K => "attn_k.weight",
        R::KBias => "attn_k.bias",
        R::V => "attn_v.weight",
        R::VBias => "attn_v.bias",
        R::QNorm => "attn_q_norm.weight",
        R::KNorm => "attn_k_norm.weight",
        R::O => "attn_output.weight",
        R::OBias => "attn_output.bias",
        R::MlpNorm => "ffn_norm.weight",
        R::MlpNormBias => "ffn_norm.bias",
        R::Gate => "ffn_gate.weight",
        R::GateBias => "ffn_gate.bias",
        R::Up => "ffn_up.weight",
        R::UpBias => "ffn_up.bias",
        R::Down => "ffn_down.weight",
        R::DownBias => "ffn_down.bias",
    };
    format!("blk.{layer}.{rest}")
}
