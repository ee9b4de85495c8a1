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
/// ```
/// use phase_core::{Energy, NoData};
/// assert_eq!(Energy::NoData { reason: NoData::NoSource }.to_string(), "no_data (no_source)");
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(tag = "status", rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Energy {
    /// Measured: the true value lies in `low..=high`.
    Measured {
        /// Best estimate.
        joules: Joules,
        /// Lower bound.
        low: Joules,
        /// Upper bound.
        high: Joules,
    },
    /// Not known.
    NoData {
        /// Why.
        reason: NoData,
    },
}

impl fmt::Display for Energy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Measured { joules, low, high } => write!(f, "{joules} [{low}, {high}]"),
            Self::NoData { reason } => write!(f, "no_data ({reason})"),
        }
    }
}

/// Why an energy is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum NoData {
    /// This machine offers no energy or power source.
    NoSource,
    /// There is a source, and this run did not sample it.
    NotRecorded,
}

impl NoData {
    /// The name used in files, for example `no_source`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoSource => "no_source",
            Self::NotRecorded => "not_recorded",
        }
    }
}

impl fmt::Display for NoData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
