//! The tables of a run that was asked for energy: middles, with the interval and what it rests on on demand.

use super::origin::Origin;
use crate::{
    Report,
    figure::{between, bucket, digits},
    markdown::energy::{joules, one_call_alone, resting, rule_of, sampler, sensors, status, windows},
};
use minijinja::{Value, context};
use phase_core::{Energy, Phase};
use phase_scenario::{EnergyCell, EnergySummary, middle_and_bounds};

pub(super) fn of(report: &Report, origin: &Origin<'_>) -> Value {
    let Some((plan, summary)) = &report.energy.measured else { return Value::from(()) };
    let calls = |phase| summary.cells.iter().filter(|c| c.phase == phase).map(|c| call(c, origin)).collect::<Vec<_>>();
    let readable = plan.reason.is_none();
    context! {
        reason => plan.reason.map(|r| r.to_string()),
        sensors => readable.then(|| sensors(plan)),
        rule => readable.then(rule_of),
        notes => plan.notes,
        calls => if readable { vec![
            context! { title => "Prefill, a call", rows => calls(Phase::Prefill) },
            context! { title => "Decode, a step", rows => calls(Phase::Decode) },
        ] } else { Vec::new() },
        requests => if readable { requests(summary, origin) } else { Vec::new() },
        rests => if readable { rests(summary, origin) } else { Vec::new() },
        sampler => readable.then(|| sampler(summary)).flatten(),
        cell_notes => summary.cells.iter().flat_map(|c| c.notes.iter().map(|n| format!("{}: {n}", c.cell))).collect::<Vec<_>>(),
    }
}

/// A middle to show and everything to tell.
fn number(parts: Option<[f64; 3]>, unit: &str, origin: &str) -> Value {
    parts.map_or_else(|| Value::from(()), |p| context! { shown => digits(p[0]), told => format!("{} {unit} \u{b7} {origin}", between(p)) })
}

fn call(cell: &EnergyCell, origin: &Origin<'_>) -> Value {
    let arm = cell.backend.to_string();
    let replays = match &cell.window {
        Energy::MacroWindow { replays, windows, .. } => format!("n = {windows} windows of {replays} replays"),
        _ => format!("n = {} single calls", cell.single.as_ref().map_or(0, |s| s.calls)),
    };
    let origin = format!("{replays} \u{b7} {}", origin.of_arms([arm.as_str()]));
    let active = cell.basis.as_ref().and_then(|b| b.active.as_ref()).map(|a| [a.joules, a.low, a.high]);
    context! {
        arm,
        label => bucket(cell.phase, cell.shape),
        status => cell.energy.status(),
        reason => cell.energy.reason().map(|r| r.to_string()),
        joules => number(middle_and_bounds(&cell.energy), "J a call", &origin),
        interval => middle_and_bounds(&cell.energy).map(|[_, low, high]| format!("{}\u{2013}{}", digits(low), digits(high))),
        per_token => number(cell.joules_per_token, "J a token", &origin),
        per_joule => number(cell.tokens_per_joule, "tokens a J", &origin),
        active => number(active, "J a call above rest", &origin),
        windows => windows(cell),
        alone => one_call_alone(cell),
        over_blocks => cell.over_blocks.map(|r| format!("{r:.2}")),
        cross_check => cell.cross_check.map(|r| format!("{r:.3}")),
        origin,
    }
}

fn requests(summary: &EnergySummary, origin: &Origin<'_>) -> Vec<Value> {
    let row = |r: &phase_scenario::EnergyRequest| {
        let arm = r.backend.to_string();
        let rests = format!("n = {} windows of {arm} \u{b7} {}", all_windows(summary, &r.backend), origin.of_arms([arm.as_str()]));
        context! {
            cell => r.cell,
            arm,
            new_tokens => r.new_tokens,
            status => r.energy.status(),
            words => status(&r.energy),
            joules => number(middle_and_bounds(&r.energy), "J a request", &rests),
            all => joules(&r.energy),
            per_token => number(r.joules_per_token, "J a token", &rests),
            per_joule => number(r.tokens_per_joule, "tokens a J", &rests),
        }
    };
    summary.requests.iter().map(row).collect()
}

/// Windows of all of a competitor's cells.
fn all_windows(summary: &EnergySummary, arm: &phase_core::Arm) -> u64 {
    let own = summary.cells.iter().filter(|c| c.backend == *arm);
    own.map(|c| if let Energy::MacroWindow { windows, .. } = &c.window { u64::from(*windows) } else { 0 }).sum()
}

fn rests(summary: &EnergySummary, origin: &Origin<'_>) -> Vec<Value> {
    let row = |rest: &phase_scenario::ArmRest| {
        let [mean, error] = [rest.mean_w, rest.error_w].map(|w| w.map(|w| format!("{w:.1}")));
        context! {
            state => resting(rest.rest),
            device => rest.device,
            field => rest.field,
            sitting => rest.sitting,
            told => format!("{} of {}, n = 1 sitting, number {} \u{b7} {}", rest.field, rest.device, rest.sitting, origin.all()),
            mean,
            error,
        }
    };
    summary.rests.iter().map(row).collect()
}
