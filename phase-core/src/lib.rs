//! The contract between applications that run language models and the runtimes that can run them.
//!
//! - [`Prefill`] and [`Decode`] are the two phases; [`Model`] and [`Backend`] offer them ([`phase`]).
//! - [`BoxModel`], [`Registry`] are the same, chosen at run time ([`erased`]).
//! - [`Measured`] records every call as a [`PhaseEvent`] under a [`MeasurementBoundary`]; [`Session`] streams tokens.
//! - [`sim`] is a backend without weights for tests and documentation; `conformance` (a feature) is what a backend must
//!   pass.
//!
//! What is deliberately absent: tensors, files, threads, any runtime, and any global.
//!
//! # Terms
//! - **Prefill**: processing prompt tokens, writing the KV cache, giving the scores of the last position.
//! - **Decode**: one token per sequence on the KV cache. *Generate* is prefill, sampling and the decode loop together.
//! - **TTFT**, **ITL**, **TPOT**, **decode fraction**: functions with their formulas in [`metrics`].
//! - **Cold, warm-up, steady**: [`Regime`]; never averaged together.

mod arm;
mod boundary;
mod clock;
#[cfg(any(feature = "conformance", test))]
pub mod conformance;
mod energy;
pub mod erased;
mod error;
mod event;
mod evidence;
mod id;
mod input;
mod load;
mod machine;
mod measured;
pub mod metrics;
pub mod phase;
mod registry;
mod sample;
mod session;
pub mod sim;
mod sink;
mod stack;

pub use arm::Arm;
pub use boundary::{BoundaryMismatch, DEFINITIONS_VERSION, Includes, MeasurementBoundary, Span, TimingMethod};
pub use clock::{Clock, ManualClock, MonotonicClock};
pub use energy::{Energy, Joules, MacroMethod, NoData};
pub use erased::{BoxCache, BoxError, BoxModel, DynBackend, DynModel};
pub use error::{CallError, ErrorKind, PhaseError};
pub use event::{Outcome, PhaseEvent, Regime, Shape};
pub use evidence::{Artefact, ArtefactForm, Evidence, Placement};
pub use id::{BackendId, DType, Phase, SessionId, Timestamp, TokenId, UnknownDType};
pub use input::{Logits, PromptBatch, argmax, check_run, check_slots, check_step};
pub use load::{LoadProgress, LoadSpec, ModelInfo};
pub use machine::{available_memory_bytes, machine};
pub use measured::{Measured, Tracked};
pub use phase::{Backend, CacheSpec, Capabilities, Decode, KvCache, Mode, Model, PhaseTypes, Prefill, UnknownMode, run_of_steps};
pub use registry::{Registry, UnknownBackend};
pub use sample::{Greedy, Nucleus, Sampler};
pub use session::{FinishReason, GenerateOptions, Session, SessionError, TokenStream};
pub use sink::{EventSink, NoopSink, RingSink, Tee};
pub use stack::{Difference, Fact, Layer, StackId, StackInfo};
