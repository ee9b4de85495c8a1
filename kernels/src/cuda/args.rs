//! What a kernel's one parameter looks like, field by field as in `cuda/*.cu`.

/// Number format of weights and of the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "every format has kernels of its own")]
pub enum Format {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16.
    Bf16,
}

impl Format {
    /// Bytes of an element.
    #[must_use]
    pub const fn size_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The name in kernels' names: `f32`, `f16`, `bf16`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}

/// Normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "what the kernels know")]
pub enum NormKind {
    /// Divides by the root of the mean square.
    Rms = 1,
    /// Subtracts the mean, too.
    Layer = 2,
}

/// Non-linearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "what the kernels know")]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu = 0,
    /// GELU through the error function.
    Gelu = 1,
    /// GELU through the hyperbolic tangent.
    GeluTanh = 2,
    /// `max(x, 0)`.
    Relu = 3,
}

/// A decode step's changing numbers, as they lie in device memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a layout shared with the kernels")]
pub struct Step {
    /// Address of the KV cache.
    pub cache: u64,
    /// Address of a `u32` array `[steps, batch]` for the tokens that are picked.
    pub tokens_out: u64,
    /// Positions the cache has room for.
    pub capacity: u32,
    /// Positions already in it. The kernel that picks a token adds one.
    pub position: u32,
    /// Steps of this run already done. The kernel that picks a token adds one.
    pub index: u32,
    /// Nothing.
    pub reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PlaceArgs {
    pub(super) step: u64,
    pub(super) cache: u64,
    pub(super) capacity: u32,
    pub(super) start: u32,
    pub(super) batch: u32,
    pub(super) kv_heads: u32,
    pub(super) head_dim: u32,
    pub(super) layer: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MatvecArgs {
    pub(super) w: u64,
    pub(super) bias: u64,
    pub(super) x: u64,
    pub(super) gain: u64,
    pub(super) shift: u64,
    pub(super) y: u64,
    pub(super) embedding: u64,
    pub(super) positions: u64,
    pub(super) residual: u64,
    pub(super) frequencies: u64,
    pub(super) tokens: u64,
    pub(super) best: u64,
    pub(super) ticket: u64,
    pub(super) advance: u64,
    pub(super) place: PlaceArgs,
    pub(super) n: u32,
    pub(super) k: u32,
    pub(super) activation: u32,
    pub(super) heads: u32,
    pub(super) eps: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FewArgs {
    pub(super) w: u64,
    pub(super) bias: u64,
    pub(super) x: u64,
    pub(super) y: u64,
    pub(super) frequencies: u64,
    pub(super) squares: u64,
    pub(super) gain: u64,
    pub(super) ahead: u64,
    pub(super) seen: u64,
    pub(super) place: PlaceArgs,
    pub(super) n: u32,
    pub(super) k: u32,
    pub(super) batch: u32,
    pub(super) activation: u32,
    pub(super) heads: u32,
    pub(super) eps: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AttentionArgs {
    pub(super) q: u64,
    pub(super) out: u64,
    pub(super) partial: u64,
    pub(super) ticket: u64,
    pub(super) place: PlaceArgs,
    pub(super) heads: u32,
    pub(super) window: u32,
    pub(super) narrow: u32,
    pub(super) scale: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PrefillArgs {
    pub(super) q: u64,
    pub(super) out: u64,
    pub(super) place: PlaceArgs,
    pub(super) len: u32,
    pub(super) heads: u32,
    pub(super) window: u32,
    pub(super) scale: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct GeneralArgs {
    pub(super) q: u64,
    pub(super) out: u64,
    pub(super) place: PlaceArgs,
    pub(super) len: u32,
    pub(super) heads: u32,
    pub(super) window: u32,
    pub(super) narrow: u32,
    pub(super) scale: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct EmbedArgs {
    pub(super) tokens: u64,
    pub(super) embedding: u64,
    pub(super) positions: u64,
    pub(super) x: u64,
    pub(super) place: PlaceArgs,
    pub(super) len: u32,
    pub(super) width: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NormArgs {
    pub(super) x: u64,
    pub(super) add: u64,
    pub(super) gain: u64,
    pub(super) shift: u64,
    pub(super) out: u64,
    pub(super) width: u32,
    pub(super) norm: u32,
    pub(super) eps: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RotateArgs {
    pub(super) qkv: u64,
    pub(super) bias: u64,
    pub(super) q_norm: u64,
    pub(super) k_norm: u64,
    pub(super) frequencies: u64,
    pub(super) q: u64,
    pub(super) last: u64,
    pub(super) place: PlaceArgs,
    pub(super) len: u32,
    pub(super) heads: u32,
    pub(super) wide_in: u32,
    pub(super) wide_out: u32,
    pub(super) lanes: u32,
    pub(super) eps: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ActivateArgs {
    pub(super) x: u64,
    pub(super) bias: u64,
    pub(super) out: u64,
    pub(super) width: u32,
    pub(super) gated: u32,
    pub(super) activation: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LastArgs {
    pub(super) x: u64,
    pub(super) out: u64,
    pub(super) len: u32,
    pub(super) width: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PickArgs {
    pub(super) scores: u64,
    pub(super) tokens: u64,
    pub(super) ticket: u64,
    pub(super) advance: u64,
    pub(super) vocab: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ReadArgs {
    pub(super) from: u64,
    pub(super) out: u64,
    pub(super) quads: u64,
}
