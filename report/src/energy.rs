//! Energy: intervals where there are any, else the reason, in the same table.

use crate::figure::bucket;
use phase_core::{Energy, Phase};
use phase_energy::{Availability, SourceStatus};
use phase_policy::{Cell, RegimeClass};
use phase_scenario::{EnergyPlan, EnergySummary, arm_of};
use serde::Serialize;
use std::collections::BTreeMap;

/// The section.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct EnergySection {
    /// Cells by status: `measured`, `interpolated`, `macro_window`, `no_data`.
    pub statuses: BTreeMap<String, usize>,
    /// Cells without data, by reason.
    pub reasons: BTreeMap<String, usize>,
    /// Cells with a number.
    pub rows: Vec<EnergyRow>,
    /// Sources of the machine.
    pub sources: Vec<SourceRow>,
    /// How it was measured, and what that gave; `None` where the run was not asked for energy.
    pub measured: Option<(EnergyPlan, EnergySummary)>,
}

/// The energy of one call of a steady cell.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct EnergyRow {
    /// The cell.
    pub id: String,
    /// Who.
    pub arm: String,
    /// The phase.
    pub phase: Phase,
    /// The bucket in words.
    pub label: String,
    /// Status, number, bounds.
    pub energy: Energy,
    /// Best estimate in joules.
    pub joules: f64,
    /// Bounds in joules.
    pub bounds: [f64; 2],
    /// Joules a token.
    pub joules_per_token: f64,
    /// Calls behind the cell.
    pub n: u64,
    /// Their boundary.
    pub boundary: String,
}

/// One source of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SourceRow {
    /// Its name.
    pub name: String,
    /// Whether it can be read.
    pub available: bool,
    /// What it is, or why it can't be read.
    pub detail: String,
}

pub(crate) fn section(cells: &[Cell], sources: &[SourceStatus]) -> EnergySection {
    let mut section = EnergySection::default();
    for cell in cells.iter().filter(|c| c.key.regime == RegimeClass::Steady) {
        *section.statuses.entry(cell.energy.status().to_owned()).or_default() += 1;
        if let Some(reason) = cell.energy.reason() {
            *section.reasons.entry(reason.to_string()).or_default() += 1;
        }
        section.rows.extend(row(cell));
    }
    section.sources = sources
        .iter()
        .map(|source| {
            let (available, detail) = match &source.availability {
                Availability::Available { detail } => (true, detail.clone()),
                Availability::Unavailable { reason } => (false, reason.clone()),
                _ => (false, "unknown".to_owned()),
            };
            SourceRow { name: source.name.clone(), available, detail }
        })
        .collect();
    section
}

fn row(cell: &Cell) -> Option<EnergyRow> {
    let joules = match &cell.energy {
        Energy::Measured { joules, .. } | Energy::Interpolated { joules, .. } | Energy::MacroWindow { joules, .. } => joules.0,
        _ => return None,
    };
    let [low, high] = cell.energy.bounds()?;
    let tokens = cell.key.shape.batch * cell.key.shape.new_tokens.max(1);
    Some(EnergyRow {
        id: cell.key.id(),
        arm: arm_of(&cell.key.backend, &cell.key.mode).to_string(),
        phase: cell.key.phase,
        label: bucket(cell.key.phase, cell.key.shape),
        energy: cell.energy.clone(),
        joules,
        bounds: [low.0, high.0],
        joules_per_token: joules / crate::figure::real_size(tokens),
        n: cell.n,
        boundary: cell.boundary.clone(),
    })
}
