//! One copy of the weights in device memory, which every session of a model reads as inputs.

use super::device::{Device, DeviceMemory};
use crate::{
    binding::{Binding, Place, c_name},
    error::OrtError,
    graph::{Constant, Format, Source},
    shared::int,
};
use half::{bf16, f16, slice::HalfFloatSliceExt};
use ort::sys::ONNXTensorElementDataType as Element;
use phase_model::{Checkpoint, ModelError, Role};
use std::{collections::BTreeMap, sync::Arc};

/// Weights in device memory, by their names in the graphs.
#[derive(Debug)]
pub(crate) struct Weights {
    memory: DeviceMemory,
    format: Format,
    tensors: BTreeMap<String, Tensor>,
}

#[derive(Debug)]
struct Tensor {
    shape: Vec<i64>,
    at: usize,
    bytes: usize,
}

/// Tensors start at multiples of this, as from the driver's own allocator.
const ALIGNMENT: usize = 256;

impl Weights {
    /// Copies what a graph needs from the checkpoint to the device, converted to `format` on the way.
    ///
    /// # Errors
    /// [`OrtError::DeviceMemory`]; [`OrtError::Checkpoint`].
    pub(crate) fn load(device: &Arc<Device>, checkpoint: &Checkpoint, constants: &[Constant], format: Format) -> Result<Self, OrtError> {
        let (mut tensors, mut end) = (BTreeMap::new(), 0);
        for constant in constants {
            let bytes = constant.elements * Format::BYTES;
            let shape = constant.dims.iter().map(|d| int(*d)).collect();
            tensors.insert(constant.name.clone(), Tensor { shape, at: end, bytes });
            end += bytes.next_multiple_of(ALIGNMENT);
        }
        let weights = Self { memory: DeviceMemory::new(device, end, "the weights")?, format, tensors };
        for constant in constants {
            let at = weights.tensors[&constant.name].at;
            match &constant.source {
                Source::Joined(roles) | Source::Transposed(roles) => weights.put_roles(checkpoint, roles, at)?,
                Source::Values(values) => weights.put(at, &converted(values, format))?,
            }
        }
        Ok(weights)
    }

    fn put_roles(&self, checkpoint: &Checkpoint, roles: &[Role], mut at: usize) -> Result<(), OrtError> {
        for role in roles {
            let view = checkpoint.weights().view(*role)?;
            if view.dtype() == self.format.dtype() {
                self.put(at, view.bytes())?;
                at += view.bytes().len();
            } else {
                let bytes = read(checkpoint, *role, self.format)?;
                self.put(at, &bytes)?;
                at += bytes.len();
            }
        }
        Ok(())
    }

    fn put(&self, at: usize, bytes: &[u8]) -> Result<(), OrtError> {
        self.memory.fill(at, bytes)
    }

    /// Binds those of the weights that the session has inputs for.
    pub(crate) fn bind(&self, device: &Device, session: &ort::session::Session, binding: &mut Binding) -> Result<(), OrtError> {
        for input in session.inputs() {
            let Some(tensor) = self.tensors.get(input.name()) else { continue };
            let place = Place { start: self.memory.part(tensor.at, tensor.bytes), bytes: tensor.bytes, device: device.ordinal };
            // SAFETY: the memory holds this tensor, and lives as long as the model's runtime, which every cache shares.
            unsafe { binding.input_on_device(&c_name(input.name()), place, element(self.format), &tensor.shape) }?;
        }
        Ok(())
    }
}

/// ONNX Runtime's name for a number format.
pub(crate) const fn element(format: Format) -> Element {
    match format {
        Format::F16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
        Format::Bf16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
    }
}

fn read(checkpoint: &Checkpoint, role: Role, format: Format) -> Result<Vec<u8>, ModelError> {
    let weights = checkpoint.weights();
    Ok(match format {
        Format::F16 => bytemuck::cast_slice(&weights.to_vec::<f16>(role)?).to_vec(),
        Format::Bf16 => bytemuck::cast_slice(&weights.to_vec::<bf16>(role)?).to_vec(),
    })
}

fn converted(values: &[f32], format: Format) -> Vec<u8> {
    match format {
        Format::F16 => {
            let mut out = vec![f16::ZERO; values.len()];
            out.convert_from_f32_slice(values);
            bytemuck::cast_slice(&out).to_vec()
        }
        Format::Bf16 => {
            let mut out = vec![bf16::ZERO; values.len()];
            out.convert_from_f32_slice(values);
            bytemuck::cast_slice(&out).to_vec()
        }
    }
}
