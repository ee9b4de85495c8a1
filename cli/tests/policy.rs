//! `phase policy` and the CI job, as a user calls them.
#![expect(clippy::disallowed_methods, reason = "the test compiles a policy of the present moment, and looks for bash")]

use phase_core::{BackendId, MeasurementBoundary, Phase, Shape};
use phase_policy::{Observation, Policy, PolicyOptions, ScenarioMatrix};
use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{SystemTime, UNIX_EPOCH},
};

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// A policy of this machine for a backend that it does not have, compiled `days` ago.
fn written(folder: &Path, days: u64) -> PathBuf {
    let backend = BackendId::new("nowhere-cpu");
    let shape = Shape { batch: 1, new_tokens: 32, context: 0 };
    let seen: Vec<_> = (0..3)
        .map(|block| Observation::new(backend.clone(), Phase::Prefill, shape, 1_000_000).with_boundary("b").with_block(block))
        .collect();
    let boundaries = [("b".to_owned(), MeasurementBoundary::call(phase_core::machine()))].into();
    let matrix = ScenarioMatrix::build(&seen, &boundaries).expect("a matrix");
    let policy = Policy::compile(&matrix, &PolicyOptions::new(backend, now() - days * 86_400)).expect("a policy");
    let path = folder.join("policy.json");
    std::fs::write(&path, policy.to_json()).expect("a file");
    path
}

fn phase(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_phase")).args(arguments).output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn show_says_it_in_words_and_as_the_document() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = written(folder.path(), 0);
    let path = path.to_str().expect("UTF-8");
    let words = phase(&["policy", "show", path]);
    let out = text(&words.stdout);
    assert!(words.status.success() && out.contains("Default-safe: nowhere-cpu") && out.starts_with("Compiled 20"), "{out}");
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
    let json = phase(&["policy", "show", path, "--json"]);
    assert_eq!(text(&json.stdout), std::fs::read_to_string(path).expect("a file"));
    let old = concat!(env!("CARGO_MANIFEST_DIR"), "/../policy/tests/fixtures/policy.v1.json");
    let out = text(&phase(&["policy", "show", old]).stdout);
    assert!(out.contains("phase.policy/1, which lacks"), "{out}");
}

#[test]
fn what_is_no_policy_of_a_known_version_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = written(folder.path(), 0);
    let newer = std::fs::read_to_string(&path).expect("a file").replace("phase.policy/2", "phase.policy/9");
    std::fs::write(&path, newer).expect("a file");
    let refused = phase(&["policy", "show", path.to_str().expect("UTF-8")]);
    let err = text(&refused.stderr);
    assert!(refused.status.code() == Some(1) && err.contains("phase.policy/9") && err.contains("phase.policy/2"), "{err}");
}

#[test]
fn bad_input_is_said_in_words_that_name_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let good = written(folder.path(), 0).to_str().expect("UTF-8").to_owned();
    let json = std::fs::read_to_string(&good).expect("a file");
    let book = include_str!("../../policy/prices/tr119-2025-12-21.json");
    let unpriced = book.replace(r#""spot": 0.302, "#, "");
    let spotless = json.replacen("\"median_ns\": 1", "\"median_ns\": -1", 1);
    let files = [
        ("cut.json", &json[..json.len() / 2]),
        ("empty.json", ""),
        ("list.json", "[]"),
        ("edited.json", spotless.as_str()),
        ("book.json", book),
        ("unpriced.json", unpriced.as_str()),
        ("late.csv", "arrival_s,prompt_tokens,new_tokens\n0,32,1\n5,32,1\n3,32,1\n"),
        ("nan.csv", "arrival_s,prompt_tokens,new_tokens\nNaN,32,1\n"),
        ("nobody.csv", "arrival_s,prompt_tokens,new_tokens\n"),
    ];
    for (name, content) in files {
        std::fs::write(at(name), content).expect("a file");
    }
    let plan = |policy: &str, book: &str, more: &[&str]| {
        let (policy, book) = (if policy.is_empty() { good.clone() } else { at(policy) }, at(book));
        phase(&[&["plan", "--policy", &policy, "--prices", &book], more].concat())
    };
    let (late, nan, nobody) = (at("late.csv"), at("nan.csv"), at("nobody.csv"));
    let mix = ["--mix", "32x1:1", "--requests-per-s"];
    let cases = [
        (phase(&["policy", "show", &at("cut.json")]), 1, "cut.json: the policy is cut off: EOF"),
        (phase(&["check", "--policy", &at("empty.json")]), 1, "empty.json: the policy is empty"),
        (phase(&["check", "--policy", &at("list.json")]), 1, "list.json: this is not a policy"),
        (phase(&["check", "--policy", &at("none.json")]), 2, "none.json: No such file"),
        (phase(&["decide", "--policy", &at("edited.json"), "--prompt-tokens", "32", "--new-tokens", "1"]), 1, "the policy was edited"),
        (phase(&["decide", "--policy", &good, "--batch", "-1", "--prompt-tokens", "32", "--new-tokens", "1"]), 2, "'-1' for '--batch"),
        (plan("cut.json", "book.json", &[&mix[..], &["1"]].concat()), 1, "cut.json: the policy is cut off"),
        (plan("", "empty.json", &[&mix[..], &["1"]].concat()), 1, "empty.json: the price book is empty"),
        (plan("", "unpriced.json", &[&mix[..], &["1", "--tiers", "spot"]].concat()), 0, "`aws_g5_xlarge` has no spot price"),
        (plan("", "book.json", &["--trace", &late]), 1, "late.csv: line 4: 3 s comes before the 5 s above it"),
        (plan("", "book.json", &["--trace", &nan]), 1, "nan.csv: line 2: `NaN` is no time"),
        (plan("", "book.json", &["--trace", &nobody]), 1, "nobody.csv: it has no request"),
        (plan("", "book.json", &[&mix[..], &["-2"]].concat()), 2, "-2"),
        (phase(&["cost", "--tokens-per-s", "-5", "--usd-per-hour", "2"]), 2, "'-5' for '--tokens-per-s"),
        (phase(&["cost", "--tokens-per-s", "NaN", "--usd-per-hour", "2"]), 2, "'NaN' for '--tokens-per-s"),
        (phase(&["cost", "--tokens-per-s", "0", "--usd-per-hour", "2"]), 2, "a rate must be above 0"),
        (phase(&["cost", "--tokens-per-s", "5", "--usd-per-hour", "-2"]), 2, "'-2' for '--usd-per-hour"),
    ];
    for (number, (answer, code, words)) in cases.iter().enumerate() {
        let said = text(&answer.stderr) + &text(&answer.stdout);
        assert!(said.contains(words), "case {number}: `{words}` is not in:\n{said}");
        assert_eq!(answer.status.code(), Some(*code), "case {number}: {said}");
        assert!(!said.contains("panicked") && !said.contains("unexpected argument"), "case {number}: {said}");
    }
}

#[test]
fn compiling_keeps_its_command_line() {
    let usage = phase(&["policy", "runs/one"]);
    let err = text(&usage.stderr);
    assert!(usage.status.code() == Some(2) && err.contains("--out"), "{err}");
    assert_eq!(phase(&["policy", "-o", "p.json"]).status.code(), Some(2), "no run");
    let missing = phase(&["policy", "there/is/no/run", "-o", "p.json"]);
    assert_eq!(missing.status.code(), Some(1), "{}", text(&missing.stderr));
    assert_eq!(phase(&["policy", "show"]).status.code(), Some(2));
    assert_eq!(phase(&["policy", "show", "p.json", "-o", "q.json"]).status.code(), Some(2));
}

/// A policy of candle on this machine's processor, with `edit` made to what it says of the machine, compiled `days` ago.
#[cfg(feature = "candle")]
fn of_this_machine(folder: &Path, days: u64, edit: impl Fn(phase_core::StackInfo) -> phase_core::StackInfo) -> PathBuf {
    use phase_core::{DynBackend as _, Fact};
    let candle = phase_backend_candle::Candle::cpu();
    let probe = candle.probe_dyn().expect("candle tells what it is");
    let facts = probe.iter().filter_map(|(layer, key, fact)| if let Fact::Known(value) = fact { Some((layer, key, value)) } else { None });
    let stack = facts.fold(phase_core::machine(), |stack, (layer, key, value)| stack.with(layer, key, value.clone()));
    let backend = candle.id_dyn();
    let shape = Shape { batch: 1, new_tokens: 32, context: 0 };
    let seen: Vec<_> = (0..5)
        .map(|block| Observation::new(backend.clone(), Phase::Prefill, shape, 1_000_000).with_boundary("b").with_block(block))
        .collect();
    let matrix = ScenarioMatrix::build(&seen, &[("b".to_owned(), MeasurementBoundary::call(edit(stack)))].into()).expect("a matrix");
    let options = PolicyOptions::new(backend, now() - days * 86_400);
    let mix = phase_policy::capacity::Mix::parse("32x1:3,16x1:1").expect("a mix");
    let policy = Policy::compile(&matrix, &options.with_mix(mix)).expect("a policy");
    let path = folder.join("policy.json");
    std::fs::write(&path, policy.to_json()).expect("a file");
    path
}

#[cfg(feature = "candle")]
#[test]
fn check_passes_where_it_was_measured_and_ends_by_severity_elsewhere() {
    use phase_core::{Layer, StackInfo};
    let folder = tempfile::tempdir().expect("a folder");
    let check = |path: PathBuf| {
        let out = phase(&["check", "--policy", path.to_str().expect("UTF-8")]);
        (out.status.code(), text(&out.stdout) + &text(&out.stderr))
    };
    let same = |stack: StackInfo| stack;
    let (code, said) = check(of_this_machine(folder.path(), 0, same));
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = check(of_this_machine(folder.path(), 31, same));
    assert!(code == Some(11) && said.contains("31 days old"), "{code:?} {said}");
    let (code, said) = check(of_this_machine(folder.path(), 0, |stack| stack.with(Layer::Machine, "kernel", "another")));
    assert!(code == Some(11) && said.contains("machine.kernel"), "{code:?} {said}");
    let (code, said) = check(of_this_machine(folder.path(), 0, |stack| stack.with(Layer::Machine, "gpu_uuid", "GPU-another")));
    assert!(code == Some(12) && said.contains("machine.gpu_uuid"), "{code:?} {said}");
    let (code, said) = check(of_this_machine(folder.path(), 0, |stack| stack.with(Layer::Machine, "cpu", "another")));
    assert!(code == Some(13) && said.contains("machine.cpu"), "{code:?} {said}");
}

/// A trace of 400 requests of one new token, of which every `every`th has 16 prompt tokens and the others 32.
#[cfg(feature = "candle")]
fn trace(folder: &Path, every: usize) -> PathBuf {
    let line = |i: usize| format!("{i},{},1\n", if i.is_multiple_of(every) { 16 } else { 32 });
    let path = folder.join(format!("trace-{every}.csv"));
    std::fs::write(&path, "arrival_s,prompt_tokens,new_tokens\n".to_owned() + &(0..400).map(line).collect::<String>()).expect("a file");
    path
}

#[cfg(feature = "candle")]
#[test]
fn check_ends_with_10_where_the_traffic_drifted() {
    let folder = tempfile::tempdir().expect("a folder");
    let policy = of_this_machine(folder.path(), 0, |stack| stack);
    let check = |trace: &Path| {
        let out = phase(&["check", "--policy", policy.to_str().expect("UTF-8"), "--trace", trace.to_str().expect("UTF-8")]);
        (out.status.code(), text(&out.stdout) + &text(&out.stderr))
    };
    let (code, said) = check(&trace(folder.path(), 4));
    assert_eq!(code, Some(0), "as weighted: {said}");
    let (code, said) = check(&trace(folder.path(), 1));
    assert!(code == Some(10) && said.contains("reweight") && said.contains("75% of requests moved"), "{code:?} {said}");
    let unordered = folder.path().join("unordered.csv");
    std::fs::write(&unordered, "arrival_s,prompt_tokens,new_tokens\n2,32,1\n1,32,1\n").expect("a file");
    let (code, said) = check(&unordered);
    assert!(code == Some(1) && said.contains("line 3") && said.contains("sort the trace"), "{code:?} {said}");
}

#[test]
fn plan_and_cost_refuse_what_makes_no_sense_and_say_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let (policy, prices) = (written(folder.path(), 0), folder.path().join("prices.json"));
    let book = include_str!("../../policy/prices/tr119-2025-12-21.json");
    std::fs::write(&prices, book).expect("a file");
    let [policy, prices] = [&policy, &prices].map(|path| path.to_str().expect("UTF-8"));
    let plan = |more: &[&str]| {
        let out = phase(&[&["plan", "--policy", policy, "--prices", prices], more].concat());
        (out.status.code(), text(&out.stdout) + &text(&out.stderr))
    };
    let mix = ["--requests-per-s", "1", "--mix", "32x1:1"];
    let (code, said) = plan(&[&mix[..], &["--tiers", "own"]].concat());
    assert!(code == Some(0) && said.contains("consumer_1200_usd") && said.contains("`aws_g5_xlarge` has no own price"), "{code:?} {said}");
    for (arguments, wanted, reason) in [
        (&["--requests-per-s", "0", "--mix", "32x1:1"][..], 2, "must be positive"),
        (&["--requests-per-s", "1", "--mix", "32x1:-1"], 2, "a weight of -1"),
        (&["--requests-per-s", "1", "--mix", "4000x1:1"], 1, "longer than the longest measured"),
        (&["--trace", "there/is/no/trace.csv"], 2, "no/trace.csv"),
    ] {
        let (code, said) = plan(arguments);
        assert!(code == Some(wanted) && said.contains(reason), "{arguments:?}: {code:?} {said}");
    }
    std::fs::write(prices, book.replace("2025-12-21", "2999-12-21")).expect("a file");
    let (code, said) = plan(&[&mix[..], &["--max-price-age", "30"]].concat());
    assert!(code == Some(1) && said.contains("is from the future"), "{code:?} {said}");
    std::fs::write(prices, &book[..200]).expect("a file");
    let (code, said) = plan(&mix);
    assert!(code == Some(1) && said.contains("prices.json: the price book is cut off"), "{code:?} {said}");
    let cost = |rate: &str| phase(&["cost", "--tokens-per-s", rate, "--usd-per-hour", "1", "--json"]);
    assert!(text(&cost("900,850,950").stdout).starts_with("{\"seconds_per_1m\":{\"value\":1111.1"));
    for rate in ["0", "nan", "inf", "900,950,850", "900,0,950", "900,1", ""] {
        let out = cost(rate);
        assert!(out.status.code() == Some(2) && !out.stderr.is_empty() && out.stdout.is_empty(), "{rate}");
    }
}

/// What the job runs.
fn script(policy: &Path) -> Output {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/ci/check-policy.sh");
    Command::new("bash").arg(script).arg(policy).env("PHASE", env!("CARGO_BIN_EXE_phase")).output().expect("bash starts")
}

#[test]
fn the_ci_job_refuses_a_stale_policy() {
    let job = include_str!("../../examples/ci/policy.yml");
    assert!(job.contains("run: examples/ci/check-policy.sh policy.json"), "the job runs what is tested here");
    let folder = tempfile::tempdir().expect("a folder");
    let old = script(&written(folder.path(), 91));
    assert_eq!(old.status.code(), Some(20), "{}", text(&old.stderr));
    assert!(text(&old.stderr).contains("91 days old"));
    // Fresh, but its default-safe backend is not here.
    let path = written(folder.path(), 1);
    let elsewhere = script(&path);
    assert_eq!(elsewhere.status.code(), Some(13), "{}", text(&elsewhere.stderr));
    assert!(text(&elsewhere.stderr).contains("refused") && text(&elsewhere.stdout).contains("nowhere-cpu"));
    // Edited.
    let edited = std::fs::read_to_string(&path).expect("a file").replacen("nowhere-cpu", "somewhere-cpu", 1);
    std::fs::write(&path, edited).expect("a file");
    let edited = script(&path);
    assert_eq!(edited.status.code(), Some(1), "{}", text(&edited.stderr));
    assert!(text(&edited.stderr).contains("edited"));
}
