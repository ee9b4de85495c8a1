//! `phase idle`: what standing idle does to a loaded model.

use crate::{
    argument,
    exit::{Failure, note, say},
    setting::Setting,
};
use phase_core::MonotonicClock;
use phase_policy::constants::Constants;
use phase_scenario::{Calls, IdleFile, IdlePlan, measure_idle, write_atomically};
use std::sync::Arc;

pub(crate) fn run(setting: &Setting, arguments: &argument::Idle) -> Result<(), Failure> {
    let mut plan = if arguments.effort == "full" { IdlePlan::full() } else { IdlePlan::short() };
    plan.prompt_tokens = arguments.prompt_tokens;
    // As `bench` does, so that both have one boundary.
    plan.calls = if setting.device == argument::Device::Cpu { Calls::Scores } else { Calls::Greedy };
    let spec = setting.load_spec(&arguments.checkpoint.model, arguments.checkpoint.dtype);
    let mut reports = Vec::new();
    for name in &arguments.backends {
        let backend = setting.backend(name)?;
        note(&format!("{}: at least {:.0} s", backend.arm(), plan.at_least().as_secs_f64()));
        let model = backend.load_dyn(&spec).map_err(|e| Failure::of(&e))?;
        let report = measure_idle(&backend.arm(), model, &plan, Arc::new(MonotonicClock::new()), &mut std::thread::sleep);
        reports.push(report.map_err(|e| Failure::work(&e))?);
    }
    let file = IdleFile::new(reports);
    let curves = file.curves(&Constants::default()).map_err(|e| Failure::work(&e))?;
    write_atomically(&arguments.out, file.to_json().map_err(|e| Failure::work(&e))?.as_bytes()).map_err(|e| Failure::work(&e))?;
    let mut text = String::new();
    for curve in &curves {
        let cools =
            curve.cools_after_ns.map_or("not surely slower".to_owned(), |ns| format!("surely slower from {} ms on", ns / 1_000_000));
        text += &format!("{} {}: {cools}; {:.2} times after the longest idle time\n", curve.backend, curve.phase, curve.worst);
    }
    say(&text)
}
