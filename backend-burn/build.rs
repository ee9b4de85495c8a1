//! Tells the crate which versions of burn it is built with: the lock file is the only place that knows; and gives its CUDA kernels
//! a digest, by which their machine code is kept.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let lock = lock_file();
    if let Some(path) = &lock {
        println!("cargo::rerun-if-changed={}", path.display());
    }
    let text = lock.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    let packages = [
        ("PHASE_BURN", "burn"),
        ("PHASE_BURN_FLEX", "burn-flex"),
        ("PHASE_CUBECL", "cubecl-cpp"),
        ("PHASE_CUDARC", "cudarc"),
        ("PHASE_GEMM", "gemm"),
    ];
    for (variable, package) in packages {
        println!("cargo::rustc-env={variable}={}", version(&text, package).unwrap_or_default());
    }
    println!("cargo::rerun-if-changed=src/cuda");
    let mut hasher = DefaultHasher::new();
    let entries = fs::read_dir("src/cuda/kernels").expect("this crate's kernels").flatten().map(|entry| entry.path());
    let mut files: Vec<_> = entries.chain(["src/cuda/compile.rs".into()]).collect();
    files.sort();
    for file in files {
        fs::read(&file).expect("a kernel").hash(&mut hasher);
    }
    println!("cargo::rustc-env=PHASE_KERNELS={:016x}", hasher.finish());
}

/// The nearest `Cargo.lock` above this crate.
fn lock_file() -> Option<PathBuf> {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|dir| dir.join("Cargo.lock")).find(|path| path.is_file())
}

/// The version of the one package of that name; none when there are several, because then which one is a guess.
fn version(lock: &str, package: &str) -> Option<String> {
    let name = format!("name = \"{package}\"");
    let mut versions = lock
        .split("[[package]]")
        .filter(|entry| entry.lines().any(|line| line.trim() == name))
        .filter_map(|entry| entry.lines().find_map(|line| line.trim().strip_prefix("version = ")))
        .map(|version| version.trim_matches('"').to_owned());
    versions.next().filter(|_| versions.next().is_none())
}
