//! Who competes in a measurement: a path and its mode.

use crate::{BackendId, Mode, UnknownMode};
use std::{fmt, str::FromStr};

/// One competitor: a path in one of its modes. Its text is `candle-cuda@compiled`, or only the path where that has one
/// way to run.
///
/// ```
/// use phase_core::{Arm, BackendId, Mode};
/// let arm: Arm = "candle-cuda@compiled".parse()?;
/// assert_eq!(arm, Arm::new(BackendId::new("candle-cuda"), Mode::Compiled));
/// assert_eq!("ort-cpu".parse::<Arm>()?.to_string(), "ort-cpu");
/// # Ok::<(), phase_core::UnknownMode>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(into = "String", try_from = "String"))]
#[expect(clippy::exhaustive_structs, reason = "a path and a mode are who it is")]
pub struct Arm {
    /// The path.
    pub backend: BackendId,
    /// How it runs a graph.
    pub mode: Mode,
}

impl Arm {
    /// `backend` in `mode`.
    pub const fn new(backend: BackendId, mode: Mode) -> Self {
        Self { backend, mode }
    }
}

impl From<BackendId> for Arm {
    fn from(backend: BackendId) -> Self {
        Self::new(backend, Mode::Default)
    }
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mode {
            Mode::Default => self.backend.fmt(f),
            mode => f.pad(&format!("{}@{mode}", self.backend)),
        }
    }
}

impl FromStr for Arm {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        let (backend, mode) = match text.split_once('@') {
            Some((backend, mode)) => (backend, mode.parse()?),
            None => (text, Mode::Default),
        };
        Ok(Self::new(BackendId::from(backend.to_owned()), mode))
    }
}

impl From<Arm> for String {
    fn from(arm: Arm) -> Self {
        arm.to_string()
    }
}

impl TryFrom<String> for Arm {
    type Error = UnknownMode;

    fn try_from(text: String) -> Result<Self, UnknownMode> {
        text.parse()
    }
}
