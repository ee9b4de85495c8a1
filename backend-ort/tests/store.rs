//! Derived files: written once, checked, and written again when they are damaged.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use phase_core::{Backend, ErrorKind, LoadSpec, Model, PhaseError};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The one folder of derived files under `root`, digests aside.
fn folder(root: &Path) -> PathBuf {
    let entries = fs::read_dir(root.join("ort")).unwrap().map(|e| e.unwrap().path());
    let folders: Vec<_> = entries.filter(|p| p.file_name().is_none_or(|n| n != "digests")).collect();
    assert_eq!(folders.len(), 1, "one complete folder and nothing unfinished: {folders:?}");
    folders.into_iter().next().unwrap()
}

fn modified(path: &Path) -> std::time::SystemTime {
    fs::metadata(path).unwrap().modified().unwrap()
}

#[test]
fn a_second_load_writes_nothing_and_damage_is_repaired() {
    let Some(backend) = common::backend() else { return };
    let root = tempfile::tempdir().unwrap();
    let spec = LoadSpec::new(common::golden("tiny/llama-mqa")).with_cache_dir(root.path());
    backend.load(&spec).unwrap();
    let weights = folder(root.path()).join("weights.bin");
    let (first, whole) = (modified(&weights), fs::read(&weights).unwrap());
    backend.load(&spec).unwrap();
    assert_eq!(modified(&weights), first, "a whole folder is used as it is");

    fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    backend.load(&spec).unwrap();
    assert_eq!(fs::read(&weights).unwrap(), whole, "a cut file is written again");

    let mut edited = whole.clone();
    *edited.last_mut().unwrap() ^= 1;
    fs::write(&weights, &edited).unwrap();
    backend.load(&spec).unwrap();
    assert_eq!(fs::read(&weights).unwrap(), whole, "an edited file is written again");

    for file in ["model.onnx", "meta.json"] {
        fs::write(folder(root.path()).join(file), "{").unwrap();
        backend.load(&spec).unwrap();
        assert_eq!(fs::read(folder(root.path()).join("weights.bin")).unwrap(), whole);
    }
}

#[test]
fn a_copied_folder_is_checked_in_full_and_used() {
    let Some(backend) = common::backend() else { return };
    let (root, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let spec = LoadSpec::new(common::golden("tiny/llama-mqa"));
    backend.load(&spec.clone().with_cache_dir(root.path())).unwrap();
    let from = folder(root.path());
    let to = copy.path().join("ort").join(from.file_name().unwrap());
    fs::create_dir_all(&to).unwrap();
    for file in ["model.onnx", "meta.json", "weights.bin"] {
        fs::copy(from.join(file), to.join(file)).unwrap();
    }
    let before = modified(&to.join("weights.bin"));
    backend.load(&spec.with_cache_dir(copy.path())).unwrap();
    assert_eq!(modified(&to.join("weights.bin")), before);
}

#[test]
fn loading_from_several_threads_at_once_leaves_one_whole_folder() {
    let Some(backend) = common::backend() else { return };
    let root = tempfile::tempdir().unwrap();
    let spec = LoadSpec::new(common::golden("tiny/qwen3")).with_cache_dir(root.path());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| backend.load(&spec).unwrap());
        }
    });
    folder(root.path());
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let Some(backend) = common::backend() else { return };
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, "").unwrap();
    let error = backend.load(&LoadSpec::new(common::golden("tiny/qwen2")).with_cache_dir(&file)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Load);
    assert!(error.to_string().contains(&file.display().to_string()), "{error}");
}

#[test]
fn the_stack_names_what_was_loaded() {
    let Some(model) = common::load(common::golden("tiny/qwen2")) else { return };
    let facts: Vec<_> = model.info().stack.iter().map(|(layer, key, fact)| format!("{}.{key}={fact}", layer.as_str())).collect();
    for fact in
        ["model.digest=", "model.architecture=qwen2", "model.dtype=f32", "runtime.library=onnxruntime 1.", "runtime.library_blake3="]
    {
        assert!(facts.iter().any(|f| f.starts_with(fact)), "{fact} in {facts:?}");
    }
    assert!(facts.iter().all(|f| !f.contains("unknown")), "{facts:?}");
}
