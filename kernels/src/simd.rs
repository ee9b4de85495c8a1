//! Eight-lane f32 arithmetic written once and compiled twice: for AVX2 + FMA + F16C, and in plain Rust for the rest.
//!
//! A kernel is generic over [`Simd`]; [`dispatch`] picks the implementation at run time, so the program needs no
//! `target-cpu`. The plain one has no fused multiply-add, so the two differ in the last bits.

use half::{bf16, f16};

/// Floats in a vector.
pub(crate) const LANES: usize = 8;

/// The instruction set that a team's kernels use.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
}

impl Level {
    pub(crate) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(avx2) = Avx2::detect() {
            return Self::Avx2(avx2);
        }
        Self::Portable
    }
}

/// Work to be compiled for each instruction set.
///
/// `run` must be `#[inline(always)]`, and so must all that it calls with vectors, or the code lands in a function
/// compiled without the instructions: slow, if sound. Hence no `array::map` and no `array::from_fn` over vectors.
pub(crate) trait Kernel {
    type Output;
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

pub(crate) fn dispatch<K: Kernel>(level: Level, kernel: K) -> K::Output {
    match level {
        Level::Portable => kernel.run(Portable),
        // SAFETY: an `Avx2` exists only where detection found the three features.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(avx2) => unsafe { run_avx2(kernel, avx2) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn run_avx2<K: Kernel>(kernel: K, avx2: Avx2) -> K::Output {
    kernel.run(avx2)
}

/// Operations on vectors of [`LANES`] floats.
#[expect(unnameable_types, reason = "public only because the sealed half of `Element` mentions it")]
pub trait Simd: Copy {
    type V: Copy;
    fn splat(self, x: f32) -> Self::V;
    fn load(self, x: &[f32; LANES]) -> Self::V;
    fn load_f16(self, x: &[f16; LANES]) -> Self::V;
    fn load_bf16(self, x: &[bf16; LANES]) -> Self::V;
    fn store(self, x: Self::V, to: &mut [f32; LANES]);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, fused where the hardware does so.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger of each pair; a NaN in `b` is kept, one in `a` is not.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller of each pair; a NaN in `b` is kept, one in `a` is not.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `yes` where `a < b`, else `no`; a NaN compares as not less.
    fn if_less(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    fn round(self, x: Self::V) -> Self::V;
    /// 2 to the power of the whole number in each lane, which must lie in `-126..=127`; a NaN gives anything.
    fn exp2_whole(self, x: Self::V) -> Self::V;
    fn sum(self, x: Self::V) -> f32;
    /// The sums of four vectors.
    fn sum4(self, x: [Self::V; 4]) -> [f32; 4];

    /// `e^x` to about 2 units in the last place; exactly 0 below -87.3 and infinity above 88.3. Keeps NaN.
    #[inline(always)]
    fn exp(self, x: Self::V) -> Self::V {
        let (low, high) = (self.splat(-87.336_54), self.splat(88.37));
        let clamped = self.min(high, self.max(low, x));
        let n = self.round(self.mul(clamped, self.splat(std::f32::consts::LOG2_E)));
        // ln 2 in two parts, the first with enough trailing zeros for an exact product.
        let r = self.mul_add(n, self.splat(-0.693_359_4), clamped);
        let r = self.mul_add(n, self.splat(2.121_944_4e-4), r);
        // The minimax polynomial of Cephes' expf.
        let mut p = self.splat(1.987_569_1e-4);
        for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = self.mul_add(p, r, self.splat(c));
        }
        let p = self.add(self.mul_add(p, self.mul(r, r), r), self.splat(1.0));
        let result = self.mul(p, self.exp2_whole(n));
        let result = self.if_less(high, x, self.splat(f32::INFINITY), result);
        self.if_less(x, low, self.splat(0.0), result)
    }
}

/// Plain Rust, for other processors and as the second opinion in tests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable;

#[inline(always)]
fn zip(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Portable {
    type V = [f32; LANES];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::V {
        *x
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> Self::V {
        x.map(f16::to_f32)
    }
    #[inline(always)]
    fn load_bf16(self, x: &[bf16; LANES]) -> Self::V {
        x.map(|x| f32::from_bits(u32::from(x.to_bits()) << 16))
    }
    #[inline(always)]
    fn store(self, x: Self::V, to: &mut [f32; LANES]) {
        *to = x;
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn if_less(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] < b[i] { yes[i] } else { no[i] })
    }
    #[inline(always)]
    fn round(self, x: Self::V) -> Self::V {
        x.map(f32::round_ties_even)
    }
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "whole numbers of at most 127")]
    fn exp2_whole(self, x: Self::V) -> Self::V {
        x.map(|x| f32::from_bits(((x as i32 + 127) << 23).cast_unsigned()))
    }
    #[inline(always)]
    fn sum(self, x: Self::V) -> f32 {
        ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]))
    }
    #[inline(always)]
    fn sum4(self, x: [Self::V; 4]) -> [f32; 4] {
        x.map(|x| self.sum(x))
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use half::{bf16, f16};

    use super::{LANES, Simd};

    /// Proof that the processor has AVX2, FMA and F16C.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Avx2(());

    impl Avx2 {
        pub(crate) fn detect() -> Option<Self> {
            let found = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            found.then_some(Self(()))
        }
    }

    /// One intrinsic call, with the one argument for its soundness that holds for all of this module.
    macro_rules! have {
        ($call:expr) => {{
            // SAFETY: `self` proves the features; every pointer comes from a reference to eight elements.
            unsafe { $call }
        }};
    }

    impl Simd for Avx2 {
        type V = __m256;

        #[inline(always)]
        fn splat(self, x: f32) -> Self::V {
            have!(_mm256_set1_ps(x))
        }
        #[inline(always)]
        fn load(self, x: &[f32; LANES]) -> Self::V {
            have!(_mm256_loadu_ps(x.as_ptr()))
        }
        #[inline(always)]
        fn load_f16(self, x: &[f16; LANES]) -> Self::V {
            have!(_mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())))
        }
        #[inline(always)]
        fn load_bf16(self, x: &[bf16; LANES]) -> Self::V {
            have!({
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            })
        }
        #[inline(always)]
        fn store(self, x: Self::V, to: &mut [f32; LANES]) {
            have!(_mm256_storeu_ps(to.as_mut_ptr(), x));
        }
        #[inline(always)]
        fn add(self, a: Self::V, b: Self::V) -> Self::V {
            have!(_mm256_add_ps(a, b))
        }
        #[inline(always)]
        fn sub(self, a: Self::V, b: Self::V) -> Self::V {
            have!(_mm256_sub_ps(a, b))
        }
        #[inline(always)]
        fn mul(self, a: Self::V, b: Self::V) -> Self::V {
            have!(_mm256_mul_ps(a, b))
        }
        #[inline(always)]
        fn div(self, a: Self::V, b: Self::V) -> Self::V {
            have!(_mm256_div_ps(a, b))
        }
        #[inline(always)]
        fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            have!(_mm256_fmadd_ps(a, b, c))
        }
        #[inline(always)]
        fn max(self, a: Self::V, b: Self::V) -> Self::V {
            have!(_mm256_max_ps(a, b))
        }
        #[inline(always)]
        fn min(self, a: Self::V, b: Self::V) -> Self::V {
            have!(_mm256_min_ps(a, b))
        }
        #[inline(always)]
        fn if_less(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V {
            have!(_mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)))
        }
        #[inline(always)]
        fn round(self, x: Self::V) -> Self::V {
            have!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x))
        }
        #[inline(always)]
        fn exp2_whole(self, x: Self::V) -> Self::V {
            have!({
                let biased = _mm256_add_epi32(_mm256_cvtps_epi32(x), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
            })
        }
        #[inline(always)]
        fn sum(self, x: Self::V) -> f32 {
            self.sum4([x; 4])[0]
        }
        #[inline(always)]
        fn sum4(self, [a, b, c, d]: [Self::V; 4]) -> [f32; 4] {
            have!({
                let pairs = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
                let sums = _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps::<1>(pairs));
                let mut out = [0.0; 4];
                _mm_storeu_ps(out.as_mut_ptr(), sums);
                out
            })
        }
    }
}

#[cfg(test)]
mod tests;
