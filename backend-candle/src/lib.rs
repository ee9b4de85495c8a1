//! candle behind the phase traits: [`Candle`] loads a checkpoint, [`CandleModel`] runs it, [`CandleCache`] belongs to the
//! caller's session.
//!
//! The decoder is this crate's own. Weights, caches and the activations that enter a product are candle tensors. A
//! prompt's products are candle's own matrix product, which is the runtime being measured; a decode step, where candle
//! multiplies on one core, goes through `phase-kernels` over the same tensors' memory, and so do norms, rotation and
//! attention.
//!
//! | number format | weights | activations | KV cache |
//! |---|---|---|---|
//! | f32 | f32 | f32 | f32 |
//! | f16 | f16 | f32 | f16 |
//! | bf16 | bf16 | f32 | bf16 |
//!
//! On a CUDA device (feature `cuda`) everything but the large products is `phase-kernels`' own, and a decode step is one
//! captured graph; activations of more than one row are in the weights' format there.
//!
//! Norm weights and biases stay in f32. What it does not do: quantised weights, batches of unequal length, sampling.
//!
//! ```
//! use phase_backend_candle::Candle;
//! use phase_core::{Backend, CacheSpec, Decode, LoadSpec, Logits, Model, Prefill, PromptBatch, TokenId};
//! # let tiny = concat!(env!("CARGO_MANIFEST_DIR"), "/../model/tests/golden/tiny/llama-gqa-tied");
//! let mut model = Candle::cpu().load(&LoadSpec::new(tiny))?;
//! let mut cache = model.allocate(CacheSpec { batch: 1, capacity: 16 })?;
//! let mut logits = Logits::new();
//! model.prefill(&mut cache, PromptBatch::single(&[1, 2, 3].map(TokenId))?, &mut logits)?;
//! let next = logits.argmax();
//! model.decode(&mut cache, &next, &mut logits)?;
//! assert_eq!(logits.vocab(), model.info().vocab);
//! # Ok::<(), phase_backend_candle::CandleError>(())
//! ```

mod backend;
mod cache;
mod config;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod decoder;
mod error;
mod evidence;
mod memory;
mod model;
mod weights;

pub use backend::Candle;
pub use cache::CandleCache;
pub use config::{CandleConfig, Device, Products};
#[cfg(feature = "cuda")]
pub use cuda::{CudaPeak, PromptPart};
pub use error::CandleError;
pub use model::CandleModel;
