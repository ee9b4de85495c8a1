//! What `phase doctor` says of CUDA, on machines with and without it.
//!
//! `PHASE_TEST_CUDA` says that a device is there; `PHASE_TEST_PROGRAM` names the program where it is not cargo's.
#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test fails by panicking, and reads how it is run")]

use serde_json::Value;
use std::process::Command;

fn doctor(arguments: &[&str]) -> String {
    let program = std::env::var_os("PHASE_TEST_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_phase").into());
    let out = Command::new(program).arg("doctor").args(arguments).output().unwrap();
    assert!(matches!(out.status.code(), Some(0 | 3)), "{out:?}");
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn the_driver_and_its_devices_are_named_or_what_is_missing() {
    let json: Value = serde_json::from_str(&doctor(&["--json"])).unwrap();
    let driver = &json["cuda"]["driver"];
    if std::env::var_os("PHASE_TEST_CUDA").is_some() {
        assert_eq!(driver["available"], true, "{driver}");
        let device = &driver["devices"][0];
        assert!(device["memory_bytes"].as_u64().unwrap() > 1 << 30, "{device}");
        assert!(device["name"].as_str().is_some_and(|name| !name.is_empty()), "{device}");
        assert!(device["compute_capability"].as_str().unwrap().contains('.'), "{device}");
        let missing: Vec<_> = json["cuda"]["libraries"].as_array().unwrap().iter().filter(|l| l["available"] == false).collect();
        assert!(missing.is_empty(), "{missing:?}");
    } else if driver["available"] == false {
        assert!(!driver["reason"].as_str().unwrap().is_empty());
    }
    assert!(doctor(&[]).contains("\nCUDA\n"));
}
