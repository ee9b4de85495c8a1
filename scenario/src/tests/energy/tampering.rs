//! Somebody changes what a run says about energy.

use super::*;
use crate::reading::Work;
use crate::{dir::digests, files::json_text};
use std::fs;

/// Renews all digests, as somebody would who knows how.
fn reseal(dir: &Path) {
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(dir.join("manifest.json")).unwrap()).unwrap();
    let events = fs::read_to_string(dir.join("events.jsonl")).unwrap().lines().count();
    let seal = digests(dir, manifest["run_id"].as_str().unwrap(), events as u64, None, &mut Work::unwatched()).unwrap();
    fs::write(dir.join("digests.json"), json_text(&seal).unwrap()).unwrap();
}

#[test]
fn an_energy_that_does_not_follow_from_the_readings_is_found() {
    let (lab, made) = (Lab::new(COUNTER, hungry(), frugal()), tempfile::tempdir().unwrap());
    lab.run(Lab::plan(), made.path());
    let files: Vec<_> = list(made.path()).unwrap().into_iter().filter(|f| f.contains("energy") || f.starts_with("cells")).collect();
    assert!(files.iter().any(|f| f == "energy/0001-0.jsonl") && files.iter().any(|f| f == "energy.json"), "{files:?}");
    for file in &files {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(made.path(), dir.path());
        let path = dir.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen('1', "2", 1)).unwrap();
        assert!(validate(dir.path()).is_err(), "{file}");
        fs::remove_file(&path).unwrap();
        assert!(validate(dir.path()).is_err(), "{file} is gone");
    }
    let edit = |file: &str, change: &dyn Fn(&str) -> String| {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(made.path(), dir.path());
        let path = dir.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        let changed = change(&text);
        assert!(text != changed, "{file}");
        fs::write(&path, changed).unwrap();
        reseal(dir.path());
        validate(dir.path()).unwrap_err().to_string()
    };
    // The result alone, then what it follows from.
    let better = |text: &str| text.replacen("\"joules\": 2", "\"joules\": 1", 1);
    assert!(edit("energy.json", &better).contains("energy.json line"));
    assert!(edit("cells.json", &|t| t.replacen("\"low\": 2", "\"low\": 1", 1)).contains("cells.json line"));
    let fewer_joules = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        let middle = lines.len() / 2;
        lines.drain(middle..middle + 200);
        lines.join("\n") + "\n"
    };
    let found = edit("energy/0001-0.jsonl", &fewer_joules);
    assert!(found.contains("cells.json line") || found.contains("energy.json line"), "{found}");
    let shorter = |text: &str| text.replacen("\"calls\":1,", "\"calls\":2,", 1);
    let found = edit("energy/0002.json", &shorter);
    assert!(found.contains("cells.json line") || found.contains("energy.json line"), "{found}");
    let wider = |text: &str| text.replacen("\"max_w\": 750.0", "\"max_w\": 749.0", 1);
    let found = edit("manifest.json", &wider);
    assert!(found.contains(".json line"), "{found}");
}

#[test]
fn a_sitting_that_is_missing_or_of_another_run_is_found() {
    let (lab, made) = (Lab::new(COUNTER, hungry(), frugal()), tempfile::tempdir().unwrap());
    lab.run(Lab::plan(), made.path());
    for file in ["energy/0000.json", "energy/0002.json"] {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(made.path(), dir.path());
        fs::remove_file(dir.path().join(file)).unwrap();
        reseal(dir.path());
        assert!(validate(dir.path()).is_err(), "{file}");
    }
    let dir = tempfile::tempdir().unwrap();
    copy_dir(made.path(), dir.path());
    let path = dir.path().join("energy/0001.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("\"run_id\":\"2", "\"run_id\":\"3", 1)).unwrap();
    reseal(dir.path());
    let error = validate(dir.path()).unwrap_err().to_string();
    assert!(error.starts_with("energy/0001.json") && error.contains("belongs"), "{error}");
}
