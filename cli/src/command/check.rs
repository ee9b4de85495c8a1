//! `phase check`: whether a policy holds on this machine.

use super::{plan, policy};
use crate::{
    argument,
    exit::{Failure, note, say},
    progress::{loading, watched},
    setting::Setting,
};
use phase_core::{BackendId, Measured, MeasurementBoundary, MonotonicClock, NoopSink};
use phase_energy::{SystemWall, Wall as _};
use phase_policy::{Changes, Drift, DriftVerdict, Policy, Router, Severity, capacity::Trace};
use std::path::Path;

pub(crate) fn run(setting: &Setting, arguments: &argument::Check) -> Result<(), Failure> {
    let policy = policy::read(&arguments.policy)?;
    let changes = match &arguments.model {
        Some(model) => {
            let live = boundaries(setting, &policy, model, arguments.dtype)?;
            with_age_and_sensors(&policy, Changes::of(&policy, &policy.validity(&live)))
        }
        None => {
            note("without --model: the checkpoint and what only loaded models tell are not checked");
            without_model(setting, &policy)
        }
    };
    if !arguments.evidence.is_empty() {
        let runs = watched(|watch| phase_scenario::load_runs_with(&arguments.evidence, watch)).map_err(|e| Failure::work(&e))?;
        policy.check_evidence(&runs.evidence()).map_err(|e| Failure::Check(e.to_string()))?;
    }
    let changes = match &arguments.trace {
        Some(path) => changes.with_drift(&policy, drift(&policy, path)?),
        None => changes,
    };
    say(&if arguments.json { serde_json::to_string(&changes).map_err(|e| Failure::work(&e))? } else { changes.to_string() })?;
    match changes.severity() {
        None | Some(Severity::Info) => Ok(()),
        Some(severity) => Err(Failure::Severity(severity)),
    }
}

/// What a trace says against the policy's mix.
fn drift(policy: &Policy, path: &Path) -> Result<DriftVerdict, Failure> {
    let trace = Trace::parse(&plan::text(path)?).map_err(|e| plan::in_file(path, &e))?;
    let mut drift = Drift::of(policy).ok_or_else(|| Failure::Usage("--trace: the policy was compiled without --mix".to_owned()))?;
    let router = Router::new(policy.clone());
    trace.arrivals().iter().for_each(|arrival| drift.note_routed(&router, &arrival.workload));
    let verdict = drift.verdict();
    if let DriftVerdict::TooFew { requests } = verdict {
        note(&format!("{requests} requests are too few to tell a drift"));
    }
    Ok(verdict)
}

/// What can be told without loading a model: the machine, what the runtimes tell when they are probed, the age, the sensors.
pub(crate) fn without_model(setting: &Setting, policy: &Policy) -> Changes {
    let probes: Vec<_> = setting.registry.iter().filter_map(|b| Some((b.id_dyn(), b.probe_dyn().ok()?))).collect();
    with_age_and_sensors(policy, Changes::of_probes(policy, &phase_core::machine(), &probes))
}

fn with_age_and_sensors(policy: &Policy, changes: Changes) -> Changes {
    let changes = changes.with_age(policy, plan::unix_seconds());
    // Drivers are loaded only for a policy that rests on one.
    if policy.cells().iter().any(|c| c.energy_basis.is_some()) {
        return changes.with_sensors(policy, &super::energy::live(), SystemWall.unix_ns() / 1_000_000_000);
    }
    changes
}

/// The boundaries under which this process would run the policy's backends.
fn boundaries(
    setting: &Setting,
    policy: &Policy,
    model: &Path,
    dtype: phase_core::DType,
) -> Result<Vec<(BackendId, MeasurementBoundary)>, Failure> {
    let mut live = Vec::new();
    // A path with several modes is loaded in the one that routes are decided in.
    for backend in setting.registry.iter().filter(|b| policy.mode(&b.id_dyn()).is_some_and(|mode| mode == b.arm().mode.as_str())) {
        match loading(backend, setting.load_spec(model, dtype)) {
            Ok(loaded) => {
                let measured = Measured::new(loaded, MonotonicClock::new(), NoopSink);
                live.push((backend.id_dyn(), (**measured.boundary()).clone()));
            }
            Err(e) => note(&format!("{}: {e}", backend.id_dyn())),
        }
    }
    Ok(live)
}
