//! Runs of three backends on an H100, kept in `recorded/`: what the program makes of them on a machine without a GPU.

use serde_json::Value;
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
    unpack("h100-llama-3.2-1b", folder);
    folder.join("matrix-llama-3.2-1b")
}

fn unpack(name: &str, folder: &Path) {
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../recorded/{name}.tar.xz"));
    let out = Command::new("tar").arg("-xJf").arg(&archive).arg("-C").arg(folder).output().expect("tar starts");
    assert!(out.status.success(), "{}", text(&out.stderr));
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

#[test]
fn the_recorded_bench_is_below_the_ceilings_of_its_own_run() {
    let folder = tempfile::tempdir().expect("a folder");
    unpack("h100-bench-llama-3.2-1b", folder.path());
    let run = folder.path().join("bench");
    let run = run.to_str().expect("a plain path");
    let validated = phase(&["validate", run]);
    assert!(validated.status.success(), "{}", text(&validated.stderr));
    let report: Value = serde_json::from_slice(&phase(&["report", run, "--json"]).stdout).expect("JSON");
    let gate = report["gates"].as_array().and_then(|g| g.iter().find(|g| g["name"] == "roofline")).expect("the gate");
    assert_eq!(gate["state"], "pass", "{gate}");
    let points = report["roofline"]["points"].as_array().expect("points");
    let share = |arm: &str, phase: &str, label: &str| {
        let of = |p: &&Value| p["arm"] == arm && p["phase"] == phase && p["label"].as_str().is_some_and(|l| l.starts_with(label));
        points.iter().find(of).and_then(|p| p["share"].as_f64()).expect("a share")
    };
    // What recorded/README.md says of decode and of prompts.
    for (arm, decode, prompt) in
        [("candle-cuda@compiled", 0.788, 0.673), ("ort-cuda@compiled", 0.764, 0.543), ("burn-cuda@compiled", 0.725, 0.449)]
    {
        assert!((share(arm, "decode", "batch 1,") - decode).abs() < 1e-3, "{arm}");
        assert!((share(arm, "prefill", "batch 1, 2048") - prompt).abs() < 1e-3, "{arm}");
    }
}

#[test]
fn the_recorded_benches_of_other_sizes_hold_what_is_said_of_them() {
    let folder = tempfile::tempdir().expect("a folder");
    unpack("h100-bench-smollm2-8b", folder.path());
    let share = |run: &str, id: &str| {
        let run = folder.path().join(run);
        let run = run.to_str().expect("a plain path");
        let validated = phase(&["validate", run]);
        assert!(validated.status.success(), "{}", text(&validated.stderr));
        let report: Value = serde_json::from_slice(&phase(&["report", run, "--json"]).stdout).expect("JSON");
        let points = report["roofline"]["points"].as_array().expect("points").clone();
        points.iter().find(|p| p["id"] == id).expect("the cell")["share"].as_f64()
    };
    let decode = "candle-cuda/compiled/decode/b1/n1/c512/steady";
    assert!(share("bench-llama-3.1-8b", decode).is_some_and(|s| (0.90..0.92).contains(&s)));
    // Its weights are smaller than what the ceiling was read from: no share is known, and none is said.
    assert_eq!(share("bench-smollm2", decode), None);
}

#[test]
fn the_recorded_energies_are_means_over_windows_and_rank_no_backend_in_decode() {
    let folder = tempfile::tempdir().expect("a folder");
    unpack("h100-energy-llama-3.2-1b", folder.path());
    let mut decode = Vec::new();
    for (run, cells, said) in [
        ("energy-ort-candle", 6, ["2.11 [1.95, 2.27]", "5.87 [5.42, 6.31]", "0.528 [0.482, 0.574]", "37.1 [34.2, 40.1]"]),
        ("energy-burn", 3, ["2.40 [2.20, 2.59]", "7.92 [7.32, 8.51]", "0.546 [0.501, 0.591]", "37.3 [34.2, 40.4]"]),
    ] {
        let dir = folder.path().join(run);
        let run = dir.to_str().expect("a plain path");
        let validated = phase(&["validate", run]);
        assert!(validated.status.success(), "{}", text(&validated.stderr));
        let report = text(&phase(&["report", run]).stdout);
        for said in said {
            assert!(report.contains(said), "{said} is missing in\n{report}");
        }
        let energy: Value = serde_json::from_slice(&std::fs::read(dir.join("energy.json")).expect("a file")).expect("JSON");
        let found = energy["cells"].as_array().expect("cells");
        assert_eq!(found.len(), cells);
        for cell in found {
            assert_eq!(cell["energy"]["status"], "macro_window", "{cell}");
            assert_eq!(cell["single"]["energy"]["reason"], "too_few_updates", "{cell}");
            let other = cell["cross_check"].as_f64().expect("the other sensor's share");
            assert!((0.995..1.005).contains(&other), "{cell}");
        }
        let bounds = |cell: &Value| ["low", "high"].map(|of| cell["energy"][of].as_f64().expect("joules"));
        decode.extend(found.iter().filter(|cell| cell["phase"] == "decode").map(bounds));
    }
    assert_eq!(decode.len(), 3);
    // Every interval holds what the others have in common: no backend is the thrifty one.
    let low = decode.iter().map(|[low, _]| *low).fold(0.0, f64::max);
    let high = decode.iter().map(|[_, high]| *high).fold(f64::INFINITY, f64::min);
    assert!(low < 0.528 && high > 0.552, "{low} to {high}");
}
