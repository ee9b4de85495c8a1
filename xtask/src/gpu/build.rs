//! `cargo xtask gpu build`: one program for machines with and without a GPU, and what a bare GPU machine needs beside it.

use super::{
    Toolkit, fatbin,
    pack::{self, CONTENTS},
    toolkit::COMPUTE_CAPABILITY,
    wheels,
};
use crate::{
    fetch::{CUDA_RUNTIME, MODEL, obtain},
    run::{Result, cargo, copy, folder, output, root, step, target, write},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What turns CUDA on, in the whole workspace.
pub const FEATURES: &str = "phase-cli/cuda,phase-benches/cuda";

/// Integration tests that run on a GPU: all whose name begins so.
const TESTS: &str = "cuda*";

/// Examples that time kernels there.
const EXAMPLES: [&str; 4] = ["cuda_bandwidth", "candle_cuda_prompt", "candle_cuda_speed", "cuda_profile"];

/// What tests read, and what measures beside us, relative to the workspace's root.
const SOURCES: [&str; 4] = ["model/tests/golden", "benches/peers/drivers", "energy/tools", "LICENSE-MIT"];

/// A peer in Python, for the Python of the GPU machine.
const PEERS: &str = include_str!("peers.txt");
const PYTHON: [&str; 6] = ["--python-version", "3.12", "--implementation", "cp", "--platform", "manylinux_2_28_x86_64"];

/// Builds, and packs into `out`, which must not be there yet.
pub fn build(out: &Path) -> Result<()> {
    if out.exists() {
        return Err(format!("{} is there already", out.display()));
    }
    let toolkit = Toolkit::obtain()?;
    println!("==> model and ONNX Runtime with its CUDA provider");
    let (model, runtime) = (obtain(&MODEL)?, obtain(&CUDA_RUNTIME)?);
    let features = ["--release", "--workspace", "--features", FEATURES];
    let examples = EXAMPLES.iter().flat_map(|example| ["--example", example]);
    let programs = ["--bin", "phase", "--bin", "xtask"].into_iter().chain(examples);
    step("build the programs", cargo(&["build"]).args(features).args(programs).envs(toolkit.environment()))?;
    println!("\n==> build the tests that run on a GPU");
    let mut tests = cargo(&["test"]);
    tests.args(features).args(["--no-run", "--test", TESTS, "--message-format", "json"]).envs(toolkit.environment());
    let tests = executables(&output(&mut tests)?)?;

    let built = target()?.join("release");
    let staging = out.with_extension(format!("staging-{}", std::process::id()));
    let packed = stage(&staging.join("tree"), &built, &model, &runtime, &tests)
        .and_then(|()| strip(&built.join("xtask"), &staging.join("xtask")))
        .and_then(|()| pack::pack(&staging, out));
    let _ = fs::remove_dir_all(&staging);
    let pieces = packed?;
    println!(
        "\n{pieces} pieces of at most {} MiB are in {}. On the GPU machine, with all of their files in one folder PACKAGE:\n\
         \n    PACKAGE/xtask gpu run --from PACKAGE --out RESULTS\n",
        pack::PIECE >> 20,
        out.display()
    );
    Ok(())
}

/// Lays out what travels.
fn stage(tree: &Path, built: &Path, model: &Path, runtime: &Path, tests: &[(String, PathBuf)]) -> Result<()> {
    for part in ["bin", "tests", "lib", "model", "sources"] {
        folder(&tree.join(part))?;
    }
    strip(&built.join("phase"), &tree.join("bin/phase"))?;
    for example in EXAMPLES {
        strip(&built.join("examples").join(example), &tree.join("bin").join(example))?;
    }
    for (name, program) in tests {
        strip(program, &tree.join("tests").join(name))?;
    }
    copy(model, &tree.join("model").join(model.file_name().unwrap_or_default()))?;
    let libraries = runtime.parent().unwrap_or(runtime);
    for entry in fs::read_dir(libraries).map_err(|e| format!("{}: {e}", libraries.display()))?.flatten() {
        let name = entry.file_name();
        if name.to_string_lossy().contains("providers_cuda") {
            prune(&entry.path(), &tree.join("lib").join(name))?;
        } else if entry.path().is_file() {
            copy(&entry.path(), &tree.join("lib").join(name))?;
        }
    }
    let sources = output(Command::new("git").args(["ls-files", "-z", "--"]).args(SOURCES).current_dir(root()))?;
    for file in sources.split_terminator('\0') {
        let to = tree.join("sources").join(file);
        folder(to.parent().unwrap_or(tree))?;
        copy(&root().join(file), &to)?;
    }
    wheels::unpack(PEERS, &PYTHON, &tree.join("peers"))?;
    // Tests name their files by the place of their sources when they were compiled.
    write(&tree.join("sources/ROOT"), root().display().to_string())?;
    write(&tree.join("sources/REVISION"), revision()?)?;
    let digests = output(Command::new("sh").args(["-c", "find . -type f | LC_ALL=C sort | xargs -d '\\n' sha256sum"]).current_dir(tree))?;
    write(&tree.join(CONTENTS), digests)
}

/// Which sources these programs are made from.
fn revision() -> Result<String> {
    output(Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"]).current_dir(root()))
}

fn strip(program: &Path, to: &Path) -> Result<()> {
    output(Command::new("strip").arg("-o").arg(to).arg(program)).map(drop)
}

fn prune(library: &Path, to: &Path) -> Result<()> {
    let mut bytes = fs::read(library).map_err(|e| format!("{}: {e}", library.display()))?;
    let architecture = COMPUTE_CAPABILITY.parse().map_err(|e| format!("{COMPUTE_CAPABILITY}: {e}"))?;
    let pruned = fatbin::prune(&mut bytes, architecture).map_err(|e| format!("{}: {e}", library.display()))?;
    println!("    kept {} MB of GPU code, left out {} MB for other architectures", pruned.kept / 1_000_000, pruned.zeroed / 1_000_000);
    write(to, bytes)
}

/// The test programs that cargo's messages name: `PACKAGE-TEST` and where it lies.
fn executables(messages: &str) -> Result<Vec<(String, PathBuf)>> {
    let found: Vec<_> = messages.lines().filter_map(executable).collect();
    if found.is_empty() {
        return Err(format!("cargo built no test named {TESTS}"));
    }
    Ok(found)
}

fn executable(message: &str) -> Option<(String, PathBuf)> {
    let value = |key: &str| {
        let from = message.find(key)? + key.len();
        Some(&message[from..from + message[from..].find('"')?])
    };
    let program = value("\"executable\":\"")?;
    // A package's own program is built along with its tests.
    if !message.contains("\"kind\":[\"test\"]") {
        return None;
    }
    let manifest = Path::new(value("\"manifest_path\":\"")?);
    let package = manifest.parent()?.file_name()?.to_string_lossy().into_owned();
    let target = message.split("\"target\":").nth(1)?;
    let name = target.split("\"name\":\"").nth(1)?.split('"').next()?;
    Some((format!("{package}-{name}"), PathBuf::from(program)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_test_programs_are_taken() {
        let test = r#"{"reason":"compiler-artifact","package_id":"path+file:///w/backend-x#phase-backend-x@0.1.0","manifest_path":"/w/backend-x/Cargo.toml","target":{"kind":["test"],"crate_types":["bin"],"name":"cuda","src_path":"/w/backend-x/tests/cuda.rs"},"executable":"/t/release/deps/cuda-12","fresh":true}"#;
        let bin = test.replace("[\"test\"]", "[\"bin\"]");
        let library = r#"{"reason":"compiler-artifact","manifest_path":"/w/x/Cargo.toml","target":{"kind":["lib"],"name":"x"},"executable":null,"fresh":true}"#;
        let found = executables(&[test, &bin, library].join("\n")).unwrap();
        assert_eq!(found, [("backend-x-cuda".to_owned(), PathBuf::from("/t/release/deps/cuda-12"))]);
        assert!(executables(library).is_err());
    }
}
