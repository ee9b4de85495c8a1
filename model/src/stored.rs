//! How tensors are stored in files, and how stored blocks become numbers.

use std::fmt;

use candle_core::quantized::k_quants::{
    BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0, GgmlType,
};
use half::{bf16, f16, slice::HalfFloatSliceExt};
use phase_core::DType;

/// Number format of a tensor in its file.
///
/// The `Q` formats are ggml's: blocks of quantised elements with their scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names are ggml's own")]
pub enum StoredType {
    F32,
    F16,
    Bf16,
    Q2K,
    Q3K,
    Q4_0,
    Q4_1,
    Q4K,
    Q5_0,
    Q5_1,
    Q5K,
    Q6K,
    Q8_0,
}

impl StoredType {
    pub(crate) const SUPPORTED: &'static str = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K";
    pub(crate) const SUPPORTED_DENSE: &'static str = "F32, F16, BF16";

    /// The name that GGUF and safetensors use: `F32`, `BF16`, `Q4_K`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q4K => "Q4_K",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::Q8_0 => "Q8_0",
        }
    }

    /// The plain number format, or `None` for quantised blocks.
    pub const fn dense(self) -> Option<DType> {
        match self {
            Self::F32 => Some(DType::F32),
            Self::F16 => Some(DType::F16),
            Self::Bf16 => Some(DType::Bf16),
            _ => None,
        }
    }

    /// Elements per block; 1 for plain formats. Rows are whole blocks.
    pub const fn block_elements(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes per block; per element for plain formats.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q2K => size_of::<BlockQ2K>(),
            Self::Q3K => size_of::<BlockQ3K>(),
            Self::Q4_0 => size_of::<BlockQ4_0>(),
            Self::Q4_1 => size_of::<BlockQ4_1>(),
            Self::Q4K => size_of::<BlockQ4K>(),
            Self::Q5_0 => size_of::<BlockQ5_0>(),
            Self::Q5_1 => size_of::<BlockQ5_1>(),
            Self::Q5K => size_of::<BlockQ5K>(),
            Self::Q6K => size_of::<BlockQ6K>(),
            Self::Q8_0 => size_of::<BlockQ8_0>(),
        }
    }

    /// The format of ggml's type number, `None` where it can't be read.
    pub(crate) const fn from_ggml(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            10 => Self::Q2K,
            11 => Self::Q3K,
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            30 => Self::Bf16,
            _ => return None,
        })
    }

    /// Bytes that `elements` take; `None` when they are no whole blocks or too many.
    pub(crate) fn bytes_of(self, elements: usize) -> Option<usize> {
        let whole = elements.is_multiple_of(self.block_elements());
        (elements / self.block_elements()).checked_mul(self.block_bytes()).filter(|_| whole)
    }
}

impl fmt::Display for StoredType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A plain number that weights can be read as: `f32`, [`f16`](struct@f16) or [`bf16`].
///
/// Conversions go through `f32` and round to the nearest, ties to even.
pub trait Element: sealed::Sealed + bytemuck::Pod + Default + Send + Sync {
    /// The format's name.
    const DTYPE: DType;

    /// Converts `from` into `to`, element by element; both have the same length.
    #[doc(hidden)]
    fn convert(from: &[f32], to: &mut [Self]);
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;

    fn convert(from: &[f32], to: &mut [Self]) {
        to.copy_from_slice(from);
    }
}

impl Element for f16 {
    const DTYPE: DType = DType::F16;

    fn convert(from: &[f32], to: &mut [Self]) {
        use half::slice::HalfFloatSliceExt;
        to.convert_from_f32_slice(from);
    }
}

impl Element for bf16 {
    const DTYPE: DType = DType::Bf16;

    fn convert(from: &[f32], to: &mut [Self]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = Self::from_bits(upper_half(from.to_bits()));
        }
    }
}

/// [`bf16::from_f32`] without branches, so that it becomes vector code.
#[expect(clippy::cast_possible_truncation, reason = "the lower half was shifted out")]
const fn upper_half(bits: u32) -> u16 {
    let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16;
    let quiet_nan = bits >> 16 | 0x40;
    (if bits & 0x7FFF_FFFF > 0x7F80_0000 { quiet_nan } else { rounded }) as u16
}

mod sealed {
    #[expect(unnameable_types, reason = "that is what seals a trait")]
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
}

/// Reusable memory of one worker: stored bytes (aligned for every block type) and their numbers.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    words: Vec<u64>,
    numbers: Vec<f32>,
}

impl Scratch {
    pub(crate) fn bytes(&mut self, len: usize) -> &mut [u8] {
        let words = len.div_ceil(size_of::<u64>());
        if self.words.len() < words {
            self.words.resize(words, 0);
        }
        &mut bytemuck::cast_slice_mut(&mut self.words)[..len]
    }

    /// Converts the first `to.len()` elements held in [`bytes`](Self::bytes).
    pub(crate) fn decode<T: Element>(&mut self, stored: StoredType, to: &mut [T]) {
        if self.numbers.len() < to.len() {
            self.numbers.resize(to.len(), 0.0);
        }
        let len = to.len() / stored.block_elements() * stored.block_bytes();
        let bytes = &bytemuck::cast_slice::<u64, u8>(&self.words)[..len];
        let numbers = &mut self.numbers[..to.len()];
        match bytemuck::try_cast_slice_mut::<T, f32>(to) {
            Ok(to) if T::DTYPE == DType::F32 => decode(stored, bytes, to),
            _ => {
                decode(stored, bytes, numbers);
                T::convert(numbers, to);
            }
        }
    }
}

/// Converts stored bytes into numbers. `bytes` are whole blocks, aligned for them, and as many as `to` needs.
fn decode(stored: StoredType, bytes: &[u8], to: &mut [f32]) {
    match stored {
        StoredType::F32 => to.copy_from_slice(bytemuck::cast_slice(bytes)),
        StoredType::F16 => bytemuck::cast_slice::<u8, f16>(bytes).convert_to_f32_slice(to),
        StoredType::Bf16 => bytemuck::cast_slice::<u8, bf16>(bytes).convert_to_f32_slice(to),
        StoredType::Q2K => dequantize::<BlockQ2K>(bytes, to),
        StoredType::Q3K => dequantize::<BlockQ3K>(bytes, to),
        StoredType::Q4_0 => dequantize::<BlockQ4_0>(bytes, to),
        StoredType::Q4_1 => dequantize::<BlockQ4_1>(bytes, to),
        StoredType::Q4K => dequantize::<BlockQ4K>(bytes, to),
        StoredType::Q5_0 => dequantize::<BlockQ5_0>(bytes, to),
        StoredType::Q5_1 => dequantize::<BlockQ5_1>(bytes, to),
        StoredType::Q5K => dequantize::<BlockQ5K>(bytes, to),
        StoredType::Q6K => dequantize::<BlockQ6K>(bytes, to),
        StoredType::Q8_0 => dequantize::<BlockQ8_0>(bytes, to),
    }
}

fn dequantize<B: GgmlType>(bytes: &[u8], to: &mut [f32]) {
    let blocks = to.len() / B::BLCK_SIZE;
    assert_eq!(bytes.len(), blocks * size_of::<B>(), "stored blocks match the elements asked for");
    assert!(bytes.as_ptr().cast::<B>().is_aligned(), "scratch memory is aligned to 8 bytes");
    // SAFETY: length and alignment were asserted; candle's blocks are `repr(C)` integers and halves without padding, valid for any bytes.
    let blocks = unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast::<B>(), blocks) };
    B::to_float(blocks, to);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brain_floats_round_as_half_does() {
        let mut bits = 1u32;
        for _ in 0..200_000 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            for bits in [bits, bits | 0x7F80_0000, bits & 0x807F_FFFF, bits & 0xFFFF_8000, bits | 0xFFFF] {
                assert_eq!(upper_half(bits), bf16::from_f32(f32::from_bits(bits)).to_bits(), "{bits:#x}");
            }
        }
        assert_eq!(upper_half(f32::MAX.to_bits()), bf16::INFINITY.to_bits());
    }
}
