//! From events to statistics: one cell per (backend, mode, phase, shape, regime). Status gates every number, and
//! nothing is averaged across regimes, phases or boundaries.

mod basis;
mod build;
mod cell;
mod check;
mod regime;

pub use basis::{ActiveJoules, EnergyBasis, EnergySensor};
pub use cell::{Cell, CellKey, Contexts, RegimeClass, TimeSummary};
pub(crate) use check::{check_boundaries, check_cells};
pub use regime::{Calls, Cold, Steady, Warming, Warmness};

use crate::Observation;
use phase_core::{BackendId, BoundaryMismatch, Energy, MeasurementBoundary};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Statistics of one or more runs under comparable boundaries. Its JSON form is `cells.json`.
///
/// ```
/// use phase_core::{BackendId, MeasurementBoundary, Phase, Shape, StackInfo};
/// use phase_policy::{Observation, ScenarioMatrix};
/// let boundary = MeasurementBoundary::call(StackInfo::new());
/// let shape = Shape { batch: 1, new_tokens: 32, context: 0 };
/// let seen: Vec<_> = (0..3)
///     .map(|block| Observation::new(BackendId::new("sim"), Phase::Prefill, shape, 1_000).with_boundary("b").with_block(block))
///     .collect();
/// let matrix = ScenarioMatrix::build(&seen, &[("b".to_owned(), boundary)].into())?;
/// assert_eq!(matrix.cells()[0].key.id(), "sim/default/prefill/b1/n32/c0/steady");
/// # Ok::<(), phase_policy::MatrixError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct ScenarioMatrix {
    boundaries: BTreeMap<String, MeasurementBoundary>,
    cells: Vec<Cell>,
}

/// A matrix as read, before anybody looked at it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    boundaries: BTreeMap<String, MeasurementBoundary>,
    cells: Vec<Cell>,
}

impl ScenarioMatrix {
    /// Groups `observations` into cells. `boundaries` resolves the names that they carry; names nobody uses are
    /// dropped.
    ///
    /// # Errors
    /// No observations; a boundary that is not there; boundaries that may not be compared, with the fields; an
    /// observation that can't be true, with its cell.
    pub fn build(observations: &[Observation], boundaries: &BTreeMap<String, MeasurementBoundary>) -> Result<Self, MatrixError> {
        build::build(observations.iter(), boundaries, build::Assumed::Correlated)
    }

    /// As [`build`](Self::build), with bounds of percentiles as if calls in a row were independent: what `cells.json` of a
    /// run directory states, and what a policy must not be made of.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn build_as_if_independent<'a>(
        observations: impl IntoIterator<Item = &'a Observation, IntoIter: Clone>,
        boundaries: &BTreeMap<String, MeasurementBoundary>,
    ) -> Result<Self, MatrixError> {
        build::build(observations.into_iter(), boundaries, build::Assumed::Independent)
    }

    /// All cells, ordered by key.
    pub fn cells(&self) -> &[Cell] {
        &self.cells
    }

    /// The cell of `key`.
    pub fn cell(&self, key: &CellKey) -> Option<&Cell> {
        self.cells.binary_search_by(|cell| cell.key.cmp(key)).ok().map(|i| &self.cells[i])
    }

    /// The boundaries that the cells name.
    pub fn boundaries(&self) -> &BTreeMap<String, MeasurementBoundary> {
        &self.boundaries
    }

    /// The cells that `admit` lets in, with the boundaries they name; `None` when it lets none in.
    pub fn admitting(&self, admit: impl Fn(&CellKey) -> bool) -> Option<Self> {
        let cells: Vec<_> = self.cells.iter().filter(|cell| admit(&cell.key)).cloned().collect();
        let used = |id: &String| cells.iter().any(|cell| cell.boundary == *id);
        let boundaries = self.boundaries.iter().filter(|(id, _)| used(id)).map(|(id, b)| (id.clone(), b.clone())).collect();
        (!cells.is_empty()).then_some(Self { boundaries, cells })
    }

    /// Attaches the energy of one call of the cell `key`. Until then a cell's energy is `no_data (not_recorded)`.
    ///
    /// # Errors
    /// [`MatrixError::NoCell`], or [`MatrixError::Inconsistent`] for an energy that is negative, not finite or outside
    /// of its own bounds.
    pub fn set_energy(&mut self, key: &CellKey, energy: Energy) -> Result<(), MatrixError> {
        let found = self.cells.binary_search_by(|cell| cell.key.cmp(key));
        let index = found.map_err(|_| MatrixError::NoCell { cell: key.id() })?;
        check::check_energy(&energy).map_err(|problem| MatrixError::Inconsistent { cell: key.id(), problem })?;
        self.cells[index].energy = energy;
        self.cells[index].energy_basis = None;
        Ok(())
    }

    /// As [`set_energy`](Self::set_energy), with what it rests on.
    ///
    /// # Errors
    /// As there, of the parts of `basis` too.
    pub fn set_energy_with(&mut self, key: &CellKey, energy: Energy, basis: EnergyBasis) -> Result<(), MatrixError> {
        basis.check().map_err(|problem| MatrixError::Inconsistent { cell: key.id(), problem })?;
        self.set_energy(key, energy)?;
        if let Ok(index) = self.cells.binary_search_by(|cell| cell.key.cmp(key)) {
            self.cells[index].energy_basis = Some(basis);
        }
        Ok(())
    }
}

impl TryFrom<Unchecked> for ScenarioMatrix {
    type Error = MatrixError;

    fn try_from(Unchecked { boundaries, mut cells }: Unchecked) -> Result<Self, MatrixError> {
        cells.sort_by(|a, b| a.key.cmp(&b.key));
        check_cells(&cells, &boundaries)?;
        check_boundaries(cells.iter().map(|c| (&c.key.backend, c.key.mode.as_str(), c.key.phase, c.boundary.as_str())), &boundaries)?;
        Ok(Self { boundaries, cells })
    }
}

/// Observations or cells that can't be used, and where.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MatrixError {
    /// Two boundaries that may not stand in one matrix.
    #[error("`{first}` (boundary {first_boundary}) and `{second}` (boundary {second_boundary}) can't be ranked")]
    DifferentBoundaries {
        /// One backend and mode.
        first: String,
        /// Its boundary.
        first_boundary: String,
        /// The other.
        second: String,
        /// Its boundary.
        second_boundary: String,
        /// Every field that differs or is unknown.
        #[source]
        mismatch: BoundaryMismatch,
    },
    /// There is nothing to build from.
    #[error("no observations")]
    Empty,
    /// A call that took less time than its device needs to read the weights and do the operations.
    #[error("cell {cell}: a call took {measured_ns} ns, and by the roofline none takes less than {least_ns:.0} ns")]
    FasterThanRoofline {
        /// The cell.
        cell: String,
        /// Its fastest call.
        measured_ns: u64,
        /// The least it can take.
        least_ns: f64,
    },
    /// A cell contradicts itself.
    #[error("cell {cell}: {problem}")]
    Inconsistent {
        /// The cell.
        cell: String,
        /// What is wrong.
        problem: String,
    },
    /// There is no such cell.
    #[error("there is no cell {cell}")]
    NoCell {
        /// The cell asked for.
        cell: String,
    },
    /// A shape that no call can have.
    #[error("cell {cell}: a call of batch {} and {} new tokens is impossible in this phase", .shape.batch, .shape.new_tokens)]
    Shape {
        /// The cell.
        cell: String,
        /// The shape.
        shape: phase_core::Shape,
    },
    /// A boundary that `boundaries` does not hold.
    #[error("an observation of `{backend}` names boundary `{boundary}`, which is not there")]
    UnknownBoundary {
        /// Whose observation.
        backend: BackendId,
        /// The name.
        boundary: String,
    },
    /// A phase, regime or ending that this version does not know.
    #[error("an observation of `{backend}` has an unknown {what}")]
    UnknownVocabulary {
        /// Whose observation.
        backend: BackendId,
        /// Which word.
        what: &'static str,
    },
    /// A call that went well in no time: nothing was measured.
    #[error("cell {cell}: a successful call took 0 ns (block {block})")]
    ZeroDuration {
        /// The cell.
        cell: String,
        /// The block.
        block: u32,
    },
}

impl MatrixError {
    /// The fields in which two boundaries differ, for that error.
    pub fn differing_fields(&self) -> Vec<&str> {
        match self {
            Self::DifferentBoundaries { mismatch, .. } => mismatch.fields.iter().map(|d| d.field.as_str()).collect(),
            _ => Vec::new(),
        }
    }
}
