use super::{keep, make_folder};
use crate::{
    argument,
    exit::{Failure, note, say},
};
use phase_core::{Clock, MonotonicClock};
use phase_energy::{
    Board, BoardField, Condition as _, NvmlLibrary, Perimeter, Recording, RecordingFacts, SamplerPlan, SystemWall, Wall,
    calibrate::{CalibrationError, CalibrationReport, Extent, Measurements, Part, SubprocessLoad, analyse, calibrate, shots_svg},
    file,
};
use serde::de::DeserializeOwned;
use std::{fs, path::Path, sync::Arc, time::Duration};

pub(super) fn run(arguments: &argument::Calibrate) -> Result<(), Failure> {
    let (measured, report) = match (&arguments.from, &arguments.load_command) {
        (Some(folder), _) => again(folder)?,
        (None, Some(load)) => measure(arguments, load)?,
        (None, None) => return Err(Failure::Usage("--load-command or --from".to_owned())),
    };
    make_folder(&arguments.out)?;
    write(&arguments.out, &measured, &report)?;
    say(&if arguments.json { json(&report)? } else { report.to_string() })
}

fn measure(arguments: &argument::Calibrate, load: &str) -> Result<(Measurements, CalibrationReport), Failure> {
    let board = board(&arguments.gpu)?;
    let sources = || BoardField::ALL.into_iter().filter_map(|field| board.source(field).ok()).collect::<Vec<_>>();
    if sources().is_empty() {
        return Err(Failure::Environment(format!("GPU {} has no power sensor that can be read", board.uuid())));
    }
    if let Some(reason) = board.condition(0).check() {
        return Err(Failure::Environment(format!("GPU {} can't be calibrated now: {reason}", board.uuid())));
    }
    // Before four minutes of work.
    make_folder(&arguments.out)?;
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
    let mut load = SubprocessLoad::start(load, &clock).map_err(|e| Failure::Environment(e.to_string()))?;
    note(&format!("{} ({}, driver {}), clocks within {:?}", board.name(), board.uuid(), board.driver(), load.time_error()));
    let plan = SamplerPlan::default().with_period(Duration::from_millis(arguments.period_ms)).with_capacity(400_000).attentive();
    let extent = if arguments.short { Extent::Short } else { Extent::Full };
    let measured =
        calibrate(&clock, &mut || (sources(), Vec::new()), &mut load, plan, extent, &mut |step| note(step)).map_err(|e| match e {
            CalibrationError::NoSource => Failure::Environment(e.to_string()),
            _ => Failure::work(&e),
        })?;
    let mut report = analyse(&measured, board.limit_w().ok(), SystemWall.unix_ns() / 1_000_000_000);
    sign(&mut report, Some(board.firmware()));
    Ok((measured, report))
}

/// Every calibration with the firmware it holds for.
fn sign(report: &mut CalibrationReport, firmware: Option<&str>) {
    for calibration in report.sources.iter_mut().filter_map(|s| s.calibration.as_mut()) {
        calibration.firmware = firmware.map(str::to_owned);
    }
}

/// What an earlier calibration recorded, judged by this version.
fn again(folder: &Path) -> Result<(Measurements, CalibrationReport), Failure> {
    let before: serde_json::Value = read(folder, "report.json")?;
    let mut parts = Vec::new();
    for part in 0..2 {
        let facts: Vec<RecordingFacts> = match folder.join(format!("recordings-{part}.json")) {
            path if path.exists() => read(folder, &format!("recordings-{part}.json"))?,
            _ => Vec::new(),
        };
        let mut recordings = Vec::new();
        for field in BoardField::ALL {
            let path = folder.join(format!("samples-{part}-{field}.jsonl"));
            if path.exists() {
                let samples = file::read_samples(&path).map_err(|e| Failure::Check(e.to_string()))?;
                let recording = Recording::from_file(samples, Perimeter::GpuBoard);
                let known = facts.iter().find(|f| f.source == recording.id);
                recordings.push(known.map_or_else(|| recording.clone(), |f| recording.clone().with_facts(f)));
            }
        }
        parts.push(Part::new(recordings, read(folder, &format!("steps-{part}.json"))?));
    }
    let load = before["load"].as_str().unwrap_or_default().to_owned();
    let perturbation = match folder.join("steps-perturbation.json").exists() {
        true => read(folder, "steps-perturbation.json")?,
        false => Vec::new(),
    };
    let measured = Measurements::new(load, parts, perturbation);
    let first = |field: &str| before["sources"].as_array()?.iter().find_map(|s| s["calibration"].get(field)).cloned();
    let taken = before["taken_unix_s"].as_u64().or_else(|| first("taken_unix_s")?.as_u64()).unwrap_or(0);
    let mut report = analyse(&measured, before["limit_w"].as_f64(), taken);
    sign(&mut report, first("firmware").as_ref().and_then(|f| f.as_str()));
    Ok((measured, report))
}

fn read<T: DeserializeOwned>(folder: &Path, name: &str) -> Result<T, Failure> {
    let path = folder.join(name);
    let text = fs::read_to_string(&path).map_err(|e| Failure::Usage(format!("{}: {e}", path.display())))?;
    serde_json::from_str(&text).map_err(|e| Failure::Check(format!("{}: {e}", path.display())))
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

/// The raw readings first, so that a report never stands without them. Polls that repeat a value are left out.
fn write(folder: &Path, measured: &Measurements, report: &CalibrationReport) -> Result<(), Failure> {
    for (part, done) in measured.parts.iter().enumerate() {
        for recording in &done.recordings {
            let mut short = recording.clone();
            short.samples = file::without_repeats(&recording.samples);
            keep(folder, &format!("samples-{part}-{}.jsonl", recording.id.field), &short)?;
        }
        put(folder, &format!("steps-{part}.json"), &line(&done.steps)?)?;
        let facts: Vec<_> = done.recordings.iter().map(Recording::facts).collect();
        put(folder, &format!("recordings-{part}.json"), &json(&facts)?)?;
    }
    put(folder, "steps-perturbation.json", &line(&measured.perturbation)?)?;
    for source in &report.sources {
        if let Some(calibration) = &source.calibration {
            put(folder, &format!("calibration-{}.json", source.source.field), &json(calibration)?)?;
        }
    }
    put(folder, "report.json", &json(report)?)?;
    if let Some(svg) = shots_svg(report, PICTURED_S) {
        put(folder, "shots.svg", &svg)?;
    }
    put(folder, "report.txt", &report.to_string())
}

/// The length of pulse that is drawn, seconds.
const PICTURED_S: f64 = 0.05;

fn put(folder: &Path, name: &str, text: &str) -> Result<(), Failure> {
    phase_scenario::write_atomically(&folder.join(name), text.as_bytes()).map_err(|e| Failure::work(&e))
}

fn json(value: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value).map_err(|e| Failure::work(&e))
}

fn line(value: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|e| Failure::work(&e))
}
