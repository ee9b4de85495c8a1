//! A policy in an application: measure once, route every request, notice when the policy no longer holds.
//!
//! `PHASE_MODEL=... cargo run --release -p phase-examples --example route` measures a few cells first; give it a policy
//! file made by `phase policy` to skip that.

use phase_backend_burn::Burn;
use phase_backend_candle::Candle;
use phase_core::{BackendId, BoxModel, GenerateOptions, Greedy, LoadSpec, Measured, MonotonicClock, NoopSink, Registry, Session, TokenId};
use phase_policy::{Policy, PolicyOptions, Router, Workload};
use std::{collections::BTreeMap, error::Error};

type Loaded = Measured<BoxModel, MonotonicClock, NoopSink>;

fn main() -> Result<(), Box<dyn Error>> {
    let path = phase_examples::model()?;
    // The application says which backends it has; no feature and no global picks one.
    let registry = Registry::new().with(Candle::cpu()).with(Burn::cpu());

    let policy = match std::env::args().nth(1) {
        Some(file) => Policy::from_json(&std::fs::read_to_string(file)?)?,
        None => {
            let matrix = phase_examples::measure(&registry, &path)?;
            Policy::compile(&matrix, &PolicyOptions::new(BackendId::new("candle-cpu"), 0))?
        }
    };

    let mut models = registry
        .iter()
        .map(|backend| Ok((backend.id_dyn(), Measured::new(backend.load_dyn(&LoadSpec::new(&path))?, MonotonicClock::new(), NoopSink))))
        .collect::<Result<BTreeMap<BackendId, Loaded>, Box<dyn Error>>>()?;

    // Where this process runs is held against where the policy was measured, once, at start-up.
    let live: Vec<_> = models.iter().map(|(id, model)| (id.clone(), (**model.boundary()).clone())).collect();
    let router = Router::new(policy).with_live(&live);
    println!("policy: {}\n", router.validity().expect("just set"));

    for workload in [Workload::new(1, 16, 8), Workload::new(1, 64, 2), Workload::new(1, 4000, 4)] {
        let decision = router.decide(&workload);
        println!("{}", decision.explain());
        let model = models.get_mut(decision.route.backend).ok_or("the policy routes to a backend that this application has not")?;
        let prompt: Vec<_> = (1..=u32::try_from(workload.prompt_tokens.min(64))?).map(TokenId).collect();
        let mut session = Session::new(model, prompt.len() + workload.new_tokens)?;
        let tokens = session.generate(&prompt, GenerateOptions::new(workload.new_tokens), Greedy)?.collect::<Result<Vec<_>, _>>()?;
        println!("{} generated {} tokens\n", decision.route.backend, tokens.len());
    }
    Ok(())
}
