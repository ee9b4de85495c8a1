//! Writes the page of a run: `cargo run --release -p phase-report --example page -- RUN FILE`. Prints the card.

use phase_report::{Paint, Report, ReportOptions};
use phase_scenario::SealedRun;
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(run), Some(file)) = (arguments.next(), arguments.next()) else { return Err("RUN FILE".into()) };
    let report = Report::of_run(&SealedRun::open(Path::new(&run))?, &ReportOptions::default().with_base(run))?;
    phase_scenario::write_atomically(Path::new(&file), report.to_html()?.as_bytes())?;
    #[expect(clippy::print_stdout, reason = "an example shows its result")]
    {
        println!("{}", report.to_terminal(Paint::Plain));
    }
    Ok(())
}
