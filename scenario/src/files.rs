//! Files that are either whole or not there, and logs that are whole up to a known length.

use crate::ScenarioError;
use serde::Serialize;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

/// What a run directory does to the disk; another implementation injects faults in tests.
pub(crate) trait Disk: std::fmt::Debug + Send {
    /// Replaces `path` by `bytes`, or leaves it as it was.
    fn replace(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()>;

    /// Writes `bytes` at `at`, cutting off whatever lies beyond, and returns when they are on the disk.
    fn append(&mut self, path: &Path, at: u64, bytes: &[u8]) -> io::Result<()>;
}

/// The file system.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RealDisk;

impl Disk for RealDisk {
    fn replace(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        let mut builder = tempfile::Builder::new();
        // What is written is for others too, as far as the umask lets them: a temporary file by itself is not.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        File::open(folder)?.sync_all()
    }

    fn append(&mut self, path: &Path, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        file.set_len(at)?;
        file.seek(SeekFrom::Start(at))?;
        file.write_all(bytes)?;
        file.sync_all()
    }
}

/// A value as a JSON file: indented, with a final line feed.
pub(crate) fn json_text(value: &impl Serialize) -> Result<String, ScenarioError> {
    let mut text = serde_json::to_string_pretty(value).map_err(|e| ScenarioError::damaged("output", None, e.to_string()))?;
    text.push('\n');
    Ok(text)
}

/// A value as one line of a JSON lines file.
pub(crate) fn json_line(value: &impl Serialize) -> Result<String, ScenarioError> {
    let mut text = serde_json::to_string(value).map_err(|e| ScenarioError::damaged("output", None, e.to_string()))?;
    text.push('\n');
    Ok(text)
}

pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ScenarioError {
    move |source| ScenarioError::Io { action, path: path.to_owned(), source }
}

/// A file's bytes; `None` when it is not there.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, ScenarioError> {
    match File::open(path) {
        Ok(mut file) => {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map_err(io_error("read", path))?;
            Ok(Some(bytes))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io_error("read", path)(e)),
    }
}

/// Every file below `dir`, relative to it with `/` between the parts, in order.
pub(crate) fn list(dir: &Path) -> Result<Vec<String>, ScenarioError> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let here = dir.join(&folder);
        for entry in fs::read_dir(&here).map_err(io_error("list", &here))? {
            let entry = entry.map_err(io_error("list", &here))?;
            let path = folder.join(entry.file_name());
            if entry.file_type().map_err(io_error("list", &here))?.is_dir() {
                folders.push(path);
            } else {
                let parts: Vec<_> = path.iter().map(|p| p.to_string_lossy()).collect();
                found.push(parts.join("/"));
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_cut_to_the_length_it_is_continued_from() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        RealDisk.append(&path, 0, b"one\ntwo\ntorn").unwrap();
        RealDisk.append(&path, 8, b"three\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\nthree\n");
    }

    #[test]
    fn a_replaced_file_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        RealDisk.replace(&dir.path().join("a"), b"1").unwrap();
        RealDisk.replace(&dir.path().join("a"), b"2").unwrap();
        assert_eq!(list(dir.path()).unwrap(), ["a"]);
        assert!(RealDisk.replace(&dir.path().join("none/a"), b"1").is_err());
        fs::write(dir.path().join("plain"), b"1").unwrap();
        let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions();
        assert_eq!(mode("a"), mode("plain"));
    }
}
