//! The programs that open what we export: DuckDB and jsonschema from PyPI, Prometheus from Debian. Kept in the cache; nothing is
//! installed into the system, and no service is started.

use crate::{
    fetch,
    run::{Result, folder, output},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Raised when the versions below change, so that a new folder is filled.
const PYTHON_FOLDER: &str = "python-export-1";
const PYTHON_PACKAGES: [&str; 3] = ["duckdb==2.0.1", "jsonschema==4.26.0", "prometheus-client==0.26.0"];

/// A folder of Python modules for the tests of `export/`, filled once.
pub fn python_modules() -> Result<PathBuf> {
    let place = fetch::cache()?.join(PYTHON_FOLDER);
    let ready = place.join("ready");
    if !ready.is_file() {
        println!("fetching {} into {}", PYTHON_PACKAGES.join(", "), place.display());
        folder(&place)?;
        let mut pip = fetch::python();
        pip.args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--root-user-action=ignore"]);
        pip.args(["--only-binary=:all:", "--upgrade", "--target"]).arg(&place).args(PYTHON_PACKAGES);
        output(&mut pip).map_err(|e| format!("{}: {e}", PYTHON_PACKAGES.join(", ")))?;
        fs::write(&ready, "").map_err(|e| format!("{}: {e}", ready.display()))?;
    }
    Ok(place)
}

/// A folder with `prometheus` and `promtool`: the system's, else those of Debian's package, unpacked into the cache.
pub fn prometheus() -> Result<PathBuf> {
    let whole = |place: &Path| ["prometheus", "promtool"].iter().all(|program| place.join(program).is_file());
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(place) = std::env::split_paths(&path).find(|place| whole(place)) {
        return Ok(place);
    }
    let place = fetch::cache()?.join("prometheus-debian");
    let programs = place.join("usr/bin");
    if whole(&programs) {
        return Ok(programs);
    }
    println!("fetching Debian's package prometheus into {}", place.display());
    folder(&place)?;
    let download = || output(Command::new("apt-get").args(["download", "-qq", "prometheus"]).current_dir(&place));
    let got = download().or_else(|_| {
        // A fresh container has no lists; only root may fetch them.
        output(Command::new("apt-get").args(["update", "-qq"]))?;
        download()
    });
    got.map_err(|e| format!("prometheus: {e}\nThe tests of dashboards/ need Prometheus: put `prometheus` and `promtool` on the PATH."))?;
    let package = fs::read_dir(&place)
        .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
        .map_err(|e| format!("{}: {e}", place.display()))?
        .into_iter()
        .map(|entry| entry.path())
        .find(|file| file.extension().is_some_and(|e| e == "deb"))
        .ok_or_else(|| format!("apt-get left no package in {}", place.display()))?;
    output(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&place))?;
    fs::remove_file(&package).map_err(|e| format!("{}: {e}", package.display()))?;
    if whole(&programs) {
        Ok(programs)
    } else {
        Err(format!("Debian's package prometheus has no prometheus and promtool in {}", programs.display()))
    }
}
