//! Helpers of the integration tests.
#![allow(dead_code, reason = "each test binary uses some of them")]

use std::path::{Path, PathBuf};

use phase_core::{ErrorKind, PhaseError};
use phase_model::{Checkpoint, ModelError};
use serde_json::Value;

pub(crate) fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

pub(crate) fn json(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

pub(crate) fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| u32::try_from(v.as_u64().unwrap()).unwrap()).collect()
}

/// A copy of a golden folder that a test may damage.
pub(crate) fn copy(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden(name)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

pub(crate) fn edit_json(path: impl AsRef<Path>, edit: impl FnOnce(&mut Value)) {
    let mut value = json(&path);
    edit(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

/// Opening must fail with this kind and a message that has all of the parts.
#[track_caller]
pub(crate) fn refused(path: impl AsRef<Path>, kind: ErrorKind, parts: &[&str]) -> ModelError {
    let error = Checkpoint::open(&path).expect_err("it must not open");
    let message = message(&error);
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
    assert_eq!(error.kind(), kind, "{message}");
    error
}

pub(crate) fn message(error: &ModelError) -> String {
    std::iter::successors(std::error::Error::source(error), |e| e.source()).fold(error.to_string(), |text, e| format!("{text}: {e}"))
}

/// Bytes of a safetensors file.
pub(crate) fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}
