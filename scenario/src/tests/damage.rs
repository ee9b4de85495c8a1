//! Complete runs that somebody touched.

use super::*;
use crate::{
    dir::digests,
    files::{json_text, list},
    reading::Work,
};
use std::fs;

fn made() -> (tempfile::TempDir, Vec<String>) {
    let (stage, dir) = (Stage2::new(), tempfile::tempdir().unwrap());
    stage.complete(Stage2::small(), dir.path());
    let files = list(dir.path()).unwrap();
    assert_eq!(
        files,
        [
            "blocks.jsonl",
            "cells.csv",
            "cells.json",
            "digests.json",
            "events.jsonl",
            "evidence/a.json",
            "evidence/b.json",
            "loads.json",
            "manifest.json",
            "parity.json"
        ]
    );
    (dir, files)
}

#[test]
fn any_change_of_any_file_is_found_and_the_file_is_named() {
    let (dir, files) = made();
    for file in &files {
        let path = dir.path().join(file);
        let kept = fs::read(&path).unwrap();
        let mut changes = vec![kept[..kept.len() / 2].to_vec(), kept[..kept.len() - 1].to_vec(), [&kept[..], b" "].concat(), Vec::new()];
        for at in [kept.len() / 3, kept.len() - 3] {
            let mut flipped = kept.clone();
            flipped[at] ^= 1;
            changes.push(flipped);
        }
        for change in changes {
            fs::write(&path, &change).unwrap();
            let error = validate(dir.path()).unwrap_err().to_string();
            assert!(error.contains(file.as_str()) || (file == "events.jsonl" && error.contains("blocks.jsonl")), "{file}: {error}");
        }
        fs::remove_file(&path).unwrap();
        let error = validate(dir.path()).unwrap_err().to_string();
        let unsealed = file == "digests.json" && error.contains("incomplete");
        assert!(error.contains(file.as_str()) || unsealed || error.contains("holds no run") || error.contains("blocks"), "{file}: {error}");
        fs::write(&path, &kept).unwrap();
        validate(dir.path()).unwrap();
    }
}

#[test]
fn a_number_edited_with_all_digests_renewed_still_fails() {
    let (dir, _) = made();
    let path = dir.path().join("cells.json");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("\"median_ns\": 1000.0"), "{text}");
    fs::write(&path, text.replacen("\"median_ns\": 1000.0", "\"median_ns\": 900.0", 1)).unwrap();
    let run_id = fs::read_to_string(dir.path().join("manifest.json")).unwrap().split('"').nth(7).unwrap().to_owned();
    let events = fs::read_to_string(dir.path().join("events.jsonl")).unwrap().lines().count();
    let seal = digests(dir.path(), &run_id, events as u64, None, &mut Work::unwatched()).unwrap();
    fs::write(dir.path().join("digests.json"), json_text(&seal).unwrap()).unwrap();
    let error = validate(dir.path()).unwrap_err().to_string();
    assert!(error.contains("cells.json line") && error.contains("900.0") && error.contains("1000.0"), "{error}");
}

#[test]
fn an_added_file_is_found() {
    let (dir, _) = made();
    fs::write(dir.path().join("extra.txt"), "x").unwrap();
    assert!(validate(dir.path()).unwrap_err().to_string().contains("extra.txt: the file was added"));
}

#[test]
fn another_schema_is_named_before_anything_else() {
    let (dir, _) = made();
    for (file, schema) in [
        ("manifest.json", RUN_SCHEMA),
        ("blocks.jsonl", BLOCK_SCHEMA),
        ("events.jsonl", EVENT_SCHEMA),
        ("parity.json", PARITY_SCHEMA),
        ("digests.json", DIGESTS_SCHEMA),
        ("evidence/a.json", EVIDENCE_SCHEMA),
    ] {
        let path = dir.path().join(file);
        let kept = fs::read_to_string(&path).unwrap();
        fs::write(&path, kept.replace(schema, &schema.replace("/1", "/2"))).unwrap();
        let error = validate(dir.path()).unwrap_err().to_string();
        assert!(error.contains(file), "{file}: {error}");
        if file != "events.jsonl" {
            assert!(error.contains("/2"), "{file}: {error}");
        }
        fs::write(&path, kept).unwrap();
    }
}

/// Renews the seal.
fn reseal(dir: &Path) {
    let run_id = fs::read_to_string(dir.join("manifest.json")).unwrap().split('"').nth(7).unwrap().to_owned();
    let events = fs::read_to_string(dir.join("events.jsonl")).unwrap().lines().count();
    let seal = digests(dir, &run_id, events as u64, None, &mut Work::unwatched()).unwrap();
    fs::write(dir.join("digests.json"), json_text(&seal).unwrap()).unwrap();
}

#[test]
fn a_table_of_an_older_version_lacks_columns_and_nothing_else() {
    let (dir, _) = made();
    let path = dir.path().join("cells.csv");
    let now = fs::read_to_string(&path).unwrap();
    // The energy columns of runs made before energy was measured in them; nothing in this table is quoted.
    let dropped: Vec<_> = phase_policy::Cell::CSV_COLUMNS.iter().enumerate().skip(32).take(7).map(|(i, _)| i).collect();
    let older =
        |line: &str| line.split(',').enumerate().filter(|(i, _)| !dropped.contains(i)).map(|(_, f)| f).collect::<Vec<_>>().join(",");
    let text = now.lines().map(older).fold(String::new(), |text, line| text + &line + "\n");
    assert!(text.starts_with("backend,mode,") && text.lines().next().unwrap().ends_with("energy_no_data_reason,boundary"), "{text}");
    fs::write(&path, &text).unwrap();
    reseal(dir.path());
    validate(dir.path()).unwrap();
    fs::write(&path, text.replacen(",1000,", ",1001,", 1)).unwrap();
    reseal(dir.path());
    assert!(validate(dir.path()).unwrap_err().to_string().contains("cells.csv line 2"));
    fs::write(&path, now.replacen("failures", "mishaps", 1)).unwrap();
    reseal(dir.path());
    assert!(validate(dir.path()).unwrap_err().to_string().contains("cells.csv line 1"));
}
