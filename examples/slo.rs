//! A service in small: routes with limits, warms before it routes, keeps a ledger, and reacts when a boundary changes.
//!
//! `PHASE_MODEL=... cargo run --release -p phase-examples --example slo`

use phase_backend_burn::Burn;
use phase_backend_candle::Candle;
use phase_core::{
    BackendId, BoxModel, CacheSpec, Decode as _, LoadSpec, Logits, Measured, MeasurementBoundary, Model as _, MonotonicClock, Phase,
    PhaseEvent, Prefill as _, PromptBatch, Registry, RingSink, Shape, TokenId,
};
use phase_policy::{Actual, Changes, Ledger, Policy, PolicyOptions, Router, SharedRouter, Slo, WarmupPlan, Workload};
use std::{collections::BTreeMap, error::Error, sync::Arc};

type Loaded = Measured<BoxModel, MonotonicClock, Arc<RingSink>>;

/// What this service is asked: scoring takes a prompt and no generation, chat takes both phases.
const TRAFFIC: [Workload; 3] = [Workload::new(1, 64, 1), Workload::new(1, 32, 8), Workload::new(1, 16, 8)];

fn main() -> Result<(), Box<dyn Error>> {
    let path = phase_examples::model()?;
    let registry = Registry::new().with(Candle::cpu()).with(Burn::cpu());
    let default_safe = BackendId::new("candle-cpu");
    let policy = Policy::compile(&phase_examples::measure(&registry, &path)?, &PolicyOptions::new(default_safe.clone(), 0))?;

    let sink = Arc::new(RingSink::new(1024));
    let mut models = BTreeMap::new();
    for backend in registry.iter() {
        models.insert(backend.id_dyn(), load(&registry, &backend.id_dyn(), &LoadSpec::new(&path), &sink)?);
    }
    // Limits by upper bounds; those on cold requests are wider, and move no route.
    let limits: Slo = "ttft=2s,tpot=500ms,p50".parse()?;
    let cold: Slo = "ttft=5s,p50".parse()?;
    let dress = |router: Router| router.with_slo(limits).with_cold_slo(cold);
    let shared = SharedRouter::new(dress(Router::new(policy.clone()).with_live(&live(&models))));

    // Before the first request: the exact phases and shapes that will be routed.
    let plan = WarmupPlan::new(&shared.load(), TRAFFIC);
    println!("Warm-up:\n{plan}\n");
    for (id, model) in &mut models {
        println!("{id}: {} calls warmed it", plan.run(id, model)?);
    }
    sink.drain();

    let mut ledger = Ledger::new(&shared.load());
    for _ in 0..4 {
        for workload in TRAFFIC {
            serve(&shared.load(), &mut models, &sink, &mut ledger, workload)?;
        }
    }
    for entry in ledger.snapshot().entries {
        let ratio = entry.actual_seconds / entry.predicted_seconds;
        println!("{} {}: {} requests took {ratio:.2} of what was predicted", entry.backend, entry.part.as_str(), entry.requests);
    }
    for due in ledger.remeasure(&policy) {
        println!("measure again: {} {}, {:.2} of the prediction", due.backend, due.part.as_str(), due.ratio);
    }

    // Somebody gives the default-safe backend another number of threads. Its numbers are void from here on.
    let threads = if std::thread::available_parallelism()?.get() == 1 { 2 } else { 1 };
    models.insert(default_safe.clone(), load(&registry, &default_safe, &LoadSpec::new(&path).with_threads(threads), &sink)?);
    let now = live(&models);
    let changes = Changes::of(&policy, &policy.validity(&now));
    println!("\n{changes}\n");
    if changes.severity().is_none() {
        return Err("the change of threads went unnoticed".into());
    }
    shared.replace(dress(Router::new(policy).with_live(&now)));
    let router = shared.load();
    let decision = router.decide(&TRAFFIC[1]);
    println!("{}", decision.explain());
    if decision.route.backend != &default_safe || decision.predicted().is_some() {
        return Err("numbers of another boundary were used".into());
    }
    Ok(())
}

fn load(registry: &Registry, id: &BackendId, spec: &LoadSpec, sink: &Arc<RingSink>) -> Result<Loaded, Box<dyn Error>> {
    Ok(Measured::new(registry.get(id.as_str())?.load_dyn(spec)?, MonotonicClock::new(), Arc::clone(sink)))
}

fn live(models: &BTreeMap<BackendId, Loaded>) -> Vec<(BackendId, MeasurementBoundary)> {
    models.iter().map(|(id, model)| (id.clone(), (**model.boundary()).clone())).collect()
}

/// One request. A cache belongs to one backend, so a request with both phases is routed as a whole; one that only prefills goes
/// where prefill is best.
fn serve(
    router: &Router,
    models: &mut BTreeMap<BackendId, Loaded>,
    sink: &RingSink,
    ledger: &mut Ledger,
    workload: Workload,
) -> Result<(), Box<dyn Error>> {
    let Workload { batch, prompt_tokens, new_tokens, .. } = workload;
    let decision = router.decide(&workload);
    let backend = if workload.decode_steps() == 0 {
        router.decide_phase(Phase::Prefill, Shape { batch, new_tokens: prompt_tokens, context: 0 }).backend
    } else {
        decision.route.backend
    };
    let model = models.get_mut(backend).ok_or("the policy routes to a backend that this application has not")?;
    let mut cache = model.allocate(CacheSpec { batch, capacity: prompt_tokens + new_tokens })?;
    let prompt: Vec<_> = (1..=u32::try_from(prompt_tokens)?).map(TokenId).collect();
    let mut logits = Logits::new();
    model.prefill(&mut cache, PromptBatch::single(&prompt)?, &mut logits)?;
    for _ in 0..workload.decode_steps() {
        model.decode(&mut cache, &logits.argmax(), &mut logits)?;
    }
    let events = sink.drain();
    let ns = |phase| events.iter().filter(|e| e.phase == phase).map(PhaseEvent::duration).map(|d| d.as_nanos()).sum::<u128>();
    let actual = Actual::new(u64::try_from(ns(Phase::Prefill))?, u64::try_from(ns(Phase::Decode))?);
    if backend == decision.route.backend {
        ledger.note(decision.expectation().as_ref(), &actual);
    }
    Ok(())
}
