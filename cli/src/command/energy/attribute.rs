use crate::{
    argument,
    exit::{Failure, say},
};
use phase_energy::{
    Gate,
    file::{self, AttributedLine, FileError},
};
use std::fmt::Write;

pub(super) fn run(arguments: &argument::Attribute) -> Result<(), Failure> {
    let events = file::read_events(&arguments.events).map_err(|e| failure(&e))?;
    let samples = file::read_samples(&arguments.samples).map_err(|e| failure(&e))?;
    let calibration = file::read_calibration(&arguments.calibration).map_err(|e| failure(&e))?;
    let lines = file::attribute_lines(&events, &samples, &calibration, Gate::default()).map_err(|e| Failure::work(&e))?;
    if lines.is_empty() {
        return Ok(());
    }
    if arguments.json {
        let mut bytes = Vec::new();
        file::write_lines(&mut bytes, &lines).map_err(|e| Failure::work(&e))?;
        return say(&String::from_utf8_lossy(&bytes));
    }
    let widest = lines.iter().map(|l| l.event.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for line in &lines {
        row(&mut text, line, widest);
    }
    say(&text)
}

fn row(text: &mut String, line: &AttributedLine, widest: usize) {
    let AttributedLine { event, status, joules, low_j, high_j, updates, reason, .. } = line;
    let _ = write!(text, "{event:<widest$}  {status:<12}");
    // What is not known has no number.
    let _ = match (joules, low_j, high_j, updates, reason) {
        (Some(j), Some(low), Some(high), Some(n), _) => writeln!(text, "  {j:.3} J [{low:.3}, {high:.3}], {n} updates"),
        (.., Some(reason)) => writeln!(text, "  {reason}"),
        _ => writeln!(text),
    };
}

fn failure(error: &FileError) -> Failure {
    if error.is_unreadable() { Failure::Usage(error.to_string()) } else { Failure::Check(error.to_string()) }
}
