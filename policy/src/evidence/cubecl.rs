//! CubeCL 0.11: kernels that were built, and how tuning chose among them. None of it says that a kernel ran in a call.

use super::{Cover, Level, MAX_SHORT_CIRCUIT_SHARE, Reading, Violation};
use crate::stats::real;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use std::time::Duration;

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
    trials: Vec<Trial>,
    short_circuit: Option<String>,
    dry_run: bool,
    /// Empty in records from before plans were kept.
    #[serde(default)]
    plan: Vec<Candidate>,
}

#[derive(Deserialize)]
struct Trial {
    name: String,
    /// Zero for a candidate that was left out once another was good enough: it is listed all the same.
    wall: Duration,
}

#[derive(Deserialize)]
struct Candidate {
    name: String,
    index: usize,
}

impl Tuning {
    fn tried(&self) -> impl Iterator<Item = &Trial> {
        self.trials.iter().filter(|t| !t.wall.is_zero())
    }

    /// Whether what was tried was planned, and what won was tried.
    fn is_of_its_plan(&self) -> bool {
        let tried = |name: &str| self.tried().any(|t| t.name == name);
        let winner = self.plan.iter().find(|c| c.index == self.winner);
        self.plan.is_empty()
            || winner.is_some_and(|w| tried(&w.name)) && self.trials.iter().all(|t| self.plan.iter().any(|c| c.name == t.name))
    }
}

#[derive(Deserialize)]
struct Decision {
    fastest_index: usize,
    fastest_time: Duration,
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
    computation: Computation,
}

#[derive(Deserialize)]
struct Computation {
    median: Duration,
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
    if let Some(empty) = all.iter().position(|t| t.tried().next().is_none() || t.table.is_empty() || t.winner == usize::MAX) {
        return Err(format!("record {}: a tuning in which nothing was tried", empty + 1));
    }
    if let Some(other) = all.iter().position(|t| !t.is_of_its_plan()) {
        return Err(format!("record {}: its trials and its winner are not of its plan", other + 1));
    }
    let cut = all.iter().filter(|t| t.short_circuit.is_some() && t.tried().count() < 2).count();
    let mut violations = short_circuits(cut, all.len());
    violations.extend(all.iter().any(|t| t.dry_run).then_some(Violation::DryRun));
    Ok(Reading { level: Some(Level::Placed), violations, ..Reading::default() })
}

pub(super) fn decisions(text: &str) -> Result<Reading, String> {
    let all: Vec<Decision> = lines(text)?;
    for (number, decision) in (1..).zip(&all) {
        // Results are sorted, measured ones first.
        let first = decision.results.first().and_then(|r| r.outcome.as_ref().ok());
        if !first.is_some_and(|m| m.index == decision.fastest_index && m.computation.median == decision.fastest_time) {
            return Err(format!("record {number}: candidate {} won without a measurement", decision.fastest_index));
        }
    }
    let cut = |d: &&Decision| {
        let ended = d.log_context.as_ref().is_some_and(|c| c.events.iter().any(|e| matches!(e, Event::ShortCircuit(_))));
        // A step is listed for those left out and those whose times could not be had, too.
        ended && d.results.iter().filter(|r| r.outcome.is_ok()).count() < 2
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
    let (mut all, mut last) = (Vec::new(), None);
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let (stamp, record) = record(line).map_err(|e| format!("line {number}: {e}"))?;
        let at = stamp.map(|s| (s.session, s.seq));
        if !all.is_empty() && (at.is_some() != last.is_some() || at.is_some() && at <= last) {
            return Err(format!("line {number}: its stamp does not follow that of the record before"));
        }
        last = at;
        all.push(record);
    }
    if all.is_empty() { Err("it holds no record".to_owned()) } else { Ok(all) }
}

/// Which process wrote a record, and when among its others.
#[derive(Deserialize)]
struct Stamp {
    session: u64,
    seq: u64,
}

/// A record by itself, or as CubeCL reads it out of its environment: with its stamp.
fn record<T: DeserializeOwned>(line: &str) -> Result<(Option<Stamp>, T), serde_json::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Stamped<T> {
        stamp: Stamp,
        record: T,
    }
    match serde_json::from_str::<Stamped<T>>(line) {
        Ok(Stamped { stamp, record }) => Ok((Some(stamp), record)),
        // What is wrong is said of the form that the line has.
        Err(error) if serde_json::from_str::<Stamped<IgnoredAny>>(line).is_ok() => Err(error),
        Err(_) => Ok((None, serde_json::from_str(line)?)),
    }
}
