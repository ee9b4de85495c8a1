//! The matrix of three backends on an H100, kept in `recorded/`: what the program makes of it on a machine without a GPU.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn phase(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_phase")).args(arguments).output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn unpacked(folder: &Path) -> PathBuf {
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recorded/h100-llama-3.2-1b.tar.xz");
    let out = Command::new("tar").arg("-xJf").arg(&archive).arg("-C").arg(folder).output().expect("tar starts");
    assert!(out.status.success(), "{}", text(&out.stderr));
    folder.join("matrix-llama-3.2-1b")
}

#[test]
fn the_recorded_matrix_decides_there_and_nowhere_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = unpacked(folder.path());
    let run = run.to_str().expect("a plain path");
    let validated = phase(&["validate", run]);
    assert!(validated.status.success(), "{}", text(&validated.stderr));

    let card = text(&phase(&["report", run, "--card", "--color", "never"]).stdout);
    for said in ["candle-cuda", "ort-cuda", "6 of 6 within tolerance", "NVIDIA H100"] {
        let whole = text(&phase(&["report", run]).stdout);
        assert!(card.contains(said) || whole.contains(said), "{said} is missing in\n{card}");
    }

    let policy = folder.path().join("policy.json");
    let policy = policy.to_str().expect("a plain path");
    let compiled = phase(&["policy", run, "-o", policy]);
    assert!(compiled.status.success(), "{}", text(&compiled.stderr));
    let shown = text(&phase(&["policy", "show", policy]).stdout);
    for backend in ["burn-cuda", "candle-cuda", "ort-cuda"] {
        assert!(shown.contains(backend), "{backend} is missing in\n{shown}");
    }

    // Here no path of it runs: the check fails, by its exit code and in words.
    let check = phase(&["check", "--policy", policy]);
    assert_eq!(check.status.code(), Some(13), "{}", text(&check.stderr));
    assert!(text(&check.stdout).contains("candle-cuda: not on this machine"), "{}", text(&check.stdout));
}

#[test]
fn an_edited_cell_of_it_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = unpacked(folder.path());
    let cells = run.join("cells.json");
    let edited = std::fs::read_to_string(&cells).expect("cells").replacen("\"median_ns\": ", "\"median_ns\": 1", 1);
    std::fs::write(&cells, edited).expect("a file");
    let validated = phase(&["validate", run.to_str().expect("a plain path")]);
    assert_eq!(validated.status.code(), Some(1));
    assert!(text(&validated.stderr).contains("cells.json"), "{}", text(&validated.stderr));
}
