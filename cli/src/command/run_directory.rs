//! `phase validate`, `phase report` and `phase compare`: what can be done with runs.

use crate::{
    argument,
    exit::{Failure, say},
};
use phase_scenario::{Foreign, ReportOptions, Run, Summary};

pub(crate) fn validate(arguments: &argument::Validate) -> Result<(), Failure> {
    let found = phase_scenario::validate(&arguments.run).map_err(|e| Failure::work(&e))?;
    say(&if arguments.json {
        serde_json::json!({ "run_id": found.run_id, "events": found.events, "cells": found.cells, "files": found.files }).to_string()
    } else {
        format!("{}: {} files as sealed, {} cells recomputed from {} events", found.run_id, found.files, found.cells, found.events)
    })
}

pub(crate) fn report(arguments: &argument::Report) -> Result<(), Failure> {
    let run = Run::open(&arguments.run).map_err(|e| Failure::work(&e))?;
    let options = if arguments.card { ReportOptions::card() } else { ReportOptions::default() };
    let text = phase_scenario::report(&run, &options);
    #[cfg(feature = "export")]
    let text = text + &super::export::sections(&arguments.foreign)?;
    say(&text)
}

pub(crate) fn compare(arguments: &argument::Compare) -> Result<(), Failure> {
    let open = |path: &std::path::Path| {
        #[cfg(feature = "export")]
        super::export::refuse_foreign(path)?;
        Run::open(path).map_err(|e| Failure::work(&e))
    };
    let comparison =
        phase_scenario::compare(&open(&arguments.base)?, &open(&arguments.run)?, Foreign::Refuse).map_err(|e| Failure::work(&e))?;
    say(&if arguments.json { serde_json::to_string(&comparison).map_err(|e| Failure::work(&e))? } else { comparison.to_string() })?;
    match comparison.summary() {
        Summary::Slower | Summary::Mixed => Err(Failure::Check("some cells are slower".to_owned())),
        _ => Ok(()),
    }
}
