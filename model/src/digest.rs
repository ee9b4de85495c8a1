//! Content digests of checkpoints, and a cache of them for files too large to hash at every start.

use std::{
    fmt,
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::{ModelError, file::TensorFile};

/// A BLAKE3 digest of configuration and weights. Displays as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest's bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// Digests of single files, kept in a folder.
#[derive(Debug)]
pub(crate) struct DigestCache {
    dir: PathBuf,
}

/// Changes when the meaning of a digest does.
const DOMAIN: &[u8] = b"phase checkpoint 1";
/// Below this size hashing takes no longer than asking the cache.
const CACHED_FROM_BYTES: u64 = 16 << 20;
const READ_BYTES: usize = 8 << 20;

/// Digest over a configuration and the content of files, in their order.
pub(crate) fn of_files(config: &[u8], files: &[TensorFile], cache: Option<&DigestCache>) -> Result<Digest, ModelError> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(DOMAIN);
    hasher.update(&(config.len() as u64).to_le_bytes());
    hasher.update(config);
    for file in files {
        hasher.update(of_file(file, cache)?.as_bytes());
    }
    Ok(Digest(*hasher.finalize().as_bytes()))
}

fn of_file(file: &TensorFile, cache: Option<&DigestCache>) -> Result<blake3::Hash, ModelError> {
    let stat = || file.file().metadata().map_err(ModelError::io("read", file.path()));
    let before = stat()?;
    let cache = cache.filter(|_| before.len() >= CACHED_FROM_BYTES);
    let key = Key::new(file.path(), &before);
    if let Some(hash) = cache.and_then(|cache| cache.load(&key)) {
        return Ok(hash);
    }
    let hash = hash_content(file, before.len())?;
    if let Some(cache) = cache
        && Key::new(file.path(), &stat()?) == key
    {
        cache.store(&key, hash);
    }
    Ok(hash)
}

/// Positioned reads instead of the map, so that hashing leaves nothing in this process's memory.
fn hash_content(file: &TensorFile, len: u64) -> Result<blake3::Hash, ModelError> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut at = 0;
    while at < len {
        let part = usize::try_from(len - at).map_or(READ_BYTES, |left| left.min(READ_BYTES));
        file.read_at(&mut buffer[..part], at)?;
        hasher.update_rayon(&buffer[..part]);
        at += part as u64;
    }
    Ok(hasher.finalize())
}

/// What a file's digest is remembered under.
#[derive(PartialEq, Eq)]
struct Key(String);

impl Key {
    fn new(path: &Path, stat: &Metadata) -> Self {
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let (device, inode) = (stat.dev(), stat.ino());
        let (size, seconds, nanos) = (stat.len(), stat.mtime(), stat.mtime_nsec());
        Self(format!("{path:?} size {size} modified {seconds}.{nanos:09} inode {device}:{inode}"))
    }
}

impl DigestCache {
    pub(crate) const fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    fn entry(&self, key: &Key) -> PathBuf {
        self.dir.join(&*blake3::hash(key.0.as_bytes()).to_hex())
    }

    fn load(&self, key: &Key) -> Option<blake3::Hash> {
        let text = fs::read_to_string(self.entry(key)).ok()?;
        let (hash, written_for) = text.split_once('\n')?;
        (written_for.trim_end() == key.0).then(|| blake3::Hash::from_hex(hash).ok()).flatten()
    }

    /// A cache that can't be written costs time, not correctness: failure is ignored.
    fn store(&self, key: &Key, hash: blake3::Hash) {
        let path = self.entry(key);
        let unfinished = path.with_extension(format!("{}.tmp", std::process::id()));
        let written = fs::create_dir_all(&self.dir)
            .and_then(|()| fs::write(&unfinished, format!("{}\n{}\n", hash.to_hex(), key.0)))
            .and_then(|()| fs::rename(&unfinished, &path));
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
    }
}
