//! A policy in words: what it rests on, who wins where, what is cold. Not a decision: that is [`Explanation`](crate::Explanation).

use super::{Comparison, Policy};
use crate::{router::Nanos, rules::Standing, stats::Verdict};
use phase_core::{BackendId, Phase, Shape};
use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

/// Columns of a terminal. A single word that is longer gets a line of its own.
const COLUMNS: usize = 80;

/// Renders a [`Policy`] for people.
#[derive(Clone, Copy, Debug)]
pub struct Summary<'p>(pub(super) &'p Policy);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.lines() {
            wrap(f, &line)?;
        }
        Ok(())
    }
}

impl Summary<'_> {
    fn lines(&self) -> Vec<String> {
        let policy = self.0;
        let short = policy.digest().get(..16).unwrap_or_default();
        let runs = if policy.runs().is_empty() { "runs not named".to_owned() } else { format!("runs {}", policy.runs().join(", ")) };
        let mut lines = vec![format!("Policy {short} ({}), {runs}.", policy.schema)];
        if let Some(upgraded) = policy.upgraded() {
            lines.push(format!("Read from a document of {}, which lacks:", upgraded.schema));
            lines.extend(upgraded.lacks.iter().map(|l| format!("  - {l}")));
        }
        lines.push(format!("Default-safe: {}. It gets whatever is not listed as won below.", policy.default_safe()));
        lines.push(String::new());
        lines.push("Measured:".to_owned());
        lines.extend(policy.backends().map(|id| self.backend(id)));
        lines.push(String::new());
        lines.push(format!("Time over that of {}, by phase and challenger:", policy.default_safe()));
        lines.extend(self.standings());
        lines.push(String::new());
        lines.extend(self.compiling());
        lines.push(String::new());
        lines.extend(self.cold());
        lines.push(String::new());
        let c = policy.constants();
        lines.push(format!(
            "Ties: within {:.1}%, at {:.0}% confidence, from {} common blocks on. Warm pool: from {} times on. Hysteresis: {:.0}%.",
            c.rope * 100.0,
            c.confidence * 100.0,
            c.min_blocks,
            c.warm_pool_ratio,
            c.hysteresis * 100.0
        ));
        lines
    }

    fn backend(&self, id: &BackendId) -> String {
        let cells = self.0.cells().iter().filter(|c| c.key.backend == *id);
        let (calls, failures, count) = cells.fold((0_u64, 0_u64, 0), |(n, failed, count), c| (n + c.n, failed + c.failures, count + 1));
        let boundary = self.0.boundary(id).map_or_else(|| "unknown".to_owned(), |b| b.id());
        format!("  {id}: {count} cells, {calls} calls, {failures} failed; boundary {boundary}")
    }

    fn standings(&self) -> Vec<String> {
        let mut by: BTreeMap<(Phase, &BackendId), Vec<&Comparison>> = BTreeMap::new();
        for c in self.0.comparisons() {
            by.entry((c.phase, &c.challenger)).or_default().push(c);
        }
        if by.is_empty() {
            return vec!["  nothing to compare".to_owned()];
        }
        by.into_iter()
            .map(|((phase, challenger), comparisons)| {
                let of = |verdict: Option<Verdict>| comparisons.iter().filter(|c| c.verdict == verdict).copied().collect::<Vec<_>>();
                let mut line = format!("  {phase}, {challenger}:");
                let named = [
                    (Some(Verdict::Faster), "won"),
                    (Some(Verdict::Equivalent), "tied"),
                    (Some(Verdict::Ambiguous), "undecided"),
                    (Some(Verdict::Slower), "lost"),
                    (None, "not comparable"),
                ];
                let found: Vec<_> = named.iter().map(|(v, word)| (of(*v), word)).filter(|(c, _)| !c.is_empty()).collect();
                for (i, (comparisons, word)) in found.iter().enumerate() {
                    let _ = write!(line, "{} {word} {}", if i == 0 { "" } else { ";" }, comparisons.len());
                    let _ = write!(line, " ({})", comparisons.iter().map(|c| bucket(c)).collect::<Vec<_>>().join(", "));
                }
                line
            })
            .collect()
    }

    fn compiling(&self) -> Vec<String> {
        let verdicts = self.0.compiles();
        let mut by: BTreeMap<(&BackendId, Phase, String), Vec<String>> = BTreeMap::new();
        for v in &verdicts {
            let yes = if v.reason.allows() { "yes" } else { "no" };
            let at = size(v.phase, v.shape);
            let at = if let Standing::Measured(ratio) = v.standing { format!("{at} {:.2}", ratio.ratio) } else { at };
            by.entry((&v.backend, v.phase, format!("{yes}, {}", v.reason))).or_default().push(at);
        }
        let lines = by.into_iter().map(|((backend, phase, why), at)| format!("  {backend} {phase}: {why} ({})", at.join(", ")));
        let lines: Vec<_> = lines.collect();
        if lines.is_empty() {
            return vec!["Compiled modes: not measured".to_owned()];
        }
        std::iter::once("Compiling, with compiled time over eager time:".to_owned()).chain(lines).collect()
    }

    fn cold(&self) -> Vec<String> {
        let mut lines = vec!["Cold starts, the median over the steady one:".to_owned()];
        for w in self.0.warmups() {
            let must = if w.required { ": must be warm before it is routed to" } else { "" };
            let (cold, more) = (Nanos(w.cold_ns), Nanos(w.delta_ns.max(0.0)));
            lines.push(format!("  {} {} {}: {:.1} times ({cold}, {more} more){must}", w.backend, w.phase, size(w.phase, w.shape), w.ratio));
        }
        if self.0.warmups().is_empty() {
            lines.push("  not measured".to_owned());
        }
        lines.push("After standing idle:".to_owned());
        for c in self.0.idle_curves() {
            let [.., last] = c.points.as_slice() else { continue };
            let longest = Nanos(crate::stats::real(last.idle_ns));
            let says = match c.cools_after_ns {
                Some(ns) => format!("slower from {} on, {:.2} times after {longest}", Nanos(crate::stats::real(ns)), c.worst),
                None => format!("not surely slower, up to {longest}"),
            };
            let mode = if c.mode == crate::DEFAULT_MODE { String::new() } else { format!(" ({})", c.mode) };
            lines.push(format!("  {}{mode} {} {}: {says}", c.backend, c.phase, size(c.phase, c.shape)));
        }
        if self.0.idle_curves().is_empty() {
            lines.push("  not measured".to_owned());
        }
        lines
    }
}

fn bucket(c: &Comparison) -> String {
    let at = size(c.phase, c.shape);
    match c.standing {
        Standing::Measured(ratio) => format!("{at} {:.2}", ratio.ratio),
        Standing::TooFewBlocks { blocks: 1 } => format!("{at} 1 block"),
        Standing::TooFewBlocks { blocks } => format!("{at} {blocks} blocks"),
        Standing::ContextsDiffer { .. } => format!("{at} contexts differ"),
        Standing::Failures { .. } => format!("{at} calls failed"),
        Standing::Misplaced { .. } => format!("{at} ran elsewhere"),
        Standing::NotSteady { .. } => format!("{at} not steady"),
        Standing::NoEnergy => at,
    }
}

fn size(phase: Phase, Shape { batch, new_tokens, context }: Shape) -> String {
    if phase == Phase::Decode { format!("b{batch}/c{context}") } else { format!("b{batch}/n{new_tokens}") }
}

/// Writes one line as several, the later ones further in.
pub(crate) fn wrap(f: &mut impl fmt::Write, line: &str) -> fmt::Result {
    let indent = line.len() - line.trim_start().len();
    let mut column = 0;
    for word in line.split_whitespace() {
        let length = word.chars().count();
        if column == 0 {
            write!(f, "{:indent$}{word}", "")?;
            column = indent + length;
        } else if column + 1 + length > COLUMNS {
            write!(f, "\n{:1$}{word}", "", indent + 4)?;
            column = indent + 4 + length;
        } else {
            write!(f, " {word}")?;
            column += 1 + length;
        }
    }
    f.write_char('\n')
}
