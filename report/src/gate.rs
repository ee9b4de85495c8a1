//! What had to hold before a number could decide anything.

use crate::{
    energy::EnergySection,
    figure::{count, percent, plural},
    roofline::RooflineSection,
};
use phase_core::Arm;
use phase_policy::{Cell, CompileEvidence, EvidenceError, RegimeClass};
use phase_scenario::{OTHER_LOAD_LIMIT, SealedRun};
use serde::Serialize;

/// One gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Gate {
    /// Its name.
    pub name: &'static str,
    /// Whether it held.
    pub state: GateState,
    /// What was seen.
    pub detail: String,
}

/// Whether a gate held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum GateState {
    /// Shut, by rule: what it guards decides nothing.
    Closed,
    /// It did not hold for everything; the rows that it keeps out say so.
    Doubt,
    /// It did not hold, and the report is void.
    Fail,
    /// Nothing was measured.
    NoData,
    /// It held.
    Pass,
}

impl GateState {
    /// The word shown.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Doubt => "doubt",
            Self::Fail => "FAIL",
            Self::NoData => "no_data",
            Self::Pass => "pass",
        }
    }

    const fn of(held: bool) -> Self {
        if held { Self::Pass } else { Self::Doubt }
    }
}

fn gate(name: &'static str, state: GateState, detail: impl Into<String>) -> Gate {
    Gate { name, state, detail: detail.into() }
}

/// The gates of a run: those of its files, then those of its cells.
pub(crate) fn of_run(run: &SealedRun) -> Vec<Gate> {
    let plan = &run.manifest().plan;
    let out: Vec<_> = plan.backends.iter().filter(|arm| !run.parity().passed(arm)).map(ToString::to_string).collect();
    let agreement = match out.as_slice() {
        [] => gate("agreement", GateState::Pass, format!("{} of {} within tolerance", plan.backends.len(), plan.backends.len())),
        some => gate("agreement", GateState::Doubt, format!("{} may not take a route", some.join(", "))),
    };
    let loads: Vec<f64> = run.blocks().iter().filter_map(|b| b.other_load_fraction).collect();
    let flagged = loads.iter().filter(|share| **share > OTHER_LOAD_LIMIT).count();
    let worst = loads.iter().copied().fold(0.0, f64::max);
    let quiet = if loads.is_empty() {
        gate("quiet machine", GateState::NoData, "the system does not tell")
    } else {
        let detail = format!("{flagged} of {} blocks above {}, at most {}", loads.len(), percent(OTHER_LOAD_LIMIT), percent(worst));
        gate("quiet machine", GateState::of(flagged == 0), detail)
    };
    let bytes = run.events();
    vec![
        gate("seal", GateState::Pass, format!("{} files as sealed, {} events", run.files().len(), count(bytes))),
        gate("boundary", GateState::Pass, "captured again after the last block: unchanged"),
        agreement,
        quiet,
    ]
}

pub(crate) fn of_cells(cells: &[Cell], energy: &EnergySection, roofline: &RooflineSection) -> Vec<Gate> {
    let steady: Vec<_> = cells.iter().filter(|c| c.key.regime == RegimeClass::Steady).collect();
    let unsteady = steady.iter().filter(|c| c.steady.is_some_and(|s| s.is_unsteady())).count();
    let judged = steady.iter().filter(|c| c.steady.is_some_and(|s| s.judged() > 0)).count();
    let settled = match judged {
        0 => gate("steady state", GateState::NoData, "no block is long enough to be judged"),
        _ => gate("steady state", GateState::of(unsteady == 0), format!("{unsteady} of {judged} judged cells slow down or never settle")),
    };
    let failed: u64 = cells.iter().map(|c| c.failures).sum();
    let with_failures = cells.iter().filter(|c| c.failures > 0).count();
    let failures = match failed {
        0 => gate("failures", GateState::Pass, "no call failed"),
        n => gate(
            "failures",
            GateState::Doubt,
            format!("{n} failed {} in {with_failures} cells", plural(usize::try_from(n).unwrap_or(2), "call")),
        ),
    };
    let doubted = roofline.doubted.len();
    let roof = match (roofline.roofs.is_empty(), roofline.above.len()) {
        (false, 0) if doubted > 0 => {
            let detail = "above 100 % of what the run measured of a processor that others may have shared";
            gate("roofline", GateState::Doubt, format!("{doubted} {} {detail}", plural(doubted, "row")))
        }
        (true, _) => gate("roofline", GateState::NoData, "no measured ceiling was given"),
        (false, 0) => gate("roofline", GateState::Pass, format!("{} rows at or below 100 %", roofline.points.len())),
        (false, n) => gate("roofline", GateState::Fail, format!("{n} {} above 100 %", plural(n, "row"))),
    };
    let known = energy.rows.len();
    let reasons: Vec<_> = energy.reasons.keys().map(String::as_str).collect();
    let energy = match known {
        0 => gate("energy", GateState::NoData, if reasons.is_empty() { "no steady cell".to_owned() } else { reasons.join(", ") }),
        n => gate("energy", GateState::of(reasons.is_empty()), format!("{n} of {} cells have a number", steady.len())),
    };
    vec![failures, settled, roof, energy]
}

/// The gates of what the runtimes were seen doing: which level of the ladder each path's raw records reach.
pub(crate) fn of_records(run: &SealedRun) -> Vec<Gate> {
    let all = run.compile_evidence();
    let level = |(arm, read): &(Arm, Result<CompileEvidence, EvidenceError>)| match read {
        Ok(seen) => format!("{arm} {}", seen.level()),
        Err(_) => format!("{arm} unreadable"),
    };
    let compile = match all {
        [] => gate("compile", GateState::Closed, "no raw record was kept"),
        some => {
            let state = if some.iter().all(|(_, read)| read.is_ok()) { GateState::Pass } else { GateState::Doubt };
            gate("compile", state, some.iter().map(level).collect::<Vec<_>>().join(", "))
        }
    };
    let mut gates = vec![compile];
    if let Some((plan, summary)) = run.manifest().energy.as_ref().zip(run.energy()) {
        let known = summary.requests.iter().filter(|r| r.energy.bounds().is_some()).count();
        let state = if known == 0 { GateState::NoData } else { GateState::of(known == summary.requests.len()) };
        gates.push(gate("energy of requests", state, crate::markdown::energy::card_line(plan, summary)));
    }
    gates
}
