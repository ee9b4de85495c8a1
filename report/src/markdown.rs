//! The report as Markdown.

use crate::{
    card::{Alone, DecisionRow},
    figure::{Figure, between, digits, percent},
    report::Report,
    table::Table,
};
use phase_core::Phase;
use phase_policy::RegimeClass;
use std::fmt::Write as _;

pub(crate) mod energy;
mod sections;

pub(crate) fn report(report: &Report) -> String {
    let mut out = head(report);
    let all = [
        card(report),
        flow(report),
        sections::matrix(report),
        sections::winners(report),
        sections::fractions(report),
        sections::cold(report),
        sections::roofline(report),
        sections::parts(report),
        sections::energy(report),
        sections::cost(report),
        sections::agreement(report),
        sections::evidence(report),
        sections::boundary(report),
        sections::failures(report),
        list("Limits", &report.limits),
        list("Change control", &report.change_control),
    ];
    for section in all.into_iter().filter(|s| !s.is_empty()) {
        out.push('\n');
        out.push_str(&section);
    }
    out
}

fn head(report: &Report) -> String {
    let kind = if report.artefacts.is_empty() { "Policy" } else { "Run" };
    let mut out = format!("# {kind} {}\n\n{}\n", report.id, report.subject);
    for why in &report.void {
        let _ = writeln!(out, "\n**VOID:** {why}");
    }
    out
}

fn card(report: &Report) -> String {
    let card = &report.card;
    let mut out = "## Decision card\n\n".to_owned();
    for answer in &report.answers {
        let elsewhere: Vec<_> = answer.exceptions.iter().map(|e| format!("{} for {}", e.choice.backend, e.bucket)).collect();
        let but = if elsewhere.is_empty() { String::new() } else { format!(" But {}.", elsewhere.join("; ")) };
        let _ = writeln!(out, "- **{}: {}.** {}.{but}", answer.phase, answer.backend, answer.sentence());
    }
    match (&card.no_policy, &card.default_safe) {
        (Some(why), _) => {
            let _ = writeln!(out, "**No policy can be made:** {why}. Route to the backend you trust.");
        }
        (None, safe) => {
            let _ = writeln!(
                out,
                "\nDefault-safe: **{}**. Another backend wins a request only if the whole {:.0}% interval of its time ratio lies below 1/{:.2}; a \
                 tie (the interval within {:.0}%) and every doubt go to default-safe.\n",
                safe.as_deref().unwrap_or("none"),
                card.confidence * 100.0,
                1.0 + card.rope,
                card.rope * 100.0
            );
            let mut table = Table::new(&[
                "class",
                "batch",
                "prompt",
                "new",
                "route",
                "time ratio",
                "against",
                "standing",
                "why",
                "predicted ms",
                "prefill alone",
                "decode alone",
            ]);
            for row in &card.decisions {
                table.row([
                    row.class.to_string(),
                    row.batch.to_string(),
                    row.prompt_tokens.to_string(),
                    row.new_tokens.to_string(),
                    row.route.backend.clone(),
                    row.route.ratio.as_ref().map_or_else(dash, crate::Ratio::full),
                    row.route.against.clone().unwrap_or_else(dash),
                    row.route.standing.word().to_owned(),
                    row.route.why.clone(),
                    predicted(row),
                    alone(&row.prefill),
                    row.decode.as_ref().map_or_else(dash, alone),
                ]);
            }
            let _ = write!(out, "{table}");
        }
    }
    let mut gates = Table::new(&["gate", "state", "seen"]);
    report.gates.iter().for_each(|g| gates.row([g.name.to_owned(), g.state.word().to_owned(), g.detail.clone()]));
    let _ = write!(out, "\n### Gates\n\n{gates}\n### What would change it\n\n");
    for trigger in &report.triggers {
        let fields: Vec<_> = trigger.fields.iter().map(|[name, now]| format!("{name} = {now}")).collect();
        let _ = writeln!(out, "- **{}** ({}): {}", trigger.severity, trigger.action, fields.join("; "));
    }
    out
}

fn predicted(row: &DecisionRow) -> String {
    match (row.predicted_ms, row.predicted_interval_ms) {
        (Some(ms), Some([low, high])) => between([ms, low, high]),
        (Some(ms), None) => digits(ms),
        _ => dash(),
    }
}

fn alone(choice: &Alone) -> String {
    let ratio = choice.ratio.as_ref().map(|r| format!(", {}", r.full())).unwrap_or_default();
    format!("{} ({}{ratio})", choice.backend, choice.standing.word())
}

fn flow(report: &Report) -> String {
    let mut out = "## From traffic to measurement\n\n".to_owned();
    for (at, step) in (1..).zip(&report.flow) {
        let _ = writeln!(out, "{at}. **{}**: {}. {}.", step.name, step.head, step.detail);
    }
    out
}

fn list(title: &str, lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    lines.iter().fold(format!("## {title}\n\n"), |out, line| out + "- " + line + "\n")
}

fn dash() -> String {
    "-".to_owned()
}

fn number(figure: Option<&Figure>) -> String {
    figure.map_or_else(dash, |f| digits(f.value))
}

fn bounds(figure: Option<&Figure>) -> [String; 2] {
    let end = |v: Option<f64>| v.map_or_else(dash, digits);
    [end(figure.and_then(|f| f.low)), end(figure.and_then(|f| f.high))]
}

const fn phase_title(phase: Phase) -> &'static str {
    match phase {
        Phase::Prefill => "Prefill",
        Phase::Decode => "Decode, per step, by context octave",
        _ => "Requests",
    }
}

const STEADY: RegimeClass = RegimeClass::Steady;

fn share(value: Option<f64>) -> String {
    value.map_or_else(dash, percent)
}
