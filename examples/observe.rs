//! An application that shows Prometheus what it does: requests on a real model, with their phases, a cold start, loads, evidence.
//!
//! `PHASE_MODEL=... cargo run --release -p phase-examples --example observe -- 127.0.0.1:9464 60` serves `/metrics` while it answers
//! sixty requests; without arguments it listens on a free port, answers three and prints what a scrape sees. Dashboards and alerts
//! for it are in `dashboards/`; `metrics/examples/live.rs` does the same, and a policy, without a model.

use phase_backend_candle::Candle;
use phase_core::{Backend, Clock, Energy, GenerateOptions, Greedy, LoadSpec, Measured, Model, MonotonicClock, NoData, Phase, Session};
use phase_metrics::{Exporter, serve};
use phase_model::Checkpoint;
use std::{
    error::Error,
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
};

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let requests: u32 = std::env::args().nth(2).map_or(Ok(3), |n| n.parse())?;
    let path = phase_examples::model()?;
    let tokenizer = Checkpoint::open(&path)?.tokenizer()?;

    // One clock for calls and exporter: the idle age is a difference of its times.
    let clock = Arc::new(MonotonicClock::new());
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let exporter = Exporter::new(clock.clone()).with_model(&name);
    let server = serve(address.as_str(), exporter.clone())?;
    println!("http://{}/metrics", server.address());

    let start = clock.now();
    let model = Candle::cpu().load(&LoadSpec::new(&path))?;
    exporter.record_load("candle-cpu", clock.now().since(start));
    let mut model = Measured::new(model, clock, exporter.sink());
    exporter.set_boundary("candle-cpu", model.boundary());
    let prompt = tokenizer.encode("The capital of France is")?;
    for _ in 0..requests {
        let mut session = Session::new(&mut model, 64)?;
        session.generate(&prompt, GenerateOptions::new(16), Greedy)?.try_for_each(|token| token.map(drop))?;
        // Nobody attributes energy here: that is said, not shown as zero joules.
        exporter.record_energy("candle-cpu", Phase::Request, &Energy::NoData { reason: NoData::NotRecorded });
    }
    exporter.set_evidence("candle-cpu", &model.evidence()?);

    let mut scrape = TcpStream::connect(server.address())?;
    scrape.write_all(b"GET /metrics HTTP/1.1\r\n\r\n")?;
    let mut text = String::new();
    scrape.read_to_string(&mut text)?;
    for line in text.lines().filter(|l| l.contains("_count{") || l.starts_with("phase_busy") || l.starts_with("phase_evidence")) {
        println!("{line}");
    }
    // Dropping the server would do the same: connections are answered to their end.
    server.stop();
    Ok(())
}
