//! optimum-benchmark's `benchmark.json` (`config` and `report`) and `benchmark_report.json` (the report alone).

use super::{Foreign, ForeignBoundary, ForeignRow, Part, Tool, mean_fits, scalar};
use crate::ExportError;
use phase_core::Phase;
use serde_json::{Map, Value};

/// By `scenarios/inference/scenario.py` at b263af468a9e9a9a3d1449039849727352955646: whole calls of `generate` with prepared inputs.
const REGION: [(&str, Part); 7] = [
    ("compute", Part::Inside),
    ("detokenize", Part::Outside),
    ("device_to_host", Part::Unknown),
    ("host_to_device", Part::Unknown),
    ("queue", Part::Outside),
    ("sample", Part::Inside),
    ("tokenize", Part::Outside),
];

pub(super) fn read(name: &str, text: &str, foreign: &mut Foreign) -> Result<(), ExportError> {
    let wrong = |what: String| ExportError::foreign(name, what);
    let whole: Map<String, Value> = serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?;
    let none = Value::Null;
    let (config, report) = match whole.get("report") {
        Some(Value::Object(report)) => (whole.get("config").unwrap_or(&none), report),
        _ => (&none, &whole),
    };
    let boundary = boundary(config);
    let scenario = &config["scenario"];
    let shape = |field: &str| scenario["input_shapes"][field].as_u64();
    let new = scenario["new_tokens"].as_u64().or_else(|| scenario["generate_kwargs"]["max_new_tokens"].as_u64());
    let prompt = shape("sequence_length");
    for (target, measurements) in report {
        let Value::Object(measurements) = measurements else {
            return Err(wrong(format!("`{target}` is no target of a report")));
        };
        let (phase, new_tokens, context) = match target.as_str() {
            "prefill" => (Some(Phase::Prefill), prompt, Some(0)),
            "decode" => (Some(Phase::Decode), new.and_then(|n| n.checked_sub(1)), prompt),
            "per_token" => (Some(Phase::Decode), Some(1), None),
            "generate" => (Some(Phase::Request), new, prompt),
            _ => (None, None, None),
        };
        let row = |metric: &str, unit: String, mean: f64| ForeignRow {
            name: target.clone(),
            phase,
            batch: shape("batch_size"),
            new_tokens,
            context,
            metric: metric.to_owned(),
            unit,
            mean,
            stddev: None,
            samples: Vec::new(),
            rate: None,
            caveat: None,
            boundary: String::new(),
        };
        let at = |what: String| wrong(format!("target `{target}`: {what}"));
        if let Some(Value::Object(latency)) = measurements.get("latency") {
            let (unit, mean, stddev, samples) = latency_of(latency).map_err(at)?;
            let throughput = measurements.get("throughput");
            let rate = throughput.and_then(|t| Some((t["value"].as_f64()?, t["unit"].as_str()?.to_owned())));
            let caveat = match target.as_str() {
                "prefill" => Some("a generate call for one token, sampling included; its rate is in samples, not tokens"),
                "decode" => {
                    Some("generate less the mean of prefill: the difference of two runs, unless the tool measured tokens one by one")
                }
                _ => None,
            };
            let stddev = (samples.len() > 1).then_some(stddev).flatten();
            foreign.add(&boundary, ForeignRow { stddev, samples, rate, caveat: caveat.map(str::to_owned), ..row("latency", unit, mean) });
        }
        if let Some(Value::Object(energy)) = measurements.get("energy") {
            let total = energy.get("total").and_then(Value::as_f64).ok_or_else(|| at("its energy has no `total`".to_owned()))?;
            let unit = energy.get("unit").and_then(Value::as_str).unwrap_or("kWh").to_owned();
            let caveat = "without bounds, and nothing checked that the sensor covered the phase; decode is the difference of two runs, and a \
                          zero may mean that no reading fell into it";
            foreign.add(&boundary, ForeignRow { caveat: Some(caveat.to_owned()), ..row("energy", unit, total) });
        }
    }
    Ok(())
}

type Latency = (String, f64, Option<f64>, Vec<f64>);

fn latency_of(latency: &Map<String, Value>) -> Result<Latency, String> {
    let unit = latency.get("unit").and_then(Value::as_str).ok_or("its latency has no unit")?;
    let mean = latency.get("mean").and_then(Value::as_f64).ok_or("its latency has no mean")?;
    let samples: Vec<f64> = match latency.get("values") {
        Some(Value::Array(values)) => values.iter().map(Value::as_f64).collect::<Option<_>>().ok_or("its values are not all numbers")?,
        _ => Vec::new(),
    };
    if mean <= 0.0 || samples.iter().any(|s| *s < 0.0) {
        return Err("a latency that is not above 0".to_owned());
    }
    if !mean_fits(mean, &samples) {
        return Err(format!("its mean is {mean}, its values give {}", crate::llama_bench::mean(&samples)));
    }
    Ok((unit.to_owned(), mean, latency.get("stdev").and_then(Value::as_f64), samples))
}

/// What the configuration tells of the conditions. Of a report alone nothing is known.
fn boundary(config: &Value) -> ForeignBoundary {
    let mut boundary = ForeignBoundary::new(Tool::OptimumBenchmark, &REGION);
    for field in
        ["name", "version", "model", "device", "device_ids", "torch_dtype", "torch_compile", "attn_implementation", "quantization_scheme"]
    {
        boundary.tell(&format!("backend.{field}"), scalar(&config["backend"][field]));
    }
    for field in
        ["cpu", "cpu_count", "cpu_ram_mb", "system", "machine", "gpu", "gpu_count", "optimum_benchmark_version", "transformers_version"]
    {
        boundary.tell(&format!("environment.{field}"), scalar(&config["environment"][field]));
    }
    for field in ["iterations", "duration", "warmup_runs"] {
        boundary.tell(&format!("scenario.{field}"), scalar(&config["scenario"][field]));
    }
    boundary
}
