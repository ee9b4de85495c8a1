//! burn-flex tensors whose memory can be read and written in place.

use burn::tensor::{Bytes, DType as BurnDType, Shape};
use burn_flex::{FlexTensor, Layout};
use half::{bf16, f16, slice::HalfFloatSliceExt};
use phase_core::DType;
use phase_kernels::Matrix as Raw;

use crate::BurnError;

/// Activations: f32 values that burn's products take and give without a copy.
#[derive(Debug)]
pub(crate) struct Buffer(FlexTensor);

impl Buffer {
    pub(crate) fn new() -> Self {
        Self(contiguous(Vec::<f32>::new(), [0, 0], BurnDType::F32))
    }

    /// The first `len` values; the buffer must have held as many.
    pub(crate) fn get(&self, len: usize) -> &[f32] {
        &self.0.storage()[..len]
    }

    /// The first `len` values, for writing. Grows when it must, and then forgets.
    pub(crate) fn get_mut(&mut self, len: usize) -> &mut [f32] {
        if self.0.bytes().len() < len * size_of::<f32>() {
            self.0 = contiguous(vec![0.0f32; len], [1, len], BurnDType::F32);
        }
        &mut self.0.storage_mut()[..len]
    }

    /// The first values as a matrix of burn's. Writing while it lives would copy.
    pub(crate) fn matrix(&self, rows: usize, cols: usize) -> FlexTensor {
        let layout = Layout::contiguous(Shape::from([rows, cols]));
        FlexTensor::from_arc(self.0.data_arc(), layout, BurnDType::F32)
    }

    /// As [`matrix`](Self::matrix), transposed: `[cols, rows]`.
    pub(crate) fn transposed(&self, rows: usize, cols: usize) -> FlexTensor {
        transposed(&self.0, 0, rows, cols)
    }

    /// Takes over a product's output.
    pub(crate) fn replace(&mut self, tensor: FlexTensor) {
        self.0 = tensor;
    }
}

/// A matrix of weights, `[rows, cols]` row-major in the model's number format, held once.
#[derive(Debug)]
pub(crate) struct Matrix {
    tensor: FlexTensor,
    rows: usize,
    cols: usize,
}

impl Matrix {
    /// Allocates it and lets `fill` write the values.
    pub(crate) fn load<E: Weight>(
        rows: usize,
        cols: usize,
        fill: impl FnOnce(&mut [E]) -> Result<(), BurnError>,
    ) -> Result<Self, BurnError> {
        let bytes = (rows * cols * size_of::<E>()) as u64;
        let full = |()| BurnError::OutOfMemory { what: "the weights", bytes };
        let mut values: Vec<E> = bytemuck::allocation::try_zeroed_vec(rows * cols).map_err(full)?;
        fill(&mut values)?;
        Ok(Self { tensor: contiguous(values, [rows, cols], E::BURN), rows, cols })
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.tensor.bytes().len() as u64
    }

    pub(crate) fn dtype(&self) -> DType {
        match self.tensor.dtype() {
            BurnDType::F16 => DType::F16,
            BurnDType::BF16 => DType::Bf16,
            _ => DType::F32,
        }
    }

    /// The values from row `row` on, `rows` of them, as they lie in burn's memory.
    pub(crate) fn raw(&self, row: usize, rows: usize) -> Raw<'_> {
        let range = row * self.cols..(row + rows) * self.cols;
        match self.dtype() {
            DType::F16 => Raw::F16(&self.tensor.storage::<f16>()[range]),
            DType::Bf16 => Raw::Bf16(&self.tensor.storage::<bf16>()[range]),
            _ => Raw::F32(&self.tensor.storage::<f32>()[range]),
        }
    }

    /// Writes one row, widened.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        match self.raw(row, 1) {
            Raw::F16(values) => values.convert_to_f32_slice(out),
            Raw::Bf16(values) => values.convert_to_f32_slice(out),
            Raw::F32(values) => out.copy_from_slice(values),
            _ => unreachable!("a matrix is in one of three formats"),
        }
    }

    /// The same memory as the right operand of `x · Wᵀ`: `[cols, rows]`, from row `row` on.
    pub(crate) fn transposed(&self, row: usize, rows: usize) -> FlexTensor {
        transposed(&self.tensor, row, rows, self.cols)
    }
}

/// A number format of weights, known to the checkpoint reader and to burn.
pub(crate) trait Weight: phase_model::Element + burn::tensor::Element + bytemuck::NoUninit {
    const BURN: BurnDType;
}

impl Weight for f32 {
    const BURN: BurnDType = BurnDType::F32;
}

impl Weight for f16 {
    const BURN: BurnDType = BurnDType::F16;
}

impl Weight for bf16 {
    const BURN: BurnDType = BurnDType::BF16;
}

fn contiguous<E: bytemuck::NoUninit + Send + Sync>(values: Vec<E>, shape: [usize; 2], dtype: BurnDType) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(Shape::from(shape)), dtype)
}

fn transposed(tensor: &FlexTensor, row: usize, rows: usize, cols: usize) -> FlexTensor {
    let layout = Layout::new(Shape::from([cols, rows]), vec![1, signed(cols)], row * cols);
    FlexTensor::from_arc(tensor.data_arc(), layout, tensor.dtype())
}

fn signed(n: usize) -> isize {
    isize::try_from(n).expect("a slice is never longer than isize::MAX")
}
