//! Reads the versions of candle-core and gemm from the lock file: a dependency's version is not known to its user's code.

use std::{env, fs, path::Path};

fn main() {
    #[expect(clippy::disallowed_methods, reason = "cargo talks to build scripts through the environment")]
    let crate_dir = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let lock_path = Path::new(&crate_dir).join("../Cargo.lock");
    let lock = fs::read_to_string(&lock_path).unwrap_or_default();
    for (variable, package) in
        [("PHASE_CANDLE_CORE_VERSION", "candle-core"), ("PHASE_CUDARC_VERSION", "cudarc"), ("PHASE_GEMM_VERSION", "gemm-f32")]
    {
        println!("cargo::rustc-env={variable}={}", locked_version(&lock, package).unwrap_or_default());
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", lock_path.display());
}

/// The version of `package`, when the lock file has exactly one.
fn locked_version<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
    let name = format!("name = \"{package}\"");
    let mut found = lock.split("[[package]]").filter(|entry| entry.lines().any(|line| line == name));
    let entry = found.next()?;
    if found.next().is_some() {
        return None;
    }
    entry.lines().find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'))
}
