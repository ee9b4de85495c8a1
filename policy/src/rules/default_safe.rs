//! "Default-safe unless your matrix contradicts." A challenger takes a route when its interval lies beyond the tie
//! region, and in no other case; every other case has a reason.

use crate::stats::{Edges, RatioInterval, Verdict};
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
    /// The runtime's records show one of the two on another device than its name says.
    Misplaced {
        /// The share of time (of operators, where no time is told) spent elsewhere.
        share: f64,
    },
    /// Energy counts, and one of the two has none that was measured. Never in a document.
    NoEnergy,
    /// One of the two has no steady state here, and so no time to compare.
    NotSteady {
        /// Blocks that slowed down or never settled, of the one with more of them.
        unsteady: u32,
        /// Blocks that were judged.
        judged: u32,
    },
    /// Too few blocks in which both were measured.
    TooFewBlocks {
        /// How many there are.
        blocks: usize,
    },
}

impl Standing {
    #[inline]
    pub(crate) fn verdict(&self, edges: Edges) -> Option<Verdict> {
        match self {
            Self::Measured(ratio) => Some(edges.verdict(ratio.low, ratio.high)),
            _ => None,
        }
    }
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
    /// Default-safe: the challenger is cold, and what its first calls take more leaves nothing of its advantage.
    Cooled {
        /// What they take more.
        extra_ns: f64,
    },
    /// Default-safe: the challenger fails too often.
    Failures {
        /// Failed calls.
        failed: u64,
        /// All calls.
        calls: u64,
    },
    /// The backend asked to be kept: what is better is so by less than the hysteresis.
    Incumbent {
        /// What counts on the better one over what counts on the incumbent.
        ratio: f64,
    },
    /// The backend that would be chosen does not keep the limits, or nobody knows whether it does; this one does, by upper
    /// bounds.
    KeepsLimits,
    /// Default-safe: one of the two was seen on another device than its name says.
    Misplaced {
        /// The share of time spent elsewhere.
        share: f64,
    },
    /// Default-safe: the default itself was not measured here.
    NoCell,
    /// Default-safe: energy counts, and was not measured on both.
    NoEnergy,
    /// Default-safe, although this process does not run it: nothing that it runs is known to be better.
    NotLive,
    /// Default-safe: one of the two slows down or never settles here.
    NotSteady {
        /// Blocks that did.
        unsteady: u32,
        /// Blocks that were judged.
        judged: u32,
    },
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

impl Reason {
    /// What [`as_str`](Self::as_str) can say, ordered: for counters.
    pub const NAMES: [&'static str; 17] = [
        "ambiguous",
        "boundary_changed",
        "contexts_differ",
        "cooled",
        "failures",
        "incumbent",
        "keeps_limits",
        "misplaced",
        "no_cell",
        "no_energy",
        "not_live",
        "not_steady",
        "only_backend",
        "outside_envelope",
        "tie",
        "too_few_blocks",
        "winner",
    ];

    /// The name used in files, for example `outside_envelope`.
    pub const fn as_str(&self) -> &'static str {
        Self::NAMES[match self {
            Self::Ambiguous { .. } => 0,
            Self::BoundaryChanged => 1,
            Self::ContextsDiffer { .. } => 2,
            Self::Cooled { .. } => 3,
            Self::Failures { .. } => 4,
            Self::Incumbent { .. } => 5,
            Self::KeepsLimits => 6,
            Self::Misplaced { .. } => 7,
            Self::NoCell => 8,
            Self::NoEnergy => 9,
            Self::NotLive => 10,
            Self::NotSteady { .. } => 11,
            Self::OnlyBackend => 12,
            Self::OutsideEnvelope(_) => 13,
            Self::Tie { .. } => 14,
            Self::TooFewBlocks { .. } => 15,
            Self::Winner { .. } => 16,
        }]
    }
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

/// A challenger with what counts of it (a time, a cost, an energy) and what its interval says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) index: usize,
    pub(crate) counts: f64,
    pub(crate) verdict: Option<Verdict>,
    pub(crate) liveness: Liveness,
}

/// Who was chosen, before the reason is put together. Index 0 is the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pick {
    /// The default: this one (itself, perhaps) no longer runs under its boundary.
    Changed(usize),
    /// The default: this one does not beat it.
    Held(usize),
    /// The default, though it does not run here.
    NotLive,
    /// The default: there is nobody else.
    Only,
    /// This challenger.
    Winner(usize),
}

/// Who was chosen, against whom, and why.
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

    /// Gives `pick` its reason; `standing` tells how a challenger stands against the default.
    pub(crate) fn of(pick: Pick, standing: impl FnOnce(usize) -> Option<Standing>, rope: f64, needed: usize) -> Self {
        let (index, against) = match pick {
            Pick::Only => return Self::default_safe(Reason::OnlyBackend),
            Pick::NotLive => return Self::default_safe(Reason::NotLive),
            Pick::Changed(who) => return Self { index: 0, against: Some(who), reason: Reason::BoundaryChanged },
            Pick::Held(rival) => (0, rival),
            Pick::Winner(winner) => (winner, 0),
        };
        let reason = match standing(index.max(against)) {
            Some(Standing::Measured(ratio)) => reason(if index == 0 { ratio.inverse() } else { ratio }, rope),
            Some(Standing::TooFewBlocks { blocks }) => Reason::TooFewBlocks { blocks, needed },
            Some(Standing::Failures { failed, calls }) => Reason::Failures { failed, calls },
            Some(Standing::ContextsDiffer { ours, theirs }) => Reason::ContextsDiffer { ours, theirs },
            Some(Standing::Misplaced { share }) => Reason::Misplaced { share },
            Some(Standing::NoEnergy) => Reason::NoEnergy,
            Some(Standing::NotSteady { unsteady, judged }) => Reason::NotSteady { unsteady, judged },
            None => Reason::NoCell,
        };
        Self { index, against: Some(against), reason }
    }
}

fn reason(ratio: RatioInterval, rope: f64) -> Reason {
    match ratio.verdict(rope) {
        Verdict::Faster => Reason::Winner { ratio },
        Verdict::Equivalent => Reason::Tie { ratio },
        Verdict::Ambiguous | Verdict::Slower => Reason::Ambiguous { ratio },
    }
}

/// Class, what counts, and index of the best candidate of one liveness.
type Best = Option<(u8, f64, usize)>;

/// Finds the fastest challenger among those that beat the default, or the default and what held the challengers back.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Contest {
    live: Best,
    changed: Best,
}

impl Contest {
    #[inline]
    pub(crate) fn enter(&mut self, Candidate { index, counts, verdict, liveness }: Candidate) {
        // A class of 0 is beyond the tie region. What is surely slower explains least why the default stays: it is 2.
        let class = match verdict {
            Some(Verdict::Faster) => 0,
            Some(Verdict::Ambiguous | Verdict::Equivalent) | None => 1,
            Some(Verdict::Slower) => 2,
        };
        let best = match liveness {
            Liveness::Live => &mut self.live,
            Liveness::Changed => &mut self.changed,
            Liveness::NotLive => return,
        };
        if best.is_none_or(|(c, t, _)| (class, counts) < (c, t)) {
            *best = Some((class, counts, index));
        }
    }

    #[inline]
    pub(crate) fn end(self, default: Liveness) -> Pick {
        match (self.live, self.changed) {
            _ if default == Liveness::Changed => Pick::Changed(0),
            (Some((0, counts, _)), Some((0, less, who))) if less < counts => Pick::Changed(who),
            (Some((0, _, winner)), _) => Pick::Winner(winner),
            (_, Some((0, _, who))) => Pick::Changed(who),
            _ if default == Liveness::NotLive => Pick::NotLive,
            (Some((_, _, rival)), _) => Pick::Held(rival),
            (None, Some((_, _, who))) => Pick::Changed(who),
            (None, None) => Pick::Only,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{BlockMedian, paired_ratio};

    #[test]
    fn a_reasons_name_is_that_of_its_file_form() {
        for reason in [
            Reason::Failures { failed: 1, calls: 2 },
            Reason::KeepsLimits,
            Reason::NotSteady { unsteady: 1, judged: 2 },
            Reason::OutsideEnvelope(Outside::Empty),
            Reason::TooFewBlocks { blocks: 1, needed: 3 },
        ] {
            assert_eq!(serde_json::to_value(reason).unwrap()["reason"], reason.as_str());
        }
        assert!(Reason::NAMES.is_sorted());
    }

    fn standing(ns: f64) -> Standing {
        let blocks = |t: f64| (0..4).map(|b| BlockMedian::new(b, 1, t + f64::from(b))).collect::<Vec<_>>();
        Standing::Measured(paired_ratio(&blocks(ns), &blocks(1e6), 0.95).unwrap())
    }

    /// Challengers by time, against a default of 1e6 ns; index 0 of the slice is challenger 1.
    fn chosen(challengers: &[(f64, Liveness)], default: Liveness) -> Selection {
        let verdict = |ns| standing(ns).verdict(Edges::of(0.02));
        let mut contest = Contest::default();
        for (index, (ns, liveness)) in (1..).zip(challengers) {
            contest.enter(Candidate { index, counts: *ns, verdict: verdict(*ns), liveness: *liveness });
        }
        Selection::of(contest.end(default), |index| Some(standing(challengers[index - 1].0)), 0.02, 3)
    }

    #[test]
    fn the_fastest_of_those_beyond_the_tie_region_wins() {
        use Liveness::Live;
        let s = chosen(&[(9e5, Live), (5e5, Live), (9.9e5, Live)], Live);
        assert!(matches!(s, Selection { index: 2, against: Some(0), reason: Reason::Winner { ratio } } if ratio.ratio < 0.51));
    }

    #[test]
    fn ties_and_lack_of_evidence_go_to_the_default() {
        use Liveness::Live;
        assert!(matches!(chosen(&[(9.9e5, Live)], Live), Selection { index: 0, against: Some(1), reason: Reason::Tie { .. } }));
        assert!(matches!(chosen(&[(2e6, Live)], Live).reason, Reason::Winner { ratio } if ratio.ratio < 0.6));
        assert!(matches!(chosen(&[(2e6, Live), (1.01e6, Live)], Live), Selection { against: Some(2), reason: Reason::Tie { .. }, .. }));
        assert_eq!(chosen(&[], Live), Selection::default_safe(Reason::OnlyBackend));
        for (standing, reason) in [
            (Some(Standing::TooFewBlocks { blocks: 2 }), Reason::TooFewBlocks { blocks: 2, needed: 3 }),
            (Some(Standing::Failures { failed: 1, calls: 9 }), Reason::Failures { failed: 1, calls: 9 }),
            (Some(Standing::ContextsDiffer { ours: 1, theirs: 9 }), Reason::ContextsDiffer { ours: 1, theirs: 9 }),
            (Some(Standing::NoEnergy), Reason::NoEnergy),
            (Some(Standing::Misplaced { share: 0.5 }), Reason::Misplaced { share: 0.5 }),
            (Some(Standing::NotSteady { unsteady: 3, judged: 5 }), Reason::NotSteady { unsteady: 3, judged: 5 }),
            (None, Reason::NoCell),
        ] {
            assert_eq!(Selection::of(Pick::Held(1), |_| standing, 0.02, 3), Selection { index: 0, against: Some(1), reason });
        }
    }

    #[test]
    fn a_changed_winner_is_not_replaced_by_the_second_best() {
        use Liveness::{Changed, Live, NotLive};
        let second = (8e5, Live);
        assert_eq!(chosen(&[second, (5e5, Changed)], Live), Selection { index: 0, against: Some(2), reason: Reason::BoundaryChanged });
        assert_eq!(chosen(&[second, (9e5, Changed)], Live).index, 1);
        assert_eq!(chosen(&[second, (5e5, NotLive)], Live).index, 1);
        assert_eq!(chosen(&[second], Changed).reason, Reason::BoundaryChanged);
        assert_eq!(chosen(&[second], NotLive).index, 1);
        assert_eq!(chosen(&[(1e6, Live)], NotLive).reason, Reason::NotLive);
        assert_eq!(chosen(&[(1e6, Changed), (1e6, NotLive)], Live).reason, Reason::BoundaryChanged);
    }
}
