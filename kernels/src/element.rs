//! The three element types of weights and caches, and conversions between them and f32.

use half::{bf16, f16};

use crate::disjoint::Disjoint;
use crate::simd::{Kernel, LANES, Simd, dispatch};
use crate::team::Team;

/// A type that weights and caches may be stored in: `f32`, [`half::f16`] or [`half::bf16`]. Arithmetic is always in f32.
///
/// Sealed: the kernels know how to load each.
pub trait Element: sealed::Load {}

impl Element for f32 {}
impl Element for f16 {}
impl Element for bf16 {}

/// Row-major weights, or any other buffer, in one of the element types.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Matrix<'a> {
    /// 16-bit floats with 8 bits of exponent.
    Bf16(&'a [bf16]),
    /// 16-bit floats with 5 bits of exponent.
    F16(&'a [f16]),
    /// 32-bit floats.
    F32(&'a [f32]),
}

impl Matrix<'_> {
    /// The number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Bf16(x) => x.len(),
            Self::F16(x) => x.len(),
            Self::F32(x) => x.len(),
        }
    }

    /// Whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a> From<&'a [f32]> for Matrix<'a> {
    fn from(x: &'a [f32]) -> Self {
        Self::F32(x)
    }
}

impl<'a> From<&'a [f16]> for Matrix<'a> {
    fn from(x: &'a [f16]) -> Self {
        Self::F16(x)
    }
}

impl<'a> From<&'a [bf16]> for Matrix<'a> {
    fn from(x: &'a [bf16]) -> Self {
        Self::Bf16(x)
    }
}

/// Elements in one task of a conversion: 64 KiB of f32, which fills a second-level cache by half at most.
const WIDEN_CHUNK: usize = 16 * 1024;

/// Converts `src` to f32, exactly.
///
/// For a product of many rows with 16-bit weights, where widening a block of weights and calling a library's f32
/// product costs less than the library's own product in 16 bits.
///
/// # Panics
/// When the lengths differ.
pub fn widen(team: &Team, src: Matrix<'_>, dst: &mut [f32]) {
    match src {
        Matrix::Bf16(src) => widen_elements(team, src, dst),
        Matrix::F16(src) => widen_elements(team, src, dst),
        Matrix::F32(src) => widen_elements(team, src, dst),
    }
}

fn widen_elements<E: Element>(team: &Team, src: &[E], dst: &mut [f32]) {
    assert_eq!(src.len(), dst.len(), "widen: as many elements in as out");
    let len = src.len();
    let out = Disjoint::new(dst);
    team.run(len.div_ceil(WIDEN_CHUNK), |task| {
        let range = task * WIDEN_CHUNK..len.min((task + 1) * WIDEN_CHUNK);
        // SAFETY: the ranges of two tasks do not overlap.
        let dst = unsafe { out.slice(range.clone()) };
        dispatch(team.level(), Widen { src: &src[range], dst });
    });
}

/// Widens on the calling thread; the slices have equal lengths.
pub(crate) struct Widen<'a, 'b, E> {
    pub(crate) src: &'a [E],
    pub(crate) dst: &'b mut [f32],
}

impl<E: Element> Kernel for Widen<'_, '_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (src, src_tail) = self.src.as_chunks::<LANES>();
        let (dst, dst_tail) = self.dst.as_chunks_mut::<LANES>();
        for (src, dst) in src.iter().zip(dst) {
            simd.store(E::load(simd, src), dst);
        }
        for (src, dst) in src_tail.iter().zip(dst_tail) {
            *dst = src.to_f32();
        }
    }
}

pub(crate) mod sealed {
    use half::slice::HalfFloatSliceExt;
    use half::{bf16, f16};

    use crate::simd::{LANES, Simd};

    #[expect(unnameable_types, reason = "what seals `Element`")]
    pub trait Load: Copy + Default + Send + Sync + std::fmt::Debug + 'static {
        #[doc(hidden)]
        fn load<S: Simd>(simd: S, x: &[Self; LANES]) -> S::V;
        #[doc(hidden)]
        fn to_f32(self) -> f32;
        /// Rounds to nearest, ties to even; the slices have equal lengths.
        #[doc(hidden)]
        fn narrow(src: &[f32], dst: &mut [Self]);
        /// The elements themselves where they are f32 already.
        #[doc(hidden)]
        fn as_f32(_: &[Self]) -> Option<&[f32]> {
            None
        }
    }

    impl Load for f32 {
        #[inline(always)]
        fn load<S: Simd>(simd: S, x: &[Self; LANES]) -> S::V {
            simd.load(x)
        }
        #[inline(always)]
        fn to_f32(self) -> f32 {
            self
        }
        fn narrow(src: &[f32], dst: &mut [Self]) {
            dst.copy_from_slice(src);
        }
        #[inline(always)]
        fn as_f32(x: &[Self]) -> Option<&[f32]> {
            Some(x)
        }
    }

    impl Load for f16 {
        #[inline(always)]
        fn load<S: Simd>(simd: S, x: &[Self; LANES]) -> S::V {
            simd.load_f16(x)
        }
        #[inline(always)]
        fn to_f32(self) -> f32 {
            Self::to_f32(self)
        }
        fn narrow(src: &[f32], dst: &mut [Self]) {
            dst.convert_from_f32_slice(src);
        }
    }

    impl Load for bf16 {
        #[inline(always)]
        fn load<S: Simd>(simd: S, x: &[Self; LANES]) -> S::V {
            simd.load_bf16(x)
        }
        #[inline(always)]
        fn to_f32(self) -> f32 {
            Self::to_f32(self)
        }
        fn narrow(src: &[f32], dst: &mut [Self]) {
            dst.convert_from_f32_slice(src);
        }
    }
}
