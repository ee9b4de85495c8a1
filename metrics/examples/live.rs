//! An application that serves requests from two simulated models and exposes its metrics, until its standard input ends.
//!
//! `cargo run --release -p phase-metrics --example live -- 127.0.0.1:9464`, then `curl http://127.0.0.1:9464/metrics`.
//! `examples/observe.rs` does the same with a real model.

use phase_core::{
    Backend, BackendId, Clock, Energy, GenerateOptions, Greedy, LoadSpec, Measured, Model, MonotonicClock, NoData, Phase, PhaseEvent,
    RingSink, Session, Timestamp, TokenId,
    sim::{Sim, SimModel},
};
use phase_metrics::{Exporter, MetricsSink, Server, serve};
use phase_policy::{
    Actual, Ledger, Observation, Policy, PolicyOptions, Router, ScenarioMatrix, Slo, Workload,
    cost::{Bounded, WorkerCost},
};
use std::{
    error::Error,
    io::Read,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

const PROMPT: [TokenId; 8] = [TokenId(1); 8];
const NEW_TOKENS: usize = 4;
/// Requests measured in a block: enough for a bound of p95 where slow calls come in runs.
const MEASURED: usize = 400;

#[expect(clippy::print_stdout, reason = "a program that says where it listens")]
fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9464".to_owned());
    let stop = Arc::new(AtomicBool::new(false));
    let ended = stop.clone();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        ended.store(true, Ordering::Relaxed);
    });
    run(&address, &stop, |server| println!("http://{}/metrics until standard input ends", server.address()))
}

/// Listens on `address`, tells `ready`, and answers requests until `stop` is set.
pub(crate) fn run(address: &str, stop: &AtomicBool, ready: impl FnOnce(&Server)) -> Result<(), Box<dyn Error>> {
    let clock = Arc::new(MonotonicClock::new());
    let exporter = Exporter::new(clock.clone()).with_model("simulated");
    let backends = ["sim-a", "sim-b"].map(|name| Sim::named(BackendId::new(name)));
    let router = Router::new(policy(&backends)?).with_slo("ttft=1s,total=10s,p50".parse::<Slo>()?);
    exporter.set_policy(router.policy());
    exporter.set_cells(router.policy().cells());

    let load = |backend: &Sim| -> Result<Measured<SimModel, Arc<MonotonicClock>, MetricsSink>, Box<dyn Error>> {
        let start = clock.now();
        let model = backend.load(&LoadSpec::new("none"))?;
        exporter.record_load(backend.id().as_str(), clock.now().since(start));
        Ok(Measured::new(model, clock.clone(), exporter.sink()))
    };
    let mut models = backends.iter().map(load).collect::<Result<Vec<_>, _>>()?;
    let live: Vec<_> = backends.iter().zip(&models).map(|(b, m)| (b.id(), (**m.boundary()).clone())).collect();
    let router = router.with_live(&live);
    if let Some(validity) = router.validity() {
        exporter.set_validity(validity);
    }
    for (backend, model) in backends.iter().zip(&mut models) {
        exporter.set_evidence(backend.id().as_str(), &model.evidence()?);
        let cost = WorkerCost::new(Bounded::new(1000.0, 900.0, 1100.0)?, Bounded::exact(2.0)?).per_million()?;
        exporter.set_cost(backend.id().as_str(), &cost);
    }
    let mut ledger = Ledger::new(&router);
    let server = serve(address, exporter.clone())?;
    ready(&server);

    for request in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let decision = router.decide(&Workload::new(1, PROMPT.len(), NEW_TOKENS));
        exporter.record_decision(&decision);
        let routed = backends.iter().position(|b| b.id() == *decision.route.backend).ok_or("a backend of this application")?;
        // Every other request goes past the policy, so that both have something to show.
        let at = if request % 2 == 0 { routed } else { 1 - routed };
        if request % 100 == 99 {
            models[at] = load(&backends[at])?;
        }
        let mut session = Session::new(&mut models[at], PROMPT.len() + NEW_TOKENS)?;
        let mut answer = session.generate(&PROMPT, GenerateOptions::new(NEW_TOKENS), Greedy)?;
        let begin = clock.now();
        answer.next().transpose()?;
        let first = clock.now();
        // Every tenth caller gives up after one token, which was not what was predicted.
        if request % 10 != 9 {
            answer.try_for_each(|token| token.map(drop))?;
            if at == routed {
                let ns = |from: Timestamp, to: Timestamp| to.as_nanos().saturating_sub(from.as_nanos());
                ledger.note(decision.expectation().as_ref(), &Actual::new(ns(begin, first), ns(first, clock.now())));
                exporter.set_ledger(&ledger.snapshot());
            }
        }
        drop(answer);
        // No sensor here: that is said, not shown as zero joules.
        exporter.record_energy(backends[at].id().as_str(), Phase::Request, &Energy::NoData { reason: NoData::NoSource });
        std::thread::park_timeout(Duration::from_millis(5));
    }
    server.stop();
    Ok(())
}

/// Measures both backends for a moment and compiles a policy: enough to route by, too little to believe.
fn policy(backends: &[Sim]) -> Result<Policy, Box<dyn Error>> {
    let mut seen = Vec::new();
    let mut boundaries = std::collections::BTreeMap::new();
    for block in 0..5 {
        for backend in backends {
            let ring = Arc::new(RingSink::new(MEASURED * (NEW_TOKENS + 1)));
            let mut model = Measured::new(backend.load(&LoadSpec::new("none"))?, MonotonicClock::new(), ring.clone()).with_warmup(1);
            for _ in 0..MEASURED {
                let mut session = Session::new(&mut model, PROMPT.len() + NEW_TOKENS)?;
                session.generate(&PROMPT, GenerateOptions::new(NEW_TOKENS), Greedy)?.try_for_each(|token| token.map(drop))?;
            }
            let events: Vec<PhaseEvent> = ring.drain();
            for event in events.iter().filter(|e| e.phase != Phase::Request && e.duration() > Duration::ZERO) {
                let id = event.boundary.id();
                boundaries.entry(id.clone()).or_insert_with(|| (*event.boundary).clone());
                seen.push(Observation::from_event(event, id, block));
            }
        }
    }
    let matrix = ScenarioMatrix::build(&seen, &boundaries)?;
    Ok(Policy::compile(&matrix, &PolicyOptions::new(backends[0].id(), 1_760_000_000))?)
}
