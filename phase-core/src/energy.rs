//! The vocabulary of energy. Arithmetic and sources are in `phase-energy`.

use std::fmt;

/// Joules.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
#[expect(clippy::exhaustive_structs, reason = "a quantity is its number")]
pub struct Joules(pub f64);

impl fmt::Display for Joules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} J", self.0)
    }
}

/// Energy of one phase: known with a bound, or not known with a reason. There is no zero that means "unknown": the
/// serialised form of [`NoData`](Energy::NoData) has no numeric field, and there is no `Default`.
///
/// The statuses differ in what they may be used for. `measured` carries a claim; `interpolated` is shown with its bounds
/// and enters a decision only where intervals do not overlap; `macro_window` is a mean over warm replays and says nothing
/// about one call; `no_data` is good for nothing and makes every sum it enters `no_data`.
///
/// ```
/// use phase_core::{Energy, NoData};
/// assert_eq!(Energy::NoData { reason: NoData::NoSource }.to_string(), "no_data (no_source)");
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(tag = "status", rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Energy {
    /// Measured: the true value lies in `low..=high`, and the readings inside the phase carry most of it.
    Measured {
        /// Best estimate.
        joules: Joules,
        /// Lower bound.
        low: Joules,
        /// Upper bound.
        high: Joules,
    },
    /// Bounded: the true value lies in `low..=high`, but edges or gaps filled by physical bounds carry too much of it for
    /// a measurement.
    Interpolated {
        /// Middle of the bounds.
        joules: Joules,
        /// Lower bound.
        low: Joules,
        /// Upper bound.
        high: Joules,
    },
    /// Mean per replay of a window of replays, warm and back to back.
    MacroWindow {
        /// Mean energy per replay.
        joules: Joules,
        /// Lower bound of the mean.
        low: Joules,
        /// Upper bound of the mean.
        high: Joules,
        /// Replays in each window.
        replays: u32,
        /// Windows.
        windows: u32,
        /// How the windows were made.
        method: MacroMethod,
    },
    /// Not known.
    NoData {
        /// Why.
        reason: NoData,
    },
}

impl Energy {
    /// The status used in files: `measured`, `interpolated`, `macro_window` or `no_data`.
    pub const fn status(&self) -> &'static str {
        match self {
            Self::Measured { .. } => "measured",
            Self::Interpolated { .. } => "interpolated",
            Self::MacroWindow { .. } => "macro_window",
            Self::NoData { .. } => "no_data",
        }
    }

    /// Lower and upper bound, where there are any.
    ///
    /// ```
    /// use phase_core::{Energy, NoData};
    /// assert_eq!(Energy::NoData { reason: NoData::SampleGap }.bounds(), None);
    /// ```
    pub const fn bounds(&self) -> Option<[Joules; 2]> {
        match self {
            Self::Measured { low, high, .. } | Self::Interpolated { low, high, .. } | Self::MacroWindow { low, high, .. } => {
                Some([*low, *high])
            }
            Self::NoData { .. } => None,
        }
    }

    /// Why the energy is not known, where it is not.
    pub const fn reason(&self) -> Option<NoData> {
        match self {
            Self::NoData { reason } => Some(*reason),
            _ => None,
        }
    }
}

impl fmt::Display for Energy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Measured { joules, low, high } => write!(f, "{joules} [{low}, {high}]"),
            Self::Interpolated { joules, low, high } => write!(f, "~{joules} [{low}, {high}]"),
            Self::MacroWindow { joules, low, high, replays, windows, method } => {
                write!(f, "{joules} [{low}, {high}] a replay ({method}, {windows} windows of {replays})")
            }
            Self::NoData { reason } => write!(f, "no_data ({reason})"),
        }
    }
}

/// How the windows of an [`Energy::MacroWindow`] were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum MacroMethod {
    /// Parts of a replayed request, told apart by where in it the sensor looked.
    Folded,
    /// One isolated event between quiet guards: includes what the device does afterwards (clocks falling back).
    GuardedShot,
    /// The event, again and again.
    Replay,
    /// One long event of the same kind, divided by its steps.
    Stretch,
}

impl MacroMethod {
    /// The name used in files, for example `replay`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Folded => "folded",
            Self::GuardedShot => "guarded_shot",
            Self::Replay => "replay",
            Self::Stretch => "stretch",
        }
    }
}

impl fmt::Display for MacroMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why an energy is not known.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
        #[non_exhaustive]
        pub enum NoData {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl NoData {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name used in files, for example `no_source`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

reasons! {
    /// The machine, the driver or the power limit is no longer the one the readings or the calibration were taken under.
    BoundaryChanged = "boundary_changed",
    /// The run's time was not enough for its replays; how much they would have taken stands beside it.
    Budget = "budget",
    /// The clock of the readings jumped.
    ClockJump = "clock_jump",
    /// The energy counter went backwards: the driver was reloaded.
    CounterReset = "counter_reset",
    /// The energy counter stood still for more than three update periods while work was done.
    CounterStuck = "counter_stuck",
    /// Two sources that should agree do not.
    CrossCheckFailed = "cross_check_failed",
    /// Somebody else used the device, or the driver does not tell who does; or not the planned number of devices was read.
    DeviceShared = "device_shared",
    /// A reading lies outside what the device can draw.
    ImplausiblePower = "implausible_power",
    /// The device is partitioned, and its sensor reads the whole board.
    Mig = "mig",
    /// This machine offers no energy or power source.
    NoSource = "no_source",
    /// The readings do not reach from before the phase to after it.
    NotBracketed = "not_bracketed",
    /// There is a source, and this run did not sample it.
    NotRecorded = "not_recorded",
    /// Reading the sensor changes what it reads.
    Perturbing = "perturbing",
    /// More than three update periods without an update.
    SampleGap = "sample_gap",
    /// The replays kept step with the sensor, which therefore saw only one part of them.
    SensorLocked = "sensor_locked",
    /// The device was warmer, or its clock slower, at the end than at the beginning, or it was throttled.
    ThermalDrift = "thermal_drift",
    /// Fewer than two sensor updates inside the phase. Polls that repeat an update are not updates.
    TooFewUpdates = "too_few_updates",
    /// The interval that contains the energy is too wide to be of use.
    TooUncertain = "too_uncertain",
    /// The sensor has no calibration, or one of another device, driver or field.
    Uncalibrated = "uncalibrated",
    /// This sensor cannot bound such a phase: a trailing mean is wider than a tenth of it.
    Unsupported = "unsupported",
}

impl fmt::Display for NoData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
