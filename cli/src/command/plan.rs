//! `phase plan`: workers and money for a load.

use super::policy;
use crate::{
    argument,
    exit::{Failure, chain, note, say},
};
use phase_policy::{
    Router,
    capacity::{Mix, Trace},
    cost::PriceBook,
    plan::{Load, Plan, PlanOptions},
};
use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

pub(crate) fn run(arguments: &argument::Plan) -> Result<(), Failure> {
    let router = Router::new(policy::read(&arguments.policy)?);
    let book = PriceBook::from_json(&text(&arguments.prices)?).map_err(|e| in_file(&arguments.prices, &e))?;
    if let Some(days) = arguments.max_price_age {
        book.require_fresh(unix_seconds(), days).map_err(|e| Failure::Check(e.to_string()))?;
    }
    let mut options = PlanOptions::default().with_slo(arguments.slo).with_tiers(arguments.tiers.iter().copied());
    options = options.with_may_leave_out(arguments.may_leave_out);
    let plan = match (&arguments.trace, &arguments.mix) {
        (Some(path), _) => {
            let trace = Trace::parse(&text(path)?).map_err(|e| in_file(path, &e))?;
            Plan::new(&router, Load::Trace(&trace), &book, &options)
        }
        (None, Some(mix)) => {
            let mix = Mix::parse(mix).map_err(|e| Failure::Usage(e.to_string()))?;
            let requests_per_s = arguments.requests_per_s.unwrap_or_default();
            let load = Load::Mix { mix: &mix, requests_per_s, burst: arguments.burst, ca2: arguments.ca2 };
            Plan::new(&router, load, &book, &options)
        }
        (None, None) => return Err(Failure::Usage("give --trace or --mix".to_owned())),
    }
    .map_err(|e| Failure::Usage(chain(&e)))?;
    if let Some(path) = &arguments.plot {
        phase_scenario::write_atomically(path, plan.svg().as_bytes()).map_err(|e| Failure::work(&e))?;
        note(&format!("wrote {}", path.display()));
    }
    say(&if arguments.json { serde_json::to_string(&plan).map_err(|e| Failure::work(&e))? } else { plan.table() })?;
    if plan.candidates.iter().all(|c| c.refused.is_some()) {
        return Err(Failure::Check("no candidate can serve this load; the table says why".to_owned()));
    }
    Ok(())
}

pub(super) fn text(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|e| Failure::Usage(format!("{}: {e}", path.display())))
}

pub(super) fn in_file(path: &Path, error: &dyn std::error::Error) -> Failure {
    Failure::Check(format!("{}: {}", path.display(), chain(error)))
}

#[expect(clippy::disallowed_methods, reason = "the age of prices is judged by the wall clock")]
pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
