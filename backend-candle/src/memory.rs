//! The memory behind candle's CPU tensors, for kernels that work on slices.

use std::{cell::Cell, ops::Deref};

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Storage, StorageRef, Tensor, WithDType, bail};
use half::{bf16, f16};

use crate::CandleError;

/// An element type that candle stores, `phase-kernels` computes on and `phase-model` reads.
pub(crate) trait Stored: WithDType + phase_kernels::Element + phase_model::Element {
    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]>;
}

macro_rules! stored {
    ($($element:ty, $variant:ident;)*) => {
        $(impl Stored for $element {
            fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
                match storage {
                    CpuStorage::$variant(elements) => Some(elements),
                    _ => None,
                }
            }
        })*
    };
}

stored! {
    bf16, BF16;
    f16, F16;
    f32, F32;
}

/// All elements of a contiguous CPU tensor.
pub(crate) fn read<E: Stored>(tensor: &Tensor) -> Result<impl Deref<Target = [E]> + '_, CandleError> {
    let (storage, layout) = tensor.storage_and_layout();
    let range = layout.contiguous_offsets();
    StorageRef::try_map(storage, |storage| {
        let Storage::Cpu(storage) = storage else { return None };
        let (from, to) = range?;
        storage.as_slice::<E>().ok()?.get(from..to)
    })
    .map_err(|_| CandleError::Candle { action: "read a tensor's memory", source: "not a contiguous CPU tensor of this type".into() })
}

/// Lets `body` change all elements of a contiguous CPU tensor.
pub(crate) fn write<E: Stored, R>(tensor: &Tensor, body: impl FnOnce(&mut [E]) -> R) -> Result<R, CandleError> {
    let op = Write { body: Cell::new(Some(body)), result: Cell::new(None), element: std::marker::PhantomData };
    tensor.inplace_op1(&op).map_err(CandleError::candle("write a tensor's memory"))?;
    op.result.take().ok_or_else(|| CandleError::Candle { action: "write a tensor's memory", source: "the operation did not run".into() })
}

struct Write<E, F, R> {
    body: Cell<Option<F>>,
    result: Cell<Option<R>>,
    element: std::marker::PhantomData<E>,
}

impl<E: Stored, R, F: FnOnce(&mut [E]) -> R> InplaceOp1 for Write<E, F, R> {
    fn name(&self) -> &'static str {
        "phase-kernels"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let Some((from, to)) = layout.contiguous_offsets() else { bail!("the tensor is not contiguous") };
        let Some(elements) = E::slice_mut(storage).and_then(|elements| elements.get_mut(from..to)) else {
            bail!("the tensor is not of type {:?}", <E as WithDType>::DTYPE)
        };
        if let Some(body) = self.body.take() {
            self.result.set(Some(body(elements)));
        }
        Ok(())
    }
}

/// Room for rows of f32 activations that kernels write and candle multiplies, or the other way round.
#[derive(Debug)]
pub(crate) struct Buffer(Tensor);

impl Buffer {
    pub(crate) fn new() -> Result<Self, CandleError> {
        Self::with_len(0)
    }

    fn with_len(len: usize) -> Result<Self, CandleError> {
        Tensor::from_vec(vec![0.0f32; len], len, &Device::Cpu).map(Self).map_err(CandleError::candle("allocate activations"))
    }

    /// The first `len` elements.
    pub(crate) fn read(&self, len: usize) -> Result<impl Deref<Target = [f32]> + '_, CandleError> {
        Ok(Prefix { all: read::<f32>(&self.0)?, len })
    }

    /// Lets `body` change the first `len` elements, which hold what was there before or anything.
    pub(crate) fn write<R>(&mut self, len: usize, body: impl FnOnce(&mut [f32]) -> R) -> Result<R, CandleError> {
        if self.0.elem_count() < len {
            *self = Self::with_len(len)?;
        }
        write(&self.0, |all| body(&mut all[..len]))
    }

    /// Takes over a tensor that candle computed.
    pub(crate) fn adopt(&mut self, tensor: &Tensor) -> Result<(), CandleError> {
        self.0 = tensor.flatten_all().map_err(CandleError::candle("view a product"))?;
        Ok(())
    }

    /// The first `rows * width` elements as a matrix.
    pub(crate) fn matrix(&self, rows: usize, width: usize) -> Result<Tensor, CandleError> {
        let view = || self.0.narrow(0, 0, rows * width)?.reshape((rows, width));
        view().map_err(CandleError::candle("view activations"))
    }
}

struct Prefix<D> {
    all: D,
    len: usize,
}

impl<D: Deref<Target = [f32]>> Deref for Prefix<D> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.all[..self.len]
    }
}
