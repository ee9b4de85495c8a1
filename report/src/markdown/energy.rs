//! What a run that was asked for energy found, in tables.

use crate::{
    figure::{between, bucket},
    table::Table,
};
use phase_core::{Energy, Phase};
use phase_energy::BaselineKind;
use phase_scenario::{EnergyCell, EnergyPlan, EnergySummary, middle_and_bounds};
use std::{fmt::Write as _, time::Duration};

/// What the decision card says about energy; the numbers are in the section on it.
pub(crate) fn card_line(plan: &EnergyPlan, summary: &EnergySummary) -> String {
    if let Some(reason) = plan.reason {
        return format!("`no_data`: {reason}");
    }
    let known = summary.requests.iter().filter(|r| r.energy.bounds().is_some()).count();
    format!("{known} of {} known; it decides only where intervals do not overlap", summary.requests.len())
}

/// Which sensors were read, and what kind they are.
pub(crate) fn sensors(plan: &EnergyPlan) -> String {
    plan.sensors.iter().map(|s| format!("{} ({})", s.id, s.calibration.kind)).collect::<Vec<_>>().join("; ")
}

/// What the statuses mean.
pub(crate) const fn rule_of() -> &'static str {
    "One call is reported `measured` only where its sensor covers every single one; else the mean over windows of replays, warm and back \
     to back, with its interval (`macro_window`); else `no_data` with the reason. Energies are of the device alone: no host, fan or power \
     supply. *Active* is what is above the device at rest with its models resident."
}

/// The tables: calls, requests, power at rest.
pub(crate) fn measured(out: &mut String, plan: &EnergyPlan, summary: &EnergySummary) {
    if let Some(reason) = plan.reason {
        let _ = writeln!(out, "`no_data` ({reason}) for every cell.\n");
    } else {
        let _ = writeln!(out, "Sensors: {}. {}\n", sensors(plan), rule_of());
    }
    plan.notes.iter().for_each(|note| {
        let _ = writeln!(out, "- {note}");
    });
    if !plan.notes.is_empty() {
        out.push('\n');
    }
    if plan.reason.is_none() {
        for phase in [Phase::Prefill, Phase::Decode] {
            let table = calls(summary, phase);
            if !table.is_empty() {
                let name = if phase == Phase::Prefill { "Prefill, a call" } else { "Decode, a step" };
                let _ = writeln!(out, "### {name}\n\n{table}");
            }
        }
        for (name, table) in [("Requests", requests(summary)), ("At rest", rests(summary))].iter().filter(|(_, t)| !t.is_empty()) {
            let _ = writeln!(out, "### {name}\n\n{table}");
        }
        if let Some(text) = sampler(summary) {
            let _ = writeln!(out, "{text}\n");
        }
    }
    for cell in &summary.cells {
        for note in &cell.notes {
            let _ = writeln!(out, "- {}: {note}", cell.cell);
        }
    }
}

/// What the sampler took of a core; nothing where it had no thread of its own, or nobody measured it.
pub(crate) fn sampler(summary: &EnergySummary) -> Option<String> {
    let cost = summary.sampler?;
    let (percent, seconds) = (100.0 * cost.share(), Duration::from_nanos(cost.wall_ns).as_secs_f64());
    Some(format!(
        "The sampler took {percent:.2} % of a core over {seconds:.0} s of windows and rests, reading every source at every poll; nothing was \
         sampled while phases were timed."
    ))
}

fn calls(summary: &EnergySummary, phase: Phase) -> Table {
    let mut table = Table::new(&[
        "bucket",
        "backend",
        "status",
        "J",
        "J/token",
        "tokens/J",
        "active J",
        "windows",
        "one call alone",
        "time/blocks",
        "other sensor",
    ]);
    for cell in summary.cells.iter().filter(|c| c.phase == phase) {
        let none = || "-".to_owned();
        let rate = |r: Option<[f64; 3]>| r.map_or_else(none, between);
        let active = cell.basis.as_ref().and_then(|b| b.active.as_ref());
        table.row([
            bucket(phase, cell.shape),
            cell.backend.to_string(),
            status(&cell.energy),
            joules(&cell.energy),
            rate(cell.joules_per_token),
            rate(cell.tokens_per_joule),
            active.map_or_else(none, |a| between([a.joules, a.low, a.high])),
            windows(cell),
            one_call_alone(cell),
            cell.over_blocks.map_or_else(none, |r| format!("{r:.2}")),
            cell.cross_check.map_or_else(none, |r| format!("{r:.3}")),
        ]);
    }
    table
}

fn requests(summary: &EnergySummary) -> Table {
    let mut table = Table::new(&["cell", "backend", "new tokens", "status", "J/request", "J/token", "tokens/J"]);
    for r in &summary.requests {
        let rate = |r: Option<[f64; 3]>| r.map_or_else(|| "-".to_owned(), between);
        table.row([
            r.cell.clone(),
            r.backend.to_string(),
            r.new_tokens.to_string(),
            status(&r.energy),
            joules(&r.energy),
            rate(r.joules_per_token),
            rate(r.tokens_per_joule),
        ]);
    }
    table
}

fn rests(summary: &EnergySummary) -> Table {
    let mut table = Table::new(&["state", "device", "sensor", "sitting", "W", "+-"]);
    for rest in &summary.rests {
        let none = || "no_data".to_owned();
        table.row([
            resting(rest.rest),
            rest.device.clone(),
            rest.field.clone(),
            rest.sitting.to_string(),
            rest.mean_w.map_or_else(none, |w| format!("{w:.1}")),
            rest.error_w.map_or_else(none, |w| format!("{w:.1}")),
        ]);
    }
    table
}

/// A state of rest, by the word it has in files.
pub(crate) fn resting(rest: BaselineKind) -> String {
    serde_json::to_value(rest).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

pub(crate) fn status(energy: &Energy) -> String {
    energy.reason().map_or_else(|| energy.status().to_owned(), |reason| format!("no_data: {reason}"))
}

pub(crate) fn joules(energy: &Energy) -> String {
    middle_and_bounds(energy).map_or_else(|| "-".to_owned(), between)
}

pub(crate) fn windows(cell: &EnergyCell) -> String {
    match &cell.window {
        Energy::MacroWindow { replays, windows, .. } => format!("{windows} of {replays}"),
        other => status(other),
    }
}

/// What is known of single calls.
pub(crate) fn one_call_alone(cell: &EnergyCell) -> String {
    cell.single.as_ref().map_or_else(
        || "-".to_owned(),
        |s| match s.reason {
            None => format!("{} {}", s.energy.status(), joules(&s.energy)),
            Some(reason) => format!("no_data: {reason} ({} of {} known)", s.measured + s.interpolated, s.calls),
        },
    )
}
