//! The one trait of all sources of readings, and a source that replays them.

mod nvml;
mod rapl;
mod scripted;

pub use nvml::{Board, BoardCondition, BoardField, BoardState, NvmlError, NvmlLibrary};
pub use rapl::{Rapl, RaplError};
pub use scripted::Scripted;

use crate::ReadingKind;
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// One value of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a source counts energy or shows power; there is no third")]
pub enum Reading {
    /// Energy since some origin.
    Counter {
        /// Microjoules.
        microjoules: u64,
    },
    /// Power.
    Power {
        /// Milliwatts.
        milliwatts: u64,
    },
}

impl Reading {
    /// What kind of reading this is.
    pub const fn kind(self) -> ReadingKind {
        match self {
            Self::Counter { .. } => ReadingKind::Counter,
            Self::Power { .. } => ReadingKind::Power,
        }
    }

    /// The value as samples carry it: millijoules or milliwatts.
    #[expect(clippy::cast_precision_loss, reason = "2^53 microjoules are a year at 280 W")]
    pub fn value(self) -> f64 {
        match self {
            Self::Counter { microjoules } => microjoules as f64 / 1e3,
            Self::Power { milliwatts } => milliwatts as f64,
        }
    }
}

/// What an energy covers. Energies of different perimeters are never compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Perimeter {
    /// One processor package, all of its processes.
    CpuPackage,
    /// One GPU board with its memory; no host processor, fan or power supply.
    GpuBoard,
    /// A module of processor and GPU together.
    Module,
}

impl fmt::Display for Perimeter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::CpuPackage => "cpu_package",
            Self::GpuBoard => "gpu_board",
            Self::Module => "module",
        })
    }
}

/// Which sensor readings came from. A calibration holds for one such identity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SourceId {
    /// The device: a GPU's UUID, `package-0`.
    pub device: String,
    /// The driver and its version, `intel-rapl`.
    pub driver: String,
    /// What is read: `total_energy`, `power_instant`, `power_average`, `power_samples`, `energy_uj`.
    pub field: String,
    /// What it covers.
    pub perimeter: Perimeter,
}

impl SourceId {
    /// The sensor `field` of `device` under `driver`.
    pub fn new(device: impl Into<String>, driver: impl Into<String>, field: impl Into<String>, perimeter: Perimeter) -> Self {
        Self { device: device.into(), driver: driver.into(), field: field.into(), perimeter }
    }
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} ({}, {})", self.field, self.device, self.driver, self.perimeter)
    }
}

/// A value with the sensor's own time, where it gives one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stamped {
    /// The value.
    pub reading: Reading,
    /// The sensor's own time of it, in nanoseconds of Unix time.
    pub unix_ns: Option<u64>,
}

impl From<Reading> for Stamped {
    fn from(reading: Reading) -> Self {
        Self { reading, unix_ns: None }
    }
}

impl Stamped {
    /// A reading with the sensor's own time.
    pub const fn at(reading: Reading, unix_ns: u64) -> Self {
        Self { reading, unix_ns: Some(unix_ns) }
    }
}

/// Why a reading was not had. Small and without allocation: a sampler keeps thousands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ReadError {
    /// The device is lost or its file is gone.
    #[error("the device is gone")]
    Gone,
    /// The operating system or the driver denied it.
    #[error("permission denied")]
    Denied,
    /// What came is no reading.
    #[error("the source gave no number")]
    Malformed,
    /// The device has no such sensor.
    #[error("the device has no such sensor")]
    NotSupported,
    /// Any other refusal of the driver.
    #[error("the driver refused the reading")]
    Refused,
    /// A power of zero: drivers give it when they are asked too fast. It is no measurement.
    #[error("a power of zero")]
    Zero,
}

/// A source of readings.
///
/// # For implementors
/// [`read`](Source::read) is called at a fixed period for hours, from one thread: it must not allocate after its first
/// call, and must give what the driver gives, a repeated value as a repeated value. It reads no clock; whoever calls it does.
pub trait Source: fmt::Debug + Send {
    /// Which sensor this is.
    fn id(&self) -> &SourceId;

    /// What its readings are.
    fn kind(&self) -> ReadingKind;

    /// The period at which the driver is said to have a new value, where somebody says so. Calibration knows better.
    fn refresh(&self) -> Option<Duration>;

    /// How long the source itself keeps its values, where it does: it need not be asked at every poll, and one read gives all
    /// since the last.
    fn memory(&self) -> Option<Duration> {
        None
    }

    /// Reads once. Hands every value to `out`: one, or for a source with a memory all since the last call.
    ///
    /// # Errors
    /// A [`ReadError`]; values handed out before it stay valid, and the next call may succeed.
    fn read(&mut self, out: &mut dyn FnMut(Stamped)) -> Result<(), ReadError>;
}

impl Source for Box<dyn Source> {
    fn id(&self) -> &SourceId {
        (**self).id()
    }

    fn kind(&self) -> ReadingKind {
        (**self).kind()
    }

    fn refresh(&self) -> Option<Duration> {
        (**self).refresh()
    }

    fn memory(&self) -> Option<Duration> {
        (**self).memory()
    }

    fn read(&mut self, out: &mut dyn FnMut(Stamped)) -> Result<(), ReadError> {
        (**self).read(out)
    }
}
