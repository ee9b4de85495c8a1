//! Energy of a run's cells: after the last block, each cell's call is replayed in windows long enough for the sensors, and
//! what the sensors said is kept beside when the calls ran. Everything else follows from those files, and is recomputed from
//! them.
//!
//! The timed blocks run without a sampler. A sitting is one shape on all backends that have it: a quiet time, windows in an
//! order drawn for each round, a quiet time. The sampler starts before the first quiet time and stops after the last.

mod agenda;
mod budget;
mod judge;
mod meter;
mod planned;
mod replay;
mod sit;
mod stage;
mod stored;
mod summary;

pub use agenda::PlannedReplays;
pub use meter::{DeviceState, Meter, MeterError, SampledMeter};
pub use planned::{EnergyOptions, EnergyPlan, EnergySensorEntry, EnergySetup, best_sensors, match_calibrations};
pub use stored::{ENERGY_SITTING_SCHEMA, EnergySitting, LeftOut, ReplayedWindow, Rest, SittingCall, SittingFailure, SittingKind};
pub use summary::{ArmRest, ENERGY_SCHEMA, EnergyCell, EnergyRequest, EnergySummary, SingleShots, middle_and_bounds};

pub(crate) use judge::energies;
pub(crate) use stage::Metering;
pub(crate) use stored::sittings;
pub(crate) use summary::{EnergyFile, StoredEnergy};
