//! `phase policy` and `phase decide`.

use crate::{
    argument,
    exit::{Failure, chain, note, say},
    progress::{during, watched},
};
use phase_core::{Arm, BackendId};
use phase_policy::{Ceilings, Policy, PolicyOptions, Router, Workload, capacity::Mix};
use std::path::Path;

pub(crate) fn run(arguments: &argument::Policy) -> Result<(), Failure> {
    match &arguments.command {
        Some(argument::PolicyCommand::Show { policy, json }) => show(policy, *json),
        None => compile(arguments),
    }
}

fn show(path: &Path, json: bool) -> Result<(), Failure> {
    let policy = read(path)?;
    say(&if json {
        policy.to_json()
    } else {
        format!("Compiled {}.\n{}", phase_scenario::rfc3339(policy.created_unix_s()), policy.summary())
    })
}

fn compile(arguments: &argument::Policy) -> Result<(), Failure> {
    let out = arguments.out.as_deref().ok_or_else(|| Failure::Usage("--out names the policy file to write".to_owned()))?;
    let loaded = watched(|watch| phase_scenario::load_runs_with(&arguments.runs, watch)).map_err(|e| Failure::work(&e))?;
    let default_safe = default_safe(arguments, &paths(loaded.backends()))?;
    let mut options = PolicyOptions::new(default_safe, loaded.created_unix_s())
        .with_rope(arguments.rope)
        .with_runs(loaded.run_ids())
        .with_evidence(loaded.evidence());
    if let Some(mix) = &arguments.mix {
        options = options.with_mix(Mix::parse(mix).map_err(|e| Failure::Usage(format!("--mix: {e}")))?);
    }
    for (run, why) in loaded.unproven() {
        note(&format!("run {run}: {why}"));
    }
    if let Some(file) = &arguments.idle {
        let text = std::fs::read_to_string(file).map_err(|e| Failure::Usage(format!("{}: {e}", file.display())))?;
        let idle = phase_scenario::IdleFile::from_json(&file.display().to_string(), &text).map_err(|e| Failure::work(&e))?;
        let curves = idle.curves(&options.constants).map_err(|e| Failure::work(&e))?;
        options = options.with_idle_curves(curves);
    }
    let matrix = during("building the matrix", || loaded.matrix()).map_err(|e| Failure::work(&e))?;
    let ceilings = arguments.ceiling.iter().map(|text| ceiling(text)).collect::<Result<Vec<_>, _>>()?;
    for (at, (id, _)) in ceilings.iter().enumerate() {
        let measured = paths(loaded.backends());
        if !measured.contains(id) {
            let there = measured.iter().map(BackendId::as_str).collect::<Vec<_>>().join(", ");
            return Err(Failure::Usage(format!("--ceiling {id} was not measured: one of {there}")));
        }
        if ceilings[..at].iter().any(|(before, _)| before == id) {
            return Err(Failure::Usage(format!("--ceiling {id} is given twice")));
        }
    }
    let known = |path: &BackendId| {
        let (_, ceilings) = ceilings.iter().find(|(id, _)| id == path)?;
        Some((loaded.least_work(path)?, *ceilings))
    };
    matrix.check_roofline(known).map_err(|e| Failure::work(&e))?;
    let policy = during("comparing the cells", || Policy::compile(&matrix, &options)).map_err(|e| Failure::work(&e))?;
    phase_scenario::write_atomically(out, policy.to_json().as_bytes()).map_err(|e| Failure::work(&e))?;
    note(&format!(
        "wrote {}: {} backends, {} cells, default-safe {}",
        out.display(),
        policy.backends().count(),
        policy.cells().len(),
        policy.default_safe()
    ));
    Ok(())
}

/// Reads `BACKEND=GBS` or `BACKEND=GBS/GFLOPS`.
fn ceiling(text: &str) -> Result<(BackendId, Ceilings), Failure> {
    let read = || {
        let (backend, numbers) = text.split_once('=')?;
        let (bandwidth, operations) = match numbers.split_once('/') {
            Some((bandwidth, operations)) => (bandwidth, Some(operations.trim().parse::<f64>().ok()?)),
            None => (numbers, None),
        };
        let ceilings = Ceilings::bandwidth(bandwidth.trim().parse::<f64>().ok()? * 1e9)?;
        let ceilings = match operations {
            Some(rate) => ceilings.with_operations(rate * 1e9)?,
            None => ceilings,
        };
        Some((BackendId::from(backend.trim().to_owned()), ceilings))
    };
    read().ok_or_else(|| Failure::Usage(format!("--ceiling {text}: BACKEND=GBS or BACKEND=GBS/GFLOPS, both positive")))
}

/// The paths among competitors, each once.
fn paths(arms: Vec<Arm>) -> Vec<BackendId> {
    let mut paths: Vec<_> = arms.into_iter().map(|arm| arm.backend).collect();
    paths.dedup();
    paths
}

/// What was asked for; else ONNX Runtime, the source document's hypothesis, where it was measured; else the first.
fn default_safe(arguments: &argument::Policy, measured: &[BackendId]) -> Result<BackendId, Failure> {
    let names = || measured.iter().map(BackendId::as_str).collect::<Vec<_>>().join(", ");
    let means = |wanted: &str| measured.iter().find(|b| b.as_str() == wanted || b.as_str().split('-').next() == Some(wanted)).cloned();
    match &arguments.default_safe {
        Some(wanted) => {
            means(wanted).ok_or_else(|| Failure::Usage(format!("--default-safe {wanted} was not measured: one of {}", names())))
        }
        None => means("ort").or_else(|| measured.first().cloned()).ok_or_else(|| Failure::Check("no run measured any backend".to_owned())),
    }
}

/// Reads and checks a policy file.
pub(crate) fn read(path: &Path) -> Result<Policy, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| Failure::Usage(format!("{}: {e}", path.display())))?;
    Policy::from_json(&text).map_err(|e| Failure::Check(format!("{}: {}", path.display(), chain(&e))))
}

pub(crate) fn decide(arguments: &argument::Decide) -> Result<(), Failure> {
    if arguments.batch == 0 || arguments.prompt_tokens == 0 {
        return Err(Failure::Usage("--batch and --prompt-tokens must be at least 1".to_owned()));
    }
    let router = Router::new(read(&arguments.policy)?);
    let decision = router.decide(&Workload::new(arguments.batch, arguments.prompt_tokens, arguments.new_tokens));
    say(&if arguments.json {
        decision.to_json().to_string()
    } else if arguments.explain {
        decision.explain().wrapped()
    } else {
        decision.route.backend.to_string()
    })
}
