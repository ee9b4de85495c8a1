//! Sums of products that stay in registers: the rate that no product of matrices can beat.

use std::hint::black_box;

use crate::simd::{Kernel, LANES, Simd, dispatch};
use crate::team::Team;

/// Sums that each thread keeps apart: more than a core's latency times its units, fewer than its registers.
const SUMS: usize = 12;

/// The number format of what is multiplied; sums are f32 in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operand {
    /// bfloat16.
    Bf16,
    /// IEEE 754 binary32.
    F32,
}

/// A kind of multiply-add that this processor has, each with a peak rate of its own.
///
/// Of f32 there may be two, because on some processors wide vectors lower the clock more than they gain. Tiles (AMX), f16
/// (AVX512-FP16) and int8 (VNNI) are not here: no product of a runtime in this workspace runs on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MultiplyAdd(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    #[cfg(target_arch = "x86_64")]
    Bf16Avx512,
    F32,
    #[cfg(target_arch = "x86_64")]
    F32Avx512,
}

impl MultiplyAdd {
    /// Those that this processor has; f32 always.
    pub fn available() -> Vec<Self> {
        let mut all = vec![Self(Kind::F32)];
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx512f") {
            all.push(Self(Kind::F32Avx512));
            if std::arch::is_x86_feature_detected!("avx512bf16") {
                all.push(Self(Kind::Bf16Avx512));
            }
        }
        all
    }

    /// The instruction in words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Bf16Avx512 => "bf16 dot product, 512 bits",
            Kind::F32 => "f32 multiply-add",
            #[cfg(target_arch = "x86_64")]
            Kind::F32Avx512 => "f32 multiply-add, 512 bits",
        }
    }

    /// The number format of its factors.
    #[must_use]
    pub const fn operand(self) -> Operand {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Bf16Avx512 => Operand::Bf16,
            Kind::F32 => Operand::F32,
            #[cfg(target_arch = "x86_64")]
            Kind::F32Avx512 => Operand::F32,
        }
    }

    /// Does it `rounds` times in all registers of each thread of `team`, and returns how many floating-point operations that
    /// were, a multiplication and an addition counting as two: no product of matrices of this format can do more in the same time.
    ///
    /// ```
    /// let team = phase_kernels::Team::new(std::num::NonZeroUsize::MIN)?;
    /// for peak in phase_kernels::MultiplyAdd::available() {
    ///     assert!(peak.run(&team, 10) >= 10 * 2 * 4);
    /// }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn run(self, team: &Team, rounds: usize) -> u64 {
        team.run(team.threads(), |_| {
            black_box(self.sum(team, black_box(rounds)));
        });
        let products = match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Bf16Avx512 => 4 * LANES,
            Kind::F32 => LANES,
            #[cfg(target_arch = "x86_64")]
            Kind::F32Avx512 => 2 * LANES,
        };
        (2 * SUMS * products * rounds * team.threads()) as u64
    }

    fn sum(self, team: &Team, rounds: usize) -> f32 {
        match self.0 {
            // SAFETY: only `available` makes one, where it detected these very instructions.
            #[cfg(target_arch = "x86_64")]
            Kind::Bf16Avx512 => unsafe { bf16_avx512(rounds) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::F32Avx512 => unsafe { f32_avx512(rounds) },
            Kind::F32 if cfg!(target_arch = "aarch64") => f32_fused(rounds),
            Kind::F32 => dispatch(team.level(), F32(rounds)),
        }
    }
}

/// Factor and summand of a sum that neither grows nor dies out, and where the sums begin: all hidden from the compiler, which
/// would see that they end where they began.
fn step() -> (f32, f32, [f32; SUMS]) {
    black_box((0.999_9, 0.000_1, std::array::from_fn(|n| 0.5 + n as f32 / 16.0)))
}

struct F32(usize);

impl Kernel for F32 {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        let (factor, summand, starts) = step();
        let (factor, summand) = (simd.splat(factor), simd.splat(summand));
        let mut sums = [simd.splat(0.0); SUMS];
        for (sum, start) in sums.iter_mut().zip(starts) {
            *sum = simd.splat(start);
        }
        for _ in 0..self.0 {
            for sum in &mut sums {
                *sum = simd.mul_add(*sum, factor, summand);
            }
        }
        let mut all = simd.splat(0.0);
        for sum in sums {
            all = simd.add(all, sum);
        }
        simd.sum(all)
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn f32_avx512(rounds: usize) -> f32 {
    use std::arch::x86_64::{_mm512_add_ps, _mm512_fmadd_ps, _mm512_reduce_add_ps, _mm512_set1_ps};
    let (factor, summand, starts) = step();
    let (factor, summand) = (_mm512_set1_ps(factor), _mm512_set1_ps(summand));
    let mut sums = [_mm512_set1_ps(0.0); SUMS];
    for (sum, start) in sums.iter_mut().zip(starts) {
        *sum = _mm512_set1_ps(start);
    }
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, factor, summand);
        }
    }
    let mut all = _mm512_set1_ps(0.0);
    for sum in sums {
        all = _mm512_add_ps(all, sum);
    }
    _mm512_reduce_add_ps(all)
}

/// Each of 16 sums takes up two products of bf16 at a time, all of them 1.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn bf16_avx512(rounds: usize) -> f32 {
    use std::arch::x86_64::{_mm512_add_ps, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_reduce_add_ps, _mm512_set1_ps};
    let one = _mm512_set1_ps(black_box(1.0));
    let ones = _mm512_cvtne2ps_pbh(one, one);
    let mut sums = [_mm512_set1_ps(0.0); SUMS];
    for (sum, start) in sums.iter_mut().zip(step().2) {
        *sum = _mm512_set1_ps(start);
    }
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, ones, ones);
        }
    }
    let mut all = _mm512_set1_ps(0.0);
    for sum in sums {
        all = _mm512_add_ps(all, sum);
    }
    _mm512_reduce_add_ps(all)
}

/// Where fused operations are part of every processor, which plain arithmetic may not use.
fn f32_fused(rounds: usize) -> f32 {
    let (factor, summand, starts) = step();
    let mut sums = starts.map(|start| [start; LANES]);
    for _ in 0..rounds {
        for x in sums.as_flattened_mut() {
            *x = x.mul_add(factor, summand);
        }
    }
    sums.as_flattened().iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Level;

    #[test]
    fn every_operation_is_done() {
        let one = std::num::NonZeroUsize::MIN;
        for team in [Team::with_level(one, Level::Portable).unwrap(), Team::new(one).unwrap()] {
            for peak in MultiplyAdd::available() {
                let of = |rounds| f64::from(peak.sum(&team, rounds));
                let sums = peak.run(&team, 1) as f64 / 2.0 / if peak.operand() == Operand::Bf16 { 2.0 } else { 1.0 };
                let start = f64::from(started()) * sums / SUMS as f64;
                assert!((of(0) - start).abs() < 1e-3, "{peak:?}");
                match peak.operand() {
                    Operand::Bf16 => assert!((of(1000) - start - 2000.0 * sums).abs() < 1e-3, "{peak:?}"),
                    // Sums go to summand / (1 - factor) = 1 from wherever they are, and 20,000 steps leave e^-2 of the way.
                    Operand::F32 => {
                        let left = (of(20_000) - sums) / (start - sums);
                        assert!((left - 0.135).abs() < 0.03, "{peak:?}: {left}");
                    }
                }
            }
        }
        assert!((f32_fused(0) - started() * LANES as f32).abs() < 1e-3);
    }

    /// The sums of one lane before the first step: sixteenths, so exact.
    fn started() -> f32 {
        step().2.iter().sum()
    }

    #[test]
    fn operations_of_all_threads_and_lanes_are_counted() {
        let team = Team::new(std::num::NonZeroUsize::new(3).unwrap()).unwrap();
        let lanes: Vec<_> = MultiplyAdd::available().into_iter().map(|peak| peak.run(&team, 7) / (2 * 12 * 7 * 3)).collect();
        assert!([&[8][..], &[8, 16], &[8, 16, 32]].contains(&&lanes[..]), "{lanes:?}");
    }
}
