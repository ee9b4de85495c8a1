//! Compiles the CUDA kernels, when they are asked for, into one image per source file.

use std::{env, path::Path, process::Command, thread};

const SOURCES: [&str; 5] = ["attention_decode", "attention_prefill", "matvec", "matvec_few", "rows"];
const HEADERS: [&str; 3] = ["common.cuh", "mma.cuh", "wgmma.cuh"];

#[expect(clippy::disallowed_methods, reason = "cargo talks to build scripts through the environment")]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CUDA_HOME");
    println!("cargo::rerun-if-env-changed=CUDA_PATH");
    for name in SOURCES {
        println!("cargo::rerun-if-changed=cuda/{name}.cu");
    }
    for name in HEADERS {
        println!("cargo::rerun-if-changed=cuda/{name}");
    }
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let home = env::var("CUDA_HOME").or_else(|_| env::var("CUDA_PATH"));
    let nvcc = home.map_or_else(|_| "nvcc".to_owned(), |home| format!("{home}/bin/nvcc"));
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let failures: Vec<String> = thread::scope(|scope| {
        let builds = SOURCES.map(|name| {
            scope.spawn({
                let (nvcc, out) = (&nvcc, &out);
                move || compile(nvcc, out, name)
            })
        });
        builds.into_iter().filter_map(|build| build.join().expect("no panic while compiling").err()).collect()
    });
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Machine code for compute capability 9.0, with what only that has, and portable code that a driver translates for what comes after it.
fn compile(nvcc: &str, out: &str, name: &str) -> Result<(), String> {
    let image = Path::new(out).join(format!("{name}.fatbin"));
    let output = Command::new(nvcc)
        .args(["-fatbin", "-std=c++17", "-O3", "-gencode=arch=compute_90a,code=sm_90a", "-gencode=arch=compute_90,code=compute_90"])
        .arg("-o")
        .arg(&image)
        .arg(format!("cuda/{name}.cu"))
        .output()
        .map_err(|e| {
            format!(
                "feature `cuda` of phase-kernels needs nvcc 13, and `{nvcc}` can't be started ({e}): \
                 install the CUDA toolkit and set CUDA_HOME to its folder, or build without the feature"
            )
        })?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{nvcc} cuda/{name}.cu: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}
