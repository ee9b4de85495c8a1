//! Tensors as borrowed or owned values.

use std::borrow::Cow;

use half::{bf16, f16};
use phase_core::DType;

use crate::stored::StoredType;

/// One tensor's values, borrowed from the checkpoint's memory map where possible.
#[derive(Clone, Debug)]
pub struct TensorView<'a> {
    shape: &'a [usize],
    values: Values<'a>,
}

/// The values of a [`TensorView`], row-major.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Values<'a> {
    /// IEEE 754 binary32.
    F32(Cow<'a, [f32]>),
    /// IEEE 754 binary16.
    F16(Cow<'a, [f16]>),
    /// bfloat16.
    Bf16(Cow<'a, [bf16]>),
}

impl<'a> TensorView<'a> {
    pub(crate) const fn new(shape: &'a [usize], values: Values<'a>) -> Self {
        Self { shape, values }
    }

    /// Logical shape.
    pub const fn shape(&self) -> &'a [usize] {
        self.shape
    }

    /// Number format of the values.
    pub const fn dtype(&self) -> DType {
        match &self.values {
            Values::F32(_) => DType::F32,
            Values::F16(_) => DType::F16,
            Values::Bf16(_) => DType::Bf16,
        }
    }

    /// Whether the values lie in the file's memory map, so that nothing was copied.
    pub const fn is_borrowed(&self) -> bool {
        match &self.values {
            Values::F32(v) => matches!(v, Cow::Borrowed(_)),
            Values::F16(v) => matches!(v, Cow::Borrowed(_)),
            Values::Bf16(v) => matches!(v, Cow::Borrowed(_)),
        }
    }

    /// The values.
    pub const fn values(&self) -> &Values<'a> {
        &self.values
    }

    /// Takes the values out.
    pub fn into_values(self) -> Values<'a> {
        self.values
    }

    /// The values' bytes, little-endian.
    pub fn bytes(&self) -> &[u8] {
        match &self.values {
            Values::F32(v) => bytemuck::cast_slice(v),
            Values::F16(v) => bytemuck::cast_slice(v),
            Values::Bf16(v) => bytemuck::cast_slice(v),
        }
    }

    /// The values when they are `f32`.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.values {
            Values::F32(v) => Some(v),
            _ => None,
        }
    }
}

/// One tensor's quantised blocks, as ggml defines them, row after row.
#[derive(Clone, Debug)]
pub struct Blocks<'a> {
    shape: &'a [usize],
    stored: StoredType,
    bytes: Cow<'a, [u8]>,
}

impl<'a> Blocks<'a> {
    pub(crate) const fn new(shape: &'a [usize], stored: StoredType, bytes: Cow<'a, [u8]>) -> Self {
        Self { shape, stored, bytes }
    }

    /// Logical shape, in elements.
    pub const fn shape(&self) -> &'a [usize] {
        self.shape
    }

    /// Format of the blocks.
    pub const fn stored_type(&self) -> StoredType {
        self.stored
    }

    /// The blocks. Not necessarily aligned.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}
