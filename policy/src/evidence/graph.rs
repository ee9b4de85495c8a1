//! Captured CUDA graphs: nodes as the driver lists them, and how often they were replayed.

use super::{Cover, Level, Reading, Violation};
use phase_core::Phase;
use serde::Deserialize;
use std::collections::BTreeMap;

/// What a line's `schema` says.
const SCHEMA: &str = "phase.cuda-graph/1";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    schema: String,
    phase: Phase,
    batch: usize,
    /// Absent where the graph serves every length.
    #[serde(default)]
    new_tokens: Option<usize>,
    nodes: BTreeMap<String, u64>,
    replays: u64,
}

pub(super) fn read(text: &str) -> Result<Reading, String> {
    let mut reading = Reading::default();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let line: Line = serde_json::from_str(line).map_err(|e| format!("line {number}: {e}"))?;
        if line.schema != SCHEMA {
            return Err(format!("line {number}: schema `{}` where this version reads `{SCHEMA}`", line.schema));
        }
        let nodes = line.nodes.values().try_fold(0_u64, |sum, n| sum.checked_add(*n)).unwrap_or(0);
        if nodes == 0 || line.batch == 0 {
            return Err(format!("line {number}: a graph of {nodes} nodes for batch {}", line.batch));
        }
        let host = line.nodes.iter().filter(|(kind, _)| kind.contains("host")).map(|(_, n)| n).sum();
        if host > 0 {
            reading.violations.push(Violation::HostNodes { batch: line.batch, nodes: host });
        }
        // What was captured but never replayed covers nothing.
        if line.replays > 0 {
            reading.covers.push(Cover {
                phase: line.phase,
                batch: line.batch,
                tokens: line.new_tokens.filter(|_| line.phase != Phase::Decode),
            });
        }
        reading.level = reading.level.max(Some(if line.replays > 0 { Level::Executed } else { Level::Placed }));
    }
    if reading.level.is_none() { Err("it names no graph".to_owned()) } else { Ok(reading) }
}
