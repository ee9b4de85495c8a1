//! A run and a policy, in every form.

mod support;

use phase_policy::{Policy, PolicyOptions, cost::PriceBook};
use phase_report::{GateState, Paint, Part, Report, ReportOptions, Standing};
use phase_scenario::{Calls, Ceilings, Run, ScenarioError, SealedRun};
use support::{CREATED, Paced, SMALL, run};

/// `a` prefills faster, `b` decodes faster, `c` is as `a`.
fn three() -> Vec<Paced> {
    vec![Paced::new("a", 1_000, 50_000), Paced::new("b", 3_000, 20_000), Paced::new("c", 1_000, 50_000)]
}

fn small() -> (SealedRun, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a folder");
    (run(SMALL, three(), Calls::Scores, CREATED, dir.path()), dir)
}

fn ceilings(bytes_per_s: f64, flops_per_s: f64) -> Ceilings {
    Ceilings::from_json(&format!(
        r#"{{ "schema": "phase.ceilings/1", "source": "a test", "bytes_per_s": {bytes_per_s}, "flops_per_s": {flops_per_s} }}"#
    ))
    .expect("ceilings")
}

#[test]
fn the_answer_names_a_backend_for_each_phase_and_says_how_sure() {
    let (run, _dir) = small();
    let report = Report::of_run(&run, &ReportOptions::default()).unwrap();
    let [prefill, decode] = report.answers.as_slice() else { panic!("{:?}", report.answers) };
    assert_eq!((prefill.backend.as_str(), decode.backend.as_str()), ("a", "b"));
    assert_eq!((decode.standing(), decode.faster), (Standing::Faster, decode.buckets));
    let [least, most] = decode.at_least.unwrap();
    assert!((2.3..2.6).contains(&least) && most < 2.6, "20 us against 50 us, by the near end of the interval: {least} to {most}");
    assert!(report.buckets.iter().all(|b| b.winner.as_deref() != Some("c")));
    let turn = report.inversions.iter().find(|i| i.ours == "a" && i.theirs == "b").unwrap();
    assert!(turn.faster.iter().all(|w| w.starts_with("prefill")) && turn.slower.iter().all(|w| w.starts_with("decode")));
    assert!(report.holds());
}

#[test]
fn shares_are_those_of_the_clock_and_parts_add_up_to_the_wall_time() {
    let (run, _dir) = small();
    let report = Report::of_run(&run, &ReportOptions::default()).unwrap();
    // Workload b: prefill of 2 x 16 tokens at 1 us and 40 steps of 50 us, within 0.8 %.
    let row = report.fractions.iter().find(|f| f.cell == "small/b" && f.arm == "a").unwrap();
    assert!((row.decode_fraction - 2000.0 / 2032.0).abs() < 1e-3 && row.n == 10, "{row:?}");
    let wall: u64 = run.blocks().iter().map(|b| b.end_ns - b.start_ns).sum();
    let together: f64 = report.parts.iter().map(|p| p.seconds).sum();
    assert!((together * 1e9 / phase_count(wall) - 1.0).abs() < 1e-9);
    let rest = report.parts.last().unwrap();
    assert!(rest.part == Part::Unattributed && rest.share > 0.0 && rest.share < 0.2, "{rest:?}");
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of a test")]
fn phase_count(ns: u64) -> f64 {
    ns as f64
}

#[test]
fn every_form_says_the_same() {
    let (run, dir) = small();
    let book = PriceBook::from_json(
        r#"{ "schema": "phase.prices/1", "name": "test", "date": "2026-01-01", "source": "none", "machines": [{ "name": "m", "usd_per_hour": { "on_demand": 1.0 } }] }"#,
    )
    .unwrap();
    let options = ReportOptions::default().with_prices(book).with_ceilings(ceilings(1e12, 1e15)).with_base(".");
    let report = Report::of_run(&run, &options).unwrap();
    let markdown = report.to_markdown();
    for section in [
        "# Run ",
        "## Decision card",
        "### Gates",
        "### What would change it",
        "## From traffic to measurement",
        "## Matrix",
        "## Winners and inversions",
        "## Prefill against decode",
        "## Cold start",
        "## Roofline",
        "## Time by part",
        "## Energy",
        "## Cost",
        "## Agreement",
        "## Evidence",
        "## Boundary",
        "## Failures",
        "## Limits",
        "## Change control",
    ] {
        assert!(markdown.contains(section), "{section} is missing in\n{markdown}");
    }
    let json: serde_json::Value = serde_json::from_str(&report.to_json().unwrap()).unwrap();
    assert_eq!(json["schema"], "phase.report/1");
    assert_eq!(json["answers"][1]["backend"], "b");
    assert_eq!(json["energy"]["rows"].as_array().map(Vec::len), Some(0), "unknown energy has no row");
    let page = report.to_html().unwrap().replace("&#x2f;", "/");
    for id in
        ["card", "flow", "times", "winners", "fractions", "cold", "roofline", "parts", "energy", "cost", "evidence", "boundary", "control"]
    {
        assert!(page.contains(&format!("<section id=\"{id}\"")), "{id}");
    }
    assert!(page.contains("href=\"./events.jsonl\"") && page.contains("var(--s1)"));
    let boundary = &report.boundaries[0].id;
    assert!(page.contains(&format!("boundary {boundary}")), "numbers carry their boundary");
    let outside = page.replace("http://www.w3.org/2000/svg", "");
    assert!(!outside.contains("://"), "one file, no network");
    drop(dir);
}

#[test]
fn a_card_fits_a_terminal_and_colours_only_when_asked() {
    let (run, _dir) = small();
    let report = Report::of_run(&run, &ReportOptions::default()).unwrap();
    let plain = report.to_terminal(Paint::Plain);
    assert!(plain.lines().all(|line| line.chars().count() <= 80), "{plain}");
    assert!(!plain.contains('\u{1b}') && plain.contains("DECISION CARD") && plain.contains("Measure again"));
    let coloured = report.to_terminal(Paint::Colour);
    assert!(coloured.contains("\u{1b}[32m"), "faster is green");
    let stripped = coloured.split('\u{1b}').enumerate().map(|(at, part)| if at == 0 { part } else { part.split_once('m').unwrap().1 });
    assert_eq!(stripped.collect::<String>(), plain);
}

#[test]
fn a_row_above_the_ceiling_voids_the_report() {
    let (run, _dir) = small();
    let report = Report::of_run(&run, &ReportOptions::default().with_ceilings(ceilings(1e9, 1e15))).unwrap();
    assert!(!report.holds() && !report.roofline.above.is_empty());
    let gate = report.gates.iter().find(|g| g.name == "roofline").unwrap();
    assert_eq!(gate.state, GateState::Fail);
    assert!(report.to_html().unwrap().contains("Void.") && report.to_terminal(Paint::Plain).contains("VOID"));
    let without = Report::of_run(&run, &ReportOptions::default()).unwrap();
    assert!(without.holds() && without.gates.iter().any(|g| g.name == "roofline" && g.state == GateState::NoData));
    let mut elsewhere = ceilings(1e9, 1e15);
    elsewhere.device = Some("another".to_owned());
    let report = Report::of_run(&run, &ReportOptions::default().with_ceilings(elsewhere)).unwrap();
    assert!(report.holds() && report.roofline.source.contains("another"), "ceilings of another device judge nothing");
    assert!(Ceilings::from_json("{}").is_err());
}

#[test]
fn a_policy_has_the_same_card() {
    let (sealed, dir) = small();
    let whole = Run::open(dir.path()).unwrap();
    let matrix = whole.policy_matrix().unwrap().unwrap();
    assert_eq!(sealed.policy_matrix().as_ref(), Some(&matrix), "as sealed is as recomputed");
    let options = PolicyOptions::new(phase_core::BackendId::new("a"), CREATED).with_runs([sealed.run_id()]);
    let policy = Policy::compile(&matrix, &options).unwrap();
    let (ours, theirs) =
        (Report::of_policy(&policy, &ReportOptions::default()), Report::of_run(&sealed, &ReportOptions::default()).unwrap());
    assert_eq!((&ours.answers, &ours.cells, &ours.duels), (&theirs.answers, &theirs.cells, &theirs.duels));
    assert_eq!(ours.card.policy, theirs.card.policy);
    assert!(ours.parts.is_empty() && ours.artefacts.is_empty());
    assert!(ours.to_html().unwrap().contains("policy report"));
}

#[test]
fn what_is_not_as_sealed_is_refused() {
    let (run, dir) = small();
    let events = dir.path().join("events.jsonl");
    let text = std::fs::read_to_string(&events).unwrap();
    std::fs::write(&events, text.replacen("\"duration_ns\":5", "\"duration_ns\":6", 1)).unwrap();
    let error = Report::of_run(&run, &ReportOptions::default()).unwrap_err().to_string();
    assert!(error.contains("events.jsonl") && error.contains("were sealed"), "{error}");
    std::fs::write(dir.path().join("cells.csv"), "").unwrap();
    assert!(matches!(SealedRun::open(dir.path()), Err(ScenarioError::Damaged { file, .. }) if file == "cells.csv"));
}
