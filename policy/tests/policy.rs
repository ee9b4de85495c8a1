//! The document: what it is compiled from, and every way in which a file can be bad.

mod common;

use common::{BULK, FAST, SAFE, boundaries, boundary, boundary_of, matrix, observations, policy, prefill};
use phase_core::{BackendId, ErrorKind, Outcome, Phase};
use phase_policy::{
    CheckError, Observation, Policy, PolicyError, PolicyOptions, Reason, Router, ScenarioMatrix, Standing, Workload, constants::Constants,
    stats::Verdict,
};
use proptest::{
    prelude::*,
    test_runner::{RngAlgorithm, TestRng},
};
use std::error::Error;

fn compile(seen: &[Observation]) -> Result<Policy, PolicyError> {
    Policy::compile(&ScenarioMatrix::build(seen, &boundaries())?, &PolicyOptions::new(SAFE, 1))
}

#[test]
fn every_challenger_is_compared_in_every_bucket_it_shares() {
    let policy = policy();
    assert_eq!(policy.comparisons().len(), 2 * 2 * 2 * 3);
    let found = |id: &BackendId, phase| {
        policy.comparisons().iter().filter(|c| c.challenger == *id && c.phase == phase).map(|c| c.verdict).collect::<Vec<_>>()
    };
    assert_eq!(found(&FAST, Phase::Prefill), [Some(Verdict::Equivalent); 6]);
    assert_eq!(found(&FAST, Phase::Decode), [Some(Verdict::Faster); 6]);
    assert_eq!(found(&BULK, Phase::Prefill), [Some(Verdict::Faster); 6]);
    assert_eq!(found(&BULK, Phase::Decode), [Some(Verdict::Slower); 6]);
    assert_eq!(policy.warmups().len(), 3);
    assert!(policy.warmups().iter().all(|w| w.required && (w.ratio - 40.0).abs() < 1e-9));
    assert_eq!((policy.runs().len(), policy.backends().count(), policy.created_unix_s()), (2, 3, 1_760_000_000));
}

#[test]
fn what_was_not_measured_enough_has_a_standing_without_a_number() {
    let two_blocks: Vec<_> = (0..2).flat_map(|b| [prefill(&SAFE, 1, 32, b), prefill(&FAST, 1, 32, b)]).collect();
    assert_eq!(compile(&two_blocks).unwrap().comparisons()[0].standing, Standing::TooFewBlocks { blocks: 2 });
    let mut failing = observations(&[SAFE, FAST]);
    failing.push(prefill(&FAST, 1, 32, 9).with_outcome(Outcome::Failed(ErrorKind::OutOfMemory)));
    let policy = compile(&failing).unwrap();
    let hit: Vec<_> = policy.comparisons().iter().filter(|c| c.verdict.is_none()).map(|c| c.standing).collect();
    assert_eq!(hit, [Standing::Failures { failed: 1, calls: 6 }]);
    let apart: Vec<_> = (0..4).flat_map(|b| [common::decode(&SAFE, 1, 128, b), common::decode(&FAST, 1, 250, b)]).collect();
    assert_eq!(compile(&apart).unwrap().comparisons()[0].standing, Standing::ContextsDiffer { ours: 250, theirs: 128 });
}

#[test]
fn what_slows_down_wins_nothing() {
    // `fast` would win, but in each block it slows down by a tenth after 40 calls.
    let call = |id: &BackendId, block: u32, i: u64| {
        let mut call = prefill(id, 1, 32, block);
        let base = if *id == SAFE {
            3_000_000
        } else if i < 40 {
            1_500_000
        } else {
            1_650_000
        };
        call.duration_ns = base + i * 7919 % 101 * 100;
        call
    };
    let seen: Vec<_> = (0..5).flat_map(|block| (0..200).flat_map(move |i| [SAFE, FAST].map(|id| call(&id, block, i)))).collect();
    let policy = compile(&seen).unwrap();
    assert_eq!(policy.comparisons()[0].standing, Standing::NotSteady { unsteady: 5, judged: 5 });
    let router = Router::new(policy);
    let d = router.decide(&Workload::new(1, 32, 1));
    assert_eq!((d.route.backend, d.route.reason), (&SAFE, Reason::NotSteady { unsteady: 5, judged: 5 }));
    assert!(d.explain().to_string().contains("in 5 of 5 blocks"));
}

/// Uniform in 0..1.
fn uniform(rng: &mut TestRng) -> f64 {
    f64::from(rng.next_u32()) / (f64::from(u32::MAX) + 1.0)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few milliseconds")]
fn whole(ns: f64) -> u64 {
    ns as u64
}

/// Five blocks in which both backends share a block effect of 20% and have noise of 2% of their own; `fast` takes
/// `ratio` times as long as `safe`.
fn pair(rng: &mut TestRng, ratio: f64) -> Vec<Observation> {
    let mut seen = Vec::new();
    for block in 0..5 {
        let shared = 1.0 + 0.2 * uniform(rng);
        for (id, factor) in [(SAFE, 1.0), (FAST, ratio)] {
            for _ in 0..7 {
                let mut call = prefill(&id, 1, 32, block);
                let noise = 1.0 + 0.02 * (uniform(rng) + uniform(rng) - 1.0);
                call.duration_ns = whole(3e6 * shared * factor * noise);
                seen.push(call);
            }
        }
    }
    seen
}

#[test]
fn a_against_a_decides_nothing_and_a_real_difference_does() {
    let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut decided = |ratio: f64| {
        let verdicts = (0..300).map(|_| compile(&pair(&mut rng, ratio)).unwrap().comparisons()[0].verdict.unwrap());
        verdicts.filter(|v| matches!(v, Verdict::Faster | Verdict::Slower)).count()
    };
    assert!(decided(1.0) <= 3, "the control: the same backend twice");
    assert!(decided(0.99) <= 3, "less than the tie region");
    assert!(decided(0.93) >= 290, "more than the tie region");
}

#[test]
fn routing_by_the_policy_beats_routing_at_random() {
    // If chance did as well as the policy, the harness could not tell good from bad.
    let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let router = common::router();
    let (mut routed, mut random) = (0.0, 0.0);
    for _ in 0..500 {
        let mut below = |n: u32| (rng.next_u32() % n) as usize;
        let (prompt, new) = (32 + below(480), 1 + below(100));
        let workload = Workload::new([1, 4][below(2)], prompt, new);
        let all = [SAFE, FAST, BULK];
        let any = &all[below(3)];
        let ns = |id: &BackendId| router.predict(id, &workload).map(|p| p.total.ns);
        if let (Ok(by_policy), Ok(by_chance)) = (ns(router.decide(&workload).route.backend), ns(any)) {
            routed += by_policy;
            random += by_chance;
        }
    }
    assert!(routed < 0.9 * random, "{routed} {random}");
}

#[test]
fn a_default_that_was_not_measured_is_refused_by_name() {
    let error = Policy::compile(&matrix(&[FAST, BULK]), &PolicyOptions::new(SAFE, 0)).unwrap_err();
    let words = error.to_string();
    assert!(words.contains("`safe`") && words.contains("bulk, fast"), "{words}");
    let failed: Vec<_> = observations(&[SAFE]).into_iter().map(|o| o.with_outcome(Outcome::Failed(ErrorKind::Other))).collect();
    assert!(compile(&failed).unwrap_err().to_string().contains("measured: none"));
}

#[test]
fn thresholds_without_sense_are_refused() {
    let matrix = matrix(&[SAFE]);
    for options in [
        PolicyOptions::new(SAFE, 0).with_rope(f64::NAN),
        PolicyOptions::new(SAFE, 0).with_rope(-0.1),
        PolicyOptions::new(SAFE, 0).with_confidence(1.0),
        PolicyOptions::new(SAFE, 0).with_confidence(f64::INFINITY),
    ] {
        assert!(matches!(Policy::compile(&matrix, &options), Err(PolicyError::Constants(_))));
    }
}

#[test]
fn another_mode_is_kept_and_never_compared() {
    let mut seen = observations(&[SAFE]);
    seen.extend(observations(&[FAST]).into_iter().map(|o| o.with_mode("graph")));
    let policy = compile(&seen).unwrap();
    assert!(policy.cells().iter().any(|c| c.key.mode == "graph"));
    assert_eq!((policy.comparisons().len(), policy.backends().count()), (0, 1));
}

#[test]
fn a_written_policy_reads_back_whatever_its_layout() {
    let policy = policy();
    let json = policy.to_json();
    assert_eq!(Policy::from_json(&json).unwrap(), policy);
    assert_eq!(Policy::from_json(&json).unwrap().to_json(), json);
    let compact = serde_json::to_string(&serde_json::from_str::<serde_json::Value>(&json).unwrap()).unwrap();
    assert_eq!(Policy::from_json(&compact).unwrap(), policy);
    assert_eq!(common::policy().digest(), policy.digest());
}

#[test]
fn an_edit_another_version_and_another_file_are_told_apart() {
    let json = policy().to_json();
    let edited = json.replacen(r#""verdict": "slower""#, r#""verdict": "faster""#, 1);
    assert_ne!(edited, json);
    assert!(matches!(Policy::from_json(&edited), Err(PolicyError::Digest { .. })));
    let added = json.replacen('{', r#"{"note": "trust me","#, 1);
    assert!(matches!(Policy::from_json(&added), Err(PolicyError::Digest { .. })));
    let newer = json.replacen("phase.policy/2", "phase.policy/3", 1);
    assert!(matches!(Policy::from_json(&newer), Err(PolicyError::Schema { found }) if found == "phase.policy/3"));
    assert!(matches!(Policy::from_json("{}"), Err(PolicyError::NotAPolicy { field: "schema" })));
    assert!(matches!(Policy::from_json("[1]"), Err(PolicyError::NotAPolicy { .. })));
    assert!(matches!(Policy::from_json(""), Err(PolicyError::Json(_))));
}

/// The document after `edit`, under a digest that fits: what somebody could write by hand.
fn forged(edit: impl FnOnce(&mut serde_json::Value)) -> Result<Policy, PolicyError> {
    let mut value = serde_json::from_str(&policy().to_json())?;
    edit(&mut value);
    let Err(PolicyError::Digest { actual, .. }) = Policy::from_json(&value.to_string()) else { panic!("the edit changed nothing") };
    value["digest"] = actual.into();
    Policy::from_json(&value.to_string())
}

#[test]
fn a_fitting_digest_does_not_excuse_contradictions() {
    assert!(forged(|v| v["created_unix_s"] = 5.into()).is_ok());
    let inconsistent = |edit: fn(&mut serde_json::Value)| {
        let error = forged(edit).unwrap_err();
        assert!(
            matches!(
                error,
                PolicyError::Inconsistent(_) | PolicyError::Matrix(_) | PolicyError::Json(_) | PolicyError::DefaultSafeNotMeasured { .. }
            ),
            "{error}"
        );
    };
    inconsistent(|v| v["boundaries"] = serde_json::json!({}));
    inconsistent(|v| v["cells"] = serde_json::json!([]));
    inconsistent(|v| v["cells"][0]["time"]["median_ns"] = (-1.0).into());
    inconsistent(|v| v["cells"][0]["time"]["median_ns"] = serde_json::Value::Null);
    inconsistent(|v| v["cells"][0]["time"]["interval"]["high"] = 1e300.into());
    inconsistent(|v| v["cells"][0]["n"] = 1.into());
    inconsistent(|v| v["cells"][0]["phase"] = "compile".into());
    inconsistent(|v| v["cells"].as_array_mut().unwrap().reverse());
    inconsistent(|v| v["default_safe"] = "nobody".into());
    inconsistent(|v| v["constants"]["rope"] = 7.into());
    inconsistent(|v| v["constants"]["rope"] = 0.5.into());
    inconsistent(|v| v["comparisons"][0]["standing"]["ratio"] = (-1.0).into());
    inconsistent(|v| v["comparisons"][0]["cells"][0] = "made/up".into());
    inconsistent(|v| v["warmups"][0]["ratio"] = 2.into());
    inconsistent(|v| v["warmups"] = serde_json::json!([]));
}

#[test]
fn truncated_anywhere_it_is_an_error() {
    let json = policy().to_json();
    let end = json.trim_end().len();
    for cut in (0..end).step_by(97) {
        let error = Policy::from_json(&json[..cut]).unwrap_err().to_string();
        assert_eq!(error, if cut == 0 { "the policy is empty" } else { "the policy is cut off" }, "cut at {cut}");
    }
    assert_eq!(Policy::from_json("{]").unwrap_err().to_string(), "the policy can't be read");
}

#[test]
fn holds_under_its_own_boundaries_and_names_what_changed() {
    let policy = policy();
    assert_eq!(policy.check(&SAFE, &boundary(&SAFE)), Ok(()));
    let error = policy.check(&SAFE, &boundary_of("safe 2")).unwrap_err();
    assert!(error.source().unwrap().to_string().contains("runtime.library: safe against safe 2"));
    let nobody = BackendId::new("nobody");
    assert!(matches!(policy.check(&nobody, &boundary(&SAFE)), Err(CheckError::UnknownBackend { backend }) if backend == nobody));
    let validity = policy.validity(&[(SAFE, boundary(&SAFE)), (FAST, boundary_of("fast 2")), (nobody.clone(), boundary(&SAFE))]);
    assert!(!validity.is_valid());
    assert_eq!((validity.triggers(), validity.unknown.as_slice()), (vec!["runtime.library"], [nobody].as_slice()));
    let words = validity.to_string();
    for part in ["safe: as measured", "fast: runtime.library: fast against fast 2", "bulk: not running here", "nobody: never measured"] {
        assert!(words.contains(part), "{words}");
    }
}

#[test]
fn the_readme_names_the_constants_as_they_are() {
    let constants = serde_json::to_value(Constants::default()).unwrap();
    let readme = include_str!("../README.md");
    for (name, value) in constants.as_object().unwrap() {
        let value = value.as_f64().map_or_else(|| value.as_str().unwrap().to_owned(), |number| number.to_string());
        let row = format!("| `{name}` | {value} |");
        assert!(readme.contains(&row), "the README lacks `{row}`");
    }
}

#[test]
fn the_readme_names_tests_that_exist() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("src"), root.join("tests")];
    let mut sources = String::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                sources += &std::fs::read_to_string(path).unwrap();
            }
        }
    }
    let table = include_str!("../README.md").split("# Statements of the source document").nth(1).unwrap();
    let rows: Vec<_> = table.lines().skip_while(|l| !l.starts_with("|---")).skip(1).take_while(|l| l.starts_with('|')).collect();
    assert!(rows.len() > 20);
    for row in rows {
        let name = row.rsplit('|').nth(1).unwrap().trim().trim_matches('`');
        assert!(sources.contains(&format!("fn {name}(")), "{row}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_damage_makes_reading_panic(at in 0.0..1.0_f64, length in 0..40_usize, patch in "[ -~]{0,12}") {
        let json = policy().to_json();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a position in a short text")]
        let start = (at * json.len() as f64) as usize;
        let end = (start + length).min(json.len());
        let damaged = format!("{}{patch}{}", &json[..start], &json[end..]);
        if let Ok(read) = Policy::from_json(&damaged) {
            prop_assert_eq!(read, policy());
        }
    }

    #[test]
    fn no_text_makes_reading_panic(text in "\\PC{0,200}") {
        prop_assert!(Policy::from_json(&text).is_err());
    }

    #[test]
    fn any_measurement_compiles_reads_back_and_decides(times in prop::collection::vec((1..u64::MAX, 1..u64::MAX), 1..6), batch in 0..6_usize, prompt in 0..200_usize, new in 0..200_usize) {
        let mut seen = Vec::new();
        for (block, (ours, theirs)) in (0..).zip(&times) {
            for (id, ns) in [(&SAFE, ours), (&FAST, theirs)] {
                let mut calls = [prefill(id, 1, 32, block), common::decode(id, 1, 40, block)];
                calls.iter_mut().for_each(|c| c.duration_ns = *ns);
                seen.extend(calls);
            }
        }
        let policy = compile(&seen).unwrap();
        let read = Policy::from_json(&policy.to_json()).unwrap();
        prop_assert_eq!(&read, &policy);
        let router = Router::new(read);
        let decision = router.decide(&Workload::new(batch, prompt, new));
        prop_assert!(!decision.explain().to_string().is_empty());
        prop_assert!(decision.to_json().is_object());
    }
}
