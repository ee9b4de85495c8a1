//! The pages in a real browser: every kind of page is opened, clicked, tapped, pointed at, narrowed and printed.
//!
//! `PHASE_TEST_CHROMIUM` names the browser, and then a missing one is a failure; without it one is looked for on the path.

#[path = "support/devtools.rs"]
mod devtools;
#[path = "support/recorded.rs"]
mod recorded;
mod support;

use devtools::{Browser, chromium};
use phase_policy::{Policy, PolicyOptions, cost::PriceBook};
use phase_report::{Foreign, Report, ReportOptions, compare, history};
use phase_scenario::{Calls, Ceilings, SealedRun};
use recorded::unpack;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use support::{CREATED, Paced, SMALL, run};

const VISITOR: &str = include_str!("support/visitor.js");
/// A desk, a small phone.
const WIDTHS: [u32; 2] = [1280, 390];
/// A4 less the margins that browsers print with, in CSS pixels.
const PAPER: u32 = 718;
/// The height of A4 less the same margins.
const A4: f64 = 1047.0;

fn seen(browser: &mut Browser) -> Value {
    browser.eval(VISITOR)
}

fn none(seen: &Value, what: &[&str]) {
    for name in what {
        assert!(seen[name] == json!([]) || seen[name] == 0, "{name}: {:#}", seen[name]);
    }
}

fn write(dir: &Path, name: &str, page: &str) -> PathBuf {
    let file = dir.join(name);
    std::fs::write(&file, page).expect("a file");
    file
}

/// What must hold of every page: both themes at both widths, and on paper, where the card may have to fit one page.
fn visit(browser: &mut Browser, file: &Path, one_page: Option<f64>) -> Value {
    let mut last = Value::Null;
    for width in WIDTHS {
        browser.medium("screen");
        browser.size(width);
        browser.open(file);
        browser.click("#theme-light + span");
        let light = seen(browser);
        browser.click("#theme-dark + span");
        let dark = seen(browser);
        assert_ne!(light["paper"], dark["paper"]);
        for seen in [&light, &dark] {
            none(seen, &["wide", "faint", "bare", "broken_links", "empty_plots", "cut", "resources"]);
            assert_eq!(seen["width"], width, "a phone would shrink the page");
            assert!(seen["overflow"].as_i64().expect("a number") <= 0, "it scrolls sideways by {} px at {width}", seen["overflow"]);
        }
        for plot in 0..browser.eval("document.querySelectorAll('figure').length").as_u64().expect("a count").min(3) {
            // Lines and markers take the theme's colours, none of the library's marker colours is left.
            let colours = format!(
                "[...document.querySelectorAll('figure')[{plot}].querySelectorAll('svg > *')].map((e) => getComputedStyle(e).stroke)"
            );
            let colours = browser.eval(&colours).to_string();
            assert!(!["rgb(1, 1, 1)", "rgb(2, 2, 2)", "rgb(3, 3, 3)"].iter().any(|c| colours.contains(c)), "{colours}");
        }
        assert_eq!(browser.complaints(), "", "at {width}");
        last = light;
    }
    // The dark theme is still chosen, and paper is white.
    browser.size(PAPER);
    browser.medium("print");
    browser.eval("dispatchEvent(new Event('beforeprint'))");
    let paper = seen(browser);
    none(&paper, &["faint", "wide", "cut"]);
    let [r, _, _] = rgb(paper["paper"].as_str().expect("a colour"));
    assert!(r > 200, "{}", paper["paper"]);
    let hidden = "[...document.querySelectorAll('.theme, .toc, .hint, #told')].filter((e) => e.getClientRects().length).length";
    assert_eq!(browser.eval(hidden), 0, "what can't be used on paper");
    let folds = "[...document.querySelectorAll('details:not([open])')].filter((d) => !d.closest('.triggers')).length";
    assert_eq!(browser.eval(folds), 0, "paper has no folds, but for what the section on the boundary has again");
    let card = browser.eval("document.getElementById('card').getBoundingClientRect().height").as_f64().expect("a height");
    assert!(one_page.is_none_or(|most| card < most), "the card is {card} px high and takes more than a page");
    assert!(browser.print() > 10_000);
    browser.medium("screen");
    assert_eq!(browser.complaints(), "", "printed");
    last
}

fn rgb(colour: &str) -> [u32; 3] {
    let mut parts = colour.split(|c: char| !c.is_ascii_digit()).filter_map(|p| p.parse().ok());
    [(); 3].map(|()| parts.next().unwrap_or_default())
}

/// What the foot of the window tells, once it tells anything; nothing after a second of frames.
fn told(browser: &mut Browser) -> String {
    let text = browser.eval(
        "new Promise((done) => { let frames = 60; const look = () => { const t = document.getElementById('told').textContent;
         if (t || !frames--) done(t); else requestAnimationFrame(look); }; look(); })",
    );
    text.as_str().expect("text").to_owned()
}

/// The foot of the window tells count and boundary, by pointer, by finger and by keyboard.
fn tells(browser: &mut Browser, query: &str) {
    let says = |told: &str, how: &str| {
        let id = told.split(|c: char| !c.is_ascii_hexdigit()).any(|word| word.len() == 16);
        assert!(told.contains("n = ") && id, "{query}, {how}: {told:?}");
    };
    browser.point_at(query);
    says(&told(browser), "pointed at");
    browser.point_aside();
    assert_eq!(told(browser), "", "nothing is told of what is no number");
    browser.tap(query);
    says(&told(browser), "tapped");
    browser.eval("document.getElementById('told').textContent = ''");
    browser.eval(&format!("document.activeElement.blur(); document.querySelector({}).focus()", json!(query)));
    says(&told(browser), "focused");
    browser.eval("document.activeElement.blur(); document.getElementById('told').textContent = ''");
}

#[test]
fn a_report_tells_everything_on_a_desk_a_phone_and_paper() {
    let Some(chromium) = chromium() else { return };
    let dir = tempfile::tempdir().unwrap();
    let backends = vec![Paced::new("a", 1_000, 50_000), Paced::new("b", 3_000, 20_000), Paced::new("c", 1_010, 20_050)];
    let run = run(SMALL, backends, Calls::Scores, CREATED, &dir.path().join("run"));
    let book = PriceBook::from_json(
        r#"{ "schema": "phase.prices/1", "name": "test", "date": "2026-01-01", "source": "none", "machines": [{ "name": "m", "usd_per_hour": { "on_demand": 1.0 } }] }"#,
    );
    let roof = r#"{ "schema": "phase.ceilings/1", "source": "a test", "bytes_per_s": 1e12, "flops_per_s": 1e15 }"#;
    let options = ReportOptions::default().with_prices(book.unwrap()).with_ceilings(Ceilings::from_json(roof).unwrap()).with_base("run");
    let report = Report::of_run(&run, &options).unwrap();
    let page = write(dir.path(), "report.html", &report.to_html().unwrap());
    let mut browser = Browser::start(&chromium);
    let seen = visit(&mut browser, &page, None);
    assert_eq!(seen["sections"].as_array().map(Vec::len), Some(13));
    assert!(seen["measured"].as_u64().unwrap() > 100, "{}", seen["measured"]);

    browser.size(1280);
    browser.open(&page);
    for number in [".decisions .n", "#times .n", "#times .hit", "#roofline .hit", "#cost .n", "#parts tbody td.r", "#fractions .n"] {
        browser.eval(&format!("document.querySelector({}).closest('details')?.setAttribute('open', '')", json!(number)));
        if number.contains("tbody") {
            browser.point_at(number);
            assert!(told(&mut browser).contains("n = 5 blocks"), "a row tells of its cells");
        } else {
            tells(&mut browser, number);
        }
    }
    browser.click(".triggers summary");
    assert_eq!(browser.eval("document.querySelector('.triggers details').open"), true);
    browser.click(".toc a[href='#energy']");
    assert_eq!(browser.eval("location.hash"), "#energy");
    // Without a script, style alone tells.
    browser.eval("document.documentElement.classList.remove('js'); document.querySelector('#times .n').focus()");
    let content = browser.eval("getComputedStyle(document.querySelector('#times .n'), '::after').content");
    assert!(content.as_str().unwrap().contains("n = ") || content.as_str().unwrap().contains("attr(data-t)"), "{content}");
    // The theme is remembered.
    browser.click("#theme-dark + span");
    browser.open(&page);
    assert_eq!(browser.eval("document.getElementById('theme-dark').checked"), true);
    assert_eq!(browser.complaints(), "");

    let matrix = run.policy_matrix().unwrap();
    let policy = Policy::compile(&matrix, &PolicyOptions::new(phase_core::BackendId::new("a"), CREATED)).unwrap();
    let card = Report::of_policy(&policy, &ReportOptions::default()).to_html().unwrap();
    let page = write(dir.path(), "policy.html", &card);
    visit(&mut browser, &page, None);
    browser.open(&page);
    tells(&mut browser, ".decisions .n");
}

#[test]
fn a_comparison_shows_what_became_slower_first_and_why_others_are_not_compared() {
    let Some(chromium) = chromium() else { return };
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str, decode_ns, version, calls| {
        let b = Paced { version, ..Paced::new("b", 1_000, decode_ns) };
        run(SMALL, vec![Paced::new("a", 1_000, 5_000), b], calls, CREATED, &dir.path().join(name))
    };
    let (base, slow) = (at("base", 4_000, 1, Calls::Scores), at("slow", 9_000, 2, Calls::Scores));
    let mut browser = Browser::start(&chromium);
    let page = write(dir.path(), "compare.html", &compare(&base, &slow, None, Foreign::Refuse).to_html().unwrap());
    let seen = visit(&mut browser, &page, None);
    assert!(seen["measured"].as_u64().unwrap() > 20, "{seen}");
    browser.size(1280);
    browser.open(&page);
    assert_eq!(browser.eval("document.querySelector('.who').textContent"), "Slower");
    assert_eq!(browser.eval("document.querySelector('tbody .tag').textContent"), "slower", "first what became slower");
    tells(&mut browser, "tbody .n");
    browser.click("details.others summary");
    assert_eq!(browser.eval("document.querySelector('details.others').open"), true);
    assert_eq!(browser.complaints(), "");

    let greedy = at("greedy", 4_000, 1, Calls::Greedy);
    let refused = write(dir.path(), "refused.html", &compare(&base, &greedy, None, Foreign::Refuse).to_html().unwrap());
    visit(&mut browser, &refused, None);
    browser.open(&refused);
    let text = browser.eval("document.querySelector('main').innerText");
    let text = text.as_str().unwrap();
    assert!(text.contains("Not compared.") && text.contains("includes") && text.contains("Nothing compared"), "{text}");
}

#[test]
fn a_history_breaks_its_line_and_tells_of_every_run() {
    let Some(chromium) = chromium() else { return };
    let dir = tempfile::tempdir().unwrap();
    for (at, (decode_ns, version)) in (0..).zip([(9_000, 1), (9_050, 1), (8_950, 1), (4_000, 2), (4_020, 2)]) {
        let b = Paced { version, ..Paced::new("b", 1_000, decode_ns) };
        run(SMALL, vec![Paced::new("a", 1_000, 5_000), b], Calls::Scores, CREATED + at * 86_400, &dir.path().join(at.to_string()));
    }
    let found = history(dir.path(), Some("b/default/decode/b2")).unwrap();
    let page = write(dir.path(), "history.html", &found.to_html().unwrap());
    let mut browser = Browser::start(&chromium);
    let seen = visit(&mut browser, &page, None);
    assert!(seen["measured"].as_u64().unwrap() >= 20, "five points, five rows of median, interval and n: {seen}");
    browser.size(1280);
    browser.open(&page);
    assert_eq!(browser.eval("document.querySelectorAll('.hit').length"), 5);
    assert_eq!(browser.eval("document.querySelectorAll('.gap').length"), 1);
    // The bars of intervals are lines too, upright ones.
    let lines = "[...document.querySelectorAll('svg polyline')].filter((l) => {
        const xs = l.getAttribute('points').trim().split(/\\s+/).map((p) => Number(p.split(',')[0]));
        return /s0/.test(l.getAttribute('stroke')) && new Set(xs).size > 1;
    }).length";
    assert_eq!(browser.eval(lines), 2, "the line breaks where the boundary changed");
    tells(&mut browser, ".hit");
    tells(&mut browser, "tbody .n");
    assert_eq!(browser.complaints(), "");
}

#[test]
fn recorded_runs_of_gpus_fit_a_desk_a_phone_and_paper() {
    let Some(chromium) = chromium() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut browser = Browser::start(&chromium);
    // Six competitors and a roofline; cold starts; energies.
    for (archive, name, number) in [
        ("h100-bench-llama-3.2-1b", "bench", "#roofline .hit"),
        ("h100-llama-3.2-1b", "matrix-llama-3.2-1b", "#cold .n"),
        ("h100-energy-llama-3.2-1b", "energy-ort-candle", "#energy .n"),
    ] {
        unpack(archive, dir.path());
        let run = SealedRun::open(&dir.path().join(name)).unwrap();
        let report = Report::of_run(&run, &ReportOptions::default().with_base(name)).unwrap();
        let page = write(dir.path(), "page.html", &report.to_html().unwrap());
        visit(&mut browser, &page, Some(A4));
        browser.size(1280);
        browser.open(&page);
        tells(&mut browser, number);
        assert_eq!(browser.complaints(), "", "{name}");
    }
}
