//! Picking the next token on the host.

use crate::{TokenId, argmax};

/// Picks a token from one row of scores.
pub trait Sampler {
    /// The next token, given the scores of every vocabulary entry.
    fn sample(&mut self, scores: &[f32]) -> TokenId;
}

/// Always the highest score; the lowest id among equals.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "there is nothing in it")]
pub struct Greedy;

impl Sampler for Greedy {
    fn sample(&mut self, scores: &[f32]) -> TokenId {
        argmax(scores)
    }
}

/// Draws from the smallest set of tokens whose probability reaches `top_p`, after dividing scores by `temperature`.
/// The same seed gives the same tokens.
///
/// ```
/// use phase_core::{Nucleus, Sampler, TokenId};
/// let mut sampler = Nucleus::new(0.7, 0.9, 42).ok_or("out of range")?;
/// assert_eq!(sampler.sample(&[0.0, 50.0, 0.0]), TokenId(1));
/// # Ok::<(), &str>(())
/// ```
#[derive(Clone, Debug)]
pub struct Nucleus {
    temperature: f32,
    top_p: f32,
    state: u64,
    order: Vec<(f32, u32)>,
}

impl Nucleus {
    /// `None` unless `temperature > 0` and `0 < top_p <= 1`.
    pub fn new(temperature: f32, top_p: f32, seed: u64) -> Option<Self> {
        let fine = temperature.is_finite() && temperature > 0.0 && top_p > 0.0 && top_p <= 1.0;
        fine.then_some(Self { temperature, top_p, state: seed, order: Vec::new() })
    }

    /// Uniform in `0..1` (`SplitMix64`).
    fn uniform(&mut self) -> f32 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u32 << 24) as f32
    }
}

impl Sampler for Nucleus {
    fn sample(&mut self, scores: &[f32]) -> TokenId {
        let top = scores.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
        if !top.is_finite() {
            return argmax(scores);
        }
        self.order.clear();
        self.order.extend((0u32..).zip(scores).map(|(i, s)| (((s - top) / self.temperature).exp(), i)));
        self.order.retain(|(p, _)| *p > 0.0);
        self.order.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let total: f32 = self.order.iter().map(|(p, _)| p).sum();
        let mut kept = 0.0;
        let last = self.order.iter().position(|(p, _)| {
            kept += p;
            kept >= self.top_p * total
        });
        self.order.truncate(last.map_or(self.order.len(), |i| i + 1));
        let mut left = self.uniform() * self.order.iter().map(|(p, _)| p).sum::<f32>();
        for (p, id) in &self.order {
            left -= p;
            if left < 0.0 {
                return TokenId(*id);
            }
        }
        self.order.last().map_or_else(|| argmax(scores), |(_, id)| TokenId(*id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_frequencies_follow_the_scores() {
        let scores = [0.0, 2.0f32.ln(), f32::NEG_INFINITY];
        let draw = |seed| {
            let mut s = Nucleus::new(1.0, 1.0, seed).unwrap();
            (0..3000).map(|_| s.sample(&scores).0).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        let ones = draw(7).iter().filter(|t| **t == 1).count();
        assert!((1900..2100).contains(&ones), "{ones} of 3000, expected about 2000");
        assert!(!draw(7).contains(&2));
    }

    #[test]
    fn a_small_nucleus_keeps_only_the_top() {
        let mut s = Nucleus::new(1.0, 0.5, 1).unwrap();
        assert!((0..100).all(|_| s.sample(&[1.0, 3.0, 2.0]) == TokenId(1)));
    }

    #[test]
    fn absurd_settings_are_refused() {
        assert!(Nucleus::new(0.0, 0.9, 0).is_none() && Nucleus::new(f32::NAN, 0.9, 0).is_none() && Nucleus::new(1.0, 1.5, 0).is_none());
    }
}
