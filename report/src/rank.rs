//! Who is first where, by how much, and where the order turns round.

use crate::figure::{Figure, Ratio, bucket};
use phase_core::{Phase, Shape};
use phase_policy::{
    Cell, RegimeClass,
    constants::Constants,
    stats::{Verdict, paired_ratio},
};
use phase_scenario::arm_of;
use serde::Serialize;
use std::collections::BTreeMap;

/// One bucket with everybody who was measured in it, fastest first.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Bucket {
    /// The phase.
    pub phase: Phase,
    /// The bucket.
    pub shape: Shape,
    /// The bucket in words.
    pub label: String,
    /// Who is surely faster than everybody else; `None` for a tie or a doubt.
    pub winner: Option<String>,
    /// Everybody, by median.
    pub places: Vec<Place>,
}

/// One competitor in one bucket.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Place {
    /// Who.
    pub arm: String,
    /// Its median.
    pub median: Figure,
    /// Its time over the fastest one's, paired by block; `None` for the fastest one and without enough blocks.
    pub ratio: Option<Ratio>,
    /// What that says of it.
    pub verdict: Option<Verdict>,
}

/// Two competitors over all buckets of a phase.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Duel {
    /// The phase.
    pub phase: Phase,
    /// One.
    pub ours: String,
    /// The other.
    pub theirs: String,
    /// Buckets in which `ours` is surely faster.
    pub faster: usize,
    /// Surely slower.
    pub slower: usize,
    /// Surely the same.
    pub equivalent: usize,
    /// Nobody can tell, too few blocks included.
    pub ambiguous: usize,
}

/// A pair whose order is not the same everywhere: there a rule of thumb would be wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Inversion {
    /// One.
    pub ours: String,
    /// The other.
    pub theirs: String,
    /// Where `ours` is surely faster: phase and bucket.
    pub faster: Vec<String>,
    /// Where it is surely slower.
    pub slower: Vec<String>,
}

/// Buckets, duels and inversions of the steady cells.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ranks {
    pub(crate) buckets: Vec<Bucket>,
    pub(crate) duels: Vec<Duel>,
    pub(crate) inversions: Vec<Inversion>,
}

pub(crate) fn ranks(cells: &[Cell], constants: &Constants) -> Ranks {
    let mut groups: BTreeMap<(Phase, Shape), Vec<&Cell>> = BTreeMap::new();
    for cell in cells.iter().filter(|c| c.key.regime == RegimeClass::Steady && c.key.phase != Phase::Request && c.time.is_some()) {
        groups.entry((cell.key.phase, cell.key.shape)).or_default().push(cell);
    }
    let mut duels: BTreeMap<(Phase, String, String), Duel> = BTreeMap::new();
    let mut turns: BTreeMap<(String, String), [Vec<String>; 2]> = BTreeMap::new();
    let mut buckets = Vec::new();
    for ((phase, shape), group) in groups {
        let label = bucket(phase, shape);
        for (at, ours) in group.iter().enumerate() {
            for theirs in &group[at + 1..] {
                let names = [name(ours), name(theirs)];
                let verdict = held(ours, theirs, constants).map(|(_, verdict)| verdict);
                count(&mut duels, phase, &names, verdict);
                let side = match verdict {
                    Some(Verdict::Faster) => 0,
                    Some(Verdict::Slower) => 1,
                    _ => continue,
                };
                let [ours, theirs] = names;
                turns.entry((ours, theirs)).or_default()[side].push(format!("{phase}, {label}"));
            }
        }
        buckets.push(place(phase, shape, label, &group, constants));
    }
    let inversions = turns.into_iter().filter(|(_, [faster, slower])| !faster.is_empty() && !slower.is_empty());
    Ranks {
        buckets,
        duels: duels.into_values().collect(),
        inversions: inversions.map(|((ours, theirs), [faster, slower])| Inversion { ours, theirs, faster, slower }).collect(),
    }
}

fn name(cell: &Cell) -> String {
    arm_of(&cell.key.backend, &cell.key.mode).to_string()
}

/// `ours` over `theirs`, by the policy's own statistics and gates.
fn held(ours: &Cell, theirs: &Cell, constants: &Constants) -> Option<(Ratio, Verdict)> {
    let ratio = paired_ratio(&ours.blocks, &theirs.blocks, constants.confidence).filter(|r| r.blocks >= constants.min_blocks)?;
    Some((ratio.into(), ratio.verdict(constants.rope)))
}

fn count(duels: &mut BTreeMap<(Phase, String, String), Duel>, phase: Phase, [ours, theirs]: &[String; 2], verdict: Option<Verdict>) {
    let fresh = || Duel { phase, ours: ours.clone(), theirs: theirs.clone(), faster: 0, slower: 0, equivalent: 0, ambiguous: 0 };
    let duel = duels.entry((phase, ours.clone(), theirs.clone())).or_insert_with(fresh);
    match verdict {
        Some(Verdict::Faster) => duel.faster += 1,
        Some(Verdict::Slower) => duel.slower += 1,
        Some(Verdict::Equivalent) => duel.equivalent += 1,
        Some(Verdict::Ambiguous) | None => duel.ambiguous += 1,
    }
}

fn place(phase: Phase, shape: Shape, label: String, group: &[&Cell], constants: &Constants) -> Bucket {
    let mut order: Vec<_> = group.iter().filter_map(|cell| Some((*cell, Figure::median_ms(cell)?))).collect();
    order.sort_by(|(_, a), (_, b)| a.value.total_cmp(&b.value));
    let first = order.first().map(|(cell, _)| *cell);
    let places: Vec<_> = order
        .into_iter()
        .enumerate()
        .map(|(at, (cell, median))| {
            let held = first.filter(|_| at > 0).and_then(|first| held(cell, first, constants));
            Place { arm: name(cell), median, verdict: held.as_ref().map(|h| h.1), ratio: held.map(|h| h.0) }
        })
        .collect();
    let sure = places.len() > 1 && places[1..].iter().all(|p| p.verdict == Some(Verdict::Slower));
    Bucket { phase, shape, label, winner: sure.then(|| places[0].arm.clone()), places }
}
