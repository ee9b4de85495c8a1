//! Lengths of calls: their octaves, for the search, and how far beyond the measured ones a policy reaches.

use crate::stats::real_size;

/// Octaves of lengths: below 1, and from each power of two to the next.
pub(super) const OCTAVES: usize = 65;

/// The octave of a length that is not negative: k for 2^(k-1) to 2^k, out of the exponent of the number.
#[inline]
pub(super) fn octave(length: f64) -> usize {
    let exponent = usize::try_from(length.to_bits() >> 52).unwrap_or(usize::MAX);
    exponent.saturating_sub(1022).min(OCTAVES - 1)
}

/// The shortest and the longest length within a factor of those measured.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "lengths are not negative; saturates")]
pub(super) fn reach((smallest, largest): (usize, usize), factor: f64) -> (usize, usize) {
    let within = |length: usize| real_size(length) * factor >= real_size(smallest);
    let around = (real_size(smallest) / factor) as usize;
    // The division may be off by its rounding.
    let least = (around.saturating_sub(1)..=smallest).find(|length| within(*length)).unwrap_or(smallest);
    (least, (real_size(largest) * factor) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_reach_is_what_the_factor_allows(smallest in 0..5_000_usize, more in 0..5_000_usize, factor in 1.0..4.0_f64) {
            let largest = smallest + more;
            let (least, most) = reach((smallest, largest), factor);
            for length in (0..3).flat_map(|i| [least + i, most + i, smallest + i]).chain([least.saturating_sub(1), most.saturating_sub(1)]) {
                prop_assert_eq!(length < least, real_size(length) * factor < real_size(smallest), "{}", length);
                prop_assert_eq!(length > most, real_size(length) > real_size(largest) * factor, "{}", length);
            }
        }

        #[test]
        fn an_octave_ends_at_a_power_of_two(length in prop_oneof![0.0..1e6_f64, Just(0.5), (0..62_u32).prop_map(|k| real_size(1 << k))]) {
            let octave = u32::try_from(octave(length)).unwrap();
            prop_assert!(length < real_size(1 << octave), "{} in {}", length, octave);
            prop_assert!(octave == 0 || length >= real_size(1 << (octave - 1)), "{} in {}", length, octave);
        }
    }

    #[test]
    fn the_longest_lengths_share_an_octave() {
        assert_eq!(octave(real_size(usize::MAX)), OCTAVES - 1);
        assert_eq!(octave(f64::INFINITY), OCTAVES - 1);
        assert_eq!(reach((1, usize::MAX), 2.0), (1, usize::MAX));
    }
}
