//! What a terminal gets besides answers: completions, manual pages, silence and colours, as a user asks for them.
#![expect(clippy::unwrap_used, reason = "it is all test code")]

use phase_core::{DynBackend, LoadSpec, ManualClock, Registry, sim::Sim};
use phase_scenario::{BenchCells, Plan, PlanSpec, Runner, ScenarioSet};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

/// Colours by nobody's wish but the test's.
fn phase(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_phase"));
    command.args(arguments).env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE");
    command
}

fn succeeds(command: &mut Command) -> Output {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out
}

fn answer(command: &mut Command) -> String {
    String::from_utf8(succeeds(command).stdout).unwrap()
}

/// The commands that the program lists, those below commands as `energy watch`.
fn commands() -> Vec<String> {
    let listed = |words: &[&str]| {
        let text = answer(phase(words).arg("--help"));
        let list = text.split_once("\nCommands:\n").map_or("", |(_, rest)| rest.split("\n\n").next().unwrap()).to_owned();
        let named = list.lines().filter_map(|line| line.strip_prefix("  ").filter(|l| !l.starts_with(' ')));
        let names = named.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    let mut all = Vec::new();
    for name in listed(&[]) {
        all.extend(listed(&[&name]).iter().map(|below| format!("{name} {below}")));
        all.push(name);
    }
    assert!(all.len() > 20 && all.iter().any(|c| c == "energy watch"), "{all:?}");
    all
}

fn run_in(folder: &Path) -> PathBuf {
    let registry = Registry::new().with(Sim::default());
    let cells = BenchCells { prompt_tokens: vec![4], decode_steps: vec![3], batches: vec![1], depths: vec![4], repetitions: 3 };
    let spec = PlanSpec::new(vec![ScenarioSet::bench(&cells).unwrap()], registry.iter().map(DynBackend::arm));
    let dir = folder.join("run");
    let clock = Arc::new(ManualClock::ticking(Duration::from_micros(1)));
    let mut runner = Runner::create(&registry, Plan::new(&spec).unwrap(), LoadSpec::new("none"), clock, &dir).unwrap();
    runner.run(&mut (), &AtomicBool::new(false)).unwrap();
    dir
}

#[test]
fn every_shell_completes_every_command() {
    let commands = commands();
    for (shell, begins) in [
        ("bash", "_phase()"),
        ("zsh", "#compdef phase"),
        ("fish", "complete -c phase"),
        ("elvish", "edit:completion:arg-completer[phase]"),
        ("powershell", "Register-ArgumentCompleter"),
    ] {
        // A package is built without a home.
        let script = answer(phase(&["completions", shell]).env_remove("HOME").env_remove("XDG_CACHE_HOME"));
        assert!(script.contains(begins), "{shell}: {}", script.lines().next().unwrap_or_default());
        for word in commands.iter().flat_map(|c| c.split(' ')) {
            assert!(script.contains(word), "{shell} does not know {word}");
        }
        assert!(script.contains("quiet") && script.contains("energy-calibration"), "{shell} knows no flags");
    }
    assert_eq!(phase(&["completions", "ksh"]).output().unwrap().status.code(), Some(2));
}

#[test]
fn bash_reads_its_completions_and_offers_commands() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("phase.bash");
    fs::write(&file, answer(&mut phase(&["completions", "bash"]))).unwrap();
    let ask = r#"source "$1"; COMP_WORDS=(phase energy c); COMP_CWORD=2; _phase phase c energy; echo "${COMPREPLY[@]}""#;
    let mut bash = Command::new("bash");
    assert_eq!(answer(bash.args(["--norc", "-c", ask, "bash"]).arg(&file)).trim(), "calibrate");
}

#[test]
fn every_command_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("share/man1");
    succeeds(phase(&["man", "--out", out.to_str().unwrap()]).env_remove("HOME").env_remove("XDG_CACHE_HOME"));
    let written: BTreeSet<_> = fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    let pages = commands().into_iter().map(|c| (format!("phase-{}.1", c.replace(' ', "-")), c));
    let pages: Vec<_> = pages.chain([("phase.1".to_owned(), String::new())]).collect();
    assert_eq!(written, pages.iter().map(|(name, _)| name.clone()).collect());
    for (name, command) in pages {
        let page = fs::read_to_string(out.join(&name)).unwrap();
        assert!(page.contains(".SH NAME") && page.contains(".SH SYNOPSIS") && page.contains("quiet"), "{name}");
        // The page says what the help says first.
        let help = answer(phase(&command.split_whitespace().collect::<Vec<_>>()).arg("--help"));
        let first: String = help.lines().next().unwrap().split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        assert!(page.contains(&first), "{name} does not say: {first}");
    }
}

#[test]
fn every_help_shows_an_example_of_its_command() {
    for command in commands() {
        let help = answer(phase(&command.split(' ').collect::<Vec<_>>()).arg("--help"));
        assert!(help.contains(&format!("\nExample: phase {command}")), "{command}: {help}");
    }
}

#[test]
fn quiet_leaves_standard_error_empty_unless_something_fails() {
    let folder = tempfile::tempdir().unwrap();
    let run = run_in(folder.path());
    let run = run.to_str().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (policy, page, model) = (at("policy.json"), at("page.html"), at("model"));
    let calls: [&[&str]; 5] = [
        &["policy", run, "-o", &policy, "--default-safe", "sim"],
        &["report", run, "--html", &page],
        &["model", "random", "--shape", "tiny", "-o", &model],
        &["validate", run],
        &["decide", "--policy", &policy, "--prompt-tokens", "4", "--new-tokens", "3"],
    ];
    for call in calls {
        let quiet = succeeds(phase(call).arg("-q"));
        assert!(quiet.stderr.is_empty(), "{call:?}: {}", String::from_utf8_lossy(&quiet.stderr));
        let _ = fs::remove_dir_all(&model);
        let loud = succeeds(&mut phase(call));
        assert_eq!(loud.stderr.is_empty(), matches!(call[0], "validate" | "decide"), "{call:?}: no terminal, no spinner");
        assert_eq!(loud.stdout, quiet.stdout, "{call:?}");
    }
    let failed = phase(&["--quiet", "validate", "no/such/run"]).output().unwrap();
    assert!(failed.status.code() == Some(1) && String::from_utf8_lossy(&failed.stderr).contains("no/such/run"));
}

#[test]
fn colours_are_those_that_were_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let run = run_in(folder.path());
    let card = |arguments: &[&str], variable: Option<&str>| {
        let mut command = phase(&["report", "--card", run.to_str().unwrap()]);
        command.args(arguments).envs(variable.map(|name| (name, "1"))).env("TERM", "xterm");
        answer(&mut command).contains('\u{1b}')
    };
    assert!(!card(&[], None), "a pipe is no terminal");
    assert!(card(&["--color", "always"], None));
    assert!(card(&[], Some("CLICOLOR_FORCE")));
    assert!(!card(&["--color", "never"], Some("CLICOLOR_FORCE")));
    assert!(!card(&["--color", "auto"], Some("NO_COLOR")));
    assert!(card(&["--color", "always"], Some("NO_COLOR")), "the flag is nearer than the variable");
    let help = |choice: &str| answer(&mut phase(&["--color", choice, "report", "--help"])).contains('\u{1b}');
    assert!(help("always") && !help("never") && !help("auto"));
    assert_eq!(phase(&["--color", "loud", "doctor"]).output().unwrap().status.code(), Some(2));
}
