//! Whether the energies of a policy still hold: their sensors are here, under the same drivers, and their calibrations are
//! not too old. Times don't depend on any of it.

use crate::{Change, Changes, EnergySensor, Policy, matrix::Cell, severity};
use phase_core::{BackendId, NoData};
use std::collections::BTreeSet;

/// A sensor as it can be read now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "an identity: all of it, or it is another one")]
pub struct LiveSensor {
    /// The device: a GPU's UUID, `package-0`.
    pub device: String,
    /// The driver and its version.
    pub driver: String,
    /// What is read.
    pub field: String,
    /// What it covers.
    pub perimeter: String,
}

/// How a sensor of a policy stands now.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    Absent,
    Driver(String),
    Expired,
    Holds,
}

impl Standing {
    fn of(sensor: &EnergySensor, live: &[LiveSensor], now_unix_s: u64) -> Self {
        let same = |l: &&LiveSensor| (&l.device, &l.field, &l.perimeter) == (&sensor.device, &sensor.field, &sensor.perimeter);
        match live.iter().find(same) {
            None => Self::Absent,
            Some(now) if now.driver != sensor.driver => Self::Driver(now.driver.clone()),
            Some(_) if sensor.expires_unix_s.is_some_and(|until| now_unix_s > until) => Self::Expired,
            Some(_) => Self::Holds,
        }
    }
}

/// Why the energy of `cell` does not hold now; `None` where it does, and where it was not measured.
pub(crate) fn void(cell: &Cell, live: &[LiveSensor], now_unix_s: u64) -> Option<NoData> {
    let sensors = cell.energy_basis.iter().flat_map(|basis| &basis.sensors);
    sensors
        .filter_map(|s| match Standing::of(s, live, now_unix_s) {
            Standing::Holds => None,
            Standing::Expired => Some(NoData::Uncalibrated),
            Standing::Absent | Standing::Driver(_) => Some(NoData::BoundaryChanged),
        })
        .next()
}

/// What changed of the sensors that the policy's energies came from.
pub(crate) fn changes(policy: &Policy, live: &[LiveSensor], now_unix_s: u64) -> Vec<Change> {
    let known = policy.cells().iter().filter(|c| c.energy.bounds().is_some());
    let used: BTreeSet<(&BackendId, &EnergySensor)> =
        known.flat_map(|c| c.energy_basis.iter().flat_map(|b| &b.sensors).map(|s| (&c.key.backend, s))).collect();
    let change = |(backend, sensor): (&BackendId, &EnergySensor)| {
        let (field, measured, now) = match Standing::of(sensor, live, now_unix_s) {
            Standing::Holds => return None,
            Standing::Absent => ("sensor.device", sensor.to_string(), "absent".to_owned()),
            Standing::Driver(now) => ("sensor.driver", sensor.driver.clone(), now),
            Standing::Expired => {
                let until = sensor.expires_unix_s.unwrap_or(0);
                ("sensor.calibration", format!("valid until {until} s of Unix time"), format!("{now_unix_s} s"))
            }
        };
        Some(Change { backend: backend.clone(), field: field.to_owned(), measured, now, severity: severity(field) })
    };
    used.into_iter().filter_map(change).collect()
}

impl Changes {
    /// With what changed of the sensors that the policy's energies came from: `live` are those that can be read now. A sensor
    /// that is gone, has another driver, or whose calibration is too old by `now_unix_s` makes energy invalid.
    #[must_use]
    pub fn with_sensors(mut self, policy: &Policy, live: &[LiveSensor], now_unix_s: u64) -> Self {
        self.changes.extend(changes(policy, live, now_unix_s));
        self.with_rerun(policy)
    }
}
