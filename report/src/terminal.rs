//! The decision card in a terminal: 80 columns, coloured where that is wanted.

use crate::{
    card::{Alone, Standing},
    gate::GateState,
    report::Report,
};
use anstyle::{AnsiColor, Style};
use std::fmt::Write as _;

/// Whether to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "colours or none")]
pub enum Paint {
    /// ANSI colours.
    Colour,
    /// Plain text.
    #[default]
    Plain,
}

/// Columns of a card.
const WIDTH: usize = 80;
/// Columns that a severity has before its fields.
const LEAD: usize = 15;

impl Paint {
    fn paint(self, style: Style, text: &str) -> String {
        match self {
            Self::Colour => format!("{style}{text}{style:#}"),
            Self::Plain => text.to_owned(),
        }
    }
}

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GOOD: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Green)));
const DOUBT: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Yellow)));
const BAD: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Red))).bold();

fn style(standing: Standing) -> Style {
    match standing {
        Standing::Faster => GOOD,
        Standing::Tie => DIM,
        Standing::Undecided => DOUBT,
        Standing::Default => DIM,
    }
}

pub(crate) fn card(report: &Report, paint: Paint) -> String {
    let mut out = String::new();
    let rule = paint.paint(DIM, &"\u{2500}".repeat(WIDTH));
    let _ = writeln!(out, "{}", paint.paint(BOLD, "DECISION CARD"));
    wrapped(&mut out, &report.subject, 0, paint, DIM);
    let _ = writeln!(
        out,
        "{}\n{rule}",
        paint.paint(DIM, &fit(&format!("{} {}", if report.artefacts.is_empty() { "policy" } else { "run" }, report.id), WIDTH))
    );
    for why in &report.void {
        wrapped(&mut out, &format!("VOID: {why}"), 0, paint, BAD);
    }
    for answer in &report.answers {
        let name = format!("{:<9}", capital(&answer.phase.to_string()));
        let _ = writeln!(out, "{}{}", paint.paint(DIM, &name), paint.paint(BOLD, &answer.backend));
        wrapped(&mut out, &answer.sentence(), 9, paint, style(answer.standing()));
        let elsewhere: Vec<_> = answer.exceptions.iter().map(|e| format!("{} for {}", e.choice.backend, e.bucket)).collect();
        if !elsewhere.is_empty() {
            wrapped(&mut out, &format!("but {}", elsewhere.join("; ")), 9, paint, Style::new());
        }
    }
    if let Some(why) = &report.card.no_policy {
        wrapped(&mut out, &format!("No policy can be made: {why}. Route to the backend you trust."), 0, paint, BAD);
    }
    decisions(&mut out, report, paint, &rule);
    gates(&mut out, report, paint, &rule);
    triggers(&mut out, report, paint, &rule);
    out
}

fn decisions(out: &mut String, report: &Report, paint: Paint, rule: &str) {
    if report.card.decisions.is_empty() {
        return;
    }
    let _ = writeln!(out, "{rule}");
    let head = format!("{:<14}{:>5}{:>7}{:>5}  {:<13}{:<11}{}", "class", "batch", "prompt", "new", "route", "standing", "time ratio");
    let _ = writeln!(out, "{}", paint.paint(DIM, &head));
    for row in &report.card.decisions {
        let Alone { backend, standing, ratio, why, .. } = &row.route;
        let left = format!("{:<14}{:>5}{:>7}{:>5}  ", row.class.to_string(), row.batch, row.prompt_tokens, row.new_tokens);
        let backend = paint.paint(BOLD, &format!("{:<13}", fit(backend, 12)));
        // A reason needs the room that a ratio does not take.
        let rest = match ratio {
            Some(ratio) => paint.paint(style(*standing), &format!("{:<11}", standing.word())) + &fit(&ratio.text(), WIDTH - 57),
            None => paint.paint(style(*standing), &fit(&format!("default: {why}"), WIDTH - 46)),
        };
        let _ = writeln!(out, "{left}{backend}{rest}");
    }
    let safe = report.card.default_safe.as_deref().unwrap_or("the default");
    let note = format!(
        "Ties (within {:.0} %) and doubts go to {safe}. Ratio: time over the other's, {:.0} % interval.",
        report.card.rope * 100.0,
        report.card.confidence * 100.0
    );
    wrapped(out, &note, 0, paint, DIM);
}

fn gates(out: &mut String, report: &Report, paint: Paint, rule: &str) {
    let _ = writeln!(out, "{rule}");
    let names = report.gates.iter().map(|g| width(g.name)).max().unwrap_or(0).max(13) + 2;
    for gate in &report.gates {
        let style = match gate.state {
            GateState::Pass => GOOD,
            GateState::Doubt => DOUBT,
            GateState::Fail => BAD,
            GateState::Closed | GateState::NoData => DIM,
        };
        let word = paint.paint(style, &format!("{:<8}", gate.state.word()));
        let _ = writeln!(out, "{word}{:<names$}{}", gate.name, paint.paint(DIM, &fit(&gate.detail, WIDTH - 8 - names)));
    }
}

fn triggers(out: &mut String, report: &Report, paint: Paint, rule: &str) {
    if report.triggers.is_empty() {
        return;
    }
    let _ = writeln!(out, "{rule}\n{}", paint.paint(BOLD, "Measure again when one of these changes"));
    for trigger in &report.triggers {
        let mut names: Vec<_> = trigger.fields.iter().map(|[name, _]| name.split(" (").next().unwrap_or(name)).collect();
        names.dedup();
        let mut lines = String::new();
        wrapped(&mut lines, &names.join(", "), LEAD, paint, DIM);
        let lead = format!("{:<LEAD$}", trigger.severity.to_string().replace('_', " "));
        let _ = write!(out, "{lead}{}", lines.get(LEAD..).unwrap_or_default());
    }
    wrapped(out, "or when requests leave the measured batches and lengths.", 0, paint, DIM);
}

/// Text in lines of the card's width; every one is set in by `indent`.
fn wrapped(out: &mut String, text: &str, indent: usize, paint: Paint, style: Style) {
    let mut line = String::new();
    let mut lines = Vec::new();
    for word in text.split_inclusive(' ') {
        if width(&line) + width(word.trim_end()) > WIDTH - indent && !line.is_empty() {
            lines.push(std::mem::take(&mut line));
        }
        line.push_str(word);
    }
    lines.push(line);
    for line in lines {
        let _ = writeln!(out, "{}{}", " ".repeat(indent), paint.paint(style, line.trim_end()));
    }
}

fn fit(text: &str, most: usize) -> String {
    if width(text) <= most {
        return text.to_owned();
    }
    let short: String = text.chars().take(most.saturating_sub(1)).collect();
    format!("{short}\u{2026}")
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

fn width(text: &str) -> usize {
    text.chars().count()
}
