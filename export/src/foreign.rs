//! Rows of other tools. They have a boundary of their own, most of whose fields nobody recorded, and a type of their own: nothing
//! here turns into an observation, a cell or a policy.

mod llama_bench;
mod optimum;

use crate::ExportError;
use phase_core::{Fact, Phase};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, fmt::Write};

/// Schema of a file of foreign rows.
pub const FOREIGN_SCHEMA: &str = "phase.foreign/1";

/// A tool whose rows can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Tool {
    /// `llama-bench -o json` or `-o jsonl`.
    LlamaBench,
    /// optimum-benchmark's `benchmark.json` or `benchmark_report.json`.
    OptimumBenchmark,
}

impl Tool {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::LlamaBench, Self::OptimumBenchmark];

    /// The name used in files: `llama-bench`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LlamaBench => "llama-bench",
            Self::OptimumBenchmark => "optimum-benchmark",
        }
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Whether a part of a request lies inside of a tool's timed region, by the tool's own documentation and source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "inside, outside, or nobody says")]
pub enum Part {
    /// Timed.
    Inside,
    /// Not timed.
    Outside,
    /// Not documented, or it depends on what was not recorded.
    Unknown,
}

/// The conditions of foreign numbers, as far as their file tells them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ForeignBoundary {
    /// Whose numbers.
    pub tool: Tool,
    /// What the tool recorded, under its names; what ours would need and it did not record is unknown, with the reason.
    pub facts: BTreeMap<String, Fact>,
    /// The parts of a request by the names of [`Includes`](phase_core::Includes).
    pub region: BTreeMap<String, Part>,
}

/// What every boundary needs to be held against another one. The tools record none of it.
const NEEDED: [&str; 6] =
    ["model.digest", "machine.kernel", "machine.governor", "machine.memory_gib", "runtime.library_digest", "definitions"];

impl ForeignBoundary {
    fn new(tool: Tool, region: &[(&str, Part)]) -> Self {
        let unknown = NEEDED.map(|name| (name.to_owned(), Fact::Unknown(format!("{tool} does not record it"))));
        Self { tool, facts: unknown.into(), region: region.iter().map(|(name, part)| ((*name).to_owned(), *part)).collect() }
    }

    fn tell(&mut self, name: &str, value: Option<String>) {
        let fact = value.filter(|v| !v.is_empty()).map_or_else(|| Fact::Unknown("not in the file".to_owned()), Fact::Known);
        self.facts.insert(name.to_owned(), fact);
    }

    /// A short name: `foreign-` and a hash of everything in it. It never equals the name of a boundary of ours.
    pub fn id(&self) -> String {
        let text = serde_json::to_string(self).unwrap_or_default();
        format!("foreign-{}", &blake3::hash(text.as_bytes()).to_hex()[..16])
    }
}

/// One number of another tool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ForeignRow {
    /// The tool's name for it: `pp512`, `tg128 @ d0`, `decode`.
    pub name: String,
    /// The phase that it is nearest to; `None` where it is none.
    pub phase: Option<Phase>,
    /// Sequences, where the file tells.
    pub batch: Option<u64>,
    /// Tokens added per sequence, where the file tells.
    pub new_tokens: Option<u64>,
    /// Tokens cached before, where the file tells.
    pub context: Option<u64>,
    /// What was measured, in the tool's words: `latency`, `energy`.
    pub metric: String,
    /// Its unit, in the tool's words.
    pub unit: String,
    /// The tool's mean.
    pub mean: f64,
    /// The tool's standard deviation; `None` where there is none, or for a single value.
    pub stddev: Option<f64>,
    /// The values, where the file has them.
    pub samples: Vec<f64>,
    /// The tool's rate and its unit.
    pub rate: Option<(f64, String)>,
    /// What one should know of this number.
    pub caveat: Option<String>,
    /// Name of its boundary in [`Foreign::boundaries`].
    pub boundary: String,
}

/// A file of foreign rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Foreign {
    /// [`FOREIGN_SCHEMA`].
    pub schema: String,
    /// Whose rows.
    pub tool: Tool,
    /// BLAKE3 of the file they were read from.
    pub source_blake3: String,
    /// Boundaries by their name.
    pub boundaries: BTreeMap<String, ForeignBoundary>,
    /// The rows, in the file's order.
    pub rows: Vec<ForeignRow>,
}

impl Foreign {
    /// Reads the rows of a file that `tool` wrote. `name` is for messages.
    ///
    /// # Errors
    /// [`ExportError::Foreign`] for a file that is not the tool's, has no rows, or contradicts itself.
    pub fn import(tool: Tool, name: &str, bytes: &[u8]) -> Result<Self, ExportError> {
        let mut foreign = Self {
            schema: FOREIGN_SCHEMA.to_owned(),
            tool,
            source_blake3: blake3::hash(bytes).to_hex().to_string(),
            boundaries: BTreeMap::new(),
            rows: Vec::new(),
        };
        let text = std::str::from_utf8(bytes).map_err(|e| ExportError::foreign(name, e.to_string()))?;
        match tool {
            Tool::LlamaBench => llama_bench::read(name, text, &mut foreign)?,
            Tool::OptimumBenchmark => optimum::read(name, text, &mut foreign)?,
        }
        if foreign.rows.is_empty() {
            return Err(ExportError::foreign(name, "there are no rows in it"));
        }
        Ok(foreign)
    }

    /// Reads a file of foreign rows back. `Ok(None)` for a file that is something else.
    ///
    /// # Errors
    /// [`ExportError::Foreign`] for one that is damaged.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Option<Self>, ExportError> {
        let head: Option<serde_json::Value> = serde_json::from_slice(bytes).ok();
        let Some(head) = head.filter(|head| head["schema"].as_str().is_some_and(|s| s.starts_with("phase.foreign/"))) else {
            return Ok(None);
        };
        if head["schema"] != FOREIGN_SCHEMA {
            return Err(ExportError::foreign(name, format!("schema {} where {FOREIGN_SCHEMA} is read", head["schema"])));
        }
        let foreign: Self = serde_json::from_value(head).map_err(|e| ExportError::foreign(name, e.to_string()))?;
        let lost = foreign.rows.iter().find(|row| !foreign.boundaries.contains_key(&row.boundary));
        match lost {
            Some(row) => Err(ExportError::foreign(name, format!("row {} names a boundary that is not there", row.name))),
            None => Ok(Some(foreign)),
        }
    }

    /// The file, as JSON.
    ///
    /// # Errors
    /// [`ExportError::Json`].
    pub fn to_json(&self) -> Result<String, ExportError> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// A section of a report in Markdown: the rows in a table of their own, and what is known and unknown of their boundaries.
    pub fn to_markdown(&self) -> String {
        let tool = self.tool;
        let mut out = format!(
            "## Foreign rows: {tool}\n\nMeasured by {tool} under boundaries of its own. They are shown for orientation; no number above was \
             compared with them, and none can be.\n\n| name | phase | batch | new | context | what | mean | stddev | unit | n | rate | boundary \
             |\n|---|---|--:|--:|--:|---|--:|--:|---|--:|--:|---|\n"
        );
        let maybe = |n: Option<u64>| n.map_or_else(|| "?".to_owned(), |n| n.to_string());
        for row in &self.rows {
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {}{} | {} | {} | {} | {} | {} | {} |",
                row.name,
                row.phase.map_or("-", Phase::as_str),
                maybe(row.batch),
                maybe(row.new_tokens),
                maybe(row.context),
                row.metric,
                if row.caveat.is_some() { " (!)" } else { "" },
                short(row.mean),
                row.stddev.map_or_else(|| "-".to_owned(), short),
                row.unit,
                if row.samples.is_empty() { "?".to_owned() } else { row.samples.len().to_string() },
                row.rate.as_ref().map_or_else(|| "-".to_owned(), |(rate, unit)| format!("{} {unit}", short(*rate))),
                row.boundary
            );
        }
        let mut caveats: Vec<_> = self.rows.iter().filter_map(|row| row.caveat.as_deref()).collect();
        caveats.dedup();
        for caveat in caveats {
            let _ = writeln!(out, "\n(!) {caveat}");
        }
        for (id, boundary) in &self.boundaries {
            let known: Vec<_> =
                boundary.facts.iter().filter(|(_, f)| matches!(f, Fact::Known(_))).map(|(k, f)| format!("{k} {f}")).collect();
            let unknown: Vec<_> = boundary.facts.iter().filter(|(_, f)| matches!(f, Fact::Unknown(_))).map(|(k, _)| k.as_str()).collect();
            let parts = |wanted: Part| {
                let names: Vec<_> = boundary.region.iter().filter(|(_, p)| **p == wanted).map(|(name, _)| name.as_str()).collect();
                if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
            };
            let _ = writeln!(
                out,
                "\nBoundary {id}. Timed: {}; not timed: {}; not known: {}. Known: {}. Unknown: {}.",
                parts(Part::Inside),
                parts(Part::Outside),
                parts(Part::Unknown),
                known.join("; "),
                unknown.join(", ")
            );
        }
        out
    }

    fn add(&mut self, boundary: &ForeignBoundary, mut row: ForeignRow) {
        row.boundary = boundary.id();
        self.boundaries.entry(row.boundary.clone()).or_insert_with(|| boundary.clone());
        self.rows.push(row);
    }
}

/// Five significant digits.
fn short(value: f64) -> String {
    let text = format!("{value:.4e}");
    text.parse::<f64>().map_or(text, |rounded| rounded.to_string())
}

/// A scalar of a foreign file as text.
fn scalar(value: &serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::String(text) => Some(text.clone()),
        serde_json::Value::Number(_) | serde_json::Value::Bool(_) => Some(value.to_string()),
        serde_json::Value::Array(items) if !items.is_empty() => Some(items.iter().filter_map(scalar).collect::<Vec<_>>().join(", ")),
        _ => None,
    }
}

/// Whether `mean` is that of `samples`, within a thousandth: a tool that rounds is no liar, one that mixes up its runs is.
fn mean_fits(mean: f64, samples: &[f64]) -> bool {
    let own = crate::llama_bench::mean(samples);
    samples.is_empty() || (mean - own).abs() <= own.abs() * 1e-3
}
