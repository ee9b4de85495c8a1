//! Running average power limit counters of processor packages, as Linux shows them under `powercap`.

use super::{Perimeter, ReadError, Reading, Source, SourceId, Stamped};
use crate::ReadingKind;
use std::{
    fs, io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// One package's counter, of Intel's processors or AMD's. It wraps at the zone's range; a wrap is recognised and taken out as long as the zone is read more
/// often than it wraps (about once a minute at full load).
///
/// A package's energy is that of all processes on it.
#[derive(Debug)]
pub struct Rapl {
    id: SourceId,
    counter: fs::File,
    range: u64,
    before: Option<u64>,
    wrapped: u64,
}

/// Why a zone can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RaplError {
    /// The kernel shows no package.
    #[error("{}: no processor package with an energy counter (usual in virtual machines)", path.display())]
    None {
        /// Where packages would be.
        path: PathBuf,
    },
    /// A file of the zone can't be opened or read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The operating system lets nobody but its owner read the counter.
    #[error("{}: permission denied: Linux lets only root read it; `chmod a+r` it (as root, until the next start), or run as root", path.display())]
    Denied {
        /// The file.
        path: PathBuf,
    },
    /// A file of the zone holds no number.
    #[error("{}: `{text}` is not a number of microjoules", path.display())]
    Number {
        /// The file.
        path: PathBuf,
        /// What it holds.
        text: String,
    },
}

impl Rapl {
    /// Opens the zone in `folder`, for example `/sys/class/powercap/intel-rapl:0`.
    ///
    /// # Errors
    /// [`RaplError`] names the file. Linux lets only root read `energy_uj` unless somebody grants it.
    pub fn open(folder: &Path) -> Result<Self, RaplError> {
        let text = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).map(|t| t.trim().to_owned()).map_err(|source| RaplError::File { path, source })
        };
        let range = text("max_energy_range_uj")?;
        let range = range.parse().map_err(|_| RaplError::Number { path: folder.join("max_energy_range_uj"), text: range })?;
        let path = folder.join("energy_uj");
        let counter = fs::File::open(&path).map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => RaplError::Denied { path },
            _ => RaplError::File { path, source },
        })?;
        let id = SourceId::new(text("name")?, "intel-rapl", "energy_uj", Perimeter::CpuPackage);
        Ok(Self { id, counter, range, before: None, wrapped: 0 })
    }

    /// Opens every package under `sysfs` (`/sys`), in order; the first that can't be opened is the error. The zone of the
    /// platform (`psys`) stands beside the packages and has their energy in its own: it is none of them.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`RaplError::None`] without powercap, or without a package in it.
    pub fn packages(sysfs: &Path) -> Result<Vec<Self>, RaplError> {
        let folder = sysfs.join("class/powercap");
        let entries = fs::read_dir(&folder).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => RaplError::None { path: folder.clone() },
            _ => RaplError::File { path: folder.clone(), source },
        })?;
        let is_package =
            |name: &str| name.strip_prefix("intel-rapl:").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        let mut zones: Vec<_> = entries.flatten().filter(|e| is_package(&e.file_name().to_string_lossy())).map(|e| e.path()).collect();
        // `intel-rapl:10` comes after `intel-rapl:2`.
        zones.sort_by_key(|zone| (zone.as_os_str().len(), zone.clone()));
        let of_package = |zone: &PathBuf| {
            let path = zone.join("name");
            match fs::read_to_string(&path) {
                Ok(name) if name.starts_with("package-") => Some(Self::open(zone)),
                Ok(_) => None,
                Err(source) => Some(Err(RaplError::File { path, source })),
            }
        };
        let packages = zones.iter().filter_map(of_package).collect::<Result<Vec<_>, _>>()?;
        if packages.is_empty() { Err(RaplError::None { path: folder }) } else { Ok(packages) }
    }
}

impl Source for Rapl {
    fn id(&self) -> &SourceId {
        &self.id
    }

    fn kind(&self) -> ReadingKind {
        ReadingKind::Counter
    }

    fn refresh(&self) -> Option<Duration> {
        Some(Duration::from_millis(1))
    }

    fn read(&mut self, out: &mut dyn FnMut(Stamped)) -> Result<(), ReadError> {
        let mut bytes = [0; 32];
        let n = self.counter.read_at(&mut bytes, 0).map_err(|e| match e.kind() {
            io::ErrorKind::PermissionDenied => ReadError::Denied,
            _ => ReadError::Gone,
        })?;
        let text = std::str::from_utf8(&bytes[..n]).map_err(|_| ReadError::Malformed)?;
        let now: u64 = text.trim().parse().map_err(|_| ReadError::Malformed)?;
        if self.before.is_some_and(|before| now < before) {
            self.wrapped = self.wrapped.saturating_add(self.range);
        }
        self.before = Some(now);
        out(Reading::Counter { microjoules: self.wrapped.saturating_add(now) }.into());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_wraps_goes_on() {
        let root = tempfile::tempdir().unwrap();
        let zone = root.path().join("class/powercap/intel-rapl:0");
        fs::create_dir_all(&zone).unwrap();
        let write = |name: &str, text: &str| fs::write(zone.join(name), text).unwrap();
        write("name", "package-0\n");
        write("max_energy_range_uj", "1000\n");
        write("energy_uj", "990\n");
        let mut packages = Rapl::packages(root.path()).unwrap();
        let mut read = || {
            let mut found = None;
            packages[0].read(&mut |s| found = Some(s.reading)).map(|()| found.unwrap().value())
        };
        assert_eq!(read(), Ok(0.99));
        write("energy_uj", "15\n");
        assert_eq!(read(), Ok(1.015));
        write("energy_uj", "x\n");
        assert_eq!(read(), Err(ReadError::Malformed));
    }

    #[test]
    fn what_is_missing_is_named() {
        let root = tempfile::tempdir().unwrap();
        let none = Rapl::packages(root.path()).unwrap_err().to_string();
        assert!(none.contains("class/powercap: no processor package"), "{none}");
        let zone = root.path().join("class/powercap/intel-rapl:0");
        fs::create_dir_all(&zone).unwrap();
        assert!(Rapl::packages(root.path()).unwrap_err().to_string().contains("intel-rapl:0/name"));
        fs::write(zone.join("name"), "package-0").unwrap();
        fs::write(zone.join("max_energy_range_uj"), "many").unwrap();
        assert!(Rapl::packages(root.path()).unwrap_err().to_string().contains("`many` is not a number"));
    }

    /// A machine of two packages, with what else lies beside them.
    fn machine() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let zones = [
            ("intel-rapl", "intel-rapl", "0"),
            ("intel-rapl:0", "package-0", "10"),
            ("intel-rapl:0:0", "core", "4"),
            ("intel-rapl:0:1", "dram", "3"),
            ("intel-rapl:1", "package-1", "20"),
            ("intel-rapl:2", "psys", "90"),
            ("intel-rapl:10", "package-2", "30"),
            ("intel-rapl-mmio:0", "package-0", "11"),
            ("dtpm", "dtpm", "0"),
        ];
        for (zone, name, energy) in zones {
            let zone = root.path().join("class/powercap").join(zone);
            fs::create_dir_all(&zone).unwrap();
            for (file, text) in [("name", name), ("max_energy_range_uj", "1000"), ("energy_uj", energy)] {
                fs::write(zone.join(file), format!("{text}\n")).unwrap();
            }
        }
        root
    }

    #[test]
    fn packages_are_counted_once_each_and_their_parts_not_again() {
        let root = machine();
        let mut packages = Rapl::packages(root.path()).unwrap();
        assert_eq!(packages.iter().map(|p| p.id().device.as_str()).collect::<Vec<_>>(), ["package-0", "package-1", "package-2"]);
        let file = |zone: &str| root.path().join("class/powercap").join(zone).join("energy_uj");
        let mut read = |k: usize| {
            let mut found = None;
            packages[k].read(&mut |s| found = Some(s.reading)).map(|()| found.unwrap().value())
        };
        // Each wraps by itself, as often as it likes.
        let mut first = Vec::new();
        for text in ["990", "5", "800", "2"] {
            fs::write(file("intel-rapl:0"), text).unwrap();
            first.push(read(0).unwrap());
        }
        assert_eq!(first, [0.99, 1.005, 1.8, 2.002]);
        assert_eq!(read(1), Ok(0.02));
        fs::write(file("intel-rapl:1"), "").unwrap();
        assert_eq!(read(1), Err(ReadError::Malformed));
    }

    #[test]
    fn a_counter_that_is_missing_or_denied_is_named() {
        use std::os::unix::fs::PermissionsExt;
        let root = machine();
        let counter = root.path().join("class/powercap/intel-rapl:1/energy_uj");
        fs::set_permissions(&counter, fs::Permissions::from_mode(0o000)).unwrap();
        let denied = fs::File::open(&counter).err().map(|e| e.kind());
        // Root is denied nothing.
        match Rapl::packages(root.path()) {
            Ok(packages) => assert_eq!((packages.len(), denied), (3, None)),
            Err(e) => {
                assert!(matches!(e, RaplError::Denied { .. }) && denied == Some(io::ErrorKind::PermissionDenied), "{e}");
                assert!(e.to_string().contains("intel-rapl:1/energy_uj: permission denied") && e.to_string().contains("chmod"), "{e}");
            }
        }
        fs::remove_file(&counter).unwrap();
        let error = Rapl::packages(root.path()).unwrap_err().to_string();
        assert!(error.contains("intel-rapl:1/energy_uj") && error.contains("No such file"), "{error}");
    }
}
