//! The policy's steady cells, sorted for lookup.

use crate::{
    Policy,
    constants::Constants,
    matrix::{Cell, RegimeClass},
    rules::{Liveness, Outside, Standing, Warmth},
    stats::{Interval, real_size},
};
use phase_core::{BackendId, Phase, Shape};
use serde::Serialize;

#[derive(Clone, Debug)]
pub(super) struct Tables {
    /// The default-safe backend is the first.
    pub(super) backends: Vec<BackendId>,
    pub(super) liveness: Vec<Liveness>,
    pub(super) prefill: Table,
    pub(super) decode: Table,
}

/// One phase: grids ordered by batch.
#[derive(Clone, Debug)]
pub(super) struct Table {
    phase: Phase,
    grids: Vec<Grid>,
}

/// One batch: rows ordered by length.
#[derive(Clone, Debug)]
struct Grid {
    batch: usize,
    rows: Vec<Row>,
    /// Smallest and largest length measured.
    span: (usize, usize),
}

/// One bucket: what each backend did there, in the order of [`Tables::backends`].
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) shape: Shape,
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
    /// Against the default; `None` for the default itself, and where it was not measured.
    pub(super) standing: Option<Standing>,
    pub(super) warmth: Warmth,
}

/// A predicted time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Estimate {
    /// The prediction.
    pub ns: f64,
    /// Where it lies if the cells' intervals hold; `None` when a cell has a single block.
    pub interval: Option<Interval>,
    /// How it came about.
    pub basis: Basis,
}

/// How a prediction came about, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Basis {
    /// This very length was measured.
    Measured,
    /// On the line between the two neighbouring lengths.
    Interpolated,
    /// The nearest length's time as it is.
    Nearest,
    /// The longest length's time, scaled per token: attention grows faster, so it may be too low.
    Scaled,
}

impl Estimate {
    pub(super) fn times(self, factor: f64) -> Self {
        let interval = self.interval.map(|i| Interval { low: i.low * factor, high: i.high * factor, ..i });
        Self { ns: self.ns * factor, interval, ..self }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        let interval = self.interval.zip(other.interval).map(|(a, b)| Interval {
            low: a.low + b.low,
            high: a.high + b.high,
            confidence: a.confidence.min(b.confidence),
        });
        Self { ns: self.ns + other.ns, interval, basis: self.basis.max(other.basis) }
    }

    fn between(a: &Arm, b: &Arm, length: f64) -> Self {
        let share = (length - a.length) / (b.length - a.length);
        let mix = |x: f64, y: f64| x + share * (y - x);
        let interval = a.interval.zip(b.interval).map(|(i, j)| Interval {
            low: mix(i.low, j.low),
            high: mix(i.high, j.high),
            confidence: i.confidence.min(j.confidence),
        });
        Self { ns: mix(a.ns, b.ns), interval, basis: Basis::Interpolated }
    }
}

/// Where a length falls in a grid.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'t> {
    phase: Phase,
    length: f64,
    /// The bucket that decides: the nearest by ratio.
    pub(super) nearest: &'t Row,
    /// The buckets around it.
    around: Option<(&'t Row, &'t Row)>,
}

impl Tables {
    pub(super) fn new(policy: &Policy) -> Self {
        let default = policy.default_safe();
        let challengers = policy.backends().filter(|id| *id != default);
        let backends: Vec<_> = std::iter::once(default).chain(challengers).cloned().collect();
        Self {
            liveness: vec![Liveness::Live; backends.len()],
            prefill: Table::new(policy, &backends, Phase::Prefill),
            decode: Table::new(policy, &backends, Phase::Decode),
            backends,
        }
    }
}

impl Table {
    fn new(policy: &Policy, backends: &[BackendId], phase: Phase) -> Self {
        let mut rows: Vec<Row> = Vec::new();
        for (index, cell) in policy.cells().iter().enumerate() {
            let key = &cell.key;
            let wanted = key.phase == phase && key.regime == RegimeClass::Steady && crate::rules::may_route(&key.mode);
            // Only prompts on an empty cache are one family; later turns are other work.
            if !wanted || (phase == Phase::Prefill && key.shape.context > 0) {
                continue;
            }
            let (Some(arm), Some(backend)) = (Arm::new(policy, index, cell), backends.iter().position(|b| *b == key.backend)) else {
                continue;
            };
            let row = match rows.iter().position(|r| r.shape == key.shape) {
                Some(found) => &mut rows[found],
                None => rows.push_mut(Row { shape: key.shape, length: arm.length, arms: vec![None; backends.len()] }),
            };
            if backend == 0 {
                row.length = arm.length;
            }
            row.arms[backend] = Some(arm);
        }
        rows.sort_by(|a, b| a.shape.batch.cmp(&b.shape.batch).then(a.length.total_cmp(&b.length)));
        let grids = rows.chunk_by(|a, b| a.shape.batch == b.shape.batch).map(|rows| Grid::new(policy, rows.to_vec())).collect();
        Self { phase, grids }
    }

    /// Finds `length`, the longest of the call or calls being `last` and the shortest `first`. `None` when this phase
    /// was not measured at all.
    pub(super) fn place(
        &self,
        batch: usize,
        first: usize,
        last: usize,
        length: f64,
        constants: &Constants,
    ) -> Option<Result<Place<'_>, Outside>> {
        if self.grids.is_empty() {
            return None;
        }
        let Ok(found) = self.grids.binary_search_by_key(&batch, |g| g.batch) else { return Some(Err(Outside::BatchNotMeasured)) };
        let grid = &self.grids[found];
        let (smallest, largest) = grid.span;
        let prefill = self.phase == Phase::Prefill;
        if real_size(last) > real_size(largest) * constants.envelope_factor {
            return Some(Err(if prefill { Outside::PromptTooLong { largest } } else { Outside::ContextTooLong { largest } }));
        }
        if real_size(first) < real_size(smallest) / constants.envelope_factor {
            return Some(Err(if prefill { Outside::PromptTooShort { smallest } } else { Outside::ContextTooShort { smallest } }));
        }
        let rows = &grid.rows;
        let above = rows.partition_point(|r| r.length < length);
        let place = match (above.checked_sub(1).map(|i| &rows[i]), rows.get(above)) {
            (Some(low), Some(high)) => {
                // The nearer one by ratio: length / low < high / length, without a division by a context of 0.
                let nearest = if length * length < low.length * high.length { low } else { high };
                Place { phase: self.phase, length, nearest, around: Some((low, high)) }
            }
            (Some(only), None) | (None, Some(only)) => Place { phase: self.phase, length, nearest: only, around: None },
            (None, None) => return None,
        };
        Some(Ok(place))
    }
}

impl Grid {
    fn new(policy: &Policy, rows: Vec<Row>) -> Self {
        let batch = rows.first().map_or(0, |r| r.shape.batch);
        let arms = rows.iter().flat_map(|r| &r.arms).flatten();
        let measured = arms.map(|arm| {
            let cell = &policy.cells()[arm.cell];
            match (cell.key.phase, cell.contexts) {
                (Phase::Decode, Some(contexts)) => (contexts.min, contexts.max),
                _ => (cell.key.shape.new_tokens, cell.key.shape.new_tokens),
            }
        });
        let span = measured.fold((usize::MAX, 0), |(low, high), (min, max)| (low.min(min), high.max(max)));
        Self { batch, rows, span }
    }
}

impl Arm {
    fn new(policy: &Policy, index: usize, cell: &Cell) -> Option<Self> {
        let (time, contexts) = (cell.time?, cell.contexts?);
        let key = &cell.key;
        let comparison = policy.comparisons().iter().find(|c| c.phase == key.phase && c.shape == key.shape && c.challenger == key.backend);
        let warmup = policy.warmups().iter().find(|w| w.phase == key.phase && w.shape == key.shape && w.backend == key.backend);
        Some(Self {
            cell: index,
            length: real_size(if key.phase == Phase::Decode { contexts.median } else { key.shape.new_tokens }),
            ns: time.median_ns,
            interval: time.interval,
            standing: comparison.map(|c| c.standing),
            warmth: warmup.map_or(Warmth::NotMeasured, Warmth::from),
        })
    }

    fn estimate(&self, phase: Phase, length: f64) -> Estimate {
        let as_is = Estimate { ns: self.ns, interval: self.interval, basis: Basis::Nearest };
        #[expect(clippy::float_cmp, reason = "both are whole numbers")]
        if length == self.length {
            Estimate { basis: Basis::Measured, ..as_is }
        } else if phase == Phase::Prefill && length > self.length {
            Estimate { basis: Basis::Scaled, ..as_is.times(length / self.length) }
        } else {
            as_is
        }
    }
}

impl Place<'_> {
    /// The time of one call on `backend`; `None` where it was not measured.
    pub(super) fn estimate(&self, backend: usize) -> Option<Estimate> {
        let nearest = self.nearest.arms[backend].as_ref()?;
        let around = self.around.and_then(|(low, high)| low.arms[backend].as_ref().zip(high.arms[backend].as_ref()));
        match around.filter(|(low, high)| low.length < self.length && self.length < high.length) {
            Some((low, high)) => Some(Estimate::between(low, high, self.length)),
            None => Some(nearest.estimate(self.phase, self.length)),
        }
    }
}
