//! The CUDA toolkit, put together from PyPI wheels: compilers, headers, the static runtime and import libraries.
//!
//! Neither a GPU nor a driver is needed; the host compiler is the machine's own `cc`.

use super::{lazy, wheels};
use crate::{
    fetch::cache,
    run::{Result, cargo, copy, output, write},
};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

const REQUIREMENTS: &str = include_str!("requirements.txt");

/// The architecture everything is compiled for: H100 and H200.
pub const COMPUTE_CAPABILITY: &str = "90";

/// What cudarc calls CUDA 13.0.
const CUDARC_VERSION: &str = "13000";

/// candle-kernels compiles ten files of matrix products over quantised weights, a minute each. Nothing here calls them,
/// so the compiler is handed an empty file instead; whoever did call them would see the linker name them.
const WRAPPER: &str = r#"#!/bin/bash
here=$(dirname "$0")
arguments=()
for argument in "$@"; do
    case $argument in *mmq_instance_*.cu) argument=$here/../empty.cu ;; esac
    arguments+=("$argument")
done
exec "$here/nvcc" "${arguments[@]}"
"#;

/// A complete toolkit.
pub struct Toolkit {
    prefix: PathBuf,
}

impl Toolkit {
    /// Whether there is a toolkit for this platform.
    pub const SUPPORTED: bool = cfg!(all(target_os = "linux", target_arch = "x86_64"));

    /// The toolkit in the cache, put there first where it is missing or made by another version of this code.
    pub fn obtain() -> Result<Self> {
        if !Self::SUPPORTED {
            return Err("the CUDA toolkit is put together for x86-64 Linux only".to_owned());
        }
        let prefix = cache()?.join("cuda-13.0");
        let cudarc = cudarc()?;
        // All that decides what lies in the folder.
        let recipe = format!("{REQUIREMENTS}\n{}\n{}\n{}", lazy::recipe(), WRAPPER, cudarc.display());
        let stamp = prefix.join("recipe");
        if fs::read_to_string(&stamp).is_ok_and(|found| found == recipe) {
            return Ok(Self { prefix });
        }
        eprintln!("fetching the CUDA 13.0 toolkit into {}", prefix.display());
        let fresh = prefix.with_extension(format!("fetching-{}", std::process::id()));
        let made = assemble(&fresh, &cudarc).and_then(|()| {
            write(&fresh.join("recipe"), &recipe)?;
            if prefix.exists() {
                fs::remove_dir_all(&prefix).map_err(|e| format!("{}: {e}", prefix.display()))?;
            }
            fs::rename(&fresh, &prefix).map_err(|e| format!("{}: {e}", prefix.display()))
        });
        let _ = fs::remove_dir_all(&fresh);
        made.map(|()| Self { prefix })
    }

    /// The environment that builds with this toolkit.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let prefix = self.prefix.display().to_string();
        let path = env::var("PATH").unwrap_or_default();
        vec![
            ("CUDA_HOME", prefix.clone()),
            ("CUDA_PATH", prefix.clone()),
            ("NVCC", format!("{prefix}/bin/nvcc-lean")),
            ("CUDA_COMPUTE_CAP", COMPUTE_CAPABILITY.to_owned()),
            ("CUDARC_CUDA_VERSION", CUDARC_VERSION.to_owned()),
            ("PATH", format!("{prefix}/bin:{path}")),
        ]
    }
}

fn assemble(prefix: &Path, cudarc: &Path) -> Result<()> {
    let scratch = prefix.join("scratch");
    wheels::unpack(REQUIREMENTS, &[], &scratch)?;
    // Every CUDA 13 wheel unpacks into this folder, which together is what nvcc calls a toolkit.
    let toolkit = scratch.join("nvidia/cu13");
    for entry in entries(&toolkit)? {
        let name = entry.file_name().unwrap_or_default().to_owned();
        fs::rename(&entry, prefix.join(name)).map_err(|e| format!("{}: {e}", entry.display()))?;
    }
    for programs in ["bin", "nvvm/bin"] {
        for program in entries(&prefix.join(programs))?.iter().filter(|path| path.is_file()) {
            permit(program)?;
        }
    }
    let libraries = prefix.join("lib");
    lazy::make(cudarc, &libraries, &scratch)?;
    // The linker is asked for `cudart`, and takes an archive where there is no shared library of that name.
    copy(&libraries.join("libcudart_static.a"), &libraries.join("libcudart.a"))?;
    symbolic_link(Path::new("lib"), &prefix.join("lib64"))?;
    write(&prefix.join("empty.cu"), "")?;
    let wrapper = prefix.join("bin/nvcc-lean");
    write(&wrapper, WRAPPER)?;
    permit(&wrapper)?;
    fs::remove_dir_all(&scratch).map_err(|e| format!("{}: {e}", scratch.display()))?;
    let trial = ["-arch=sm_90a", "-c", "-o", "/dev/null"];
    output(Command::new(prefix.join("bin/nvcc")).args(trial).arg(prefix.join("empty.cu")))
        .map(drop)
        .map_err(|e| format!("{e}\nnvcc needs a C++ compiler, by the name of g++."))
}

/// The sources of the locked cudarc, as cargo knows them.
fn cudarc() -> Result<PathBuf> {
    let arguments = ["metadata", "--format-version", "1", "--all-features", "--filter-platform", "x86_64-unknown-linux-gnu"];
    let metadata = output(&mut cargo(&arguments))?;
    let manifest = metadata
        .split('"')
        .map(Path::new)
        .find(|text| {
            let package = text.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
            text.is_absolute() && text.ends_with("Cargo.toml") && package.starts_with("cudarc-")
        })
        .ok_or("no package of this workspace uses cudarc")?;
    Ok(manifest.with_file_name(""))
}

fn entries(path: &Path) -> Result<Vec<PathBuf>> {
    let of = |e| format!("{}: {e}", path.display());
    fs::read_dir(path).map_err(of)?.map(|entry| entry.map(|e| e.path()).map_err(of)).collect()
}

#[cfg(unix)]
fn permit(program: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(program, fs::Permissions::from_mode(0o755)).map_err(|e| format!("{}: {e}", program.display()))
}

#[cfg(unix)]
fn symbolic_link(to: &Path, at: &Path) -> Result<()> {
    std::os::unix::fs::symlink(to, at).map_err(|e| format!("{}: {e}", at.display()))
}

#[cfg(not(unix))]
fn permit(_: &Path) -> Result<()> {
    Ok(())
}

#[cfg(not(unix))]
fn symbolic_link(_: &Path, at: &Path) -> Result<()> {
    Err(format!("{}: no symbolic links here", at.display()))
}
