//! CUDA kernels for a decode step in few launches and for what surrounds a library's matrix products in a prompt.
//!
//! [`Kernels`] holds them for one number format on one stream. Buffers stay the caller's: a launcher takes [`Region`]s of
//! device memory, checks that they are large enough for the shape it is given, and puts one kernel on the stream.
//!
//! | launcher | does | many rows at a time |
//! |---|---|---|
//! | [`Kernels::matvec`] | norm, product, and what follows it: rotation and KV write, residual, gated activation, argmax | one |
//! | [`Kernels::matvec_few`] | the same for 16-bit activations, on tensor cores | 2 to 8 |
//! | [`Kernels::attention_decode`] | attention of one new position a sequence, split along the cache | any batch |
//! | [`Kernels::attention_prefill`] | causal attention of a prompt, on tensor cores | any |
//! | [`Kernels::attention_general`] | either, for every other format and head size, slower | any |
//! | [`Kernels::embed`], [`norm`](Kernels::norm), [`rotate_append`](Kernels::rotate_append), [`activate`](Kernels::activate) | the steps between a prompt's products | any |
//! | [`Kernels::last_rows`], [`pick_tokens`](Kernels::pick_tokens) | what leaves the model | any |
//! | [`Kernels::read_memory`] | nothing: what the others are measured against | |
//!
//! The KV cache is one allocation, `[layers, 2, batch, kv_heads, capacity, head_dim]`. What changes from step to step is read
//! from a [`Step`] in device memory, so a captured graph of a decode step serves every position and every cache.
//!
//! Consecutive kernels overlap through programmatic dependent launch: each asks for its weights before it waits for the
//! kernel in front of it. Everything they read besides weights is read after that wait.

mod args;
mod attention;
mod error;
mod facts;
mod launch;
mod matvec;
mod nodes;
mod probe;
mod region;
mod rows;

pub use self::{
    args::{Activation, Format, NormKind, Step},
    attention::{AttentionDecode, AttentionGeneral, AttentionPrefill, FLASH_HEAD_DIMS},
    error::{CudaError, Refusal, classify},
    facts::{DeviceFact, device_facts, device_uuid},
    launch::Kernels,
    matvec::{Ahead, Division, Embedding, FEW_ROWS, FewFinish, Finish, Head, Matvec, MatvecFew, Norm, Rotation},
    nodes::node_types,
    probe::{Driver, driver},
    region::{Place, Region},
    rows::{Activate, Embed, LastRows, NormRows, PickTokens, RotateAppend},
};
