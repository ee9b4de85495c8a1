//! Runs that are kept in the repository.

use std::{path::Path, process::Command};

/// Unpacks an archive of `recorded/`.
pub(crate) fn unpack(name: &str, folder: &Path) {
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../recorded/{name}.tar.xz"));
    let out = Command::new("tar").arg("-xJf").arg(&archive).arg("-C").arg(folder).output().expect("tar starts");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}
