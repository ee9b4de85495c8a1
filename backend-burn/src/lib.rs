//! burn behind the phase traits: an own decoder on burn's devices.
//!
//! [`Burn::cpu`] runs on burn-flex. Products of many rows, which is what a prompt is made of, go through burn's own
//! `Tensor::matmul`; products of few rows go through `phase-kernels` on the same weights in the same memory, because burn
//! runs those on one core. [`Evidence`](phase_core::Evidence) says how often each ran, and on which of burn's devices.
//!
//! What this crate does not do: read a clock, the environment, or move to another device when one can't be had.

mod backend;
mod cache;
mod config;
mod cpu;
mod error;
mod evidence;
mod model;

pub use backend::Burn;
pub use cache::BurnCache;
pub use config::{BurnConfig, Device};
pub use error::BurnError;
pub use model::BurnModel;
