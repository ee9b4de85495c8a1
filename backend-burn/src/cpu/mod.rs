//! The decoder on burn's CPU device.
//!
//! Weights and activations live in burn-flex's own storage, so that burn's products and our kernels read the same
//! memory. Large products go through burn's `Tensor::matmul`; small ones, which it would run on one core, and all that
//! lies between the products go through phase-kernels.
//!
//! burn panics on shapes and formats that don't fit. Every shape here follows from the checked configuration of the
//! checkpoint and every call is checked before it starts, so none of them can be reached.

mod attend;
mod decoder;
mod engine;
mod plan;
mod products;
mod rows;
mod storage;
mod weights;

pub(crate) use decoder::Decoder;
pub(crate) use products::Seen;

#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is what the reference does")]
fn rounded(x: f64) -> f32 {
    x as f32
}
