//! burn behind the phase traits: an own decoder on burn's devices.
//!
//! [`Burn::cpu`] runs on burn-flex. Products of many rows, which is what a prompt is made of, go through burn's own
//! `Tensor::matmul`; products of few rows go through `phase-kernels` on the same weights in the same memory, because burn
//! runs those on one core. [`Evidence`](phase_core::Evidence) says how often each ran, and on which of burn's devices.
//!
//! [`Burn::cuda`] (feature `cuda`) runs kernels of this crate's own in CubeCL, burn's kernel language: compiled for the device
//! when a model is loaded, a decode step as one captured graph. burn's tensors have no part in it: their matrix-vector
//! products reach a tenth of the memory's bandwidth.
//!
//! What this crate does not do: read a clock, the environment, or move to another device when one can't be had.

mod backend;
mod cache;
mod config;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod decoder;
mod error;
mod evidence;
mod model;

pub use backend::Burn;
pub use cache::BurnCache;
pub use config::{BurnConfig, Device};
pub use error::BurnError;
pub use model::BurnModel;
