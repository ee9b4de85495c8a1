//! Derived files: the graph and the weights in the layout it wants, written once for a checkpoint and found again by its
//! digest.
//!
//! A folder is written beside its final place and renamed when it is complete, so that a reader never sees half of one,
//! and two processes that write the same one at once both end with a whole one. What is checked at every load: the
//! graph's hash, the size of the weights file, and that it has not been written to since (its time of modification); only
//! when that time differs, as after copying the folder, the weights are hashed in full. A folder that fails a check is
//! written again.

use crate::{
    error::OrtError,
    graph::{self, Constant, GRAPH_VERSION, Source, WEIGHTS_FILE, decoder},
};
use phase_model::{Checkpoint, ModelError, Weights};
use prost::Message;
use serde_json::{Value, json};
use std::{
    fs::{self, File, Metadata},
    io::{ErrorKind, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

const MODEL_FILE: &str = "model.onnx";
const META_FILE: &str = "meta.json";
const UNFINISHED: &str = ".unfinished-";
/// An unfinished folder this much older than a new one belongs to a process that died.
const ABANDONED_SECONDS: i64 = 24 * 3600;
const READ_BYTES: usize = 8 << 20;

/// The graph of `checkpoint`, from `root` or written there now.
///
/// # Errors
/// [`OrtError::Store`] when files can't be written; nothing unfinished is left then.
pub(crate) fn model_file(checkpoint: &Checkpoint, root: &Path) -> Result<PathBuf, OrtError> {
    let folder = root.join(format!("{}-f32-v{GRAPH_VERSION}", checkpoint.digest()?));
    let file = folder.join(MODEL_FILE);
    if is_whole(&folder) {
        return Ok(file);
    }
    fs::create_dir_all(root).map_err(OrtError::store("create", root))?;
    let unfinished = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(root).map_err(OrtError::store("create a folder in", root))?;
    remove_abandoned(root, unfinished.path());
    write(checkpoint, unfinished.path())?;
    publish(unfinished, &folder, root)?;
    Ok(file)
}

/// Moves a complete folder to its place.
fn publish(complete: tempfile::TempDir, folder: &Path, root: &Path) -> Result<(), OrtError> {
    let Err(first) = fs::rename(complete.path(), folder) else {
        // The folder is no longer where the guard would look for it.
        let _ = complete.keep();
        return Ok(());
    };
    if !matches!(first.kind(), ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty) {
        return Err(OrtError::store("rename to", folder)(first));
    }
    if is_whole(folder) {
        return Ok(());
    }
    // A damaged folder is moved away first, because a rename replaces no folder that has files in it.
    let aside = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(root).map_err(OrtError::store("create a folder in", root))?;
    let moved = fs::rename(folder, aside.path().join("damaged"));
    match fs::rename(complete.path(), folder) {
        Ok(()) => {
            let _ = complete.keep();
            Ok(())
        }
        Err(_) if is_whole(folder) => Ok(()),
        Err(e) => Err(OrtError::store("rename to", folder)(moved.err().unwrap_or(e))),
    }
}

fn remove_abandoned(root: &Path, new: &Path) {
    let Ok(now) = fs::metadata(new).map(|m| m.mtime()) else { return };
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    for entry in entries.filter(|e| e.file_name().to_string_lossy().starts_with(UNFINISHED)) {
        if entry.metadata().is_ok_and(|m| now - m.mtime() > ABANDONED_SECONDS) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn write(checkpoint: &Checkpoint, folder: &Path) -> Result<(), OrtError> {
    let (model, constants) = decoder(checkpoint.config(), graph::Weights::File)?.finish(checkpoint.config().architecture.as_str());
    let path = folder.join(WEIGHTS_FILE);
    let (hash, stat) = write_weights(checkpoint.weights(), constants, &path)?;
    let graph = model.encode_to_vec();
    let path = folder.join(MODEL_FILE);
    fs::write(&path, &graph).map_err(OrtError::store("write", path))?;
    let meta = json!({
        "graph_blake3": blake3::hash(&graph).to_hex().as_str(),
        "weights_blake3": hash.to_hex().as_str(),
        "weights_bytes": stat.len(),
        "weights_modified": modified(&stat),
    });
    let path = folder.join(META_FILE);
    fs::write(&path, meta.to_string()).map_err(OrtError::store("write", path))
}

fn write_weights(weights: &Weights, constants: Vec<Constant>, path: &Path) -> Result<(blake3::Hash, Metadata), OrtError> {
    let mut file = File::create(path).map_err(OrtError::store("create", path))?;
    let mut hasher = blake3::Hasher::new();
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        hasher.update_rayon(bytes);
        file.write_all(bytes).map_err(OrtError::store("write", path))
    };
    for Constant { source, elements, offset, .. } in constants {
        let gap = usize::try_from(offset - at).unwrap_or(0);
        put(&vec![0; gap])?;
        let values = read(weights, source, elements)?;
        put(bytemuck::cast_slice(&values))?;
        at = offset + 4 * elements as u64;
    }
    // The meta file vouches for these bytes, so they must be on the disk before it is.
    file.sync_data().map_err(OrtError::store("write", path))?;
    let stat = file.metadata().map_err(OrtError::store("read", path))?;
    Ok((hasher.finalize(), stat))
}

fn read(weights: &Weights, source: Source, elements: usize) -> Result<Vec<f32>, ModelError> {
    let mut out = vec![0.0; elements];
    match source {
        Source::Joined(roles) => weights.read_joined(&roles, &mut out)?,
        Source::Transposed(roles) => weights.read_transposed(&roles, &mut out)?,
        Source::Values(values) => out = values,
    }
    Ok(out)
}

fn modified(stat: &Metadata) -> String {
    format!("{}.{:09}", stat.mtime(), stat.mtime_nsec())
}

/// Whether a folder is complete and unchanged.
fn is_whole(folder: &Path) -> bool {
    let check = || {
        let meta: Value = serde_json::from_slice(&fs::read(folder.join(META_FILE)).ok()?).ok()?;
        let graph = fs::read(folder.join(MODEL_FILE)).ok()?;
        let weights = folder.join(WEIGHTS_FILE);
        let stat = fs::metadata(&weights).ok()?;
        let same = |key: &str, value: &str| meta[key].as_str() == Some(value);
        if !same("graph_blake3", &blake3::hash(&graph).to_hex()) || meta["weights_bytes"].as_u64() != Some(stat.len()) {
            return None;
        }
        let untouched = same("weights_modified", &modified(&stat));
        (untouched || same("weights_blake3", &hash_file(&weights).ok()?.to_hex())).then_some(())
    };
    check().is_some()
}

/// Hashes a file in pieces, so that it does not stay in this process's memory.
pub(crate) fn hash_file(path: &Path) -> std::io::Result<blake3::Hash> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize()),
            n => hasher.update_rayon(&buffer[..n]),
        };
    }
}
