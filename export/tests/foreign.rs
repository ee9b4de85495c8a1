//! Rows of other tools: what is read, what is refused, what they can never become.

use phase_core::{Fact, Phase};
use phase_export::{Foreign, Tool, foreign::Part};
use serde_json::{Value, json};

/// A row as llama-bench b6000 wrote it (its README's sample), shortened.
fn llama(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut row = json!({
        "build_commit": "8cf427ff", "build_number": 5163, "cpu_info": "AMD Ryzen 7", "gpu_info": "NVIDIA GeForce RTX 4080", "backends": "CUDA",
        "model_filename": "qwen2.gguf", "model_type": "qwen2 7B Q4_K - Medium", "model_size": 4_677_120_000_u64, "n_threads": 8,
        "n_prompt": 512, "n_gen": 0, "n_depth": 0, "test_time": "2025-04-24T11:57:09Z", "avg_ns": 70_285_660, "stddev_ns": 982_040,
        "avg_ts": 7285.676, "stddev_ts": 100.064, "samples_ns": [70_000_000, 70_571_320], "samples_ts": [7314.2, 7255.1]
    });
    change(&mut row);
    serde_json::to_vec(&json!([row])).expect("it is there in a test")
}

#[test]
fn llama_bench_rows_keep_their_words_and_say_what_is_unknown() {
    let foreign = Foreign::import(Tool::LlamaBench, "x.json", &llama(|_| {})).unwrap();
    let row = &foreign.rows[0];
    assert_eq!((row.name.as_str(), row.phase, row.new_tokens, row.unit.as_str()), ("pp512", Some(Phase::Prefill), Some(512), "ns"));
    assert_eq!((row.samples.len(), row.rate.as_ref().unwrap().1.as_str()), (2, "tokens/s"));
    let boundary = &foreign.boundaries[&row.boundary];
    assert_eq!(boundary.facts["gpu_info"], Fact::Known("NVIDIA GeForce RTX 4080".to_owned()));
    assert!(matches!(&boundary.facts["model.digest"], Fact::Unknown(why) if why.contains("llama-bench does not record it")));
    assert_eq!(
        (boundary.region["compute"], boundary.region["sample"], boundary.region["device_to_host"]),
        (Part::Inside, Part::Outside, Part::Unknown)
    );
    assert!(row.boundary.starts_with("foreign-"));
    let markdown = foreign.to_markdown();
    for said in
        ["## Foreign rows: llama-bench", "| pp512 | prefill | 1 | 512 | 0 |", "not timed: detokenize, queue, sample, tokenize", "Unknown:"]
    {
        assert!(markdown.contains(said), "{said} is not in\n{markdown}");
    }
    let back = Foreign::parse("x", foreign.to_json().unwrap().as_bytes()).unwrap().unwrap();
    assert_eq!(back, foreign);
    assert_eq!(Foreign::parse("x", b"{\"schema\":\"phase.run/1\"}").unwrap(), None);
    assert!(Foreign::parse("x", b"{\"schema\":\"phase.foreign/9\"}").is_err());
}

#[test]
fn llama_bench_rows_that_say_nothing_are_refused() {
    let refused = |change: &dyn Fn(&mut Value)| Foreign::import(Tool::LlamaBench, "x.json", &llama(change)).unwrap_err().to_string();
    for (said, change) in [
        ("`avg_ns` is 140571320", &(|r: &mut Value| r["avg_ns"] = json!(140_571_320)) as &dyn Fn(&mut Value)),
        ("`n_prompt` is no whole number", &|r| r["n_prompt"] = json!("512")),
        ("a test took no time", &|r| r["avg_ns"] = json!(0)),
        ("a test of no tokens", &|r| r["n_prompt"] = json!(0)),
        ("more than numbers", &|r| r["samples_ns"] = json!(["a"])),
    ] {
        let error = refused(change);
        assert!(error.starts_with("x.json: row 1: ") && error.contains(said), "{error}");
    }
    for bad in [&b"[]"[..], b"", b"{}", b"[1]", b"\xff", b"{\"n_prompt\": 1"] {
        assert!(Foreign::import(Tool::LlamaBench, "x", bad).is_err(), "{}", String::from_utf8_lossy(bad));
    }
    let lines =
        [llama(|_| {}), llama(|r| r["n_depth"] = json!(64))].map(|row| String::from_utf8(row).unwrap().trim_matches(['[', ']']).to_owned());
    let foreign = Foreign::import(Tool::LlamaBench, "x.jsonl", lines.join("\n").as_bytes()).unwrap();
    assert_eq!(foreign.rows[1].name, "pp512 @ d64");
    assert_eq!(foreign.boundaries.len(), 1, "one machine, one build: one boundary");
}

fn optimum() -> Value {
    let latency = |mean: f64| json!({ "unit": "s", "values": [mean, mean], "count": 2, "total": 2.0 * mean, "mean": mean, "p50": mean, "stdev": 0.0 });
    json!({
        "config": {
            "name": "pytorch_gpt2",
            "backend": { "name": "pytorch", "version": "2.8.0", "model": "gpt2", "device": "cuda", "torch_dtype": "float16", "device_ids": "0" },
            "scenario": { "name": "inference", "iterations": 10, "warmup_runs": 10, "new_tokens": null,
                          "input_shapes": { "batch_size": 4, "sequence_length": 128 }, "generate_kwargs": { "max_new_tokens": 64, "min_new_tokens": 64 } },
            "environment": { "cpu": "AMD EPYC", "gpu": ["NVIDIA A100"], "gpu_count": 1, "transformers_version": "4.56" }
        },
        "report": {
            "load_model": { "memory": null, "latency": latency(1.5), "throughput": null, "energy": null, "efficiency": null },
            "prefill": { "latency": latency(0.02), "throughput": { "value": 200.0, "unit": "samples/s" },
                         "energy": { "unit": "kWh", "cpu": 1e-7, "ram": 1e-8, "gpu": 3e-7, "total": 4.1e-7 } },
            "decode": { "latency": latency(0.6), "throughput": { "value": 420.0, "unit": "tokens/s" }, "energy": null }
        }
    })
}

#[test]
fn optimum_reports_are_rows_with_their_caveats() {
    let foreign = Foreign::import(Tool::OptimumBenchmark, "benchmark.json", optimum().to_string().as_bytes()).unwrap();
    let row = |name: &str, metric: &str| foreign.rows.iter().find(|r| r.name == name && r.metric == metric).unwrap();
    let prefill = row("prefill", "latency");
    assert_eq!((prefill.batch, prefill.new_tokens, prefill.rate.clone()), (Some(4), Some(128), Some((200.0, "samples/s".to_owned()))));
    let decode = row("decode", "latency");
    assert_eq!((decode.new_tokens, decode.context, decode.phase), (Some(63), Some(128), Some(Phase::Decode)));
    assert!(decode.caveat.as_deref().unwrap().contains("difference of two runs"));
    let energy = row("prefill", "energy");
    assert_eq!(energy.unit, "kWh");
    assert!(energy.caveat.is_some() && energy.samples.is_empty());
    assert_eq!(row("load_model", "latency").phase, None);
    let boundary = &foreign.boundaries[&decode.boundary];
    assert_eq!(boundary.facts["environment.gpu"], Fact::Known("NVIDIA A100".to_owned()));
    assert_eq!(boundary.facts["backend.attn_implementation"], Fact::Unknown("not in the file".to_owned()));
    // The report alone: the same numbers, and nothing known of the conditions.
    let alone = Foreign::import(Tool::OptimumBenchmark, "benchmark_report.json", optimum()["report"].to_string().as_bytes()).unwrap();
    assert_eq!(alone.rows.len(), foreign.rows.len());
    assert!(alone.boundaries.values().all(|b| b.facts.values().all(|f| matches!(f, Fact::Unknown(_)))));
    assert_eq!(alone.rows[0].batch, None);
}

#[test]
fn optimum_reports_that_contradict_themselves_are_refused() {
    for (pointer, value, said) in [
        ("/report/decode/latency/mean", json!(1.2), "its mean is 1.2"),
        ("/report/decode/latency/mean", json!(-0.6), "not above 0"),
        ("/report/decode/latency/unit", json!(null), "no unit"),
        ("/report/prefill/energy/total", json!("x"), "no `total`"),
        ("/report/decode", json!(7), "`decode` is no target"),
    ] {
        let mut report = optimum();
        *report.pointer_mut(pointer).unwrap() = value;
        let error = Foreign::import(Tool::OptimumBenchmark, "b.json", report.to_string().as_bytes()).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}
