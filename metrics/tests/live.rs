//! What an application sees of its own calls, to the last digit: a simulated model on a clock held by hand.

use phase_core::{
    Backend, BackendId, CacheSpec, Decode, Energy, EventSink, GenerateOptions, Greedy, Joules, LoadSpec, Logits, ManualClock, Measured,
    Model, NoData, Phase, Prefill, PromptBatch, RingSink, Session, TokenId, sim::Sim,
};
use phase_metrics::{Exporter, TextFormat, table};
use phase_policy::{LedgerEntry, LedgerSnapshot, Part, Regret, WindowReport, WindowVerdict};
use std::{sync::Arc, time::Duration};

fn exporter() -> (Exporter, Arc<ManualClock>) {
    // Every reading of the clock moves it by 1 ms: a call lasts 1 ms, and 1 ms lies between two calls.
    let clock = Arc::new(ManualClock::ticking(Duration::from_millis(1)));
    (Exporter::new(clock.clone()).with_model("tiny \"quoted\""), clock)
}

fn line<'t>(text: &'t str, begins: &str) -> &'t str {
    let mut found = text.lines().filter(|l| l.starts_with(begins));
    let first = found.next().unwrap_or_else(|| panic!("no line begins with {begins} in\n{text}"));
    assert_eq!(found.next(), None, "more than one line begins with {begins}");
    first.rsplit(' ').next().expect("it is there in a test")
}

#[test]
fn a_request_is_put_together_from_its_calls() {
    let (exporter, clock) = exporter();
    let mut model = Measured::new(Sim::default().load(&LoadSpec::new("none")).unwrap(), clock.clone(), exporter.sink());
    let mut session = Session::new(&mut model, 64).unwrap();
    for _ in 0..2 {
        // Request start at t, prefill t+1..t+2, decode steps of 1 ms with 1 ms between, end.
        assert_eq!(session.generate(&[TokenId(1), TokenId(2)], GenerateOptions::new(4), Greedy).unwrap().count(), 4);
    }
    let text = exporter.render(TextFormat::Prometheus);
    let who =
        r#"gen_ai_operation_name="text_completion",gen_ai_provider_name="phase",gen_ai_request_model="tiny \"quoted\"",backend="sim""#;
    let metric = |name: &str| line(&text, &format!("{name}{{{who}}}"));
    assert_eq!(metric("gen_ai_server_time_to_first_token_seconds_sum"), "0.004");
    assert_eq!(metric("gen_ai_server_time_to_first_token_seconds_count"), "2.0");
    // Ends of consecutive tokens are 2 ms apart.
    assert_eq!(metric("gen_ai_server_time_per_output_token_seconds_sum"), "0.004");
    assert_eq!(metric("gen_ai_server_request_duration_seconds_sum"), "0.018");
    // The second turn has the first turn's prompt and answer as its input.
    assert_eq!(line(&text, &format!("gen_ai_client_token_usage_sum{{{who},gen_ai_token_type=\"input\"}}")), "10.0");
    assert_eq!(line(&text, &format!("gen_ai_client_token_usage_sum{{{who},gen_ai_token_type=\"output\"}}")), "8.0");
    assert_eq!(line(&text, r#"phase_call_duration_seconds_count{backend="sim",phase="prefill",regime="cold"}"#), "1.0");
    assert_eq!(line(&text, r#"phase_call_duration_seconds_count{backend="sim",phase="decode",regime="steady"}"#), "3.0");
    assert_eq!(line(&text, r#"phase_call_duration_seconds_bucket{backend="sim",phase="decode",regime="steady",le="0.001"}"#), "3.0");
    assert_eq!(line(&text, r#"phase_call_duration_seconds_bucket{backend="sim",phase="decode",regime="steady",le="0.0005"}"#), "0.0");
    assert_eq!(line(&text, r#"phase_cold_calls_total{backend="sim",phase="decode"}"#), "1.0");
    assert_eq!(line(&text, r#"phase_busy_tokens_per_second{backend="sim",phase="decode"}"#), "1000.0");
    assert_eq!(line(&text, r#"phase_decode_fraction{backend="sim"}"#), "1.0");
    assert!(!text.contains("phase_requests_unmatched_total"));
}

#[test]
fn a_request_whose_calls_are_not_known_has_no_ttft() {
    let ring = Arc::new(RingSink::new(64));
    let (exporter, clock) = exporter();
    let mut model = Measured::new(Sim::default().load(&LoadSpec::new("none")).unwrap(), clock, ring.clone());
    for _ in 0..2 {
        let mut session = Session::new(&mut model, 64).unwrap();
        assert_eq!(session.generate(&[TokenId(1)], GenerateOptions::new(3), Greedy).unwrap().count(), 3);
    }
    let events = ring.drain();
    let (first, second) = events.split_at(events.len() / 2);
    let sink = exporter.sink();
    // The calls of both conversations, one after the other in turn, then the request that ended each.
    for (a, b) in first.iter().zip(second) {
        sink.record(a);
        sink.record(b);
    }
    // And one whose calls went to another sink.
    exporter.sink().record(first.last().unwrap());
    let text = exporter.render(TextFormat::Prometheus);
    assert_eq!(line(&text, r#"phase_requests_unmatched_total{backend="sim"}"#), "1.0");
    let both = text.lines().find(|l| l.starts_with("gen_ai_server_time_per_output_token_seconds_sum")).unwrap();
    assert!(both.ends_with(" 0.004"), "{both}");
    let requests = text.lines().find(|l| l.starts_with("gen_ai_server_request_duration_seconds_count")).unwrap();
    assert!(requests.ends_with(" 3.0"), "{requests}");
}

#[test]
fn failures_enter_no_histogram() {
    let (exporter, clock) = exporter();
    let mut model = Measured::new(Sim::default().load(&LoadSpec::new("none")).unwrap(), clock.clone(), exporter.sink());
    let mut cache = model.allocate(CacheSpec { batch: 1, capacity: 1 }).unwrap();
    let mut logits = Logits::new();
    model.prefill(&mut cache, PromptBatch::single(&[TokenId(1)]).unwrap(), &mut logits).unwrap();
    assert!(model.decode(&mut cache, &[TokenId(1)], &mut logits).is_err());
    clock.advance(Duration::from_secs(30));
    let text = exporter.render(TextFormat::Prometheus);
    assert_eq!(line(&text, r#"phase_failed_calls_total{backend="sim",phase="decode",kind="context_overflow"}"#), "1.0");
    assert!(!text.contains(r#"phase_call_duration_seconds_count{backend="sim",phase="decode""#));
    let idle: f64 = line(&text, r#"phase_idle_age_seconds{backend="sim"}"#).parse().unwrap();
    assert!((30.0..30.1).contains(&idle), "{idle}");
}

#[test]
fn energy_without_a_number_adds_no_joules() {
    let (exporter, _) = exporter();
    let joules = |j: f64| Energy::Measured { joules: Joules(j), low: Joules(j - 1.0), high: Joules(j + 1.0) };
    exporter.record_energy("gpu", Phase::Prefill, &joules(10.0));
    exporter.record_energy("gpu", Phase::Prefill, &joules(20.0));
    exporter.record_energy("gpu", Phase::Prefill, &Energy::NoData { reason: NoData::TooFewUpdates });
    exporter.record_energy("gpu", Phase::Decode, &Energy::NoData { reason: NoData::NoSource });
    let text = exporter.render(TextFormat::OpenMetrics);
    assert_eq!(line(&text, r#"phase_energy_joules_total{backend="gpu",phase="prefill",status="measured"}"#), "30.0");
    assert_eq!(line(&text, r#"phase_energy_low_joules_total{backend="gpu",phase="prefill",status="measured"}"#), "28.0");
    assert_eq!(line(&text, r#"phase_energy_events_total{backend="gpu",phase="prefill",status="no_data"}"#), "1.0");
    assert_eq!(line(&text, r#"phase_energy_no_data_total{backend="gpu",phase="decode",reason="no_source"}"#), "1.0");
    assert!(
        !text.contains(r#"joules_total{backend="gpu",phase="decode""#)
            && !text.contains(r#"joules_total{backend="gpu",phase="prefill",status="no_data""#)
    );
}

#[test]
fn backends_beyond_the_most_are_counted_and_not_kept() {
    let (exporter, clock) = exporter();
    for n in 0..34 {
        let sim = Sim::named(BackendId::from(format!("b{n}"))).load(&LoadSpec::new("none")).unwrap();
        let mut model = Measured::new(sim, clock.clone(), exporter.sink());
        let mut cache = model.allocate(CacheSpec { batch: 1, capacity: 4 }).unwrap();
        model.decode(&mut cache, &[TokenId(1)], &mut Logits::new()).unwrap();
    }
    let text = exporter.render(TextFormat::Prometheus);
    assert_eq!(line(&text, "phase_events_unlisted_total"), "2.0");
    assert!(text.contains(r#"backend="b31""#) && !text.contains(r#"backend="b32""#));
}

#[test]
fn the_text_names_only_what_is_in_the_table() {
    let (exporter, _) = exporter();
    exporter.record_load("x", Duration::from_millis(1500));
    let text = exporter.render(TextFormat::OpenMetrics);
    for name in text.lines().filter_map(|l| l.strip_prefix("# TYPE ")).filter_map(|l| l.split(' ').next()) {
        assert!(table::METRICS.iter().any(|m| m.family() == name), "{name}");
    }
    assert_eq!(line(&text, r#"phase_model_load_seconds_total{backend="x"}"#), "1.5");
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn a_ledger_is_told_as_it_is() {
    let (exporter, _) = exporter();
    assert!(!exporter.render(TextFormat::Prometheus).contains("phase_ledger"));
    let window = WindowReport { verdict: WindowVerdict::Median, ratio: 1.4, low: 1.3, high: 1.5, confidence: 0.99 };
    let entry = LedgerEntry {
        backend: BackendId::new("sim"),
        part: Part::DecodeStep,
        requests: 1000,
        predicted_seconds: 1.0,
        actual_seconds: 1.5,
        with_interval: 900,
        inside_interval: 600,
        with_p95: 500,
        below_p95: 450,
        windows: 5,
        bad_windows: 3,
        bad_in_a_row: 3,
        last_window: Some(window),
        remeasure: true,
    };
    let regret = Regret { requests: 10, worse: 4, regret_seconds: 0.5, saved_seconds: 2.0 };
    exporter.set_ledger(&LedgerSnapshot { policy_digest: "d".to_owned(), entries: vec![entry], regret, unpredicted: 7, unusable: 1 });
    let text = exporter.render(TextFormat::Prometheus);
    for (begins, value) in [
        ("phase_ledger_requests_total{backend=\"sim\",part=\"decode_step\"}", "1000.0"),
        ("phase_ledger_actual_seconds_total{backend=\"sim\",part=\"decode_step\"}", "1.5"),
        ("phase_ledger_interval_requests_total{backend=\"sim\",part=\"decode_step\",where=\"outside\"}", "300.0"),
        ("phase_ledger_p95_requests_total{backend=\"sim\",part=\"decode_step\",where=\"above\"}", "50.0"),
        ("phase_ledger_windows_total{backend=\"sim\",part=\"decode_step\",verdict=\"bad\"}", "3.0"),
        ("phase_ledger_window_ratio{backend=\"sim\",part=\"decode_step\",stat=\"median\"}", "1.4"),
        ("phase_ledger_remeasure{backend=\"sim\",part=\"decode_step\"}", "1.0"),
        ("phase_ledger_regret_seconds_total", "0.5"),
        ("phase_ledger_apart_requests_total{why=\"unpredicted\"}", "7.0"),
    ] {
        assert_eq!(line(&text, begins), value, "{begins}");
    }
}
