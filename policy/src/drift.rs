//! Whether live traffic still is what the policy was weighted with.

use crate::{Policy, Router, Unpredicted, Workload, capacity::Mix, stats::real};
use serde::Serialize;

/// Counts live requests by size and holds them against a mix. Bounded memory; noting a request allocates nothing.
///
/// ```
/// use phase_policy::{Drift, DriftVerdict, Workload, capacity::Mix};
/// let mix = Mix::parse("256x128:80,2048x256:20")?;
/// let mut drift = Drift::new(&mix);
/// for i in 0..1000 {
///     drift.note(&if i % 5 == 0 { Workload::new(1, 2048, 256) } else { Workload::new(1, 256, 128) });
/// }
/// assert!(matches!(drift.verdict(), DriftVerdict::Same { .. }));
/// (0..1000).for_each(|_| drift.note(&Workload::new(1, 16, 512)));
/// assert!(matches!(drift.verdict(), DriftVerdict::Reweight { distance } if distance > 0.4));
/// # Ok::<(), phase_policy::capacity::MixError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Drift {
    expected: Vec<f64>,
    seen: Vec<u32>,
    total: u64,
    outside: u64,
}

/// What the traffic says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "drift", rename_all = "snake_case")]
#[non_exhaustive]
pub enum DriftVerdict {
    /// Too many requests lie outside of what was measured: measure there.
    Rerun {
        /// Their share.
        outside: f64,
    },
    /// The mix is another one: work out routes and costs again with it.
    Reweight {
        /// Total variation distance, from 0 to 1.
        distance: f64,
    },
    /// The mix is the same, as far as so many requests can tell.
    Same {
        /// Total variation distance, from 0 to 1.
        distance: f64,
    },
    /// Too few requests to tell.
    TooFew {
        /// How many there were.
        requests: u64,
    },
}

/// Octaves of prompt tokens, new tokens and batch that are told apart; larger ones count as the largest.
const OCTAVES: [usize; 3] = [16, 16, 8];

/// Requests before anything is said.
const NEEDED: u64 = 200;

/// Distance that moves no cost worth mentioning. Ours.
const TOLERATED: f64 = 0.1;

/// Share of requests outside of the measured envelope that is worth a measurement. Ours.
const TOLERATED_OUTSIDE: f64 = 0.01;

fn bucket(w: &Workload) -> usize {
    let octave = |n: usize, octaves: usize| ((usize::BITS - n.leading_zeros()) as usize).min(octaves - 1);
    let [p, n, b] = OCTAVES;
    (octave(w.prompt_tokens, p) * n + octave(w.new_tokens, n)) * b + octave(w.batch, b)
}

impl Drift {
    /// Against the mix that the policy was weighted with.
    pub fn new(mix: &Mix) -> Self {
        let buckets = OCTAVES.iter().product();
        let mut expected = vec![0.0; buckets];
        for part in mix.parts() {
            expected[bucket(&part.workload)] += part.share;
        }
        Self { expected, seen: vec![0; buckets], total: 0, outside: 0 }
    }

    /// Against the mix that a policy states; `None` where it states none.
    pub fn of(policy: &Policy) -> Option<Self> {
        policy.mix().map(Self::new)
    }

    /// Notes one request.
    pub fn note(&mut self, workload: &Workload) {
        let count = &mut self.seen[bucket(workload)];
        *count = count.saturating_add(1);
        self.total += 1;
    }

    /// Notes one request, and whether `router` can say anything of it.
    pub fn note_routed(&mut self, router: &Router, workload: &Workload) {
        self.note(workload);
        let default = router.policy().default_safe();
        self.outside += u64::from(matches!(router.predict(default, workload), Err(Unpredicted::Outside(_) | Unpredicted::NoCell)));
    }

    /// Forgets what was seen.
    pub fn reset(&mut self) {
        self.seen.fill(0);
        (self.total, self.outside) = (0, 0);
    }

    /// What the requests so far say. The distance that so many requests show by chance is allowed for.
    pub fn verdict(&self) -> DriftVerdict {
        if self.total < NEEDED {
            return DriftVerdict::TooFew { requests: self.total };
        }
        let n = real(self.total);
        let outside = real(self.outside) / n;
        if outside > TOLERATED_OUTSIDE {
            return DriftVerdict::Rerun { outside };
        }
        let (mut distance, mut chance) = (0.0, 0.0);
        for (seen, expected) in self.seen.iter().zip(&self.expected) {
            let share = f64::from(*seen) / n;
            distance += (share - expected).abs() / 2.0;
            // Half the mean absolute deviation of a binomial share.
            chance += (expected * (1.0 - expected) / n).sqrt() * 0.4;
        }
        if distance > TOLERATED + 2.0 * chance { DriftVerdict::Reweight { distance } } else { DriftVerdict::Same { distance } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_requests_and_the_same_mix_say_nothing() {
        let mix = Mix::parse("256x128:1,2048x256:1").unwrap();
        let mut drift = Drift::new(&mix);
        assert_eq!(drift.verdict(), DriftVerdict::TooFew { requests: 0 });
        for i in 0..1000 {
            // The same octaves, other lengths.
            drift.note(&if i % 2 == 0 { Workload::new(1, 300, 200) } else { Workload::new(1, 4000, 300) });
        }
        assert_eq!(drift.verdict(), DriftVerdict::Same { distance: 0.0 });
        drift.reset();
        assert_eq!(drift.verdict(), DriftVerdict::TooFew { requests: 0 });
    }

    #[test]
    fn absurd_sizes_have_a_bucket() {
        let mut drift = Drift::new(&Mix::parse("1x1").unwrap());
        for n in [0, 1, usize::MAX] {
            drift.note(&Workload::new(n, n, n));
        }
        assert_eq!(drift.verdict(), DriftVerdict::TooFew { requests: 3 });
    }
}
