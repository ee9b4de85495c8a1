//! Numbers and options that can't be meant are refused at once, with what would be right: none ends in a panic, in memory that
//! nobody has, or in silence.

#![cfg(feature = "candle")]

use std::{path::Path, process::Command};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../model/tests/golden/tiny/llama-gqa-tied");

fn refuses(folder: &Path, arguments: &[&str], says: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_phase"));
    command.current_dir(folder).args(["--cache", "cache"]).args(arguments).env("PHASE_MODEL", MODEL);
    let out = command.output().expect("the program starts");
    let error = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{arguments:?}: {error}");
    assert!(error.contains(says), "{arguments:?} should say `{says}`: {error}");
}

#[test]
fn a_generation_beyond_the_context_or_with_an_unused_policy() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let generate = |rest: &[&str], says| refuses(folder.path(), &[&["generate", "--backend", "candle"], rest].concat(), says);
    let most = usize::MAX.to_string();
    generate(&["--max-tokens", &most, "hello"], "exceed the model's context of");
    generate(&["--max-tokens", "8", "--policy", "policy.json", "hello"], "--backend auto only");
}

#[test]
fn cells_that_are_none_or_that_no_cache_holds() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let bench = |rest: &[&str], says| refuses(folder.path(), &[&["bench", "--backends", "candle"], rest].concat(), says);
    let most = usize::MAX.to_string();
    bench(&["-p", "0"], "name no cell");
    bench(&["-p", &most], "longer than the model's context of");
    bench(&["-n", &most], "beyond the model's context of");
    bench(&["-n", "1", "-d", &most], "beyond the model's context of");
    bench(&["-p", "1", "-r", "4294967295"], "10000");
}

#[test]
fn more_threads_than_machines_have() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    refuses(folder.path(), &["--threads", "999999", "doctor"], "from 1 to 1024");
}
