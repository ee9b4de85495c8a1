//! ONNX Runtime behind the phase traits: [`Ort`] loads a checkpoint, [`OrtModel`] runs it, [`OrtCache`] belongs to the
//! caller's session.
//!
//! This crate writes the ONNX graph itself, of ONNX Runtime's fused operators, one graph for both phases; keys and values
//! stay in memory of the cache, which the graph extends in place, and scores are written straight into the caller's
//! buffer. An existing export with `past_key_values` inputs is opened as it is.
//!
//! What it does not do: download the library, read the environment to find it, fall back to another number format,
//! sample.
//!
//! ```no_run
//! use phase_backend_ort::{Ort, OrtConfig};
//! use phase_core::{Backend, CacheSpec, LoadSpec, Logits, Model, Prefill, PromptBatch, TokenId};
//! let ort = Ort::cpu().with_config(OrtConfig::default().with_library("onnxruntime/capi/libonnxruntime.so.1.32.0"));
//! let mut model = ort.load(&LoadSpec::new("models/smollm2"))?;
//! let mut cache = model.allocate(CacheSpec { batch: 1, capacity: 16 })?;
//! let mut logits = Logits::new();
//! model.prefill(&mut cache, PromptBatch::single(&[1, 2, 3].map(TokenId))?, &mut logits)?;
//! # Ok::<(), phase_backend_ort::OrtError>(())
//! ```

mod backend;
mod binding;
mod cache;
mod config;
#[cfg(feature = "cuda")]
mod cuda;
mod error;
mod evidence;
mod export;
mod graph;
mod growing;
mod library;
mod model;
mod onnx;
mod session;
mod shared;
mod store;

pub use backend::Ort;
pub use cache::OrtCache;
pub use config::{Optimization, OrtConfig, Waiting};
#[cfg(feature = "cuda")]
pub use cuda::{OrtCuda, OrtCudaCache, OrtCudaModel};
pub use error::OrtError;
pub use model::OrtModel;
