//! `llama-bench -o json` and `-o jsonl`.

use super::{Foreign, ForeignBoundary, ForeignRow, Part, Tool, mean_fits, scalar};
use crate::ExportError;
use phase_core::Phase;
use serde_json::{Map, Value};

/// By `test_prompt` and `test_gen` of llama.cpp at 0104b151c56d54143e2e3554aabe9e2b2b8dbdba: random tokens, decode calls, a
/// synchronisation; no tokenizer and no sampler is called between the two readings of the clock.
const REGION: [(&str, Part); 7] = [
    ("compute", Part::Inside),
    ("detokenize", Part::Outside),
    ("device_to_host", Part::Unknown),
    ("host_to_device", Part::Inside),
    ("queue", Part::Outside),
    ("sample", Part::Outside),
    ("tokenize", Part::Outside),
];

/// Fields that say what was measured, and not under which conditions.
const MEASURED: [&str; 10] =
    ["n_prompt", "n_gen", "n_depth", "test_time", "avg_ns", "stddev_ns", "avg_ts", "stddev_ts", "samples_ns", "samples_ts"];

pub(super) fn read(name: &str, text: &str, foreign: &mut Foreign) -> Result<(), ExportError> {
    for (number, row) in (1..).zip(rows(name, text)?) {
        let wrong = |what: String| ExportError::foreign(name, format!("row {number}: {what}"));
        let (boundary, row) = one(&row).map_err(wrong)?;
        foreign.add(&boundary, row);
    }
    Ok(())
}

/// One JSON array, or one object a line.
fn rows(name: &str, text: &str) -> Result<Vec<Map<String, Value>>, ExportError> {
    let wrong = |e: serde_json::Error| ExportError::foreign(name, e.to_string());
    if text.trim_start().starts_with('[') {
        return serde_json::from_str(text).map_err(wrong);
    }
    text.lines().filter(|line| !line.trim().is_empty()).map(|line| serde_json::from_str(line).map_err(wrong)).collect()
}

fn one(row: &Map<String, Value>) -> Result<(ForeignBoundary, ForeignRow), String> {
    let whole = |field: &str| row.get(field).and_then(Value::as_u64).ok_or_else(|| format!("`{field}` is no whole number"));
    let real = |field: &str| row.get(field).and_then(Value::as_f64).ok_or_else(|| format!("`{field}` is no number"));
    let (prompt, new, depth) = (whole("n_prompt")?, whole("n_gen")?, row.get("n_depth").and_then(Value::as_u64));
    let (mean, stddev, rate) = (real("avg_ns")?, real("stddev_ns")?, real("avg_ts")?);
    let samples: Vec<f64> = match row.get("samples_ns") {
        Some(Value::Array(values)) => {
            values.iter().map(Value::as_f64).collect::<Option<_>>().ok_or("`samples_ns` holds more than numbers")?
        }
        _ => Vec::new(),
    };
    if mean <= 0.0 || samples.iter().any(|ns| *ns <= 0.0) {
        return Err("a test took no time: nothing was measured".to_owned());
    }
    if !mean_fits(mean, &samples) {
        return Err(format!("`avg_ns` is {mean}, its samples give {}", crate::llama_bench::mean(&samples)));
    }
    let at = depth.filter(|d| *d > 0).map_or_else(String::new, |d| format!(" @ d{d}"));
    let (test, phase, new_tokens) = match (prompt, new) {
        (0, 0) => return Err("a test of no tokens".to_owned()),
        (_, 0) => (format!("pp{prompt}{at}"), Some(Phase::Prefill), prompt),
        (0, _) => (format!("tg{new}{at}"), Some(Phase::Decode), new),
        _ => (format!("pp{prompt}+tg{new}{at}"), None, new),
    };
    let mut boundary = ForeignBoundary::new(Tool::LlamaBench, &REGION);
    for (field, value) in row.iter().filter(|(field, _)| !MEASURED.contains(&field.as_str())) {
        boundary.tell(field, scalar(value));
    }
    let caveat = match phase {
        Some(Phase::Decode) => {
            Some("time of all tokens of the test, without sampling; the first runs on a path that only one token has warmed")
        }
        None => Some("prompt and generation in one number"),
        _ => None,
    };
    let row = ForeignRow {
        name: test,
        phase,
        batch: Some(1),
        new_tokens: Some(new_tokens),
        context: depth,
        metric: "latency".to_owned(),
        unit: "ns".to_owned(),
        mean,
        stddev: (samples.len() > 1).then_some(stddev),
        samples,
        rate: Some((rate, "tokens/s".to_owned())),
        caveat: caveat.map(str::to_owned),
        boundary: String::new(),
    };
    Ok((boundary, row))
}
