//! Matrix products: which kernel takes one, and what was seen of it.

use std::collections::BTreeMap;

use burn::{
    backend::Flex,
    tensor::{Device, Float, Tensor},
};
use burn_flex::FlexTensor;
use phase_core::DType;
use phase_kernels::{Team, matvec, widen};

use super::{
    storage::{Buffer, Matrix},
    weights::Linear,
};
use crate::BurnError;

/// Most weights widened to f32 at a time: 16 MiB, which a last-level cache holds between widening and product.
const WIDE_ELEMENTS: usize = 4 << 20;
/// Rows of the output layer that one of burn's products takes: bounds the copy that its output is.
const HEAD_ROWS: usize = 8192;

/// Runs products and counts them.
#[derive(Debug)]
pub(crate) struct Products {
    device: Device,
    direct_rows: usize,
    wide: Buffer,
    seen: BTreeMap<Seen, u64>,
}

/// A kernel that ran.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seen {
    /// Where: burn's own name of the device that an output was on, or ours.
    pub(crate) executor: String,
    /// What.
    pub(crate) kernel: &'static str,
}

impl Products {
    pub(crate) fn new(device: Device, direct_rows: usize) -> Self {
        Self { device, direct_rows, wide: Buffer::new(), seen: BTreeMap::new() }
    }

    pub(crate) fn seen(&self) -> impl Iterator<Item = (&Seen, u64)> + Clone {
        self.seen.iter().map(|(seen, calls)| (seen, *calls))
    }

    pub(crate) fn saw(&mut self, executor: &str, kernel: &'static str) {
        // No allocation per call: the entry is looked up before it is made.
        match self.seen.iter_mut().find(|(seen, _)| seen.kernel == kernel && seen.executor == executor) {
            Some((_, count)) => *count += 1,
            None => drop(self.seen.insert(Seen { executor: executor.to_owned(), kernel }, 1)),
        }
    }

    /// `out = x · Wᵀ + bias` for `rows` rows of `x`.
    pub(crate) fn linear(&mut self, team: &Team, linear: &Linear, x: &Buffer, rows: usize, out: &mut Buffer) -> Result<(), BurnError> {
        let (n, k) = (linear.matrix.rows(), linear.matrix.cols());
        if rows <= self.direct_rows {
            self.direct(team, linear, x.get(rows * k), rows, out.get_mut(rows * n));
            return Ok(());
        }
        if linear.matrix.dtype() == DType::F32 || n * k <= WIDE_ELEMENTS {
            let product = self.product(team, &linear.matrix, 0, n, x.matrix(rows, k))?;
            out.replace(product);
        } else {
            let block = (WIDE_ELEMENTS / k).max(1);
            self.blocks(team, &linear.matrix, block, x, rows, out.get_mut(rows * n))?;
        }
        if let Some(bias) = &linear.bias {
            for row in out.get_mut(rows * n).chunks_exact_mut(n) {
                row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            }
        }
        Ok(())
    }

    /// `out = x · Wᵀ` for the output layer, whose rows are too many for one output of burn's.
    pub(crate) fn head(&mut self, team: &Team, head: &Linear, x: &Buffer, rows: usize, out: &mut [f32]) -> Result<(), BurnError> {
        let k = head.matrix.cols();
        if rows <= self.direct_rows {
            self.direct(team, head, x.get(rows * k), rows, out);
            return Ok(());
        }
        self.blocks(team, &head.matrix, HEAD_ROWS.min((WIDE_ELEMENTS / k).max(1)), x, rows, out)
    }

    fn direct(&mut self, team: &Team, linear: &Linear, x: &[f32], rows: usize, out: &mut [f32]) {
        let (n, k) = (linear.matrix.rows(), linear.matrix.cols());
        matvec(team, linear.matrix.raw(0, n), n, k, x, rows, linear.bias.as_deref(), out);
        let kernel = match linear.matrix.dtype() {
            DType::F16 => "matvec f16",
            DType::Bf16 => "matvec bf16",
            _ => "matvec f32",
        };
        self.saw(KERNELS, kernel);
    }

    fn blocks(&mut self, team: &Team, matrix: &Matrix, block: usize, x: &Buffer, rows: usize, out: &mut [f32]) -> Result<(), BurnError> {
        let (n, k) = (matrix.rows(), matrix.cols());
        for first in (0..n).step_by(block) {
            let count = block.min(n - first);
            let product = self.product(team, matrix, first, count, x.matrix(rows, k))?;
            for (from, to) in product.storage::<f32>().chunks_exact(count).zip(out.chunks_exact_mut(n)) {
                to[first..first + count].copy_from_slice(from);
            }
        }
        Ok(())
    }

    /// burn's product of `x` with rows `first..first + count` of the matrix, transposed.
    fn product(&mut self, team: &Team, matrix: &Matrix, first: usize, count: usize, x: FlexTensor) -> Result<FlexTensor, BurnError> {
        let k = matrix.cols();
        let right = if matrix.dtype() == DType::F32 {
            matrix.transposed(first, count)
        } else {
            widen(team, matrix.raw(first, count), self.wide.get_mut(count * k));
            self.saw(KERNELS, "widen");
            self.wide.transposed(count, k)
        };
        let product = Tensor::<2, Float>::from_primitive::<Flex>(x).matmul(Tensor::from_primitive::<Flex>(right));
        let device = product.device();
        if device != self.device {
            let reason = format!("its output is on {device:?}, not on {:?}", self.device);
            return Err(BurnError::Runtime { op: "matmul", reason });
        }
        self.saw_on(&device);
        product.try_into_primitive::<Flex>().map_err(|e| BurnError::Runtime { op: "matmul", reason: format!("{e:?}") })
    }

    fn saw_on(&mut self, device: &Device) {
        let name = format!("burn {:?}", device.as_dispatch());
        self.saw(&name, "matmul f32");
    }
}

/// The executor of what runs outside of burn.
pub(crate) const KERNELS: &str = "phase-kernels";
