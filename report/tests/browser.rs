//! The page in a real browser: headless Chromium loads it with a script that clicks through it and writes down what it saw.
//!
//! `PHASE_TEST_CHROMIUM` names the browser, and then a missing one is a failure; without it one is looked for on the path.

mod support;

use phase_report::{Foreign, Report, ReportOptions, compare};
use phase_scenario::Calls;
use std::{path::Path, process::Command};
use support::{CREATED, Paced, SMALL, run};

/// Clicks, looks, and leaves its notes in the document.
const VISITOR: &str = r##"
<script>
addEventListener('load', () => setTimeout(() => {
  const seen = {}, $ = (q) => document.querySelector(q), all = (q) => [...document.querySelectorAll(q)];
  const paper = () => getComputedStyle(document.body).backgroundColor;
  $('#theme-light').click(); seen.light = paper();
  $('#theme-dark').click(); seen.dark = paper();
  seen.stroke = getComputedStyle($('figure svg polyline, figure svg circle:not(.hit)')).stroke + getComputedStyle($('figure svg circle:not(.hit)')).fill;
  $('#theme-light').click();
  const number = $('.card .n'); number.focus(); seen.told = $('#told').textContent;
  number.blur(); const hit = $('.hit'); hit.dispatchEvent(new MouseEvent('click', { bubbles: true })); seen.hit = $('#told').textContent;
  document.documentElement.classList.remove('js'); number.focus();
  seen.without_script = getComputedStyle(number, '::after').content;
  document.documentElement.classList.add('js');
  const fold = $('.triggers details'); fold.querySelector('summary').click(); seen.unfolded = fold.open;
  seen.sections = all('main section').map((s) => s.id);
  seen.broken_links = all('.toc a').filter((a) => !$(a.getAttribute('href'))).length;
  dispatchEvent(new Event('beforeprint')); seen.folded_on_paper = all('details:not([open])').length;
  seen.requests = performance.getEntriesByType('resource').length;
  seen.overflow = document.documentElement.scrollWidth - innerWidth;
  seen.width = innerWidth;
  const bare = all('tbody .n').filter((n) => !/n = |boundary|cells|common blocks|\[/.test(n.dataset.t)); seen.bare = bare.length;
  const out = document.createElement('script'); out.type = 'application/json'; out.id = 'seen'; out.textContent = JSON.stringify(seen);
  document.body.append(out);
}, 50));
</script></body>"##;

#[expect(clippy::disallowed_methods, clippy::print_stdout, reason = "a test is told its tools, and says what it lacks")]
fn chromium() -> Option<String> {
    if let Ok(named) = std::env::var("PHASE_TEST_CHROMIUM") {
        assert!(works(&named), "PHASE_TEST_CHROMIUM names {named}, which does not run");
        return Some(named);
    }
    let found = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| works(name));
    if found.is_none() {
        println!("skipped: no Chromium is here (install Debian's package `chromium`, or name one in PHASE_TEST_CHROMIUM)");
    }
    found.map(str::to_owned)
}

fn works(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|out| out.status.success())
}

/// What the visitor wrote down.
fn visit(chromium: &str, folder: &Path, page: &str, width: u32) -> serde_json::Value {
    let file = folder.join("page.html");
    std::fs::write(&file, page.replace("</body>", VISITOR)).expect("it works");
    // The page lies in a frame of the wanted width: a window of a headless browser has a least one.
    let frame = folder.join("frame.html");
    let html = format!(
        "<iframe id=f style=\"width:{width}px;height:900px;border:0\" src=\"page.html\"></iframe><script>addEventListener('load',()=>setTimeout(()=>{{const s=document.getElementById('f').contentDocument.getElementById('seen').textContent;document.body.append(Object.assign(document.createElement('script'),{{type:'application/json',id:'out',textContent:s}}))}},400))</script>"
    );
    std::fs::write(&frame, html).expect("it works");
    let profile = folder.join("profile");
    let out = Command::new(chromium)
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--allow-file-access-from-files"])
        .args(["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=6000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("file://{}", frame.display()))
        .output()
        .expect("it works");
    let dom = String::from_utf8_lossy(&out.stdout);
    let json = dom.split_once("id=\"out\">").and_then(|(_, rest)| rest.split_once("</script>"));
    let (json, _) = json.unwrap_or_else(|| panic!("no visit: {}\n{dom}", String::from_utf8_lossy(&out.stderr)));
    serde_json::from_str(json).expect("it works")
}

#[test]
fn a_visitor_finds_everything_in_both_themes_and_on_a_phone() {
    let Some(chromium) = chromium() else { return };
    let dir = tempfile::tempdir().unwrap();
    let backends = vec![Paced::new("a", 1_000, 50_000), Paced::new("b", 3_000, 20_000)];
    let run = run(SMALL, backends, Calls::Scores, CREATED, &dir.path().join("run"));
    let report = Report::of_run(&run, &ReportOptions::default().with_base("run")).unwrap();
    let page = report.to_html().unwrap();
    for width in [1280, 390] {
        let seen = visit(&chromium, dir.path(), &page, width);
        assert_ne!(seen["light"], seen["dark"], "{seen}");
        assert!(!seen["stroke"].as_str().unwrap().contains("rgb(1, 1, 1)"), "plots follow the theme: {seen}");
        let told = seen["told"].as_str().unwrap();
        assert!(told.contains("common blocks") || told.contains("n = "), "{seen}");
        assert!(seen["hit"].as_str().unwrap().contains("boundary"), "{seen}");
        assert!(
            seen["without_script"].as_str().unwrap().contains("attr(data-t)") || seen["without_script"].as_str().unwrap().contains(told),
            "{seen}"
        );
        assert_eq!((&seen["unfolded"], &seen["folded_on_paper"]), (&true.into(), &0.into()), "{seen}");
        assert_eq!((&seen["broken_links"], &seen["requests"], &seen["bare"]), (&0.into(), &0.into(), &0.into()), "{seen}");
        assert_eq!(seen["width"], width);
        assert!(seen["overflow"].as_i64().unwrap() <= 0, "nothing is wider than the window: {seen}");
        assert_eq!(seen["sections"].as_array().map(Vec::len), Some(13));
    }
    let comparison = compare(&run, &run, None, Foreign::Refuse).to_html().unwrap();
    assert!(comparison.len() < 3_000_000 && page.len() < 3_000_000);
}
