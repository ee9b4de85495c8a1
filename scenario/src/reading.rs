//! How far the reading of run directories is, and files that are read part by part.

use crate::{
    ScenarioError,
    dir::{EVENTS, FileDigest},
    files::{io_error, list},
};
use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

/// What parsing a byte of `events.jsonl` and computing the cells from it take, where hashing it takes one.
const PARSE: u64 = 6;
const COMPUTE: u64 = 2;

/// Bytes that are read at once.
const PART: usize = 1 << 18;

/// Told what is done, of how much, at what.
type Watch<'w> = &'w mut dyn FnMut(u64, u64, &str);

/// Work with a known amount, and who is told how much of it is done: bytes, weighed by what they cost.
pub(crate) struct Work<'w> {
    watch: Option<Watch<'w>>,
    done: u64,
    total: u64,
    of: String,
}

impl<'w> Work<'w> {
    pub(crate) fn new(total: u64, watch: Watch<'w>) -> Self {
        Self { watch: Some(watch), done: 0, total, of: String::new() }
    }

    pub(crate) const fn unwatched() -> Self {
        Self { watch: None, done: 0, total: 0, of: String::new() }
    }

    /// What follows is done to this one of several.
    pub(crate) fn of(&mut self, name: &str) {
        self.of = format!("{name}: ");
    }

    /// So much more is done, and now it is at `what`.
    pub(crate) fn did(&mut self, more: u64, what: &str) {
        if let Some(watch) = &mut self.watch {
            self.done = self.done.saturating_add(more).min(self.total);
            watch(self.done, self.total, &format!("{}{what}", self.of));
        }
    }

    /// So many bytes of the events were parsed, up to `what`.
    pub(crate) fn parsed(&mut self, bytes: u64, what: &str) {
        self.did(bytes.saturating_mul(PARSE), what);
    }

    /// The cells were computed from so many bytes of events.
    pub(crate) fn computed(&mut self, bytes: u64, what: &str) {
        self.did(bytes.saturating_mul(COMPUTE), what);
    }

    pub(crate) fn end(&mut self) {
        self.did(self.total, "done");
    }
}

/// What opening the run in `dir` with all its events takes.
pub(crate) fn whole(dir: &Path) -> u64 {
    sealed(dir) + size(dir, EVENTS) * (1 + PARSE + COMPUTE)
}

/// What holding the files of the run in `dir` against the seal takes, without the events.
pub(crate) fn sealed(dir: &Path) -> u64 {
    // What can't be listed can't be opened either, which says more about it.
    list(dir).unwrap_or_default().iter().filter(|name| *name != EVENTS).map(|name| size(dir, name)).sum()
}

fn size(dir: &Path, file: &str) -> u64 {
    fs::metadata(dir.join(file)).map_or(0, |found| found.len())
}

/// A file that may not be there.
pub(crate) fn open(path: &Path) -> Result<Option<File>, ScenarioError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io_error("read", path)(e)),
    }
}

/// Puts the next `most` bytes of a file into `hasher`; fewer at its end. How many they were.
pub(crate) fn hash(file: &mut impl Read, most: u64, hasher: &mut blake3::Hasher, mut at: impl FnMut(u64)) -> io::Result<u64> {
    let mut part = vec![0; PART];
    let mut file = file.take(most);
    let mut bytes = 0;
    loop {
        match file.read(&mut part) {
            Ok(0) => return Ok(bytes),
            Ok(n) => {
                hasher.update(&part[..n]);
                bytes += n as u64;
                at(n as u64);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// The digest of a file below `dir`; that of nothing where it is not there.
pub(crate) fn digest(dir: &Path, name: &str, work: &mut Work<'_>) -> Result<FileDigest, ScenarioError> {
    let (path, mut hasher, mut bytes) = (dir.join(name), blake3::Hasher::new(), 0);
    if let Some(mut file) = open(&path)? {
        bytes = hash(&mut file, u64::MAX, &mut hasher, |n| work.did(n, name)).map_err(io_error("read", &path))?;
    }
    Ok(FileDigest { bytes, blake3: hasher.finalize().to_hex().to_string() })
}

/// A file whose every part is hashed as it is read: large parts, which takes a third of what single lines do.
#[derive(Debug)]
pub(crate) struct Hashed {
    file: File,
    pub(crate) hasher: blake3::Hasher,
    pub(crate) bytes: u64,
}

impl Hashed {
    /// What the buffer before it should hold.
    pub(crate) const BUFFER: usize = PART;

    pub(crate) fn new(file: File) -> Self {
        Self { file, hasher: blake3::Hasher::new(), bytes: 0 }
    }
}

impl Read for Hashed {
    fn read(&mut self, part: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(part)?;
        self.hasher.update(&part[..n]);
        self.bytes += n as u64;
        Ok(n)
    }
}
