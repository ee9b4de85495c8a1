use super::{keep, make_folder};
use crate::{
    argument,
    exit::{Failure, note, say},
};
use phase_core::{Clock, MonotonicClock};
use phase_energy::{
    Board, BoardField, NvmlLibrary, SamplerPlan, SystemWall, Wall,
    calibrate::{CalibrationError, CalibrationReport, Extent, Measurements, SubprocessLoad, analyse, calibrate},
};
use std::{path::Path, sync::Arc, time::Duration};

pub(super) fn run(arguments: &argument::Calibrate) -> Result<(), Failure> {
    let board = board(&arguments.gpu)?;
    let sources = || BoardField::ALL.into_iter().filter_map(|field| board.source(field).ok()).collect::<Vec<_>>();
    if sources().is_empty() {
        return Err(Failure::Environment(format!("GPU {} has no power sensor that can be read", board.uuid())));
    }
    make_folder(&arguments.out)?;
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
    let mut load = SubprocessLoad::start(&arguments.load_command, &clock).map_err(|e| Failure::Environment(e.to_string()))?;
    note(&format!("{} ({}, driver {}), clocks within {:?}", board.name(), board.uuid(), board.driver(), load.time_error()));
    let plan = SamplerPlan::default().with_period(Duration::from_millis(arguments.period_ms)).with_capacity(400_000);
    let extent = if arguments.short { Extent::Short } else { Extent::Full };
    let measured = calibrate(&clock, &mut || (sources(), Vec::new()), &mut load, plan, extent, &mut |step| note(step)).map_err(|e| match e {
        CalibrationError::NoSource => Failure::Environment(e.to_string()),
        _ => Failure::work(&e),
    })?;
    let mut report = analyse(&measured, board.limit_w().ok(), SystemWall.unix_ns() / 1_000_000_000);
    for calibration in report.sources.iter_mut().filter_map(|s| s.calibration.as_mut()) {
        calibration.firmware = Some(board.firmware().to_owned());
    }
    write(&arguments.out, &measured, &report)?;
    say(&if arguments.json { json(&report)? } else { report.to_string() })
}

/// The board at a position or of a UUID.
fn board(wanted: &str) -> Result<Board, Failure> {
    let boards = NvmlLibrary::load().and_then(|l| l.boards()).map_err(|e| Failure::Environment(e.to_string()))?;
    let at = |(index, board): &(usize, &Board)| wanted == board.uuid() || wanted.parse() == Ok(*index);
    let found = boards.iter().enumerate().find(at).map(|(_, board)| board.clone());
    found.ok_or_else(|| {
        let names: Vec<_> = boards.iter().enumerate().map(|(i, b)| format!("{i} ({}, {})", b.name(), b.uuid())).collect();
        Failure::Usage(format!("--gpu {wanted} is not here: {}", names.join(", ")))
    })
}

/// The raw readings first, so that a report never stands without them.
fn write(folder: &Path, measured: &Measurements, report: &CalibrationReport) -> Result<(), Failure> {
    for (part, done) in measured.parts.iter().enumerate() {
        for recording in &done.recordings {
            keep(folder, &format!("samples-{part}-{}.jsonl", recording.id.field), recording)?;
        }
        put(folder, &format!("steps-{part}.json"), &json(&done.steps)?)?;
    }
    put(folder, "steps-perturbation.json", &json(&measured.perturbation)?)?;
    for source in &report.sources {
        if let Some(calibration) = &source.calibration {
            put(folder, &format!("calibration-{}.json", source.source.field), &json(calibration)?)?;
        }
    }
    put(folder, "report.json", &json(report)?)?;
    put(folder, "report.txt", &report.to_string())
}

fn put(folder: &Path, name: &str, text: &str) -> Result<(), Failure> {
    phase_scenario::write_atomically(&folder.join(name), text.as_bytes()).map_err(|e| Failure::work(&e))
}

fn json(value: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value).map_err(|e| Failure::work(&e))
}
