//! Kernels that runtimes lack: matrix-vector products at memory bandwidth, attention over a KV cache. CPU here, CUDA in the
//! module `cuda` (feature `cuda`).
//!
//! Both libraries multiply through the `gemm` crate, whose product with one row of activations runs on one core, and
//! both build attention from whole-tensor operations. A decode step spends its time in exactly these two places.
//! This crate has them as functions over slices, and the row-wise steps in between, for a backend that holds its own
//! buffers:
//!
//! - [`matvec()`] reads each weight once, on all threads, for one to some eight rows of activations;
//! - [`attention()`], [`append_kv`] and [`rotary`] work on a cache laid out `[batch, kv_heads, capacity, head_dim]`;
//! - [`rms_norm`], [`layer_norm`], [`silu_mul`] and [`gelu_tanh`] are what Llama, Qwen and GPT-2 need besides;
//! - [`read_memory`] and [`MultiplyAdd`] do nothing useful as fast as it goes: the ceilings of the others;
//! - [`widen`] converts a block of 16-bit weights, for a prompt's products in a library's f32 kernel.
//!
//! Weights and caches are f32, f16 or bf16 ([`Element`]); activations and arithmetic are f32. All functions take the
//! [`Team`] whose threads they run on. Results depend on the inputs and on the instruction set (AVX2 with FMA and F16C
//! where the processor has them, else plain Rust), never on the number of threads.
//!
//! Inputs are checked once a call, and a wrong length panics: a backend knows its shapes before the first token.
//!
//! # What it does not do
//! No products with many rows of activations (a library's matrix product is faster), no quantised weights, no tensors,
//! no graphs, no other devices, no pinning of threads, and no choice of how many: the caller makes the [`Team`].

mod attention;
mod cache;
#[cfg(feature = "cuda")]
pub mod cuda;
mod disjoint;
mod element;
mod matvec;
mod peak;
#[cfg(test)]
mod reference;
mod rows;
mod scratch;
mod shape;
mod simd;
mod team;

pub use attention::attention;
pub use cache::{append_kv, rotary};
pub use element::{Element, Matrix, widen};
pub use matvec::matvec;
pub use peak::{MultiplyAdd, Operand, read_memory};
pub use rows::{gelu_tanh, layer_norm, rms_norm, silu_mul};
pub use shape::{AttentionShape, HeadShape};
pub use team::Team;
