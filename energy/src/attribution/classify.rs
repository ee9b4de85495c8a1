//! What an interval may be used for.

use crate::{JouleRange, attribution::Bracket};
use phase_core::{Energy, NoData};

/// The thresholds between `measured`, `interpolated` and `no_data`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Gate {
    /// Distinct sensor updates inside the phase; the source document's rule. Less than 2 has the effect of 2.
    pub min_updates: u32,
    /// Share of the phase in windows that lie wholly inside it, for `measured`.
    pub min_inside: f64,
    /// Share of the phase in any window, for `measured`.
    pub min_observed: f64,
    /// Largest half-width relative to the middle, for `measured`.
    pub measured: f64,
    /// Largest half-width relative to the middle, for `interpolated`.
    pub interpolated: f64,
    /// Longest time between updates, in update periods.
    pub max_gap_periods: f64,
    /// Largest disagreement of two sources, relative to the greater.
    pub cross_check: f64,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            min_updates: 2,
            min_inside: 0.5,
            min_observed: 0.9,
            measured: 0.10,
            interpolated: 0.50,
            max_gap_periods: 3.0,
            cross_check: 0.05,
        }
    }
}

/// The status of a bracket. Bracketing, calibration, sharing and the counter's sanity come before it.
///
/// ```
/// use phase_core::{Energy, NoData};
/// use phase_energy::{Gate, Interval, PowerBounds, SensorWindow, bracket, classify};
/// # fn main() -> Result<(), phase_energy::AttributionError> {
/// let power = PowerBounds::new(60.0, 700.0)?;
/// let windows = [SensorWindow::exact(0.0, 0.1, 400.0), SensorWindow::exact(0.1, 0.2, 400.0)];
/// let short = bracket(&windows, Interval::new(0.12, 0.17), power);
/// assert_eq!(classify(&short, &Gate::default()), Energy::NoData { reason: NoData::TooFewUpdates });
/// # Ok(())
/// # }
/// ```
pub fn classify(bracket: &Bracket, gate: &Gate) -> Energy {
    let no_data = |reason| Energy::NoData { reason };
    let JouleRange { low_j, high_j } = bracket.energy;
    if bracket.updates < gate.min_updates.max(2) {
        return no_data(NoData::TooFewUpdates);
    }
    // A bound that is no number is refused too.
    let ordered = low_j <= high_j;
    if !ordered {
        return no_data(NoData::ImplausiblePower);
    }
    let [joules, low, high] = JouleRange { low_j: low_j.max(0.0), high_j }.joules();
    let relative = bracket.energy.relative();
    if relative <= gate.measured && bracket.inside >= gate.min_inside && bracket.observed >= gate.min_observed {
        Energy::Measured { joules, low, high }
    } else if relative <= gate.interpolated {
        Energy::Interpolated { joules, low, high }
    } else {
        no_data(NoData::TooUncertain)
    }
}

/// Whether two sources of one phase agree: their intervals overlap and their middles differ by no more than the gate's
/// share of the greater.
///
/// # Errors
/// [`NoData::CrossCheckFailed`] where they do not.
pub fn cross_check(a: JouleRange, b: JouleRange, gate: &Gate) -> Result<(), NoData> {
    let apart = (a.mid_j() - b.mid_j()).abs();
    if a.disjoint(b) || apart > gate.cross_check * a.mid_j().max(b.mid_j()) { Err(NoData::CrossCheckFailed) } else { Ok(()) }
}
