//! The CUDA path: ONNX Runtime's CUDA provider on a stream of our own, and operators of our own for single decode steps.
//!
//! Weights are inputs of the graphs and lie in device memory once. Keys and values lie in device memory and are extended
//! in place. A decode step is queued again as one captured graph in [`Mode::Compiled`](phase_core::Mode), and operator by
//! operator in [`Mode::Eager`](phase_core::Mode); between the steps of a run only the device picks tokens.

mod backend;
mod cache;
mod compiler;
mod device;
mod driver;
mod evidence;
mod kernels;
mod model;
mod operators;
mod session;
mod weights;

pub use backend::OrtCuda;
pub use cache::OrtCudaCache;
pub use model::OrtCudaModel;

use crate::error::OrtError;
use device::Device;

/// Gives what ONNX Runtime says about the device its kind: out of memory, or lost.
fn classified(device: &Device, error: OrtError) -> OrtError {
    let OrtError::Runtime { action, message } = error else { return error };
    let number_after = |text: &str| {
        let rest = &message[message.find(text)? + text.len()..];
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse::<usize>().ok()
    };
    let code = number_after("CUDA failure ").and_then(|code| i32::try_from(code).ok());
    if code.is_some_and(driver::is_loss) {
        return OrtError::DeviceLost { action, message };
    }
    let refused = number_after("requested buffer of size ");
    if code == Some(driver::OUT_OF_MEMORY) || refused.is_some() {
        return match device.memory() {
            Ok((free, total)) => OrtError::DeviceMemory { what: "activations", bytes: refused.unwrap_or(0), free, total },
            Err(lost) => lost,
        };
    }
    OrtError::Runtime { action, message }
}
