//! `phase cost`: the formulas alone.

use crate::{
    argument,
    exit::{Failure, say},
};
use phase_policy::cost::{Bounded, Demand, EnergyPrice, FleetSize, OutOfRange, PerMillion, WorkerCost, fleet};
use std::fmt::Write;

pub(crate) fn run(arguments: &argument::Cost) -> Result<(), Failure> {
    let (cost, fleet) = compute(arguments).map_err(|e| Failure::Usage(e.to_string()))?;
    say(&if arguments.json { json(&cost, fleet.as_ref())?.to_string() } else { words(&cost, fleet.as_ref()) })
}

fn compute(arguments: &argument::Cost) -> Result<(PerMillion, Option<FleetSize>), OutOfRange> {
    let mut worker = WorkerCost::new(arguments.tokens_per_s, arguments.usd_per_hour);
    if let Some(watts) = arguments.watts {
        worker = worker.with_energy(watts, EnergyPrice::new(arguments.usd_per_kwh, arguments.g_per_kwh));
    }
    let demand = arguments.tokens_per_month.map(|tokens| Demand::new(tokens).with_burst(arguments.burst.unwrap_or(1.0)));
    Ok((worker.per_million()?, demand.map(|d| fleet(&d, arguments.tokens_per_s)).transpose()?))
}

/// What is not known is `null`.
fn json(cost: &PerMillion, fleet: Option<&FleetSize>) -> Result<serde_json::Value, Failure> {
    let mut json = serde_json::to_value(cost).map_err(|e| Failure::work(&e))?;
    let workers =
        [("workers_lower_bound", fleet.map(|f| f.workers_lower_bound)), ("workers_with_burst", fleet.map(|f| f.workers_with_burst))];
    for (key, value) in workers {
        json[key] = serde_json::to_value(value).map_err(|e| Failure::work(&e))?;
    }
    Ok(json)
}

fn words(cost: &PerMillion, fleet: Option<&FleetSize>) -> String {
    let rows = [
        ("seconds a million tokens", Some(cost.seconds_per_1m), "s"),
        ("infrastructure", Some(cost.infra_usd_per_1m), "$"),
        ("energy", cost.energy_usd_per_1m, "$"),
        ("together", Some(cost.usd_per_1m), "$"),
        ("energy at the meter", cost.kwh_per_1m, "kWh"),
        ("carbon", cost.gco2e_per_1m, "gCO2e"),
        ("workers, lower bound", fleet.map(|f| f.workers_lower_bound), ""),
        ("workers, with burst", fleet.map(|f| f.workers_with_burst), ""),
    ];
    rows.into_iter().fold(String::new(), |mut text, (name, value, unit): (&str, Option<Bounded>, &str)| {
        let value = value.map_or_else(|| "not known".to_owned(), |v| format!("{v} {unit}"));
        let _ = writeln!(text, "{name:<26} {}", value.trim_end());
        text
    })
}
