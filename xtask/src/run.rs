//! Running other programs, with a heading and a clear end.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

/// What went wrong, in words for the person at the terminal.
pub type Result<T> = std::result::Result<T, String>;

/// The workspace's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_owned)
}

/// `cargo` with `arguments`, in the workspace's root.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// Runs `command` under `heading` and prints how long it took.
pub fn step(heading: &str, command: &mut Command) -> Result<()> {
    println!("\n==> {heading}");
    let start = Instant::now();
    let status = command.status().map_err(|e| format!("{heading}: can't start {}: {e}", command.get_program().display()))?;
    if !status.success() {
        return Err(format!("{heading}: {} ended with {status}", command.get_program().display()));
    }
    println!("    {heading}: done in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Runs `command` and gives its standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let out = command.output().map_err(|e| format!("can't start {program}: {e}"))?;
    if !out.status.success() {
        return Err(format!("{program} ended with {}: {}", out.status, String::from_utf8_lossy(&out.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// The folder that cargo builds into.
pub fn target() -> Result<PathBuf> {
    let metadata = output(&mut cargo(&["metadata", "--format-version", "1", "--no-deps"]))?;
    let key = "\"target_directory\":\"";
    let from = metadata.find(key).map(|at| at + key.len()).ok_or("cargo metadata names no target folder")?;
    let to = metadata[from..].find('"').map(|n| from + n).ok_or("cargo metadata is cut short")?;
    Ok(PathBuf::from(&metadata[from..to]))
}

/// The text of a file.
pub fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))
}

/// Writes a file whole.
pub fn write(file: &Path, bytes: impl AsRef<[u8]>) -> Result<()> {
    fs::write(file, bytes).map_err(|e| format!("{}: {e}", file.display()))
}

/// Makes a folder and those above it.
pub fn folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| format!("{}: {e}", path.display()))
}

/// Copies a file, permissions included.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).map_err(|e| format!("{} to {}: {e}", from.display(), to.display()))
}
