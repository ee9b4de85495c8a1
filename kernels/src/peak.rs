//! What a processor can do at most, to hold everything else against: reading, and arithmetic that reads nothing.

mod multiply_add;

use std::hint::black_box;

use crate::simd::{Kernel, LANES, Simd, dispatch};
use crate::team::Team;

pub use multiply_add::{MultiplyAdd, Operand};

/// Reads `data` `rounds` times, each thread its own part, in `STREAMS` places of it at once; what is left of a part over
/// whole vectors (under `STREAMS` times 128 bytes) is not read.
///
/// How many places at once are fastest is the processor's: more keep more of memory's latency covered, until its
/// prefetchers lose track. Wider vectors than those of 8 floats read no faster from what no core's own cache holds.
///
/// ```
/// let team = phase_kernels::Team::new(std::num::NonZeroUsize::MIN)?;
/// phase_kernels::read_memory::<2>(&team, &[1.0; 4096], 2);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn read_memory<const STREAMS: usize>(team: &Team, data: &[f32], rounds: usize) {
    const { assert!(STREAMS > 0, "nothing is read in no place") };
    let part = data.len().div_ceil(team.threads()).max(1);
    team.run(team.threads(), |task| {
        let own = data.get(task * part..).unwrap_or_default();
        let own = &own[..part.min(own.len())];
        for _ in 0..rounds {
            // Hidden from the compiler, which would read once.
            black_box(dispatch(team.level(), Read::<STREAMS>(black_box(own))));
        }
    });
}

struct Read<'a, const STREAMS: usize>(&'a [f32]);

impl<const STREAMS: usize> Kernel for Read<'_, STREAMS> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
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
        let mut all = simd.splat(0.0);
        for sum in sums {
            all = simd.add(all, sum);
        }
        simd.sum(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Level;

    #[test]
    fn every_element_is_read() {
        let data: Vec<f32> = (0..256).map(|i| i as f32).collect();
        for level in [Level::Portable, Level::detect()] {
            let sums = [dispatch(level, Read::<1>(&data)), dispatch(level, Read::<2>(&data)), dispatch(level, Read::<8>(&data))];
            assert!(sums.iter().all(|sum| (sum - 255.0 * 128.0).abs() < 0.5), "{sums:?}");
        }
    }

    #[test]
    fn parts_of_odd_lengths_are_no_trouble() {
        let team = Team::new(std::num::NonZeroUsize::new(3).unwrap()).unwrap();
        for len in [0, 1, 2, 31, 1000] {
            read_memory::<1>(&team, &vec![1.0; len], 1);
            read_memory::<8>(&team, &vec![1.0; len], 1);
        }
    }
}
