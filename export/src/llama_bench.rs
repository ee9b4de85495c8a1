//! Rows as llama-bench writes them, in JSON and SQL, for the tools that read those.
//!
//! Fields, their order and types are those of llama.cpp at 0104b151c56d54143e2e3554aabe9e2b2b8dbdba
//! (`tools/llama-bench/llama-bench.cpp`). What llama-bench has and a run of ours has not (`n_cpu_moe`, `tensor_split`) says that
//! it is off; what is not known is `null`. `build_commit` names this program and the measurement boundary, so that two rows with
//! the same one were taken under the same conditions.

use crate::{
    ExportError,
    passes::{Pass, PassKey, passes},
};
use phase_core::{Fact, Layer, MeasurementBoundary};
use phase_scenario::Run;
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, fmt::Write};

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Bool,
    Whole,
    Real,
}

/// Fields in llama-bench's order.
const FIELDS: [(&str, Kind); 40] = [
    ("build_commit", Kind::Text),
    ("build_number", Kind::Whole),
    ("cpu_info", Kind::Text),
    ("gpu_info", Kind::Text),
    ("backends", Kind::Text),
    ("model_filename", Kind::Text),
    ("model_type", Kind::Text),
    ("model_size", Kind::Whole),
    ("model_n_params", Kind::Whole),
    ("n_batch", Kind::Whole),
    ("n_ubatch", Kind::Whole),
    ("n_threads", Kind::Whole),
    ("cpu_mask", Kind::Text),
    ("cpu_strict", Kind::Bool),
    ("poll", Kind::Whole),
    ("type_k", Kind::Text),
    ("type_v", Kind::Text),
    ("n_gpu_layers", Kind::Whole),
    ("n_cpu_moe", Kind::Whole),
    ("split_mode", Kind::Text),
    ("main_gpu", Kind::Whole),
    ("no_kv_offload", Kind::Bool),
    ("flash_attn", Kind::Whole),
    ("devices", Kind::Text),
    ("tensor_split", Kind::Text),
    ("tensor_buft_overrides", Kind::Text),
    ("load_mode", Kind::Text),
    ("embeddings", Kind::Bool),
    ("no_op_offload", Kind::Whole),
    ("no_host", Kind::Bool),
    ("fit_target", Kind::Whole),
    ("fit_min_ctx", Kind::Whole),
    ("n_prompt", Kind::Whole),
    ("n_gen", Kind::Whole),
    ("n_depth", Kind::Whole),
    ("test_time", Kind::Text),
    ("avg_ns", Kind::Whole),
    ("stddev_ns", Kind::Whole),
    ("avg_ts", Kind::Real),
    ("stddev_ts", Kind::Real),
];

/// Rows, and how many measured cells they leave out.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LlamaBench {
    rows: Vec<Map<String, Value>>,
    /// Cells of more than one sequence, which llama-bench does not have.
    pub batched: usize,
}

/// What llama-bench calls a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Test {
    prompt: usize,
    new: usize,
    depth: usize,
}

impl LlamaBench {
    /// The steady calls of `run` at batch 1: every prefill call is a repetition of a `pp` test, all decode calls of a pass one of a
    /// `tg` test at the depth it began. A pass with a failed call counts for nothing.
    ///
    /// # Errors
    /// [`ExportError::Nothing`] for a run without such calls.
    pub fn of(run: &Run) -> Result<Self, ExportError> {
        let mut rows = Vec::new();
        let mut batched = 0;
        for (key, passes) in passes(run) {
            if key.batch != 1 {
                batched += 1;
                continue;
            }
            let mut tests: BTreeMap<Test, Vec<u64>> = BTreeMap::new();
            for pass in passes.iter().filter(|p| p.failed == 0) {
                note(pass, &mut tests);
            }
            rows.extend(tests.iter().map(|(test, samples_ns)| row(run, &key, *test, samples_ns)));
        }
        if rows.is_empty() {
            let why = "no steady call at batch 1 went well".to_owned();
            return Err(ExportError::Nothing { format: "llama-bench", why });
        }
        Ok(Self { rows, batched })
    }

    /// `llama-bench -o json`.
    ///
    /// # Errors
    /// [`ExportError::Json`].
    pub fn to_json(&self) -> Result<String, ExportError> {
        Ok(serde_json::to_string_pretty(&self.rows)? + "\n")
    }

    /// `llama-bench -o sql`: for `sqlite3`. Unlike there, quotes in values are escaped and numbers are not quoted.
    pub fn to_sql(&self) -> String {
        let sql_type = |kind| match kind {
            Kind::Text => "TEXT",
            Kind::Bool | Kind::Whole => "INTEGER",
            Kind::Real => "REAL",
        };
        let columns: Vec<_> = FIELDS.iter().map(|(name, kind)| format!("  {name} {}", sql_type(*kind))).collect();
        let mut sql = format!("CREATE TABLE IF NOT EXISTS llama_bench (\n{}\n);\n\n", columns.join(",\n"));
        let names: Vec<_> = FIELDS.iter().map(|(name, _)| *name).collect();
        for row in &self.rows {
            let values: Vec<_> = FIELDS.iter().map(|(name, _)| literal(&row[*name])).collect();
            let _ = writeln!(sql, "INSERT INTO llama_bench ({}) VALUES ({});", names.join(", "), values.join(", "));
        }
        sql
    }
}

fn literal(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Bool(b) => u8::from(*b).to_string(),
        Value::String(text) => format!("'{}'", text.replace('\'', "''")),
        number => number.to_string(),
    }
}

fn note(pass: &Pass, tests: &mut BTreeMap<Test, Vec<u64>>) {
    for call in &pass.prefill {
        tests.entry(Test { prompt: call.tokens, new: 0, depth: call.context }).or_default().push(call.ns);
    }
    if let Some(first) = pass.decode.first() {
        let test = Test { prompt: 0, new: pass.decode.iter().map(|c| c.tokens).sum(), depth: first.context };
        tests.entry(test).or_default().push(pass.decode.iter().map(|c| c.ns).sum());
    }
}

fn row(run: &Run, key: &PassKey, test: Test, samples_ns: &[u64]) -> Map<String, Value> {
    let manifest = run.manifest();
    let boundary = run.boundaries().get(&key.boundary);
    let fact = |layer, name| known(boundary, layer, name);
    let entry = manifest.backend(&key.arm).and_then(|b| b.model.as_ref());
    let dtype = manifest.load.dtype.as_str();
    let cache = fact(Layer::Runtime, "cache_dtype").unwrap_or_else(|| dtype.to_owned());
    let on_gpu = key.arm.backend.as_str().ends_with("-cuda");
    // The file's name, not its path: where a model lies on this machine is nobody's business.
    let file = manifest.load.path.file_name().map(|name| name.to_string_lossy().into_owned());
    let model_type = fact(Layer::Model, "architecture").map(|architecture| format!("{architecture} {dtype}"));
    let tokens = test.prompt + test.new;
    let samples_ts: Vec<f64> = samples_ns.iter().map(|ns| 1e9 * real(tokens) / whole(*ns)).collect();
    let ns: Vec<f64> = samples_ns.iter().map(|ns| whole(*ns)).collect();
    let fields = [
        ("build_commit", json!(format!("{} boundary {}", manifest.program, key.boundary))),
        ("build_number", json!(null)),
        ("cpu_info", json!(fact(Layer::Machine, "cpu"))),
        ("gpu_info", json!(fact(Layer::Runtime, "gpu").unwrap_or_default())),
        ("backends", json!(key.arm.to_string())),
        ("model_filename", json!(file)),
        ("model_type", json!(model_type)),
        ("model_size", json!(entry.map(|m| m.weight_bytes).filter(|bytes| *bytes > 0))),
        ("model_n_params", json!(null)),
        ("n_batch", json!(if test.new == 0 { test.prompt } else { 1 })),
        ("n_ubatch", json!(if test.new == 0 { test.prompt } else { 1 })),
        ("n_threads", json!(fact(Layer::Runtime, "threads").and_then(|n| n.parse::<u64>().ok()))),
        ("cpu_mask", json!("0x0")),
        ("cpu_strict", json!(false)),
        ("poll", json!(null)),
        ("type_k", json!(cache)),
        ("type_v", json!(cache)),
        ("n_gpu_layers", json!(if on_gpu { -1 } else { 0 })),
        ("n_cpu_moe", json!(0)),
        ("split_mode", json!("none")),
        ("main_gpu", json!(0)),
        ("no_kv_offload", json!(false)),
        ("flash_attn", json!(-1)),
        ("devices", json!(key.arm.backend.as_str())),
        ("tensor_split", json!("0.00")),
        ("tensor_buft_overrides", json!("none")),
        ("load_mode", json!(null)),
        ("embeddings", json!(false)),
        ("no_op_offload", json!(0)),
        ("no_host", json!(false)),
        ("fit_target", json!(0)),
        ("fit_min_ctx", json!(0)),
        ("n_prompt", json!(test.prompt)),
        ("n_gen", json!(test.new)),
        ("n_depth", json!(test.depth)),
        ("test_time", json!(manifest.created)),
        ("avg_ns", json!(rounded(mean(&ns)))),
        ("stddev_ns", json!(rounded(stddev(&ns)))),
        ("avg_ts", json!(mean(&samples_ts))),
        ("stddev_ts", json!(stddev(&samples_ts))),
        ("samples_ns", json!(samples_ns)),
        ("samples_ts", json!(samples_ts)),
    ];
    fields.into_iter().map(|(field, value)| (field.to_owned(), value)).collect()
}

pub(crate) fn known(boundary: Option<&MeasurementBoundary>, layer: Layer, name: &str) -> Option<String> {
    match boundary?.stack.fact(layer, name)? {
        Fact::Known(value) => Some(value.clone()),
        Fact::Unknown(_) => None,
    }
}

pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / real(values.len())
}

/// As llama-bench: of a sample, and 0 for a single value.
pub(crate) fn stddev(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let middle = mean(values);
    let squares: f64 = values.iter().map(|v| (v - middle).powi(2)).sum();
    (squares / real(values.len() - 1)).sqrt()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a mean of durations is positive and fits; llama-bench cuts off too"
)]
fn rounded(ns: f64) -> u64 {
    ns as u64
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
pub(crate) fn real(n: usize) -> f64 {
    n as f64
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of one call are far below 2^53")]
pub(crate) fn whole(ns: u64) -> f64 {
    ns as f64
}
