//! What the energy of a cell rests on.

use phase_core::Energy;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The sensor that an energy came from, and the calibration that gave its readings a meaning. Energies hold as long as both
/// do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "an identity: all of it, or it is another one")]
pub struct EnergySensor {
    /// The device: a GPU's UUID, `package-0`.
    pub device: String,
    /// The driver and its version.
    pub driver: String,
    /// What is read: `total_energy`, `power_instant`.
    pub field: String,
    /// What it covers: `gpu_board`, `cpu_package`. Energies of different perimeters are never compared.
    pub perimeter: String,
    /// BLAKE3 of the calibration.
    pub calibration: String,
    /// When it was calibrated, seconds of Unix time; `None` for a description that somebody gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibrated_unix_s: Option<u64>,
    /// When that calibration ends to hold, seconds of Unix time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_unix_s: Option<u64>,
}

impl fmt::Display for EnergySensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, driver, field, perimeter, .. } = self;
        write!(f, "{field} of {device} ({driver}, {perimeter})")
    }
}

/// Energy above what the device draws at rest, joules. Its lower bound may be negative.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "an interval and what it is above")]
pub struct ActiveJoules {
    /// The state of rest: `model_resident`, `context_resident`, `deep_idle`.
    pub above: String,
    /// Middle.
    pub joules: f64,
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
}

/// What the energy of a cell rests on: both verdicts, whichever is reported, and the sensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "what a run hands over, written out in full")]
pub struct EnergyBasis {
    /// What one call alone is known to take.
    pub single: Energy,
    /// The mean over windows of replays.
    pub window: Energy,
    /// The reported energy above rest, where rest was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<ActiveJoules>,
    /// The sensors whose energies were added up, one for each device.
    pub sensors: Vec<EnergySensor>,
}

impl EnergyBasis {
    /// Whether energies on these two bases may be compared: their perimeters are the same.
    pub fn comparable(&self, other: &Self) -> bool {
        let perimeters = |basis: &Self| {
            let mut all: Vec<_> = basis.sensors.iter().map(|s| s.perimeter.clone()).collect();
            all.sort_unstable();
            all
        };
        perimeters(self) == perimeters(other)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let Self { single, window, active, sensors: _ } = self;
        super::check::check_energy(single)?;
        super::check::check_energy(window)?;
        match active {
            Some(ActiveJoules { joules, low, high, .. }) if !(low <= joules && joules <= high && low.is_finite() && high.is_finite()) => {
                Err(format!("an active energy of {joules} J within [{low}, {high}] J"))
            }
            _ => Ok(()),
        }
    }
}
