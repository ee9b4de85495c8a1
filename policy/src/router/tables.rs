//! The policy's steady cells, sorted for lookup, with everything worked out that no request changes.

use super::{
    arm::{Arm, Slope},
    lengths::{OCTAVES, octave, reach},
    place::Place,
    scale::{Joules, Scale},
};
use crate::{
    Comparison, Policy, Warmup,
    constants::Constants,
    matrix::RegimeClass,
    rules::{Bases, Candidate, CompileReason, Contest, Liveness, Outside, Reason, Selection, Standing},
    stats::Edges,
};
use phase_core::{BackendId, Mode, Phase, Shape};
use std::collections::{BTreeMap, HashMap};

#[derive(Clone, Debug)]
pub(super) struct Tables {
    /// The default-safe backend is the first.
    pub(super) backends: Vec<BackendId>,
    pub(super) liveness: Vec<Liveness>,
    pub(super) edges: Edges,
    pub(super) scale: Scale,
    pub(super) prefill: Table,
    pub(super) decode: Table,
    /// Places of each backend's idle curves: of the calls that it makes without compiling, and of its compiled ones.
    idle: Vec<[Vec<usize>; 2]>,
}

/// One phase: grids ordered by batch.
#[derive(Clone, Debug)]
pub(super) struct Table {
    phase: Phase,
    grids: Vec<Grid>,
    /// The grid of each small batch, by number: one load in place of a search.
    small: Vec<Option<u32>>,
}

/// Batches below this are looked up by number.
const SMALL: usize = 256;

/// Comparisons and warm-ups of one phase, by backend and shape: in the modes that backends have without compiling, or in
/// those that the gate leaves.
pub(super) struct Found<'p> {
    pub(super) comparisons: HashMap<(&'p BackendId, Shape), &'p Comparison>,
    pub(super) warmups: HashMap<(&'p BackendId, Shape), &'p Warmup>,
    pub(super) compiles: &'p HashMap<(&'p BackendId, Phase, Shape), CompileReason>,
}

impl<'p> Found<'p> {
    fn new(
        phase: Phase,
        comparisons: &'p [Comparison],
        warmups: &'p [Warmup],
        compiles: &'p HashMap<(&'p BackendId, Phase, Shape), CompileReason>,
    ) -> Self {
        Self {
            compiles,
            comparisons: comparisons.iter().filter(|c| c.phase == phase).map(|c| ((&c.challenger, c.shape), c)).collect(),
            warmups: warmups.iter().filter(|w| w.phase == phase).map(|w| ((&w.backend, w.shape), w)).collect(),
        }
    }
}

/// What each backend did in one bucket, in the order of [`Tables::backends`], and who is best by it.
#[derive(Clone, Debug)]
pub(super) struct Side {
    pub(super) best: Selection,
    pub(super) arms: Vec<Option<Arm>>,
}

/// One batch: rows ordered by length.
#[derive(Clone, Debug)]
struct Grid {
    batch: usize,
    rows: Vec<Row>,
    /// Their lengths, side by side for the search.
    lengths: Vec<f64>,
    /// How many rows are shorter than each power of two.
    shorter: [u32; OCTAVES],
    /// Smallest and largest length measured.
    span: (usize, usize),
    /// The same, with the tolerance of the envelope.
    reach: (usize, usize),
}

/// One bucket.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) shape: Shape,
    length: f64,
    /// In decode with the compiled times that pass their gate; in prefill without any.
    pub(super) side: Side,
    /// In prefill, with the compiled times that pass their gate: they hold for the very length that was proven and measured.
    pub(super) exact: Option<Side>,
}

impl Tables {
    pub(super) fn new(policy: &Policy) -> Self {
        let default = policy.default_safe();
        let challengers = policy.backends().filter(|id| *id != default);
        let backends: Vec<_> = std::iter::once(default).chain(challengers).cloned().collect();
        let verdicts = policy.compiles();
        let compiles = verdicts.iter().map(|c| ((&c.backend, c.phase, c.shape), c.reason)).collect();
        let (routed, compiled_warmups) = (policy.routed(&verdicts), policy.compiled_warmups());
        let table = |phase| {
            let eager = Found::new(phase, policy.comparisons(), policy.warmups(), &compiles);
            let routed = routed.as_ref().map(|routed| Found::new(phase, routed, &compiled_warmups, &compiles));
            Table::new(policy, &backends, phase, &eager, routed.as_ref())
        };
        let bases = Bases::of(policy.cells());
        let curves = |backend: &BackendId, mode: &str| {
            let all = policy.idle_curves().iter().enumerate();
            all.filter(|(_, c)| c.backend == *backend && c.mode == mode).map(|(place, _)| place).collect()
        };
        let tables = Self {
            idle: backends.iter().map(|id| [curves(id, bases.mode(id)), curves(id, Mode::Compiled.as_str())]).collect(),
            liveness: vec![Liveness::Live; backends.len()],
            edges: Edges::of(policy.constants().rope),
            scale: Scale::Time(vec![1.0; backends.len()]),
            prefill: table(Phase::Prefill),
            decode: table(Phase::Decode),
            backends,
        };
        let everybody = tables.liveness.clone();
        tables.with_liveness(everybody, policy.constants())
    }

    /// Places of the idle curves of one backend's calls, compiled or not.
    #[inline]
    pub(super) fn idle(&self, backend: usize, compiled: bool) -> &[usize] {
        &self.idle[backend][usize::from(compiled)]
    }

    pub(super) fn with_liveness(mut self, liveness: Vec<Liveness>, constants: &Constants) -> Self {
        self.liveness = liveness;
        self.choose(constants);
        self
    }

    pub(super) fn with_scale(mut self, scale: Scale, constants: &Constants) -> Self {
        self.scale = scale;
        self.choose(constants);
        self
    }

    /// Takes the energies of the cells that `holds` is false for out of every decision.
    pub(super) fn with_energies(mut self, holds: impl Fn(usize) -> bool, constants: &Constants) -> Self {
        for arm in self.sides_mut().flat_map(|side| side.arms.iter_mut().flatten()).filter(|arm| !holds(arm.cell)) {
            arm.energy = None;
        }
        self.choose(constants);
        self
    }

    fn sides_mut(&mut self) -> impl Iterator<Item = &mut Side> {
        let rows = [&mut self.prefill, &mut self.decode].into_iter().flat_map(|t| &mut t.grids).flat_map(|g| &mut g.rows);
        rows.flat_map(|row| std::iter::once(&mut row.side).chain(&mut row.exact))
    }

    /// Works out who is best in each bucket.
    fn choose(&mut self, constants: &Constants) {
        let (liveness, scale, edges) = (self.liveness.clone(), self.scale.clone(), self.edges);
        for side in self.sides_mut() {
            side.best = side.select(&liveness, &scale, edges, constants);
        }
    }
}

impl Table {
    fn new(policy: &Policy, backends: &[BackendId], phase: Phase, eager: &Found<'_>, routed: Option<&Found<'_>>) -> Self {
        let mut by_shape: BTreeMap<Shape, Row> = BTreeMap::new();
        let bases = Bases::of(policy.cells());
        for (index, cell) in policy.cells().iter().enumerate() {
            let key = &cell.key;
            let wanted = key.phase == phase && key.regime == RegimeClass::Steady && bases.holds(key);
            // Only prompts on an empty cache are one family; later turns are other work.
            if !wanted || (phase == Phase::Prefill && key.shape.context > 0) {
                continue;
            }
            let backend = backends.iter().position(|b| *b == key.backend);
            let (Some(arm), Some(backend)) = (Arm::new(eager, index, cell), backend) else { continue };
            let row = by_shape.entry(key.shape).or_insert_with(|| Row::new(key.shape, arm.length, backends.len()));
            if backend == 0 {
                row.length = arm.length;
            }
            row.side.arms[backend] = Some(arm);
        }
        let mut rows: Vec<Row> = by_shape.into_values().collect();
        if let Some(routed) = routed {
            rows.iter_mut().for_each(|row| row.compile(policy, backends, phase, routed));
        }
        let sides = rows.iter_mut().flat_map(|row| std::iter::once(&mut row.side).chain(&mut row.exact));
        sides.for_each(|side| side.keep_comparable_energies(policy));
        rows.sort_by(|a, b| a.shape.batch.cmp(&b.shape.batch).then(a.length.total_cmp(&b.length)));
        let grids: Vec<_> = rows.chunk_by(|a, b| a.shape.batch == b.shape.batch).map(|rows| Grid::new(policy, rows.to_vec())).collect();
        let mut small = vec![None; SMALL];
        for (number, grid) in (0..).zip(&grids) {
            if let Some(place) = small.get_mut(grid.batch) {
                *place = Some(number);
            }
        }
        Self { phase, grids, small }
    }

    /// Finds `length`, the mean of calls whose lengths run from `first` to `last`. `None` when this phase was not
    /// measured at all.
    #[inline]
    pub(super) fn place(&self, batch: usize, (first, last): (usize, usize), length: f64) -> Option<Result<Place<'_>, Outside>> {
        if self.grids.is_empty() {
            return None;
        }
        let Some(grid) = self.grid(batch) else { return Some(Err(Outside::BatchNotMeasured)) };
        let ((smallest, largest), (least, most)) = (grid.span, grid.reach);
        let prefill = self.phase == Phase::Prefill;
        if last > most {
            return Some(Err(if prefill { Outside::PromptTooLong { largest } } else { Outside::ContextTooLong { largest } }));
        }
        if first < least {
            return Some(Err(if prefill { Outside::PromptTooShort { smallest } } else { Outside::ContextTooShort { smallest } }));
        }
        let above = grid.above(length);
        let below = above.checked_sub(1).map(|i| &grid.rows[i]);
        let nearest = match (below, grid.rows.get(above)) {
            // The nearer one by ratio: length / low <= high / length, without a division by a context of 0.
            (Some(low), Some(high)) => {
                if length * length <= low.length * high.length {
                    low
                } else {
                    high
                }
            }
            (Some(only), None) | (None, Some(only)) => only,
            (None, None) => return None,
        };
        #[expect(clippy::float_cmp, reason = "both are whole numbers")]
        let side = nearest.exact.as_ref().filter(|_| length == nearest.length).unwrap_or(&nearest.side);
        Some(Ok(Place { length, scales: prefill, shape: nearest.shape, side, below: below.map(|row| &row.side) }))
    }
}

impl Table {
    #[inline]
    fn grid(&self, batch: usize) -> Option<&Grid> {
        let number = match self.small.get(batch) {
            Some(number) => (*number)? as usize,
            None => self.grids.binary_search_by(|g| g.batch.cmp(&batch)).ok()?,
        };
        self.grids.get(number)
    }
}

impl Grid {
    /// The first row that is longer than `length`.
    #[inline]
    fn above(&self, length: f64) -> usize {
        let octave = octave(length);
        let from = self.shorter[octave.saturating_sub(1)] as usize;
        let to = self.shorter[octave] as usize;
        from + self.lengths[from..to].partition_point(|l| *l <= length)
    }

    fn new(policy: &Policy, mut rows: Vec<Row>) -> Self {
        let batch = rows.first().map_or(0, |r| r.shape.batch);
        for i in 0..rows.len() {
            let (shorter, longer) = rows.split_at_mut(i + 1);
            for (backend, arm) in shorter[i].side.arms.iter_mut().enumerate() {
                let next = longer.first().and_then(|row| row.side.arms[backend]);
                // No line leads from a compiled time to an eager one.
                if let Some((arm, next)) = arm.as_mut().zip(next).filter(|(arm, next)| arm.compiled == next.compiled) {
                    arm.slope = Slope::between(arm, &next);
                }
            }
        }
        let arms = rows.iter().flat_map(|r| &r.side.arms).flatten();
        let measured = arms.map(|arm| {
            let cell = &policy.cells()[arm.cell];
            match (cell.key.phase, cell.contexts) {
                (Phase::Decode, Some(contexts)) => (contexts.min, contexts.max),
                _ => (cell.key.shape.new_tokens, cell.key.shape.new_tokens),
            }
        });
        let span = measured.fold((usize::MAX, 0), |(low, high), (min, max)| (low.min(min), high.max(max)));
        let lengths: Vec<_> = rows.iter().map(|r| r.length).collect();
        let mut shorter = [0; OCTAVES];
        for (number, count) in shorter.iter_mut().enumerate() {
            let below = lengths.partition_point(|l| octave(*l) <= number);
            *count = u32::try_from(below).unwrap_or(u32::MAX);
        }
        let reach = reach(span, policy.constants().envelope_factor);
        Self { batch, rows, lengths, shorter, span, reach }
    }
}

impl Row {
    fn new(shape: Shape, length: f64, backends: usize) -> Self {
        let side = Side { best: Selection::default_safe(Reason::NoCell), arms: vec![None; backends] };
        Self { shape, length, side, exact: None }
    }

    /// Brings in the compiled times that pass their gate, and how all stand with them.
    fn compile(&mut self, policy: &Policy, backends: &[BackendId], phase: Phase, routed: &Found<'_>) {
        let passes = |backend| routed.compiles.get(&(backend, phase, self.shape)).is_some_and(|reason| reason.allows());
        if !backends.iter().any(passes) {
            return;
        }
        let mut side = self.side.clone();
        for (backend, arm) in backends.iter().zip(&mut side.arms) {
            if passes(backend)
                && let Some((index, cell)) = policy.compiled_cell(backend, phase, self.shape)
            {
                *arm = Arm::new(routed, index, cell).map(|arm| Arm { compiled: true, ..arm });
            } else if let Some(arm) = arm {
                arm.standing = routed.comparisons.get(&(backend, self.shape)).map(|c| c.standing);
            }
        }
        if phase == Phase::Decode { self.side = side } else { self.exact = Some(side) }
    }
}

impl Side {
    /// Energies of another perimeter than the default's say nothing against it.
    fn keep_comparable_energies(&mut self, policy: &Policy) {
        let basis = |arm: &Arm| policy.cells()[arm.cell].energy_basis.as_ref();
        let Some((default, challengers)) = self.arms.split_first_mut() else { return };
        let Some(ours) = default.as_ref().and_then(basis) else { return };
        for arm in challengers.iter_mut().flatten() {
            if basis(arm).is_some_and(|theirs| !ours.comparable(theirs)) {
                arm.energy = None;
            }
        }
    }

    fn select(&self, liveness: &[Liveness], scale: &Scale, edges: Edges, constants: &Constants) -> Selection {
        let Some(default) = self.arms[0] else { return Selection::default_safe(Reason::NoCell) };
        let standing = |index: usize| {
            let arm = self.arms[index].as_ref()?;
            Some(match (scale, arm.standing?) {
                (Scale::Time(_), standing) => scale.weigh(index, standing),
                (Scale::Energy, Standing::Measured(ratio)) => {
                    arm.energy.zip(default.energy).map_or(Standing::NoEnergy, |(ours, theirs)| ours.standing(theirs, &ratio))
                }
                (Scale::Energy, other) => other,
            })
        };
        let counts = |index: usize, arm: &Arm| match scale {
            Scale::Time(weights) => arm.ns * weights[index],
            Scale::Energy => arm.energy.map_or(f64::INFINITY, Joules::value),
        };
        let challengers = self.arms.iter().zip(liveness).enumerate().skip(1);
        let mut contest = Contest::default();
        for (index, (arm, liveness)) in challengers {
            if let Some((arm, standing)) = arm.as_ref().zip(standing(index)) {
                let verdict = standing.verdict(edges);
                contest.enter(Candidate { index, counts: counts(index, arm), verdict, liveness: *liveness });
            }
        }
        Selection::of(contest.end(liveness[0]), standing, constants.rope, constants.min_blocks)
    }
}
