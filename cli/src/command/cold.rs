//! One cold start in this fresh process, for `phase bench`.

use crate::{
    argument,
    exit::{Failure, say},
    setting::Setting,
};
use phase_core::MonotonicClock;
use phase_scenario::{ColdRequest, cold_start};
use std::sync::Arc;

pub(crate) fn run(setting: &Setting, arguments: &argument::Cold) -> Result<(), Failure> {
    let request: ColdRequest = serde_json::from_str(&arguments.request).map_err(|e| Failure::Usage(format!("not a cold request: {e}")))?;
    let report = cold_start(&setting.registry, &request, Arc::new(MonotonicClock::new())).map_err(|e| Failure::work(&e))?;
    say(&serde_json::to_string(&report).map_err(|e| Failure::work(&e))?)
}
