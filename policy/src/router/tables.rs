//! The policy's steady cells, sorted for lookup, with everything worked out that no request changes.

use super::{
    estimate::{Basis, Estimate},
    scale::{Joules, Scale},
};
use crate::{
    Comparison, Policy, Warmup,
    constants::Constants,
    matrix::{Cell, RegimeClass, TimeSummary},
    rules::{Bases, Candidate, CompileReason, Liveness, Outside, Reason, Selection, Standing, Warmth, select},
    stats::{Edges, Interval, real, real_size},
};
use phase_core::{BackendId, Phase, Shape};
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

/// Comparisons and warm-ups of one phase, by backend and shape.
struct Found<'p> {
    comparisons: HashMap<(&'p BackendId, Shape), &'p Comparison>,
    warmups: HashMap<(&'p BackendId, Shape), &'p Warmup>,
    compiles: HashMap<(BackendId, Shape), CompileReason>,
}

impl<'p> Found<'p> {
    fn new(policy: &'p Policy, phase: Phase) -> Self {
        let compiles = policy.compiles().into_iter().filter(|c| c.phase == phase);
        Self {
            compiles: compiles.map(|c| ((c.backend, c.shape), c.reason)).collect(),
            comparisons: policy.comparisons().iter().filter(|c| c.phase == phase).map(|c| ((&c.challenger, c.shape), c)).collect(),
            warmups: policy.warmups().iter().filter(|w| w.phase == phase).map(|w| ((&w.backend, w.shape), w)).collect(),
        }
    }
}

/// One batch: rows ordered by length.
#[derive(Clone, Debug)]
struct Grid {
    batch: usize,
    rows: Vec<Row>,
    /// Their lengths, side by side for the search.
    lengths: Vec<f64>,
    /// How many rows are shorter than each power of two.
    shorter: [u32; 65],
    /// Smallest and largest length measured.
    span: (usize, usize),
}

/// One bucket: what each backend did there, in the order of [`Tables::backends`].
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) shape: Shape,
    /// Who is best in this bucket.
    pub(super) best: Selection,
    length: f64,
    pub(super) arms: Vec<Option<Arm>>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Arm {
    /// Index among the policy's cells.
    pub(super) cell: usize,
    length: f64,
    ns: f64,
    interval: Option<Interval>,
    tail: Tail,
    /// The way to this backend's next longer bucket.
    slope: Option<Slope>,
    /// Against the default; `None` for the default itself, and where it was not measured.
    pub(super) standing: Option<Standing>,
    /// Energy of one call; `None` where it was not measured.
    pub(super) energy: Option<Joules>,
    pub(super) warmth: Warmth,
    compile: CompileReason,
}

/// What slow calls take, over the median.
#[derive(Clone, Copy, Debug)]
struct Tail {
    p95_upper: Option<f64>,
    p99_upper: Option<f64>,
    slowest: f64,
}

impl Tail {
    fn of(time: &TimeSummary) -> Self {
        let over = |ns: f64| ns / time.median_ns;
        Self { p95_upper: time.p95_upper_ns.map(over), p99_upper: time.p99_upper_ns.map(over), slowest: over(real(time.max_ns)) }
    }

    /// The worse of two neighbours.
    fn or(self, other: Self) -> Self {
        let worse = |a: Option<f64>, b: Option<f64>| a.zip(b).map(|(a, b)| a.max(b));
        Self {
            p95_upper: worse(self.p95_upper, other.p95_upper),
            p99_upper: worse(self.p99_upper, other.p99_upper),
            slowest: self.slowest.max(other.slowest),
        }
    }

    fn estimate(self, ns: f64, interval: Option<Interval>, basis: Basis) -> Estimate {
        let times = |over: f64| ns * over;
        Estimate {
            ns,
            interval,
            p95_upper_ns: self.p95_upper.map(times),
            p99_upper_ns: self.p99_upper.map(times),
            slowest_ns: times(self.slowest),
            basis,
        }
    }
}

/// What one more token costs between two neighbouring buckets.
#[derive(Clone, Copy, Debug)]
struct Slope {
    until: f64,
    ns: f64,
    /// The ends of the interval, and its confidence over the whole stretch.
    interval: Option<Interval>,
    /// The worse of both ends.
    tail: Tail,
}

/// Where a length falls in a grid.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'t> {
    length: f64,
    /// Whether a longer call than measured is scaled per token.
    scales: bool,
    /// The bucket that decides: the nearest by ratio.
    pub(super) nearest: &'t Row,
    /// The bucket at or below, where there is one.
    below: Option<&'t Row>,
}

impl Tables {
    pub(super) fn new(policy: &Policy) -> Self {
        let default = policy.default_safe();
        let challengers = policy.backends().filter(|id| *id != default);
        let backends: Vec<_> = std::iter::once(default).chain(challengers).cloned().collect();
        let tables = Self {
            liveness: vec![Liveness::Live; backends.len()],
            edges: Edges::of(policy.constants().rope),
            scale: Scale::Time(vec![1.0; backends.len()]),
            prefill: Table::new(policy, &backends, Phase::Prefill),
            decode: Table::new(policy, &backends, Phase::Decode),
            backends,
        };
        let everybody = tables.liveness.clone();
        tables.with_liveness(everybody, policy.constants())
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
        for arm in self.rows_mut().flat_map(|row| row.arms.iter_mut().flatten()).filter(|arm| !holds(arm.cell)) {
            arm.energy = None;
        }
        self.choose(constants);
        self
    }

    fn rows_mut(&mut self) -> impl Iterator<Item = &mut Row> {
        [&mut self.prefill, &mut self.decode].into_iter().flat_map(|t| &mut t.grids).flat_map(|g| &mut g.rows)
    }

    /// Works out who is best in each bucket.
    fn choose(&mut self, constants: &Constants) {
        for row in [&mut self.prefill, &mut self.decode].into_iter().flat_map(|t| &mut t.grids).flat_map(|g| &mut g.rows) {
            row.best = row.select(&self.liveness, &self.scale, self.edges, constants);
        }
    }
}

impl Table {
    fn new(policy: &Policy, backends: &[BackendId], phase: Phase) -> Self {
        let mut by_shape: BTreeMap<Shape, Row> = BTreeMap::new();
        let found = Found::new(policy, phase);
        let bases = Bases::of(policy.cells());
        for (index, cell) in policy.cells().iter().enumerate() {
            let key = &cell.key;
            let wanted = key.phase == phase && key.regime == RegimeClass::Steady && bases.holds(key);
            // Only prompts on an empty cache are one family; later turns are other work.
            if !wanted || (phase == Phase::Prefill && key.shape.context > 0) {
                continue;
            }
            let backend = backends.iter().position(|b| *b == key.backend);
            let (Some(arm), Some(backend)) = (Arm::new(&found, index, cell), backend) else { continue };
            let row = by_shape.entry(key.shape).or_insert_with(|| Row::new(key.shape, arm.length, backends.len()));
            if backend == 0 {
                row.length = arm.length;
            }
            row.arms[backend] = Some(arm);
        }
        let mut rows: Vec<Row> = by_shape.into_values().collect();
        rows.iter_mut().for_each(|row| row.keep_comparable_energies(policy));
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
    pub(super) fn place(
        &self,
        batch: usize,
        (first, last): (usize, usize),
        length: f64,
        constants: &Constants,
    ) -> Option<Result<Place<'_>, Outside>> {
        if self.grids.is_empty() {
            return None;
        }
        let Some(grid) = self.grid(batch) else { return Some(Err(Outside::BatchNotMeasured)) };
        let (smallest, largest) = grid.span;
        let prefill = self.phase == Phase::Prefill;
        if real_size(last) > real_size(largest) * constants.envelope_factor {
            return Some(Err(if prefill { Outside::PromptTooLong { largest } } else { Outside::ContextTooLong { largest } }));
        }
        if real_size(first) * constants.envelope_factor < real_size(smallest) {
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
        Some(Ok(Place { length, scales: prefill, nearest, below }))
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
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a length is not negative; saturates")]
        let octave = (u64::BITS - (length as u64).leading_zeros()) as usize;
        let from = self.shorter[octave.saturating_sub(1)] as usize;
        let to = self.shorter[octave] as usize;
        from + self.lengths[from..to].partition_point(|l| *l <= length)
    }

    fn new(policy: &Policy, mut rows: Vec<Row>) -> Self {
        let batch = rows.first().map_or(0, |r| r.shape.batch);
        for i in 0..rows.len() {
            let (shorter, longer) = rows.split_at_mut(i + 1);
            for (backend, arm) in shorter[i].arms.iter_mut().enumerate() {
                let next = longer.first().and_then(|row| row.arms[backend]);
                if let Some((arm, next)) = arm.as_mut().zip(next) {
                    arm.slope = Slope::between(arm, &next);
                }
            }
        }
        let arms = rows.iter().flat_map(|r| &r.arms).flatten();
        let measured = arms.map(|arm| {
            let cell = &policy.cells()[arm.cell];
            match (cell.key.phase, cell.contexts) {
                (Phase::Decode, Some(contexts)) => (contexts.min, contexts.max),
                _ => (cell.key.shape.new_tokens, cell.key.shape.new_tokens),
            }
        });
        let span = measured.fold((usize::MAX, 0), |(low, high), (min, max)| (low.min(min), high.max(max)));
        let lengths: Vec<_> = rows.iter().map(|r| r.length).collect();
        // Bits of the whole part: a length of 2^(k-1) to 2^k has k of them.
        let bits = |l: f64| if l < 1.0 { 0.0 } else { l.log2().floor() + 1.0 };
        let mut shorter = [0; 65];
        for (octave, count) in (0_u8..).zip(&mut shorter) {
            let below = lengths.partition_point(|l| bits(*l) <= f64::from(octave));
            *count = u32::try_from(below).unwrap_or(u32::MAX);
        }
        Self { batch, rows, lengths, shorter, span }
    }
}

impl Row {
    fn new(shape: Shape, length: f64, backends: usize) -> Self {
        Self { shape, best: Selection::default_safe(Reason::NoCell), length, arms: vec![None; backends] }
    }

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
        let candidates = challengers.filter_map(|(index, (arm, liveness))| {
            let arm = arm.as_ref()?;
            Some(Candidate { index, counts: counts(index, arm), verdict: standing(index)?.verdict(edges), liveness: *liveness })
        });
        let pick = select(candidates, liveness[0]);
        Selection::of(pick, standing, constants.rope, constants.min_blocks)
    }
}

impl Arm {
    fn new(found: &Found<'_>, index: usize, cell: &Cell) -> Option<Self> {
        let (time, contexts) = (cell.time?, cell.contexts?);
        let key = &cell.key;
        let comparison = found.comparisons.get(&(&key.backend, key.shape));
        let warmup = found.warmups.get(&(&key.backend, key.shape));
        Some(Self {
            cell: index,
            length: real_size(if key.phase == Phase::Decode { contexts.median } else { key.shape.new_tokens }),
            ns: time.median_ns,
            interval: time.interval,
            tail: Tail::of(&time),
            slope: None,
            standing: comparison.map(|c| c.standing),
            energy: Joules::of(&cell.energy),
            warmth: warmup.map_or(Warmth::NotMeasured, |w| Warmth::from(*w)),
            compile: found.compiles.get(&(key.backend.clone(), key.shape)).copied().unwrap_or(CompileReason::NoEvidence),
        })
    }
}

impl Slope {
    fn between(a: &Arm, b: &Arm) -> Option<Self> {
        let tokens = b.length - a.length;
        let interval = a.interval.zip(b.interval).map(|(i, j)| Interval {
            low: (j.low - i.low) / tokens,
            high: (j.high - i.high) / tokens,
            confidence: i.confidence.min(j.confidence),
        });
        (tokens > 0.0).then(|| Self { until: b.length, ns: (b.ns - a.ns) / tokens, interval, tail: a.tail.or(b.tail) })
    }
}

impl<'t> Place<'t> {
    /// The line that a length between two buckets lies on, and how far along.
    #[inline]
    fn line(&self, backend: usize) -> Option<(&'t Arm, &'t Slope, f64)> {
        let arm = self.below?.arms[backend].as_ref()?;
        let slope = arm.slope.as_ref()?;
        let along = self.length - arm.length;
        (along > 0.0 && self.length < slope.until).then_some((arm, slope, along))
    }

    /// The bucket that stands for the length where no line does: the factor is 1 unless it is scaled.
    #[inline]
    fn single(&self, backend: usize) -> Option<(&'t Arm, f64, Basis)> {
        let arm = self.nearest.arms[backend].as_ref()?;
        #[expect(clippy::float_cmp, reason = "both are whole numbers or halves")]
        let here = self.length == arm.length;
        Some(match (here, self.scales && self.length > arm.length) {
            (true, _) => (arm, 1.0, Basis::Measured),
            (false, true) => (arm, self.length / arm.length, Basis::Scaled),
            (false, false) => (arm, 1.0, Basis::Nearest),
        })
    }

    /// The time of one call on `backend` in nanoseconds; `None` where it was not measured.
    #[inline]
    pub(super) fn ns(&self, backend: usize) -> Option<f64> {
        match self.line(backend) {
            Some((arm, slope, along)) => Some(arm.ns + slope.ns * along),
            None => self.single(backend).map(|(arm, factor, _)| arm.ns * factor),
        }
    }

    /// As [`ns`](Self::ns), with where it comes from and how sure it is.
    pub(super) fn estimate(&self, backend: usize) -> Option<Estimate> {
        let Some((arm, slope, along)) = self.line(backend) else {
            let (arm, factor, basis) = self.single(backend)?;
            return Some(arm.tail.estimate(arm.ns, arm.interval, basis).times(factor));
        };
        let interval = arm.interval.zip(slope.interval).map(|(at, per_token)| Interval {
            low: at.low + per_token.low * along,
            high: at.high + per_token.high * along,
            confidence: per_token.confidence,
        });
        Some(slope.tail.estimate(arm.ns + slope.ns * along, interval, Basis::Interpolated))
    }

    /// Whether to compile such a call on `backend`. Prefill must have the very length that was proven and measured: a
    /// compiled prefill elsewhere may be compiled again, or run otherwise.
    #[inline]
    pub(super) fn compile(&self, backend: usize) -> CompileReason {
        let Some(arm) = self.nearest.arms[backend].as_ref() else { return CompileReason::NoEvidence };
        #[expect(clippy::float_cmp, reason = "both are whole numbers")]
        let elsewhere = self.scales && self.length != arm.length;
        if elsewhere && arm.compile.allows() { CompileReason::ShapeOutside } else { arm.compile }
    }

    /// How `backend` stands against the default in the bucket that decides.
    #[inline]
    pub(super) fn standing(&self, backend: usize) -> Option<&'t Standing> {
        self.nearest.arms[backend].as_ref()?.standing.as_ref()
    }
}
