//! Writes pages: `cargo run --release -p phase-report --example page -- FILE RUN` one run's, `FILE BASE RUN` a comparison,
//! `FILE --history FOLDER` a history. Prints the same in text.

use phase_report::{Foreign, Paint, Report, ReportOptions, compare, history};
use phase_scenario::SealedRun;
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    let open = |run: &str| SealedRun::open(Path::new(run));
    let (file, page, text) = match words.as_slice() {
        [file, run] => {
            let report = Report::of_run(&open(run)?, &ReportOptions::default().with_base(*run))?;
            (file, report.to_html()?, report.to_terminal(Paint::Plain))
        }
        [file, "--history", folder] => {
            let found = history(Path::new(folder), None)?;
            (file, found.to_html()?, found.to_string())
        }
        [file, base, run] => {
            let comparison = compare(&open(base)?, &open(run)?, None, Foreign::Refuse);
            (file, comparison.to_html()?, comparison.to_string())
        }
        _ => return Err("FILE RUN, FILE BASE RUN, or FILE --history FOLDER".into()),
    };
    phase_scenario::write_atomically(Path::new(file), page.as_bytes())?;
    #[expect(clippy::print_stdout, reason = "an example shows its result")]
    {
        println!("{text}");
    }
    Ok(())
}
