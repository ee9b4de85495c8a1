//! CubeCL 0.11: kernels that were built, and how tuning chose among them. None of it says that a kernel ran in a call.

use super::{Cover, Level, MAX_SHORT_CIRCUIT_SHARE, Reading, Violation};
use crate::stats::real;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

/// How an artefact of a kernel was obtained.
#[derive(Deserialize)]
enum Outcome {
    Compiled,
    Loaded,
    Rekeyed,
}

#[derive(Deserialize)]
struct Compilation {
    kernel: String,
    outcome: Outcome,
}

#[derive(Deserialize)]
struct Tuning {
    table: String,
    winner: usize,
    trials: Vec<IgnoredAny>,
    short_circuit: Option<String>,
    dry_run: bool,
}

#[derive(Deserialize)]
struct Decision {
    fastest_index: usize,
    results: Vec<Tried>,
    log_context: Option<Context>,
}

#[derive(Deserialize)]
struct Tried {
    outcome: Result<Measured, IgnoredAny>,
}

#[derive(Deserialize)]
struct Measured {
    index: usize,
}

#[derive(Deserialize)]
struct Context {
    events: Vec<Event>,
}

#[derive(Deserialize)]
enum Event {
    TuningStep(IgnoredAny),
    ShortCircuit(IgnoredAny),
}

pub(super) fn compilations(text: &str, during: Vec<Cover>) -> Result<Reading, String> {
    let all: Vec<Compilation> = lines(text)?;
    if let Some(nameless) = all.iter().position(|c| c.kernel.is_empty()) {
        return Err(format!("record {}: a kernel without a name", nameless + 1));
    }
    let built = all.iter().filter(|c| matches!(c.outcome, Outcome::Compiled | Outcome::Loaded | Outcome::Rekeyed)).count();
    Ok(Reading { level: (built > 0).then_some(Level::Placed), covers: during, ..Reading::default() })
}

pub(super) fn tunings(text: &str) -> Result<Reading, String> {
    let all: Vec<Tuning> = lines(text)?;
    if let Some(empty) = all.iter().position(|t| t.trials.is_empty() || t.table.is_empty() || t.winner == usize::MAX) {
        return Err(format!("record {}: a tuning in which nothing was tried", empty + 1));
    }
    let cut = all.iter().filter(|t| t.short_circuit.is_some() && t.trials.len() < 2).count();
    let mut violations = short_circuits(cut, all.len());
    violations.extend(all.iter().any(|t| t.dry_run).then_some(Violation::DryRun));
    Ok(Reading { level: Some(Level::Placed), violations, ..Reading::default() })
}

pub(super) fn decisions(text: &str) -> Result<Reading, String> {
    let all: Vec<Decision> = lines(text)?;
    for (number, decision) in (1..).zip(&all) {
        let measured = decision.results.iter().filter_map(|r| r.outcome.as_ref().ok());
        if !measured.into_iter().any(|m| m.index == decision.fastest_index) {
            return Err(format!("record {number}: candidate {} won without a measurement", decision.fastest_index));
        }
    }
    let cut = |d: &&Decision| {
        let ended = d.log_context.as_ref().is_some_and(|c| c.events.iter().any(|e| matches!(e, Event::ShortCircuit(_))));
        let tried = d.log_context.as_ref().map_or(0, |c| c.events.iter().filter(|e| matches!(e, Event::TuningStep(_))).count());
        ended && tried < 2
    };
    let violations = short_circuits(all.iter().filter(cut).count(), all.len());
    Ok(Reading { level: Some(Level::Placed), violations, ..Reading::default() })
}

/// A tuning that ended with its first candidate compared nothing.
fn short_circuits(cut: usize, all: usize) -> Vec<Violation> {
    let (tunings, of) = (cut as u64, all as u64);
    let many = real(tunings) > MAX_SHORT_CIRCUIT_SHARE * real(of);
    many.then_some(Violation::ShortCircuits { tunings, of }).into_iter().collect()
}

fn lines<T: DeserializeOwned>(text: &str) -> Result<Vec<T>, String> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let all: Vec<T> = lines.map(|(number, line)| record(line).map_err(|e| format!("line {number}: {e}"))).collect::<Result<_, _>>()?;
    if all.is_empty() { Err("it holds no record".to_owned()) } else { Ok(all) }
}

/// A record by itself, or as CubeCL reads it out of its environment: with the stamp that says which process wrote it, and when.
fn record<T: DeserializeOwned>(line: &str) -> Result<T, serde_json::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Stamped<T> {
        #[serde(rename = "stamp")]
        _stamp: IgnoredAny,
        record: T,
    }
    match serde_json::from_str::<Stamped<T>>(line) {
        Ok(Stamped { record, .. }) => Ok(record),
        // What is wrong is said of the form that the line has.
        Err(error) if serde_json::from_str::<Stamped<IgnoredAny>>(line).is_ok() => Err(error),
        Err(_) => serde_json::from_str(line),
    }
}
