//! A tree of files as pieces small enough to carry, and back. Digests are lists that `sha256sum --check` reads too.

use crate::run::{Result, folder, output, read, write};
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Most bytes in a piece: what fits a transfer of 64 MiB with room for a checkout beside it.
pub const PIECE: u64 = 48 << 20;

/// The digests of the tree's files, in the tree.
pub const CONTENTS: &str = "CONTENTS";

/// The digests of the parts, beside the first.
const MANIFEST: &str = "MANIFEST";
const ARCHIVE: &str = "package.tar.xz";

/// Room in the first piece for the program that unpacks and the manifest.
const RESERVE: u64 = 3 << 20;

/// Packs `staging/tree` and `staging/xtask` into folders `out/1`, `out/2`, and so on; gives their number.
pub fn pack(staging: &Path, out: &Path) -> Result<usize> {
    println!("\n==> pack");
    let archive = staging.join("package.tar");
    let options = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"];
    output(Command::new("tar").args(options).arg("-cf").arg(&archive).arg("-C").arg(staging.join("tree")).arg("."))?;
    output(Command::new("xz").args(["-T0", "-3", "--check=crc64"]).arg(&archive))?;
    let program = staging.join("xtask");
    let size = fs::metadata(&program).map_err(|e| format!("{}: {e}", program.display()))?.len();
    if size + (64 << 10) > RESERVE {
        return Err(format!("the program that unpacks has {size} bytes, more than the {RESERVE} kept for it"));
    }
    let parts = split(&staging.join(ARCHIVE), out)?;
    let first = out.join("1");
    crate::run::copy(&program, &first.join("xtask"))?;
    let mut manifest = String::new();
    for file in std::iter::once(first.join("xtask")).chain(parts.iter().cloned()) {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        manifest.push_str(&format!("{}  {name}\n", digest(&file)?));
    }
    write(&first.join(MANIFEST), manifest)?;
    Ok(parts.len())
}

fn split(archive: &Path, out: &Path) -> Result<Vec<PathBuf>> {
    let of = |e: io::Error| format!("{}: {e}", archive.display());
    let mut source = File::open(archive).map_err(of)?;
    let mut left = source.metadata().map_err(of)?.len();
    let mut parts = Vec::new();
    while left > 0 {
        let number = parts.len() + 1;
        let piece = out.join(number.to_string());
        folder(&piece)?;
        let part = piece.join(format!("{ARCHIVE}.{number}"));
        let room = if number == 1 { PIECE - RESERVE } else { PIECE };
        let mut to = File::create(&part).map_err(|e| format!("{}: {e}", part.display()))?;
        left -= io::copy(&mut Read::by_ref(&mut source).take(room.min(left)), &mut to).map_err(of)?;
        parts.push(part);
    }
    Ok(parts)
}

/// Unpacks the package in `from` into `to` after checking every part, then checks every file. A tree that is there
/// already and belongs to this package is only checked.
pub fn unpack(from: &Path, to: &Path) -> Result<()> {
    let manifest = read(&find(from, MANIFEST)?)?;
    let parts = manifest
        .lines()
        .map(|line| line.split_once("  ").ok_or_else(|| format!("{MANIFEST}: not a digest and a name: {line}")))
        .collect::<Result<Vec<_>>>()?;
    let mut archive = Vec::new();
    for (expected, name) in parts {
        let part = find(from, name)?;
        let found = digest(&part)?;
        if found != expected {
            return Err(format!("{}: SHA-256 is {found}, expected {expected}", part.display()));
        }
        if name.starts_with(ARCHIVE) {
            archive.push(part);
        }
    }
    let stamp = to.join(MANIFEST);
    if !fs::read_to_string(&stamp).is_ok_and(|found| found == manifest) {
        let _ = fs::remove_dir_all(to);
        folder(to)?;
        extract(&archive, to)?;
        write(&stamp, &manifest)?;
    }
    output(Command::new("sha256sum").args(["--check", "--strict", "--quiet", CONTENTS]).current_dir(to)).map(drop)
}

fn extract(parts: &[PathBuf], to: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    let mut tar = tar.args(["-xJf", "-", "-C"]).arg(to).stdin(Stdio::piped()).spawn().map_err(|e| format!("can't start tar: {e}"))?;
    let mut pipe = tar.stdin.take().ok_or("tar takes no input")?;
    let fed = parts.iter().try_for_each(|part| {
        let mut part = File::open(part)?;
        io::copy(&mut part, &mut pipe).map(drop)
    });
    let fed = fed.and_then(|()| pipe.flush());
    drop(pipe);
    let status = tar.wait().map_err(|e| format!("tar: {e}"))?;
    if !status.success() {
        return Err(format!("tar ended with {status}"));
    }
    fed.map_err(|e| format!("unpacking: {e}"))
}

/// A file of the package: in `from` itself, or in one of its numbered folders.
fn find(from: &Path, name: &str) -> Result<PathBuf> {
    let here = std::iter::once(from.join(name)).chain((1..=99).map(|n| from.join(n.to_string()).join(name)));
    here.into_iter().find(|path| path.is_file()).ok_or_else(|| format!("{} lacks {name}: is every piece there?", from.display()))
}

fn digest(file: &Path) -> Result<String> {
    let text = output(Command::new("sha256sum").arg(file))?;
    // A name with odd characters is marked by a backslash before the digest.
    text.trim_start_matches('\\')
        .split_whitespace()
        .next()
        .map(str::to_owned)
        .ok_or_else(|| format!("sha256sum said nothing of {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> PathBuf {
        let place = std::env::temp_dir().join(format!("phase-pack-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&place);
        folder(&place.join("staging/tree/bin")).unwrap();
        write(&place.join("staging/xtask"), "program").unwrap();
        write(&place.join("staging/tree/bin/phase"), "phase").unwrap();
        let digest = digest(&place.join("staging/tree/bin/phase")).unwrap();
        write(&place.join("staging/tree").join(CONTENTS), format!("{digest}  bin/phase\n")).unwrap();
        place
    }

    #[test]
    fn what_is_packed_comes_back() {
        let place = place("back");
        assert_eq!(pack(&place.join("staging"), &place.join("out")), Ok(1));
        unpack(&place.join("out"), &place.join("tree")).unwrap();
        assert_eq!(read(&place.join("tree/bin/phase")).unwrap(), "phase");
        // The files of all pieces in one folder do as well, and a tree that is there is used again.
        unpack(&place.join("out/1"), &place.join("tree")).unwrap();
        fs::remove_dir_all(&place).unwrap();
    }

    #[test]
    fn damage_is_named() {
        let place = place("damage");
        pack(&place.join("staging"), &place.join("out")).unwrap();
        unpack(&place.join("out"), &place.join("tree")).unwrap();
        write(&place.join("tree/bin/phase"), "other").unwrap();
        assert!(unpack(&place.join("out"), &place.join("tree")).is_err(), "a changed file in the tree");
        let part = place.join("out/1/package.tar.xz.1");
        let mut bytes = fs::read(&part).unwrap();
        bytes[20] ^= 1;
        write(&part, bytes).unwrap();
        assert!(unpack(&place.join("out"), &place.join("tree")).unwrap_err().contains("SHA-256"));
        fs::remove_file(&part).unwrap();
        assert!(unpack(&place.join("out"), &place.join("tree")).unwrap_err().contains("is every piece there?"));
        fs::remove_dir_all(&place).unwrap();
    }
}
