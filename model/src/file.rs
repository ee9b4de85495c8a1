//! One open weights file: positioned reads for copies, a memory map for borrowed views.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use memmap2::{Mmap, UncheckedAdvice};

use crate::{ModelError, stored::StoredType};

/// A weights file. It must not be shortened while it is open.
#[derive(Debug)]
pub(crate) struct TensorFile {
    path: PathBuf,
    file: File,
    map: Mmap,
}

/// One tensor as a file has it: row-major, outermost dimension first.
#[derive(Clone, Debug)]
pub(crate) struct RawTensor {
    pub(crate) name: String,
    /// Index of its file.
    pub(crate) file: usize,
    /// Position of its first byte in the file.
    pub(crate) offset: u64,
    pub(crate) stored: StoredType,
    pub(crate) shape: Vec<usize>,
}

impl TensorFile {
    pub(crate) fn open(path: &Path) -> Result<Self, ModelError> {
        let file = File::open(path).map_err(ModelError::io("open", path))?;
        let metadata = file.metadata().map_err(ModelError::io("read", path))?;
        if !metadata.is_file() {
            return Err(ModelError::damaged(path, "it is not a regular file"));
        }
        if metadata.len() == 0 {
            return Err(ModelError::damaged(path, "it is empty"));
        }
        // SAFETY: the map is read-only; that nobody shortens the file meanwhile is this crate's documented requirement.
        let map = unsafe { Mmap::map(&file) }.map_err(ModelError::io("map", path))?;
        Ok(Self { path: path.to_owned(), file, map })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) const fn file(&self) -> &File {
        &self.file
    }

    /// The whole file, mapped.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    pub(crate) fn read_at(&self, out: &mut [u8], offset: u64) -> Result<(), ModelError> {
        self.file.read_exact_at(out, offset).map_err(ModelError::io("read", &self.path))
    }

    /// Tells the kernel that mapped pages inside of the range may leave memory. Advice only, so failure is ignored.
    pub(crate) fn release(&self, start: usize, len: usize) {
        const PAGE: usize = 4096;
        let (first, end) = (start.next_multiple_of(PAGE), (start + len) / PAGE * PAGE);
        if first < end {
            // SAFETY: the map is a shared, read-only view of a file: dropped pages are read again from it.
            let _ = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, first, end - first) };
        }
    }
}
