//! "Default-safe unless your matrix contradicts." A challenger takes a route when its interval lies beyond the tie
//! region, and in no other case; every other case has a reason.

use crate::stats::{RatioInterval, Verdict};
use serde::{Deserialize, Serialize};
use std::fmt;

/// How a challenger stands against the default-safe backend.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Standing {
    /// The two were measured at contexts too far apart to be compared.
    ContextsDiffer {
        /// The challenger's median context.
        ours: usize,
        /// The default's.
        theirs: usize,
    },
    /// The challenger fails too often for its times to count.
    Failures {
        /// Failed calls.
        failed: u64,
        /// All calls.
        calls: u64,
    },
    /// Its time over the default's.
    Measured(RatioInterval),
    /// Too few blocks in which both were measured.
    TooFewBlocks {
        /// How many there are.
        blocks: usize,
    },
}

/// Why a choice is what it is. Every ratio is the time of the chosen backend over that of the one it is held
/// against: below 1 the chosen one is faster.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// Default-safe: the interval of the ratio crosses an edge of the tie region.
    Ambiguous {
        /// The ratio.
        ratio: RatioInterval,
    },
    /// Default-safe: the backend held against, or the default itself, no longer runs under the policy's boundary.
    BoundaryChanged,
    /// Default-safe: the two were measured at different contexts.
    ContextsDiffer {
        /// The challenger's median context.
        ours: usize,
        /// The default's.
        theirs: usize,
    },
    /// Default-safe: the challenger fails too often.
    Failures {
        /// Failed calls.
        failed: u64,
        /// All calls.
        calls: u64,
    },
    /// Default-safe: the default itself was not measured here.
    NoCell,
    /// Default-safe, although this process does not run it: nothing that it runs is known to be better.
    NotLive,
    /// Default-safe: no other backend was measured here.
    OnlyBackend,
    /// Default-safe: the request lies outside of what was measured.
    OutsideEnvelope(Outside),
    /// Default-safe: surely no difference that matters.
    Tie {
        /// The ratio.
        ratio: RatioInterval,
    },
    /// Default-safe: too few blocks in which both were measured.
    TooFewBlocks {
        /// How many there are.
        blocks: usize,
        /// How many it takes.
        needed: usize,
    },
    /// Measured to be faster by more than the tie region.
    Winner {
        /// The ratio.
        ratio: RatioInterval,
    },
}

/// Which edge of the measured envelope a request crosses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outside", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outside {
    /// No cell has this batch.
    BatchNotMeasured,
    /// It ends at a longer context than measured, tolerance included.
    ContextTooLong {
        /// The longest context measured.
        largest: usize,
    },
    /// It starts at a shorter context than measured, tolerance included.
    ContextTooShort {
        /// The shortest context measured.
        smallest: usize,
    },
    /// It has no sequences or no prompt.
    Empty,
    /// Its prompt continues a conversation; only prompts on an empty cache were compared.
    LaterTurn,
    /// Its prompt is longer than measured, tolerance included.
    PromptTooLong {
        /// The longest prompt measured.
        largest: usize,
    },
    /// Its prompt is shorter than measured, tolerance included.
    PromptTooShort {
        /// The shortest prompt measured.
        smallest: usize,
    },
}

impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BatchNotMeasured => f.write_str("this batch was not measured"),
            Self::ContextTooLong { largest } => write!(f, "its context grows beyond the longest measured, {largest} tokens"),
            Self::ContextTooShort { smallest } => write!(f, "its context starts below the shortest measured, {smallest} tokens"),
            Self::Empty => f.write_str("it has no sequences or no prompt"),
            Self::LaterTurn => f.write_str("it continues a conversation, and only first turns were measured"),
            Self::PromptTooLong { largest } => write!(f, "its prompt is longer than the longest measured, {largest} tokens"),
            Self::PromptTooShort { smallest } => write!(f, "its prompt is shorter than the shortest measured, {smallest} tokens"),
        }
    }
}

/// Whether a backend may be routed to in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Liveness {
    Changed,
    Live,
    NotLive,
}

/// A challenger with its predicted time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) index: usize,
    pub(crate) ns: f64,
    pub(crate) standing: Standing,
    pub(crate) liveness: Liveness,
}

/// Who was chosen (index 0 is the default), against whom, and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Selection {
    pub(crate) index: usize,
    pub(crate) against: Option<usize>,
    pub(crate) reason: Reason,
}

impl Selection {
    pub(crate) const fn default_safe(reason: Reason) -> Self {
        Self { index: 0, against: None, reason }
    }
}

/// Who matters among the challengers.
#[derive(Default)]
struct Field {
    /// The fastest that beats the default.
    winner: Option<(Candidate, RatioInterval)>,
    /// The fastest that would, if its boundary had not changed.
    changed: Option<Candidate>,
    /// Whoever explains best why the default stays: whether it is surely slower, and who.
    rival: Option<(bool, Candidate)>,
}

impl Field {
    fn of(candidates: impl Iterator<Item = Candidate>, rope: f64) -> Self {
        let mut field = Self::default();
        for candidate in candidates {
            let ratio = match candidate.standing {
                Standing::Measured(ratio) => Some(ratio),
                _ => None,
            };
            let verdict = ratio.map(|r| r.verdict(rope));
            match (candidate.liveness, ratio.filter(|_| verdict == Some(Verdict::Faster))) {
                (Liveness::Live, Some(ratio)) if field.winner.is_none_or(|(w, _)| candidate.ns < w.ns) => {
                    field.winner = Some((candidate, ratio));
                }
                (Liveness::Changed, Some(_)) if field.changed.is_none_or(|c| candidate.ns < c.ns) => {
                    field.changed = Some(candidate);
                }
                (Liveness::Live, None) => {
                    // What is surely slower explains least, so it is named only when nothing else can be.
                    let slower = verdict == Some(Verdict::Slower);
                    if field.rival.is_none_or(|(s, r)| (slower, candidate.ns) < (s, r.ns)) {
                        field.rival = Some((slower, candidate));
                    }
                }
                _ => {}
            }
        }
        field
    }
}

/// The fastest challenger among those that beat the default, or the default and what held the challengers back.
pub(crate) fn select(candidates: impl Iterator<Item = Candidate>, default: Liveness, rope: f64, needed: usize) -> Selection {
    if default == Liveness::Changed {
        return Selection { index: 0, against: Some(0), reason: Reason::BoundaryChanged };
    }
    let Field { winner, changed, rival } = Field::of(candidates, rope);
    let winner_ns = winner.map_or(f64::INFINITY, |(w, _)| w.ns);
    if let Some(changed) = changed.filter(|c| c.ns < winner_ns) {
        return Selection { index: 0, against: Some(changed.index), reason: Reason::BoundaryChanged };
    }
    if let Some((winner, ratio)) = winner {
        return Selection { index: winner.index, against: Some(0), reason: Reason::Winner { ratio } };
    }
    if default == Liveness::NotLive {
        return Selection::default_safe(Reason::NotLive);
    }
    let Some((_, rival)) = rival else { return Selection::default_safe(Reason::OnlyBackend) };
    let reason = match rival.standing {
        Standing::Measured(ratio) => {
            let ratio = ratio.inverse();
            match ratio.verdict(rope) {
                Verdict::Faster => Reason::Winner { ratio },
                Verdict::Equivalent => Reason::Tie { ratio },
                Verdict::Ambiguous | Verdict::Slower => Reason::Ambiguous { ratio },
            }
        }
        Standing::TooFewBlocks { blocks } => Reason::TooFewBlocks { blocks, needed },
        Standing::Failures { failed, calls } => Reason::Failures { failed, calls },
        Standing::ContextsDiffer { ours, theirs } => Reason::ContextsDiffer { ours, theirs },
    };
    Selection { index: 0, against: Some(rival.index), reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{BlockMedian, paired_ratio};

    fn candidate(index: usize, ns: f64, liveness: Liveness) -> Candidate {
        let blocks = |t: f64| (0..4).map(|b| BlockMedian::new(b, 1, t + f64::from(b))).collect::<Vec<_>>();
        let standing = Standing::Measured(paired_ratio(&blocks(ns), &blocks(1e6), 0.95).unwrap());
        Candidate { index, ns, standing, liveness }
    }

    fn chosen(candidates: &[Candidate], default: Liveness) -> Selection {
        select(candidates.iter().copied(), default, 0.02, 3)
    }

    #[test]
    fn the_fastest_of_those_beyond_the_tie_region_wins() {
        use Liveness::Live;
        let s = chosen(&[candidate(1, 9e5, Live), candidate(2, 5e5, Live), candidate(3, 9.9e5, Live)], Live);
        assert!(matches!(s, Selection { index: 2, against: Some(0), reason: Reason::Winner { ratio } } if ratio.ratio < 0.51));
    }

    #[test]
    fn ties_and_lack_of_evidence_go_to_the_default() {
        use Liveness::Live;
        assert!(matches!(chosen(&[candidate(1, 9.9e5, Live)], Live), Selection { index: 0, against: Some(1), reason: Reason::Tie { .. } }));
        assert!(matches!(chosen(&[candidate(1, 2e6, Live)], Live).reason, Reason::Winner { ratio } if ratio.ratio < 0.6));
        let few = Candidate { standing: Standing::TooFewBlocks { blocks: 2 }, ..candidate(1, 1.0, Live) };
        assert_eq!(chosen(&[few, candidate(2, 2e6, Live)], Live).reason, Reason::TooFewBlocks { blocks: 2, needed: 3 });
        assert_eq!(chosen(&[], Live), Selection::default_safe(Reason::OnlyBackend));
    }

    #[test]
    fn a_changed_winner_is_not_replaced_by_the_second_best() {
        use Liveness::{Changed, Live, NotLive};
        let (second, best) = (candidate(1, 8e5, Live), candidate(2, 5e5, Changed));
        assert_eq!(chosen(&[second, best], Live), Selection { index: 0, against: Some(2), reason: Reason::BoundaryChanged });
        assert_eq!(chosen(&[second, candidate(2, 9e5, Changed)], Live).index, 1);
        assert_eq!(chosen(&[second, candidate(2, 5e5, NotLive)], Live).index, 1);
        assert_eq!(chosen(&[second], Changed).reason, Reason::BoundaryChanged);
        assert_eq!(chosen(&[second], NotLive).index, 1);
        assert_eq!(chosen(&[candidate(1, 1e6, Live)], NotLive).reason, Reason::NotLive);
    }
}
