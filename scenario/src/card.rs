//! The decision card: what a policy made of this run answers for the requests that were measured, its gates, and what
//! makes it void.

use crate::{ReportOptions, Run, WorkloadKind, energy::card_line, table::Table};
use phase_core::Arm;
use phase_policy::{Choice, Policy, PolicyOptions, Reason, Router, Workload};
use std::fmt::Write as _;

pub(crate) fn card(run: &Run, options: &ReportOptions) -> String {
    let mut out = "## Decision card\n\n".to_owned();
    match router(run, options) {
        Ok(router) => decisions(run, &router, &mut out),
        Err(why) => {
            let _ = writeln!(out, "**No policy can be made of this run:** {why}. Route to the backend you trust.\n");
        }
    }
    gates(run, &mut out);
    out
}

fn router(run: &Run, options: &ReportOptions) -> Result<Router, String> {
    let passed = |id: &&Arm| run.parity().passed(id);
    let safe = options.default_safe.as_ref().or_else(|| run.manifest().plan.backends.iter().find(passed));
    let safe = safe.ok_or("no backend passed the agreement check")?;
    let matrix = run.policy_matrix().map_err(|e| e.to_string())?.ok_or("no backend that passed the agreement check made a call")?;
    let settings = PolicyOptions::new(safe.backend.clone(), run.manifest().created_unix_seconds).with_runs([run.run_id()]);
    Policy::compile(&matrix, &settings).map(Router::new).map_err(|e| e.to_string())
}

fn decisions(run: &Run, router: &Router, out: &mut String) {
    let constants = router.policy().constants();
    let _ = writeln!(
        out,
        "Default-safe: **{}**. Another backend wins a request only if the whole {:.0}% interval of its time ratio lies below 1/{:.2}; a tie \
         (the interval within {:.0}%) and every doubt go to default-safe.\n",
        router.policy().default_safe(),
        constants.confidence * 100.0,
        1.0 + constants.rope,
        constants.rope * 100.0
    );
    let cells = run.manifest().plan.cells.iter().filter(|c| c.workload.kind == WorkloadKind::Steady);
    let mut requests: Vec<_> = cells.map(|c| (c.workload.batch, c.workload.prompt_tokens, c.workload.new_tokens())).collect();
    requests.sort_unstable();
    requests.dedup();
    let mut table =
        Table::new(&["class", "batch", "prompt", "new", "route", "time ratio", "against", "why", "prefill alone", "decode alone"]);
    let mut rows = Vec::new();
    for (batch, prompt, new) in requests {
        let decision = router.decide(&Workload::new(batch, prompt, new));
        let (ratio, why) = reason(&decision.route.reason);
        let alone = |choice: &Choice<'_>| {
            let (ratio, why) = reason(&choice.reason);
            if ratio == "-" { format!("{} ({why})", choice.backend) } else { format!("{} ({why}, {ratio})", choice.backend) }
        };
        rows.push([
            decision.class.to_string(),
            batch.to_string(),
            prompt.to_string(),
            new.to_string(),
            decision.route.backend.to_string(),
            ratio,
            decision.route.against.map_or_else(|| "-".to_owned(), ToString::to_string),
            why,
            alone(&decision.prefill()),
            if new > 1 { alone(&decision.decode()) } else { "-".to_owned() },
        ]);
    }
    rows.sort_by(|a, b| a[0].cmp(&b[0]));
    rows.into_iter().for_each(|row| table.row(row));
    let _ = writeln!(out, "{table}");
}

/// The ratio with its interval, and the reason in a few words.
fn reason(reason: &Reason) -> (String, String) {
    let none = |words: &str| ("-".to_owned(), words.to_owned());
    match reason {
        Reason::Winner { ratio } => (interval(ratio), "measured faster".to_owned()),
        Reason::Tie { ratio } => (interval(ratio), "tie".to_owned()),
        Reason::Ambiguous { ratio } => (interval(ratio), "undecided".to_owned()),
        Reason::TooFewBlocks { blocks, needed } => none(&format!("{blocks} common blocks, {needed} needed")),
        Reason::Failures { failed, calls } => none(&format!("{failed} of {calls} calls of the other failed")),
        Reason::ContextsDiffer { ours, theirs } => none(&format!("measured at contexts {ours} and {theirs}")),
        Reason::NoCell => none("not measured"),
        Reason::OnlyBackend => none("no other backend measured"),
        Reason::NotLive => none("not running"),
        Reason::OutsideEnvelope(outside) => none(&outside.to_string()),
        Reason::BoundaryChanged => none("boundary changed"),
        _ => none("see the policy"),
    }
}

fn interval(ratio: &phase_policy::stats::RatioInterval) -> String {
    format!("{:.3} [{:.3}, {:.3}]", ratio.ratio, ratio.low, ratio.high)
}

fn gates(run: &Run, out: &mut String) {
    let plan = &run.manifest().plan;
    let out_of = plan.backends.iter().filter(|id| !run.parity().passed(id)).map(ToString::to_string).collect::<Vec<_>>();
    let agreement = if out_of.is_empty() { "every backend passed".to_owned() } else { format!("**not passed by {}**", out_of.join(", ")) };
    let compile = match run.compile_evidence() {
        [] => "closed: no raw record was kept".to_owned(),
        all => {
            let level = |(arm, read): &(_, Result<phase_policy::CompileEvidence, _>)| match read {
                Ok(seen) => format!("{arm} {}", seen.level()),
                Err(_) => format!("{arm} unreadable"),
            };
            all.iter().map(level).collect::<Vec<_>>().join(", ")
        }
    };
    let _ = writeln!(
        out,
        "Gates: agreement ({agreement}); compile ({compile}); energy ({}).\n\nRun again \
         when a fact under *Boundary* changes (processor, kernel, driver, library, model, threads), when the mix of requests leaves the table \
         above, or when the definitions of phases change.",
        card_line(run)
    );
}
