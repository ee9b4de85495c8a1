//! Page, Markdown and JSON of one report say the same: section by section the same sentences and the same numbers.

#[path = "support/recorded.rs"]
mod recorded;
mod support;

use phase_policy::cost::PriceBook;
use phase_report::{Report, ReportOptions};
use phase_scenario::{Calls, Ceilings, SealedRun};
use recorded::unpack;
use serde_json::Value;
use std::{collections::BTreeSet, path::Path};
use support::{CREATED, Paced, SMALL, run};

/// Keys of the JSON, headings of the Markdown, sections of the page that hold the same.
const SECTIONS: [(&[&str], &[&str], &[&str]); 13] = [
    (&["answers", "card", "gates", "triggers"], &["## Decision card"], &["card"]),
    (&["flow"], &["## From traffic to measurement"], &["flow"]),
    (&["cells", "buckets"], &["## Matrix", "## Winners and inversions"], &["times"]),
    (&["duels", "inversions"], &["## Winners and inversions"], &["winners"]),
    (&["fractions"], &["## Prefill against decode"], &["fractions"]),
    (&["cold"], &["## Cold start"], &["cold"]),
    (&["roofline"], &["## Roofline"], &["roofline"]),
    (&["parts"], &["## Time by part"], &["parts"]),
    (&["energy"], &["## Energy"], &["energy"]),
    (&["cost"], &["## Cost"], &["cost"]),
    (&["agreement", "evidence", "failures", "artefacts"], &["## Agreement", "## Evidence", "## Failures"], &["evidence"]),
    (&["boundaries", "facts", "manifest"], &["## Boundary"], &["boundary"]),
    (&["limits", "change_control"], &["## Limits", "## Change control"], &["control"]),
];

/// Names that texts say in other words, or in the names of rows: kinds, ids of cells, the parts of a shape.
const WORDED: [&str; 13] =
    ["id", "class", "standing", "verdict", "regime", "part", "process", "severity", "state", "unit", "schema", "phase", "rest"];
/// What only programs need: the sampler's nanoseconds, of which texts say the share; how a sensor was calibrated, what a verdict on
/// energy was made from, the cells behind a decision.
const FOR_PROGRAMS: [&str; 11] =
    ["sampler", "evidence", "options", "sensors", "basis", "window", "single", "href", "shape", "why", "energy"];

/// The text of a page's section: what is read, and what is told when something is pointed at.
#[derive(Default)]
struct Page {
    all: String,
    /// The cells of its tables alone.
    cells: Vec<String>,
}

fn page(html: &str, ids: &[&str]) -> Page {
    let mut page = Page::default();
    for id in ids {
        let Some((_, rest)) = html.split_once(&format!("<section id=\"{id}\"")) else { continue };
        let section = rest.split("</section>").next().expect("a section");
        // Labels of axes are no numbers of the report; what their points tell is.
        let (mut plot, mut cell) = (false, None::<String>);
        for piece in section.split('<').skip(1) {
            let end = tag_end(piece);
            let (tag, words) = (&piece[..end], decoded(piece.get(end + 1..).unwrap_or_default()));
            match tag.split([' ', '/']).find(|w| !w.is_empty()).unwrap_or_default() {
                "svg" => plot = !tag.starts_with('/'),
                "td" if tag.starts_with('/') => page.cells.extend(cell.take()),
                "td" => cell = Some(String::new()),
                _ => {}
            }
            if let Some((_, told)) = tag.split_once("data-t=\"") {
                page.all += &format!(" {} ", decoded(told.split('"').next().unwrap_or_default()));
            }
            if !plot {
                page.all += &words;
                if let Some(cell) = &mut cell {
                    *cell += &words;
                }
            }
            if tag.starts_with("/td") || tag.starts_with("/li") || tag.starts_with("/p") {
                page.all.push('\n');
            }
        }
    }
    page
}

/// Where a tag ends: not at a `>` within quotes.
fn tag_end(piece: &str) -> usize {
    let mut quoted = false;
    piece
        .find(|c| {
            quoted ^= c == '"';
            c == '>' && !quoted
        })
        .unwrap_or(piece.len())
}

fn decoded(text: &str) -> String {
    let marks = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&#x27;", "'"), ("&#x2f;", "/"), ("&amp;", "&")];
    marks.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

fn markdown(all: &str, headings: &[&str]) -> String {
    let part = |heading: &&str| {
        let (_, rest) = all.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("{heading} is missing in\n{all}"));
        rest.split("\n## ").next().unwrap_or_default().to_owned()
    };
    headings.iter().map(part).collect::<Vec<_>>().join("\n").replace("\\|", "|")
}

/// Every number in a text, as it is written.
fn numbers(text: &str) -> BTreeSet<String> {
    let joined = text.replace('\u{202f}', "");
    let part = |c: char| c.is_ascii_digit() || c == '.';
    joined
        .split(|c| !part(c))
        .map(|n| n.trim_matches('.'))
        .filter(|n| n.starts_with(|c: char| c.is_ascii_digit()))
        .map(str::to_owned)
        .collect()
}

/// As the report writes numbers.
fn written(value: f64) -> Vec<String> {
    let places = match value.abs() {
        0.0 => 0,
        m if m >= 100.0 => 0,
        m if m >= 10.0 => 1,
        m if m >= 1.0 => 2,
        m if m >= 0.1 => 3,
        m if m >= 0.01 => 4,
        m if m >= 0.001 => 5,
        _ => 6,
    };
    let share = value * 100.0;
    vec![
        format!("{value:.places$}"),
        format!("{value:.2e}").split('e').next().expect("digits").to_owned(),
        format!("{value}"),
        format!("{value:.1}"),
        format!("{value:.2}"),
        format!("{value:.3}"),
        format!("{share:.0}"),
        format!("{share:.1}"),
        format!("{share:.2}"),
        format!("{:.2}", 1.0 / value),
    ]
}

/// Sentences and numbers of a value that neither words nor programs keep to themselves.
fn leaves(key: &str, value: &Value, out: &mut Vec<(String, Value)>) {
    let name = key.rsplit('.').next().unwrap_or_default();
    // In a cell of measured energy `energy` is an object with the bounds that `joules` has; the section of that name is not.
    if WORDED.contains(&name) || (FOR_PROGRAMS.contains(&name) && key.contains('.')) {
        return;
    }
    match value {
        Value::Object(fields) => fields.iter().for_each(|(k, v)| leaves(&format!("{key}.{k}"), v, out)),
        Value::Array(items) => items.iter().for_each(|v| leaves(key, v, out)),
        Value::Null | Value::Bool(_) => {}
        _ => out.push((key.to_owned(), value.clone())),
    }
}

/// Fields that a text leaves out, and why.
fn left_out(key: &str) -> bool {
    // The octave is the bucket's name; the gate counts unsteady cells; a route's predicted share is in its class.
    ["cells.contexts", "cells.steadiness", "card.decisions.decode_fraction", "card.policy", "cold.warm_pool_ratio"].contains(&key)
        // Counts that the answer's sentence is made of.
        || ["answers.taken", "answers.ties", "answers.undecided", "answers.at_least"].contains(&key)
        // The name of a planned request has its shape.
        || key == "fractions.request"
        // What one look at the shares says; the near end that the share was judged by.
        || ["roofline.points.surely", "roofline.points.share"].contains(&key)
        || key.starts_with("energy.measured.") && ["call_s", "sitting", "cell"].contains(&key.rsplit('.').next().unwrap_or_default())
        || key.ends_with(".against") || key.ends_with(".reference")
}

fn says_the_same(report: &Report) {
    let mut json: Value = serde_json::from_str(&report.to_json().expect("JSON")).expect("JSON");
    for row in json["cells"].as_array_mut().expect("cells") {
        // A rate is the median's other name; the texts give it to steady calls.
        row["rate"] = if row["regime"] == "steady" { row["rate"]["value"].take() } else { Value::Null };
    }
    if json["card"]["no_policy"].is_string() {
        json["card"]["confidence"] = Value::Null;
        json["card"]["rope"] = Value::Null;
    }
    if json["energy"]["measured"].is_array() {
        // The tables of what was measured have these rows, with more.
        json["energy"]["rows"] = Value::Null;
    }
    let (text, html) = (report.to_markdown(), report.to_html().expect("a page"));
    let mut wrong = BTreeSet::new();
    for (keys, headings, ids) in SECTIONS {
        let shown = page(&html, ids);
        if shown.all.is_empty() {
            assert!(keys.iter().all(|k| json[*k].as_array().is_some_and(Vec::is_empty)), "{keys:?} is in the JSON and on no page");
            continue;
        }
        let present: Vec<_> = headings.iter().copied().filter(|h| text.contains(&format!("\n{h}\n"))).collect();
        let told = markdown(&text, &present);
        let (on_page, in_text) = (numbers(&shown.all), numbers(&told));
        let mut all = Vec::new();
        keys.iter().for_each(|key| leaves(key, &json[*key], &mut all));
        for (key, leaf) in all.iter().filter(|(key, _)| !left_out(key)) {
            let there = |words: &str, numbers: &BTreeSet<String>| match leaf {
                Value::String(sentence) => plain(words).contains(&plain(sentence)),
                Value::Number(zero) if zero.as_f64() == Some(0.0) => true,
                other => written(other.as_f64().expect("a number")).iter().any(|w| numbers.contains(w)),
            };
            for (form, words, numbers) in [("page", &shown.all, &on_page), ("Markdown", &told, &in_text)] {
                if !there(words, numbers) {
                    wrong.insert(format!("{key}: {leaf} is not in the {form}"));
                }
            }
        }
        // And nothing stands in a table of the page that the Markdown does not have.
        for cell in &shown.cells {
            for number in numbers(cell).iter().filter(|n| !in_text.contains(*n)) {
                wrong.insert(format!("{ids:?}: {number} of {cell:?} is not in the Markdown"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.into_iter().take(60).collect::<Vec<_>>().join("\n"));
}

/// Without marks and spaces that only one form has.
fn plain(text: &str) -> String {
    text.replace(['`', '*', '\u{202f}'], "").replace(" + ", "+").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn report_of(archive: &str, name: &str) -> Report {
    let dir = tempfile::tempdir().expect("a folder");
    unpack(archive, dir.path());
    let run = SealedRun::open(&dir.path().join(name)).expect("a sealed run");
    Report::of_run(&run, &ReportOptions::default()).expect("a report")
}

#[test]
fn a_run_with_prices_and_ceilings() {
    let dir = tempfile::tempdir().unwrap();
    let backends = vec![Paced::new("a", 1_000, 50_000), Paced::new("b", 3_000, 20_000), Paced::new("c", 1_000, 50_000)];
    let run = run(SMALL, backends, Calls::Scores, CREATED, Path::new(dir.path()));
    let book = PriceBook::from_json(
        r#"{ "schema": "phase.prices/1", "name": "test", "date": "2026-01-01", "source": "none", "machines": [{ "name": "m", "usd_per_hour": { "on_demand": 1.0 } }] }"#,
    );
    let roof = r#"{ "schema": "phase.ceilings/1", "source": "a test", "bytes_per_s": 1e12, "flops_per_s": 1e15 }"#;
    let options = ReportOptions::default().with_prices(book.unwrap()).with_ceilings(Ceilings::from_json(roof).unwrap());
    says_the_same(&Report::of_run(&run, &options).unwrap());
}

#[test]
fn a_recorded_run_with_its_own_ceilings() {
    says_the_same(&report_of("h100-bench-llama-3.2-1b", "bench"));
}

#[test]
fn a_recorded_run_with_cold_starts() {
    says_the_same(&report_of("h100-llama-3.2-1b", "matrix-llama-3.2-1b"));
}

#[test]
fn a_recorded_run_with_energy_and_its_notes() {
    let report = report_of("h100-energy-llama-3.2-1b", "energy-ort-candle");
    says_the_same(&report);
    let (text, html) = (report.to_markdown(), report.to_html().unwrap());
    let shown = page(&html, &["energy"]).all;
    let (plan, summary) = report.energy.measured.as_ref().unwrap();
    let notes: Vec<_> = plan.notes.iter().chain(summary.cells.iter().flat_map(|c| &c.notes)).collect();
    assert!(!notes.is_empty() && !plan.sensors.is_empty(), "it has some");
    for note in notes.into_iter().cloned().chain(plan.sensors.iter().map(|s| s.id.to_string())) {
        assert!(text.contains(&note) && shown.contains(&note), "{note} is missing");
    }
}
