//! ONNX Runtime behind the phase traits: writes its own graph from the checkpoint.

mod backend;
mod binding;
mod cache;
mod config;
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
pub use config::{Optimization, OrtConfig};
pub use error::OrtError;
pub use model::OrtModel;
