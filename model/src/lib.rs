//! One checkpoint, opened the same way for every runtime, so that each gets the same weights.
//!
//! [`Checkpoint::open`] takes a Hugging Face folder or a GGUF file, resolves its configuration ([`ModelConfig`]) and
//! checks every tensor. [`Weights`] hands tensors out by what they do ([`Role`]), in the number format asked for.
//! [`Tokenizer`] and [`ChatTemplate`] are there when the checkpoint has them; [`random`] writes checkpoints for tests.
//!
//! A model that would run *wrong* is refused: an architecture, rotary variant, activation or configuration key that is not
//! implemented is an error that names it.
//!
//! What this crate does not do: run models, download anything, read the environment, or write outside of the folders
//! it is given. Its files must not be changed while they are open.

#[cfg(target_endian = "big")]
compile_error!("checkpoints are little-endian and are read without swapping bytes");

mod chat;
mod checkpoint;
mod config;
mod digest;
mod error;
mod file;
mod gguf;
pub mod random;
mod role;
mod rope;
mod safetensors;
mod schema;
mod stored;
mod tokenizer;
mod view;
mod weights;

pub use chat::{ChatMessage, ChatTemplate, GenerationPrompt};
pub use checkpoint::{Checkpoint, Format};
pub use config::{Activation, Architecture, Biases, Mlp, ModelConfig, Norm, Position, Rope, RopeScaling};
pub use digest::Digest;
pub use error::ModelError;
pub use role::{LayerRole, Role};
pub use rope::{RopeTables, inverse_frequencies, rope_tables};
pub use stored::{Element, StoredType};
pub use tokenizer::{TextStream, Tokenizer};
pub use view::{Blocks, TensorView, Values};
pub use weights::Weights;
