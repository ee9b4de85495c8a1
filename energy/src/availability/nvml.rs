//! NVIDIA's management library: found by its file name, never loaded here.

use std::{
    fs,
    path::{Path, PathBuf},
};

const LIBRARY: &str = "libnvidia-ml.so.1";

/// Folders that drivers and container runtimes install the library in.
pub(crate) const LIBRARY_FOLDERS: [&str; 7] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/nvidia/lib64",
    "/usr/local/lib",
    "/usr/lib/wsl/lib",
];

/// Library and device nodes, or what is missing.
pub(crate) fn probe(dev: &Path, folders: &[PathBuf]) -> Result<String, String> {
    let Some(library) = folders.iter().map(|folder| folder.join(LIBRARY)).find(|path| path.exists()) else {
        let searched: Vec<_> = folders.iter().map(|f| f.display().to_string()).collect();
        return Err(format!("{LIBRARY} is in none of {}: no NVIDIA driver", searched.join(", ")));
    };
    let boards = fs::read_dir(dev)
        .map_err(|e| format!("{}: {e}", dev.display()))?
        .filter_map(Result::ok)
        .filter(|entry| is_board(&entry.file_name().to_string_lossy()))
        .count();
    if boards == 0 && !dev.join("dxg").exists() {
        return Err(format!("{} is here, but {} has no nvidia<n> node: no board is visible", library.display(), dev.display()));
    }
    Ok(format!("{} and {boards} device node(s); not opened, so which counters the boards have is not known", library.display()))
}

fn is_board(name: &str) -> bool {
    name.strip_prefix("nvidia").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_without_a_board_is_not_a_source() {
        let root = tempfile::tempdir().unwrap();
        let (dev, lib) = (root.path().join("dev"), root.path().join("lib"));
        fs::create_dir_all(&dev).unwrap();
        fs::create_dir_all(&lib).unwrap();
        assert!(probe(&dev, std::slice::from_ref(&lib)).unwrap_err().contains("no NVIDIA driver"));
        fs::write(lib.join(LIBRARY), "").unwrap();
        fs::write(dev.join("nvidiactl"), "").unwrap();
        assert!(probe(&dev, std::slice::from_ref(&lib)).unwrap_err().contains("no board is visible"));
        fs::write(dev.join("nvidia0"), "").unwrap();
        assert!(probe(&dev, &[lib]).unwrap().contains("1 device node"));
    }
}
