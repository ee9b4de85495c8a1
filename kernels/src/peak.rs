//! What a processor can do at most, to hold everything else against: reading, and arithmetic that reads nothing.

use std::hint::black_box;

use crate::simd::{Kernel, LANES, Simd, dispatch};
use crate::team::Team;

/// Sums that each thread keeps apart: more than a core's latency times its units, fewer than its registers.
const SUMS: usize = 12;

/// Places that each thread reads at once.
const STREAMS: usize = 8;

/// Reads `data` `rounds` times, each thread its own part; what is left of a part over whole vectors (under 1 KiB) is not
/// read.
///
/// ```
/// let team = phase_kernels::Team::new(std::num::NonZeroUsize::MIN)?;
/// phase_kernels::read_memory(&team, &[1.0; 4096], 2);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn read_memory(team: &Team, data: &[f32], rounds: usize) {
    let part = data.len().div_ceil(team.threads()).max(1);
    team.run(team.threads(), |task| {
        let own = data.get(task * part..).unwrap_or_default();
        let own = &own[..part.min(own.len())];
        for _ in 0..rounds {
            // Hidden from the compiler, which would read once.
            black_box(dispatch(team.level(), Read(black_box(own))));
        }
    });
}

/// Multiplies and adds `rounds` times in all registers of each thread, and returns how many floating-point operations that
/// were, a multiplication and an addition counting as two: no product of f32 matrices can do more in the same time.
///
/// ```
/// let team = phase_kernels::Team::new(std::num::NonZeroUsize::MIN)?;
/// assert!(phase_kernels::multiply_add(&team, 10) >= 10 * 2 * 4);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn multiply_add(team: &Team, rounds: usize) -> u64 {
    let wide = wide();
    team.run(team.threads(), |_| {
        if wide {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `wide` is the detection of these very instructions.
            black_box(unsafe { wide_sum(black_box(rounds)) });
        } else if cfg!(target_arch = "aarch64") {
            black_box(fused_sum(black_box(rounds)));
        } else {
            black_box(dispatch(team.level(), MultiplyAdd(black_box(rounds))));
        }
    });
    let lanes = if wide { 2 * LANES } else { LANES };
    (2 * SUMS * lanes * rounds * team.threads()) as u64
}

/// Whether vectors of 16 floats are there: kernels of this crate use none, libraries do.
fn wide() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

struct Read<'a>(&'a [f32]);

impl Kernel for Read<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        // Several places at once, as products of a matrix's rows do: one alone leaves a core waiting for memory.
        let blocks = self.0.as_chunks::<LANES>().0.as_chunks::<4>().0;
        let streams: [_; STREAMS] = std::array::from_fn(|n| &blocks[n * (blocks.len() / STREAMS)..][..blocks.len() / STREAMS]);
        let mut sums = [simd.splat(0.0); STREAMS];
        for at in 0..blocks.len() / STREAMS {
            for (sum, stream) in sums.iter_mut().zip(streams) {
                let [a, b, c, d] = &stream[at];
                let both = [simd.add(simd.load(a), simd.load(b)), simd.add(simd.load(c), simd.load(d))];
                *sum = simd.add(*sum, simd.add(both[0], both[1]));
            }
        }
        let [a, b, c, d, e, f, g, h] = sums;
        simd.sum4([simd.add(a, b), simd.add(c, d), simd.add(e, f), simd.add(g, h)]).iter().sum()
    }
}

/// Factor and summand of a sum that neither grows nor dies out, and where the sums begin: all hidden from the compiler, which
/// would see that they end where they began.
fn step() -> (f32, f32, [f32; SUMS]) {
    black_box((0.999_9, 0.000_1, std::array::from_fn(|n| 0.5 + n as f32 / 16.0)))
}

struct MultiplyAdd(usize);

impl Kernel for MultiplyAdd {
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
fn wide_sum(rounds: usize) -> f32 {
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

/// Where fused operations are part of every processor, which plain arithmetic may not use.
fn fused_sum(rounds: usize) -> f32 {
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
    fn every_element_is_read_and_every_operation_done() {
        for level in [Level::Portable, Level::detect()] {
            let data: Vec<f32> = (0..256).map(|i| i as f32).collect();
            assert!((dispatch(level, Read(&data)) - 255.0 * 128.0).abs() < 1e-3);
            let none = dispatch(level, MultiplyAdd(0));
            assert!((none - started()).abs() < 1e-3);
            // Sums go to summand / (1 - factor) = 1 from wherever they are, and 20,000 steps leave e^-2 of the way.
            let many = dispatch(level, MultiplyAdd(20_000));
            let left = (many - (SUMS * LANES) as f32) / (none - (SUMS * LANES) as f32);
            assert!((left - 0.135).abs() < 0.03, "{left}");
        }
        assert!((fused_sum(0) - started()).abs() < 1e-3);
        #[cfg(target_arch = "x86_64")]
        if wide() {
            // SAFETY: just detected.
            let sum = unsafe { wide_sum(0) };
            assert!((sum - 2.0 * started()).abs() < 1e-3);
        }
    }

    /// The sum of all lanes before the first step: eighths and sixteenths, so exact.
    fn started() -> f32 {
        step().2.iter().sum::<f32>() * LANES as f32
    }

    #[test]
    fn parts_of_odd_lengths_are_no_trouble() {
        let team = Team::new(std::num::NonZeroUsize::new(3).unwrap()).unwrap();
        for len in [0, 1, 2, 31, 1000] {
            read_memory(&team, &vec![1.0; len], 1);
        }
        let operations = multiply_add(&team, 7);
        assert!(operations == 2 * 12 * 8 * 7 * 3 || operations == 2 * 12 * 16 * 7 * 3);
    }
}
