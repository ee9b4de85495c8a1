//! Which backend for which phase, how sure: the first thing anybody reads.

use crate::{
    card::{Alone, Standing},
    figure::bucket,
    rank::Bucket,
};
use phase_core::{Phase, Shape};
use phase_policy::{RegimeClass, Router};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// The answer for one phase, over every bucket that was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Answer {
    /// The phase.
    pub phase: Phase,
    /// Who takes most of the buckets that something was measured for.
    pub backend: String,
    /// Whom it was held against there.
    pub against: Option<String>,
    /// Buckets measured.
    pub buckets: usize,
    /// Of those, the ones it takes.
    pub taken: usize,
    /// Taken because it is measured faster.
    pub faster: usize,
    /// Taken because there is no difference.
    pub ties: usize,
    /// Taken because nobody can tell.
    pub undecided: usize,
    /// Smallest and largest speed against the other where it is faster: 1.3 means 1.3 times as fast. Conservative: the near
    /// end of each interval.
    pub at_least: Option<[f64; 2]>,
    /// Buckets that somebody else takes.
    pub exceptions: Vec<Exception>,
}

/// A bucket that goes to another backend than most.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Exception {
    /// The bucket in words.
    pub bucket: String,
    /// Who takes it, and why.
    pub choice: Alone,
}

/// Who is surely faster than everybody else in most buckets, for phases that have somebody: what is left to say where no
/// policy can be made.
pub(crate) fn leaders(buckets: &[Bucket]) -> Vec<Answer> {
    [Phase::Prefill, Phase::Decode].into_iter().filter_map(|phase| leader(buckets, phase)).collect()
}

fn leader(buckets: &[Bucket], phase: Phase) -> Option<Answer> {
    let own: Vec<_> = buckets.iter().filter(|b| b.phase == phase && b.places.len() > 1).collect();
    let mut wins: BTreeMap<&str, usize> = BTreeMap::new();
    own.iter().filter_map(|b| b.winner.as_deref()).for_each(|name| *wins.entry(name).or_default() += 1);
    let (backend, taken) = wins.into_iter().max_by_key(|(_, n)| *n)?;
    // The near end of the interval against the next best, in each bucket.
    let won = own.iter().filter(|b| b.winner.as_deref() == Some(backend));
    let speeds = won.filter_map(|b| b.places.iter().filter_map(|p| p.ratio.as_ref()).map(|r| r.low).min_by(f64::total_cmp));
    let at_least = speeds.fold(None, |range: Option<[f64; 2]>, s| Some(range.map_or([s, s], |[low, high]| [low.min(s), high.max(s)])));
    let others = own.iter().filter(|b| b.winner.as_deref() != Some(backend));
    let exception = |b: &&Bucket| {
        let (standing, why) = match b.winner {
            Some(_) => (Standing::Faster, "measured faster"),
            None => (Standing::Undecided, "the smallest median, and not surely"),
        };
        let first = b.winner.clone().or_else(|| Some(b.places.first()?.arm.clone()))?;
        Some(Exception {
            bucket: b.label.clone(),
            choice: Alone { backend: first, standing, ratio: None, against: None, why: why.to_owned() },
        })
    };
    Some(Answer {
        phase,
        backend: backend.to_owned(),
        against: None,
        buckets: own.len(),
        taken,
        faster: taken,
        ties: 0,
        undecided: 0,
        at_least,
        exceptions: others.filter_map(exception).collect(),
    })
}

/// One answer a phase that was measured.
pub(crate) fn answers(router: &Router) -> Vec<Answer> {
    [Phase::Prefill, Phase::Decode].into_iter().filter_map(|phase| answer(router, phase)).collect()
}

fn answer(router: &Router, phase: Phase) -> Option<Answer> {
    let cells = router.policy().cells().iter().map(|c| &c.key);
    let shapes: BTreeSet<Shape> = cells.filter(|k| k.phase == phase && k.regime == RegimeClass::Steady).map(|k| k.shape).collect();
    let choices: Vec<_> = shapes.iter().map(|shape| (*shape, Alone::of(&router.decide_phase(phase, *shape)))).collect();
    // What was measured speaks; defaults only where nothing was.
    let mut takers: BTreeMap<&str, usize> = BTreeMap::new();
    let measured = |c: &Alone| c.standing != Standing::Default;
    let any = choices.iter().any(|(_, c)| measured(c));
    for (_, choice) in choices.iter().filter(|(_, c)| !any || measured(c)) {
        *takers.entry(&choice.backend).or_default() += 1;
    }
    // Of two that take as many, the one that was measured faster; then the default-safe one.
    let won = |name: &str| choices.iter().filter(|(_, c)| c.backend == name && c.standing == Standing::Faster).count();
    let safe = router.policy().default_safe().as_str();
    let (backend, _) = takers.into_iter().max_by_key(|(name, n)| (*n, won(name), *name == safe))?;
    let backend = backend.to_owned();
    let taken = choices.iter().filter(|(_, c)| c.backend == backend).count();
    let own = || choices.iter().map(|(_, choice)| choice).filter(|c| c.backend == backend);
    let with = |standing| own().filter(|c| c.standing == standing).count();
    let speeds = own().filter(|c| c.standing == Standing::Faster).filter_map(|c| Some(1.0 / c.ratio.as_ref()?.high));
    let at_least = speeds
        .fold(None, |range: Option<[f64; 2]>, speed| Some(range.map_or([speed, speed], |[low, high]| [low.min(speed), high.max(speed)])));
    let against: BTreeSet<_> = own().filter_map(|c| c.against.clone()).collect();
    Some(Answer {
        phase,
        against: (against.len() == 1).then(|| against.into_iter().next()).flatten(),
        buckets: choices.len(),
        taken,
        faster: with(Standing::Faster),
        ties: with(Standing::Tie),
        undecided: with(Standing::Undecided),
        at_least,
        exceptions: choices
            .iter()
            .filter(|(_, choice)| choice.backend != backend)
            .map(|(shape, choice)| Exception { bucket: bucket(phase, *shape), choice: choice.clone() })
            .collect(),
        backend,
    })
}

impl Answer {
    /// How sure it is, in one sentence.
    pub fn sentence(&self) -> String {
        let Self { buckets, taken, faster, ties, undecided, .. } = self;
        let other = self.against.as_deref().unwrap_or("the others");
        let mut parts = Vec::new();
        if let (true, Some([low, high])) = (*faster > 0, self.at_least) {
            let range = if high / low < 1.05 { format!("{low:.2}\u{d7}") } else { format!("{low:.2}\u{d7} to {high:.2}\u{d7}") };
            parts.push(format!("faster in {faster} of {buckets} buckets, by at least {range} against {other}"));
        }
        if *ties > 0 {
            parts.push(format!("{ties} of {buckets} ties with {other}, which go to the default"));
        }
        if *undecided > 0 {
            parts.push(format!("{undecided} of {buckets} undecided, which go to the default"));
        }
        let rest = taken - faster - ties - undecided;
        if rest > 0 {
            parts.push(format!("{rest} of {buckets} by default, too little to compare"));
        }
        parts.join("; ")
    }

    /// Whether most of what it takes was measured to be faster.
    pub fn standing(&self) -> Standing {
        let Self { taken, faster, ties, undecided, .. } = *self;
        let best = [
            (faster, Standing::Faster),
            (ties, Standing::Tie),
            (undecided, Standing::Undecided),
            (taken - faster - ties - undecided, Standing::Default),
        ];
        best.into_iter().rev().max_by_key(|(n, _)| *n).map_or(Standing::Default, |(_, standing)| standing)
    }
}
