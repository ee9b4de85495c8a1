//! Which sources this machine has, and why the others are absent.
//!
//! | source | perimeter | looked for in | needs |
//! |---|---|---|---|
//! | `rapl` | processor packages | `<sysfs>/class/powercap/intel-rapl:*` | a readable `energy_uj` (microjoules) |
//! | `nvml` | GPU boards | `libnvidia-ml.so.1` and `<dev>/nvidia<n>` | the NVIDIA driver |

mod nvml;
mod rapl;

use phase_core::NoData;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    path::{Path, PathBuf},
};

/// Where to look. [`Default`] is this machine; tests give a folder of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    sysfs: PathBuf,
    dev: PathBuf,
    libraries: Vec<PathBuf>,
}

impl Default for Roots {
    fn default() -> Self {
        Self { sysfs: PathBuf::from("/sys"), dev: PathBuf::from("/dev"), libraries: nvml::LIBRARY_FOLDERS.map(PathBuf::from).to_vec() }
    }
}

impl Roots {
    /// A machine whose `sys`, `dev` and `lib` folders lie in `root`.
    pub fn under(root: impl AsRef<Path>) -> Self {
        let root = root.as_ref();
        Self { sysfs: root.join("sys"), dev: root.join("dev"), libraries: vec![root.join("lib")] }
    }
}

/// One kind of source and whether it is here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SourceStatus {
    /// The source's name in files: `rapl`, `nvml`.
    pub name: String,
    /// Whether readings can be had.
    pub availability: Availability,
}

/// Whether readings can be had from a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Availability {
    /// It is there.
    Available {
        /// What was found.
        detail: String,
    },
    /// It is not there, or may not be read.
    Unavailable {
        /// What is missing and, where known, what would change that.
        reason: String,
    },
}

impl fmt::Display for SourceStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.availability {
            Availability::Available { detail } => write!(f, "{}: {detail}", self.name),
            Availability::Unavailable { reason } => write!(f, "{}: absent, {reason}", self.name),
        }
    }
}

/// The sources of this machine, present and absent, in a fixed order.
pub fn sources() -> Vec<SourceStatus> {
    sources_in(&Roots::default())
}

/// The sources found under `roots`, present and absent, in a fixed order.
pub fn sources_in(roots: &Roots) -> Vec<SourceStatus> {
    let status = |name: &str, found: Result<String, String>| SourceStatus {
        name: name.to_owned(),
        availability: match found {
            Ok(detail) => Availability::Available { detail },
            Err(reason) => Availability::Unavailable { reason },
        },
    };
    vec![status("rapl", rapl::probe(&roots.sysfs)), status("nvml", nvml::probe(&roots.dev, &roots.libraries))]
}

/// Why a run on this machine has no energy numbers.
pub fn absence_reason() -> NoData {
    absence_reason_of(&sources())
}

/// Why a run that sampled nothing has no energy numbers where `sources` is all there is: [`NoData::NoSource`] when none is
/// available, otherwise [`NoData::NotRecorded`].
///
/// ```
/// use phase_core::NoData;
/// assert_eq!(phase_energy::absence_reason_of(&[]), NoData::NoSource);
/// ```
pub fn absence_reason_of(sources: &[SourceStatus]) -> NoData {
    let any = sources.iter().any(|s| matches!(s.availability, Availability::Available { .. }));
    if any { NoData::NotRecorded } else { NoData::NoSource }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn reason(status: &SourceStatus) -> &str {
        match &status.availability {
            Availability::Unavailable { reason } => reason,
            Availability::Available { detail } => panic!("available: {detail}"),
        }
    }

    #[test]
    fn a_machine_with_nothing_names_what_is_missing() {
        let root = tempfile::tempdir().unwrap();
        let found = sources_in(&Roots::under(root.path()));
        assert!(reason(&found[0]).contains("powercap"));
        assert!(reason(&found[1]).contains("libnvidia-ml.so.1"));
        assert_eq!(absence_reason_of(&found), NoData::NoSource);
    }

    #[test]
    fn one_source_makes_the_reason_that_nobody_sampled() {
        let root = tempfile::tempdir().unwrap();
        let zone = root.path().join("sys/class/powercap/intel-rapl:0");
        fs::create_dir_all(&zone).unwrap();
        fs::write(zone.join("name"), "package-0\n").unwrap();
        fs::write(zone.join("energy_uj"), "123456\n").unwrap();
        let found = sources_in(&Roots::under(root.path()));
        assert_eq!(absence_reason_of(&found), NoData::NotRecorded);
        let json = serde_json::to_value(&found[0]).unwrap();
        assert_eq!(json["availability"]["status"], "available");
    }

    #[test]
    fn this_machine_is_probed_without_failing() {
        assert_eq!(sources().len(), 2);
    }
}
