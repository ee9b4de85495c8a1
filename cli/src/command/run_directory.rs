//! `phase validate`: nothing is believed that can be recomputed.

use crate::{
    argument,
    exit::{Failure, say},
    progress::watched,
};

pub(crate) fn validate(arguments: &argument::Validate) -> Result<(), Failure> {
    let found = watched(|watch| phase_scenario::validate_with(&arguments.run, watch)).map_err(|e| Failure::work(&e))?;
    say(&if arguments.json {
        serde_json::json!({ "run_id": found.run_id, "events": found.events, "cells": found.cells, "files": found.files }).to_string()
    } else {
        format!("{}: {} files as sealed, {} cells recomputed from {} events", found.run_id, found.files, found.cells, found.events)
    })
}
