//! The one ONNX Runtime library of this process: found, checked, and only then handed to `ort`, which panics on a library
//! that it can't use.

use crate::{error::OrtError, store::hash_file};
use ort::environment::Environment;
use std::{
    ffi::CStr,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// Names that the system's loader is asked for.
const NAMES: [&str; 2] = ["libonnxruntime.so", "libonnxruntime.so.1"];

/// The library in use.
#[derive(Clone, Debug)]
pub(crate) struct Library {
    /// The file, as the system mapped it.
    pub(crate) path: PathBuf,
    /// What it says it is.
    pub(crate) version: String,
    /// BLAKE3 of the file, or why it can't be had.
    pub(crate) hash: Result<String, String>,
    pub(crate) environment: Environment,
}

static LOADED: Mutex<Option<Library>> = Mutex::new(None);

/// Loads the library, or gives the one that this process has.
///
/// # Errors
/// [`OrtError::Library`], [`OrtError::LibraryVersion`], [`OrtError::LibraryConflict`].
pub(crate) fn load(asked: Option<&Path>) -> Result<Library, OrtError> {
    // Nothing is left half-done by a panic: the slot is filled in one step.
    let mut slot = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(loaded) = slot.as_ref() {
        return match asked {
            Some(path) if !same_file(path, &loaded.path) => {
                Err(OrtError::LibraryConflict { loaded: loaded.path.clone(), asked: path.to_owned() })
            }
            _ => Ok(loaded.clone()),
        };
    }
    let library = match asked {
        Some(path) => open(path)?,
        None => NAMES.iter().map(|name| open(Path::new(name))).reduce(Result::or).unwrap_or_else(|| unreachable!("two names"))?,
    };
    *slot = Some(library.clone());
    Ok(library)
}

fn same_file(a: &Path, b: &Path) -> bool {
    let real = |p: &Path| fs::canonicalize(p).unwrap_or_else(|_| p.to_owned());
    real(a) == real(b)
}

fn open(name: &Path) -> Result<Library, OrtError> {
    let fail = |reason: String| OrtError::Library { library: name.to_owned(), reason };
    if name.components().count() > 1 && !name.is_file() {
        return Err(fail("there is no such file".to_owned()));
    }
    // SAFETY: the file is what the user named as ONNX Runtime, whose initialisers only set up its own state.
    let handle = unsafe { libloading::Library::new(name) }.map_err(|e| fail(e.to_string()))?;
    let (version, address) = interface(&handle, name)?;
    let path = mapped_file(address).unwrap_or_else(|| fs::canonicalize(name).unwrap_or_else(|_| name.to_owned()));
    let environment = ort::init_from(&path)
        .map_err(|e| fail(e.to_string()))?
        .with_name("phase")
        .with_telemetry(false)
        .build()
        .map_err(OrtError::runtime("creating its environment"))?;
    // The environment lives as long as the process, and so must the library.
    std::mem::forget(handle);
    let hash = hash_file(&path).map(|h| h.to_hex().to_string()).map_err(|e| e.to_string());
    Ok(Library { path, version, hash, environment })
}

/// The library's version and the address of its entry point, when its interface is recent enough.
fn interface(handle: &libloading::Library, name: &Path) -> Result<(String, usize), OrtError> {
    type Entry = unsafe extern "C" fn() -> *const ort::sys::OrtApiBase;
    let fail = |reason: &str| OrtError::Library { library: name.to_owned(), reason: reason.to_owned() };
    // SAFETY: every ONNX Runtime exports this symbol with this type; a library without it is refused here.
    let entry =
        unsafe { handle.get::<Entry>(b"OrtGetApiBase\0") }.map_err(|_| fail("it exports no OrtGetApiBase, so it is not ONNX Runtime"))?;
    // SAFETY: the entry point takes nothing and gives a static table or null.
    let base = unsafe { entry() };
    // SAFETY: a non-null table is valid for the library's life.
    let base = unsafe { base.as_ref() }.ok_or_else(|| fail("OrtGetApiBase gives nothing"))?;
    // SAFETY: the function takes nothing and gives a static string.
    let version = unsafe { (base.GetVersionString)() };
    if version.is_null() {
        return Err(fail("it has no version"));
    }
    // SAFETY: checked above; the string is static and ends in a zero.
    let version = unsafe { CStr::from_ptr(version) }.to_string_lossy().into_owned();
    let minimum = format!("1.{}", ort::MINOR_VERSION);
    let too_old = || OrtError::LibraryVersion { library: name.to_owned(), found: version.clone(), minimum: minimum.clone() };
    if !is_recent(&version, ort::MINOR_VERSION) {
        return Err(too_old());
    }
    // SAFETY: any number may be asked for; the answer is a static table or null.
    if unsafe { (base.GetApi)(ort::MINOR_VERSION) }.is_null() {
        return Err(too_old());
    }
    Ok((version, *entry as usize))
}

fn is_recent(version: &str, minor: u32) -> bool {
    let mut parts = version.split('.').map(|p| p.parse::<u32>().ok());
    match (parts.next().flatten(), parts.next().flatten()) {
        (Some(1), Some(found)) => found >= minor,
        (Some(major), _) => major > 1,
        _ => false,
    }
}

/// The file that the system mapped at an address of this process.
fn mapped_file(address: usize) -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().find_map(|line| {
        let (from, to) = line.split_once(' ')?.0.split_once('-')?;
        let range = usize::from_str_radix(from, 16).ok()?..usize::from_str_radix(to, 16).ok()?;
        let path = line.find('/').map(|at| &line[at..])?;
        range.contains(&address).then(|| PathBuf::from(path))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(is_recent("1.24.0", 24) && is_recent("1.32.0", 24) && is_recent("2.0", 24));
        assert!(!is_recent("1.9.1", 24) && !is_recent("1.23.2", 24) && !is_recent("nightly", 24));
    }

    #[test]
    fn an_address_of_this_program_is_found_in_its_own_file() {
        let found = mapped_file(mapped_file as fn(usize) -> Option<PathBuf> as usize).unwrap();
        assert_eq!(found, std::env::current_exe().unwrap());
    }
}
