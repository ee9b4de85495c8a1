//! Which backend for which phase, how sure: the first thing anybody reads.

use crate::{
    card::{Alone, Standing},
    figure::bucket,
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
    /// Who takes most buckets.
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

/// One answer a phase that was measured.
pub(crate) fn answers(router: &Router) -> Vec<Answer> {
    [Phase::Prefill, Phase::Decode].into_iter().filter_map(|phase| answer(router, phase)).collect()
}

fn answer(router: &Router, phase: Phase) -> Option<Answer> {
    let cells = router.policy().cells().iter().map(|c| &c.key);
    let shapes: BTreeSet<Shape> = cells.filter(|k| k.phase == phase && k.regime == RegimeClass::Steady).map(|k| k.shape).collect();
    let choices: Vec<_> = shapes.iter().map(|shape| (*shape, Alone::of(&router.decide_phase(phase, *shape)))).collect();
    let mut takers: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, choice) in &choices {
        *takers.entry(&choice.backend).or_default() += 1;
    }
    // Of two that take as many, the one that was measured faster; then the default-safe one.
    let won = |name: &str| choices.iter().filter(|(_, c)| c.backend == name && c.standing == Standing::Faster).count();
    let safe = router.policy().default_safe().as_str();
    let (backend, taken) = takers.into_iter().max_by_key(|(name, n)| (*n, won(name), *name == safe))?;
    let backend = backend.to_owned();
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
            parts.push(format!("{rest} of {buckets} by default, nothing to compare"));
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
