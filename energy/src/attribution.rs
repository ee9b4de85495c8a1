//! From readings and phases to energies with bounds: pure functions over slices.
//!
//! [`bracket()`] is the arithmetic, [`Series`] the same over a whole recording in linear time, [`classify()`] the gate,
//! [`Baseline`] what the device draws at rest, and [`Allocated`] a split that is not a measurement.

mod allocation;
mod baseline;
mod bracket;
mod classify;
mod fault;
mod series;
mod tick;
mod update;
mod window;

pub use allocation::{Allocated, AllocationRule, allocate};
pub use baseline::{ActiveEnergy, Baseline, BaselineKind, BaselineMismatch};
pub use bracket::{Bracket, Interval, PowerBounds, SensorWindow, bracket};
pub use classify::{Gate, classify, cross_check};
pub use series::{Attribution, Cursor, Seen, Series};
pub(crate) use tick::clock_of;
pub use update::Sample;
pub(crate) use update::seconds;

use crate::SensorKind;
use phase_core::{Energy, NoData};

/// Why readings cannot be attributed at all.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AttributionError {
    /// Limits of power that no device has.
    #[error("power bounds of {min_w} W to {max_w} W: the lower must not be negative, the upper greater and finite")]
    PowerBounds {
        /// Lower bound.
        min_w: f64,
        /// Upper bound.
        max_w: f64,
    },
    /// A sensor description that contradicts itself.
    #[error("a {kind} sensor with an update every {update_s} s, a window of {window_s} s and a lag of {lag_s} s: {what}")]
    Sensor {
        /// Its kind.
        kind: SensorKind,
        /// Update period.
        update_s: f64,
        /// Window.
        window_s: f64,
        /// Lag.
        lag_s: f64,
        /// What is wrong.
        what: &'static str,
    },
    /// Readings that are not in order of time.
    #[error("reading {index} was taken at {t_ns} ns, before its predecessor")]
    Unordered {
        /// Its position, from 0.
        index: usize,
        /// Its time.
        t_ns: u64,
    },
    /// A reading that no sensor gives.
    #[error("reading {index} is {value}: readings are finite and not negative")]
    Value {
        /// Its position, from 0.
        index: usize,
        /// Its value.
        value: f64,
    },
}

/// The energy of several phases together. Bounds add; a part that is not known makes the sum unknown. The sum of parts is
/// `measured` only when each part is, and `no_data` when one is a mean over replays: that says nothing about one call.
///
/// ```
/// use phase_core::{Energy, Joules, NoData};
/// let known = Energy::Measured { joules: Joules(1.0), low: Joules(0.9), high: Joules(1.1) };
/// let unknown = Energy::NoData { reason: NoData::SampleGap };
/// assert_eq!(phase_energy::sum([&known, &unknown]), Some(unknown.clone()));
/// assert_eq!(phase_energy::sum([]), None);
/// ```
pub fn sum<'a>(parts: impl IntoIterator<Item = &'a Energy>) -> Option<Energy> {
    let mut parts = parts.into_iter();
    let first = parts.next()?.clone();
    Some(parts.fold(first, |total, part| add(&total, part)))
}

fn add(a: &Energy, b: &Energy) -> Energy {
    use Energy::{Interpolated, Measured, NoData as Unknown};
    let plus = |x: phase_core::Joules, y: phase_core::Joules| phase_core::Joules(x.0 + y.0);
    match (a, b) {
        (Unknown { reason }, _) | (_, Unknown { reason }) => Unknown { reason: *reason },
        (Measured { joules: j, low: l, high: h }, Measured { joules, low, high }) => {
            Measured { joules: plus(*j, *joules), low: plus(*l, *low), high: plus(*h, *high) }
        }
        (
            Measured { joules: j, low: l, high: h } | Interpolated { joules: j, low: l, high: h },
            Measured { joules, low, high } | Interpolated { joules, low, high },
        ) => Interpolated { joules: plus(*j, *joules), low: plus(*l, *low), high: plus(*h, *high) },
        _ => Unknown { reason: NoData::Unsupported },
    }
}
