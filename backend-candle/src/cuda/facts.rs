//! Facts about a device for the measurement boundary.

use phase_core::{Layer, StackInfo};
use phase_kernels::cuda::device_facts;

use super::device::context;
use crate::CandleError;

/// Adds what is known about a device. It is of the runtime's layer: a backend of the same process may run on another one.
pub(crate) fn facts(stack: StackInfo, ordinal: usize) -> Result<StackInfo, CandleError> {
    let facts = device_facts(&*context(ordinal)?)?;
    Ok(facts.into_iter().fold(stack, |stack, (key, fact)| match fact {
        Ok(value) => stack.with(Layer::Runtime, key, value),
        Err(why) => stack.with_unknown(Layer::Runtime, key, why),
    }))
}
