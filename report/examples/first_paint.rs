//! How long a browser takes to show a page: `cargo run --release -p phase-report --example first_paint -- PAGE [LOADS]`.
//!
//! Headless Chromium (`PHASE_TEST_CHROMIUM`, or the one on the path), one process, a fresh tab for each load, a window of 1280 x
//! 900. The times are the browser's own, from the start of the navigation: `PerformancePaintTiming` and
//! `PerformanceNavigationTiming`. The first load, which also warms the process, is told apart.

#[path = "../tests/support/devtools.rs"]
#[expect(dead_code, reason = "the tests use all of it")]
mod devtools;

use devtools::{Browser, chromium};
use std::path::Path;

/// The browser's times once both paints are there, in milliseconds.
const TIMES: &str = "new Promise((done) => {
  const look = () => {
    const [fp, fcp] = ['first-paint', 'first-contentful-paint'].map((n) => performance.getEntriesByName(n)[0]?.startTime);
    const n = performance.getEntriesByType('navigation')[0];
    if (fp && fcp && n.loadEventEnd) done([fp, fcp, n.domInteractive, n.loadEventEnd]); else requestAnimationFrame(look);
  };
  look();
})";
const NAMES: [&str; 4] = ["first paint", "first contentful paint", "parsed", "loaded"];

#[expect(clippy::print_stdout, reason = "an example shows its result")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let page = arguments.next().ok_or("PAGE [LOADS]")?;
    let loads: usize = arguments.next().map_or(Ok(11), |n| n.parse())?;
    let page = Path::new(&page).canonicalize()?;
    let mut browser = Browser::start(&chromium().ok_or("no Chromium")?);
    let mut all: Vec<[f64; 4]> = Vec::new();
    for _ in 0..=loads {
        browser.page();
        browser.size(1280);
        browser.open(&page);
        let times = browser.eval(TIMES);
        all.push([0, 1, 2, 3].map(|i| times[i].as_f64().unwrap_or(f64::NAN)));
    }
    println!("{} bytes, {loads} loads after a first one, ms: median (least to most); the first one", std::fs::metadata(&page)?.len());
    for (at, name) in NAMES.iter().enumerate() {
        let mut own: Vec<_> = all.iter().skip(1).map(|t| t[at]).collect();
        own.sort_by(f64::total_cmp);
        let ends = [own.first(), own.last()].map(|v| v.copied().unwrap_or(f64::NAN));
        println!("  {name:<23} {:5.0} ({:.0} to {:.0}); {:.0}", own[own.len() / 2], ends[0], ends[1], all[0][at]);
    }
    Ok(())
}
