//! Seeded order and seeded prompts: the same seed gives the same run plan and the same tokens on every machine.

use phase_core::TokenId;

/// `SplitMix64`.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// A stream of its own for each name under one seed.
    pub(crate) fn new(seed: u64, name: &str) -> Self {
        let hash = blake3::hash(name.as_bytes());
        let (first, _) = hash.as_bytes().split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
        Self(seed ^ u64::from_le_bytes(*first))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..n`; 0 for an empty range. The bias of the multiplication is below 2^-32 for the sizes used here.
    #[expect(clippy::cast_possible_truncation, reason = "the product's upper half is below n")]
    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// Fisher and Yates.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// `count` token ids below `vocab`: drawn uniformly, or `text` repeated from a drawn position where a text is given.
pub(crate) fn tokens(random: &mut Random, count: usize, vocab: usize, text: &[TokenId]) -> Vec<TokenId> {
    if text.is_empty() {
        return (0..count).map(|_| TokenId(u32::try_from(random.below(vocab)).unwrap_or(0))).collect();
    }
    let from = random.below(text.len());
    text.iter().cycle().skip(from).take(count).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_streams_of_their_own_and_seeds_repeat() {
        let draw = |seed, name| Random::new(seed, name).next();
        assert_eq!(draw(1, "a"), draw(1, "a"));
        assert_ne!(draw(1, "a"), draw(1, "b"));
        assert_ne!(draw(1, "a"), draw(2, "a"));
    }

    #[test]
    fn a_shuffle_keeps_every_item_and_reaches_every_place() {
        let mut first = [0usize; 5];
        for seed in 0..500 {
            let mut items = [0, 1, 2, 3, 4];
            Random::new(seed, "order").shuffle(&mut items);
            first[items[0]] += 1;
            items.sort_unstable();
            assert_eq!(items, [0, 1, 2, 3, 4]);
        }
        assert!(first.iter().all(|n| (60..140).contains(n)), "{first:?}");
    }

    #[test]
    fn tokens_stay_in_the_vocabulary_or_follow_the_text() {
        let mut random = Random::new(7, "p");
        assert!(tokens(&mut random, 200, 10, &[]).iter().all(|t| t.0 < 10));
        let text = [TokenId(5), TokenId(6), TokenId(7)];
        let drawn = tokens(&mut random, 7, 10, &text);
        assert!(drawn.windows(2).all(|w| w[1].0 == w[0].0 + 1 || (w[0].0, w[1].0) == (7, 5)));
    }
}
