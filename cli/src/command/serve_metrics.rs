//! `phase serve-metrics`: a run's numbers, a policy, and whether it holds on this machine, for Prometheus.

use super::{check, policy};
use crate::{
    argument,
    exit::{Failure, note},
    progress::watched,
    setting::Setting,
};
use phase_core::MonotonicClock;
use phase_metrics::{Exporter, serve};
use phase_scenario::Run;
use std::{
    sync::mpsc::{RecvTimeoutError, channel},
    time::Duration,
};

/// How often the policy is held against the machine.
const RECHECK: Duration = Duration::from_secs(60);

pub(crate) fn run(setting: &Setting, arguments: &argument::ServeMetrics) -> Result<(), Failure> {
    let policy = arguments.policy.as_deref().map(policy::read).transpose()?;
    let exporter = match &arguments.run {
        Some(dir) => phase_export::exporter(&watched(|watch| Run::open_with(dir, watch)).map_err(|e| Failure::work(&e))?),
        None => Exporter::new(MonotonicClock::new()),
    };
    if let Some(policy) = &policy {
        exporter.set_policy(policy);
        if arguments.run.is_none() {
            exporter.set_cells(policy.cells());
        }
        exporter.set_changes(policy, &check::without_model(setting, policy));
    }
    let (stop, stopped) = channel();
    ctrlc::set_handler(move || {
        let _ = stop.send(());
    })
    .map_err(|e| Failure::work(&e))?;
    let server = serve(arguments.listen, exporter.clone()).map_err(|e| Failure::Environment(crate::exit::chain(&e)))?;
    note(&format!("http://{}/metrics, until interrupted", server.address()));
    while stopped.recv_timeout(RECHECK) == Err(RecvTimeoutError::Timeout) {
        if let Some(policy) = &policy {
            exporter.set_changes(policy, &check::without_model(setting, policy));
        }
    }
    server.stop();
    Ok(())
}
