//! What the device can do at most, through the same stream and the same cuBLAS handle as a model's work.

use half::{bf16, f16};
use phase_capture::{Guarded, together};
use phase_core::DType;
use phase_kernels::cuda::{Format, Kernels};

use super::device::{Buffer, Gpu, Product};
use crate::CandleError;

/// Read at once: many times any device's second-level cache.
const READ_BYTES: usize = 2 << 30;
/// Numbers that the matrices repeat: enough that no two rows of a matrix are equal, few enough to make at once. Odd.
const PATTERN: usize = (1 << 20) + 7;

/// A device to be kept busy: reading its memory, and products of matrices. Every call returns when the device is done.
#[derive(Debug)]
pub struct CudaPeak(Guarded<Inner>);

#[derive(Debug)]
struct Inner {
    kernels: Kernels,
    memory: Buffer,
    /// For each format: both matrices of the largest product, and its result.
    matrices: Vec<(Format, Buffer, Buffer, Buffer)>,
    gpu: Gpu,
}

impl CudaPeak {
    /// Products of each format: activations of a prompt on the weights of a layer, and large squares; `[rows, k, n]`.
    pub const SHAPES: [[usize; 3]; 2] = [[2048, 8192, 2048], [8192, 8192, 8192]];
    /// What is multiplied.
    pub const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::Bf16];

    /// Takes some 5 GiB of the device's memory until it is dropped.
    ///
    /// # Errors
    /// [`CandleError`] where there is no such device, or too little memory on it.
    pub fn open(ordinal: usize) -> Result<Self, CandleError> {
        let gpu = Gpu::open(ordinal)?;
        let _together = together();
        let kernels = Kernels::load(&gpu.stream, Format::Bf16)?;
        let memory = gpu.zeros("what is read", READ_BYTES)?;
        let most = |[a, b]: [usize; 2]| Self::SHAPES.map(|shape| shape[a] * shape[b]).into_iter().max().unwrap_or(0);
        let [x, weights, out] = [[0, 1], [1, 2], [0, 2]].map(most);
        let matrices = Self::DTYPES.iter().map(|dtype| {
            let format = format(*dtype);
            let size = format.size_bytes();
            let x = filled(&gpu, format, x * size)?;
            let weights = filled(&gpu, format, weights * size)?;
            Ok((format, x, weights, gpu.buffer("a product", out * size)?))
        });
        let matrices = matrices.collect::<Result<_, CandleError>>()?;
        gpu.wait()?;
        Ok(Self(Guarded::new(Inner { kernels, memory, matrices, gpu })))
    }

    /// Reads the same memory `times` times; the bytes of it.
    ///
    /// # Errors
    /// [`CandleError`] of the driver.
    pub fn read(&self, times: usize) -> Result<usize, CandleError> {
        let Inner { kernels, memory, matrices, gpu } = &*self.0;
        let _together = together();
        let Some((_, _, _, out)) = matrices.first() else { return Ok(0) };
        for _ in 0..times {
            // SAFETY: both buffers are this value's, and the kernels are loaded into their stream.
            unsafe { kernels.read_memory(memory.region(), out.region())? };
        }
        gpu.wait()?;
        Ok(times * READ_BYTES)
    }

    /// One product of [`SHAPES`](Self::SHAPES) `times` times, sums in f32; its operations, a multiplication and an addition
    /// counting as two.
    ///
    /// # Errors
    /// [`CandleError`] of cuBLAS or the driver.
    pub fn multiply(&self, dtype: DType, [rows, k, n]: [usize; 3], times: usize) -> Result<usize, CandleError> {
        let Inner { matrices, gpu, .. } = &*self.0;
        let _together = together();
        let wanted = format(dtype);
        for (format, x, weights, out) in matrices.iter().filter(|(format, ..)| *format == wanted) {
            let [x, weights, out] = [x, weights, out].map(Buffer::region);
            let product = Product { weights, x, out, rows, n, k, to: *format, accumulate: false };
            for _ in 0..times {
                gpu.matmul(&product, *format)?;
            }
        }
        gpu.wait()?;
        Ok(2 * rows * k * n * times)
    }
}

const fn format(dtype: DType) -> Format {
    match dtype {
        DType::F16 => Format::F16,
        DType::Bf16 => Format::Bf16,
        _ => Format::F32,
    }
}

/// Memory of small numbers of changing sign: a device draws less power on zeros, and is faster then.
fn filled(gpu: &Gpu, format: Format, bytes: usize) -> Result<Buffer, CandleError> {
    let mut state = 1_u32;
    let numbers = (0..PATTERN).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from(bf16::from_f32((state >> 8) as f32 / (1 << 24) as f32 - 0.5)) * 0.125
    });
    let pattern: Vec<u8> = match format {
        Format::F32 => numbers.flat_map(f32::to_ne_bytes).collect(),
        Format::F16 => numbers.flat_map(|x| f16::from_f32(x).to_ne_bytes()).collect(),
        Format::Bf16 => numbers.flat_map(|x| bf16::from_f32(x).to_ne_bytes()).collect(),
    };
    let buffer = gpu.buffer("a matrix", bytes)?;
    let all = buffer.region();
    for at in (0..bytes).step_by(pattern.len()) {
        let part = &pattern[..pattern.len().min(bytes - at)];
        let to = phase_kernels::cuda::Region::new(all.address() + at as u64, part.len());
        gpu.upload(part, to)?;
    }
    // The pattern must outlive the copies.
    gpu.wait()?;
    Ok(buffer)
}
