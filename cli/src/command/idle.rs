//! `phase idle`: what standing idle does to a loaded model.

use crate::{
    argument,
    exit::{Failure, note, say},
    progress::Steps,
    setting::Setting,
};
use phase_core::MonotonicClock;
use phase_policy::constants::Constants;
use phase_scenario::{Calls, IdleFile, IdlePlan, measure_idle, write_atomically};
use std::{sync::Arc, time::Duration};

pub(crate) fn run(setting: &Setting, arguments: &argument::Idle) -> Result<(), Failure> {
    let mut plan = if arguments.effort == "full" { IdlePlan::full() } else { IdlePlan::short() };
    plan.prompt_tokens = arguments.prompt_tokens;
    // As `bench` does, so that both have one boundary.
    plan.calls = if setting.device == argument::Device::Cpu { Calls::Scores } else { Calls::Greedy };
    let spec = setting.load_spec(&arguments.checkpoint.model, arguments.checkpoint.dtype);
    let mut reports = Vec::new();
    let steps = Steps::new();
    let whole = u64::try_from(plan.at_least().as_millis()).unwrap_or(u64::MAX).saturating_mul(arguments.backends.len() as u64);
    let mut slept = 0;
    for name in &arguments.backends {
        let backend = setting.backend(name)?;
        note(&format!("{}: at least {:.0} s", backend.arm(), plan.at_least().as_secs_f64()));
        steps.at(slept, whole, format!("loading {}", backend.arm()));
        let model = backend.load_dyn(&spec).map_err(|e| Failure::of(&e))?;
        // Drawn before the model stands idle, never while it does.
        let mut sleep = |time: Duration| {
            steps.at(slept, whole, format!("{} stands idle for {:.1} s", backend.arm(), time.as_secs_f64()));
            std::thread::sleep(time);
            slept += u64::try_from(time.as_millis()).unwrap_or(0);
        };
        let report = measure_idle(&backend.arm(), model, &plan, Arc::new(MonotonicClock::new()), &mut sleep);
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
