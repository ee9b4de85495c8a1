//! A plan in Markdown.

use super::Plan;
use crate::cost::{BreakEven, Short};
use std::fmt::Write as _;

pub(super) fn table(plan: &Plan) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "Load: {} requests/s, {} at the busy time (burst {}), {} tokens a request in {} shapes. Limits: {}.",
        Short(plan.requests_per_s),
        Short(plan.peak_requests_per_s),
        Short(plan.burst),
        Short(plan.tokens_per_request),
        plan.mix.parts().len(),
        plan.slo
    );
    if plan.unanswered > 0 {
        let _ = writeln!(out, "{} requests of the trace got no answer and are not in it.", plan.unanswered);
    }
    let _ =
        writeln!(out, "Prices: {} of {}. Policy: {}.\n", plan.prices, plan.prices_date, plan.policy_digest.get(..16).unwrap_or_default());
    out.push_str("| candidate | s/request | lower bound | with burst | conservative | by replay | workers | busy | left out |\n");
    out.push_str("|---|---|---|---|---|---|---|---|---|\n");
    for candidate in &plan.candidates {
        let name = candidate.name();
        match (&candidate.refused, &candidate.sizing) {
            (Some(refusal), _) => {
                let _ = writeln!(out, "| {name} | refused: {refusal} | | | | | | | {:.1}% |", candidate.left_out * 100.0);
            }
            (None, Some(s)) => {
                let replay = s.workers_by_replay.map_or_else(|| "-".to_owned(), |k| k.to_string());
                let tail = if s.tail_is_bounded || plan.slo.is_none() { "" } else { " (tail: slowest call seen)" };
                let _ = writeln!(
                    out,
                    "| {name} | {}{tail} | {} | {} | {} | {replay} | {} | {:.0}% | {:.1}% |",
                    s.service_s,
                    s.workers_lower_bound,
                    s.workers_with_burst,
                    s.workers_conservative,
                    s.workers,
                    s.utilisation * 100.0,
                    candidate.left_out * 100.0
                );
            }
            (None, None) => {}
        }
    }
    if plan.candidates.iter().all(|c| c.prices.is_empty()) {
        return out;
    }
    out.push_str("\n| candidate | machine | tier | $/h | $/request | $/1M busy | $/1M at fleet | $/month | gCO2e/1M | against renting |\n");
    out.push_str("|---|---|---|---|---|---|---|---|---|---|\n");
    for (candidate, p) in plan.candidates.iter().flat_map(|c| c.prices.iter().map(move |p| (c, p))) {
        let carbon = p.gco2e_per_1m.map_or_else(|| "no_data".to_owned(), |g| g.to_string());
        let pays = p.against_renting.map_or_else(String::new, |b| words(&b));
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {carbon} | {pays} |",
            candidate.name(),
            p.machine,
            p.tier.kind,
            Short(p.tier.usd_per_hour),
            p.usd_per_request,
            p.usd_per_1m,
            p.usd_per_1m_at_fleet,
            p.usd_per_month,
        );
    }
    if !plan.not_priced.is_empty() {
        let _ = writeln!(out, "\nNot priced: {}.", plan.not_priced.join("; "));
    }
    out
}

fn words(b: &BreakEven) -> String {
    match *b {
        BreakEven::After { machines, months, latest, .. } => {
            let latest = latest.map_or_else(|| "perhaps never".to_owned(), |m| format!("at the latest {m:.1}"));
            format!("{machines} machines pay after {months:.1} months, {latest}")
        }
        BreakEven::BeyondLife { machines, months, life_months } => {
            format!("{machines} machines would pay after {months:.0} months, beyond their life of {life_months:.0}")
        }
        BreakEven::Never { machines, running_usd_per_month, rented_usd_per_month } => {
            format!(
                "never: {machines} machines cost {running_usd_per_month:.0} $ a month to run, renting at most {rented_usd_per_month:.0} $"
            )
        }
    }
}
