//! What `--energy` measures with: the sensors of this machine that a calibration holds for, or a recording in their place.

use crate::{
    argument,
    exit::{Failure, note},
};
use phase_core::{Clock, NoData};
use phase_energy::{
    Board, BoardField, Condition, NvmlLibrary, Perimeter, Rapl, ReadError, Reading, ReadingKind, Sample, SensorCalibration, Source,
    SourceId, Stamped, SystemWall, Wall, file,
};
use phase_scenario::{
    DeviceState, EnergyOptions, EnergySensorEntry, EnergySetup, Plan, Runner, SampledMeter, best_sensors, match_calibrations,
};
use std::{path::Path, sync::Arc, time::Duration};

/// Tells `runner` how energy is measured, where it was asked for.
pub(super) fn with_energy<'a>(runner: Runner<'a>, arguments: &argument::Bench) -> Result<Runner<'a>, Failure> {
    let arguments = &arguments.energy;
    if !arguments.energy {
        if runner.lacks_energy() {
            note("this run was started with --energy: without it and its options, what was not replayed yet stays no_data (not_recorded)");
        }
        return Ok(runner);
    }
    let options = options(arguments)?;
    let setup = setup(arguments)?;
    match &setup {
        EnergySetup::Absent { reason, notes } => {
            note(&format!("energy: no_data ({reason}) for every cell"));
            notes.iter().for_each(|n| note(&format!("  {n}")));
        }
        EnergySetup::Present { sensors, notes, .. } => {
            sensors.iter().for_each(|s| note(&format!("energy: {}, {}", s.id, s.calibration.kind)));
            notes.iter().for_each(|n| note(&format!("  {n}")));
            note(&agenda(&options, runner.plan(), sensors));
        }
        _ => {}
    }
    runner.with_energy(setup, options).map_err(|e| Failure::Check(e.to_string()))
}

fn options(arguments: &argument::BenchEnergy) -> Result<EnergyOptions, Failure> {
    let options = EnergyOptions::default();
    let options = options.with_accuracy(arguments.energy_accuracy).and_then(|o| o.with_window_s(arguments.energy_window));
    let options = match arguments.energy_budget {
        Some(seconds) => options.and_then(|o| o.with_budget_s(seconds)),
        None => options,
    };
    options.map_err(|e| Failure::Usage(e.to_string()))
}

/// What is going to be replayed, before anything is loaded.
fn agenda(options: &EnergyOptions, plan: &Plan, sensors: &[EnergySensorEntry]) -> String {
    let left = options.for_replays();
    let text = crate::agenda::text(&options.agenda(plan, sensors, left), left.map(|left| left.as_secs_f64()));
    text + if left.is_some() { ", less what loading and blocks take" } else { "" }
}

/// What `--dry-run` says of energy; `None` where nobody asked for it.
pub(super) fn dry(plan: &Plan, arguments: &argument::BenchEnergy) -> Result<Option<String>, Failure> {
    if !arguments.energy {
        return Ok(None);
    }
    let (options, setup) = (options(arguments)?, setup(arguments)?);
    Ok(Some(match setup {
        EnergySetup::Absent { reason, notes } => format!("energy: no_data ({reason}) for every cell\n  {}", notes.join("\n  ")),
        EnergySetup::Present { sensors, .. } => format!("energy, after the blocks:\n{}", agenda(&options, plan, &sensors)),
        other => return Err(Failure::Check(format!("{other:?}"))),
    }))
}

fn setup<'a>(arguments: &argument::BenchEnergy) -> Result<EnergySetup<'a>, Failure> {
    match &arguments.energy_source {
        Some(file) => recorded(file, &calibrations(arguments)?),
        None => sensors(arguments),
    }
}

/// The calibrations in the files and folders that were named.
fn calibrations(arguments: &argument::BenchEnergy) -> Result<Vec<SensorCalibration>, Failure> {
    let mut files = Vec::new();
    for path in &arguments.energy_calibration {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let wrong = |e: std::io::Error| Failure::Usage(format!("{}: {e}", path.display()));
        let named = |p: &Path| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("calibration-"));
        let before = files.len();
        for entry in std::fs::read_dir(path).map_err(wrong)? {
            files.extend(Some(entry.map_err(wrong)?.path()).filter(|p| named(p)));
        }
        if files.len() == before {
            return Err(Failure::Usage(format!("{}: no calibration-*.json of `phase energy calibrate` is there", path.display())));
        }
    }
    files.sort();
    files.iter().map(|f| file::read_calibration(f).map_err(|e| Failure::Usage(e.to_string()))).collect()
}

fn sensors<'a>(arguments: &argument::BenchEnergy) -> Result<EnergySetup<'a>, Failure> {
    let calibrations = calibrations(arguments)?;
    let (boards, mut notes) = boards(&arguments.energy_device)?;
    let packages = Rapl::packages(Path::new("/sys")).unwrap_or_else(|e| {
        notes.push(e.to_string());
        Vec::new()
    });
    let mut all: Vec<(SourceId, ReadingKind)> = Vec::new();
    for board in &boards {
        for field in BoardField::ALL {
            match board.source(field) {
                Ok(source) => all.push((source.id().clone(), source.kind())),
                Err(e) => notes.push(format!("{field} of {}: {e}", board.uuid())),
            }
        }
    }
    all.extend(packages.iter().map(|p| (p.id().clone(), p.kind())));
    if all.is_empty() {
        return Ok(EnergySetup::Absent { reason: NoData::NoSource, notes });
    }
    if let Some((board, reason)) = boards.iter().find_map(|b| Some((b, b.condition(0).check()?))) {
        notes.push(match reason {
            NoData::Mig => format!("{} is partitioned, and its sensors read the whole board", board.uuid()),
            _ => format!("{} is used by another process", board.uuid()),
        });
        return Ok(EnergySetup::Absent { reason, notes });
    }
    let (found, refused) = match_calibrations(&all, &calibrations, SystemWall.unix_ns() / 1_000_000_000);
    notes.extend(refused);
    let found = best_sensors(found);
    if found.is_empty() {
        notes.push("calibrate with `phase energy calibrate`, then name its folder: --energy-calibration DIR".to_owned());
        return Ok(EnergySetup::Absent { reason: NoData::Uncalibrated, notes });
    }
    let used: Vec<Board> = boards.into_iter().filter(|b| found.iter().any(|s| s.id.device == b.uuid())).collect();
    let (opened, watched, counted, asked) = (used.clone(), used.clone(), used.clone(), used);
    let wanted: Vec<_> = found.iter().map(|s| (s.id.clone(), s.reading)).collect();
    let ids: Vec<_> = wanted.iter().map(|(id, _)| id.clone()).collect();
    let meter = SampledMeter::new(wanted, move |_| open(&ids, &opened))
        .with_conditions(move || watched.iter().map(|b| Box::new(b.condition(1)) as Box<dyn Condition>).collect())
        .with_users(move || {
            counted.iter().find_map(|board| match board.users() {
                Ok(0) => None,
                Ok(n) => Some(format!("processes with a context on {}: {n}", board.uuid())),
                Err(e) => Some(e.to_string()),
            })
        })
        .with_states(move |device| {
            let state = asked.iter().find(|b| b.uuid() == device)?.state().ok()?;
            Some(DeviceState { celsius: state.celsius, clock_mhz: f64::from(state.sm_mhz), slowed: state.slowed() })
        });
    Ok(EnergySetup::Present { meter: Box::new(meter), sensors: found, notes })
}

/// The boards that were named, or all of them; without a driver none, and why.
fn boards(wanted: &[String]) -> Result<(Vec<Board>, Vec<String>), Failure> {
    let all = match NvmlLibrary::load().and_then(|l| l.boards()) {
        Ok(all) => all,
        Err(e) => return Ok((Vec::new(), vec![e.to_string()])),
    };
    if wanted.is_empty() {
        return Ok((all, Vec::new()));
    }
    let named = |name: &String| {
        let found = all.iter().enumerate().find(|(i, b)| name == b.uuid() || name.parse() == Ok(*i));
        found.map(|(_, b)| b.clone()).ok_or_else(|| Failure::Usage(format!("--energy-device {name} is not here")))
    };
    Ok((wanted.iter().map(named).collect::<Result<_, _>>()?, Vec::new()))
}

/// The sources of `ids`, in their order; one that can't be opened is missing.
fn open(ids: &[SourceId], boards: &[Board]) -> Vec<Box<dyn Source>> {
    let mut packages = Rapl::packages(Path::new("/sys")).unwrap_or_default();
    let source = |id: &SourceId| -> Option<Box<dyn Source>> {
        if let Some(at) = packages.iter().position(|p| p.id() == id) {
            return Some(Box::new(packages.swap_remove(at)));
        }
        let board = boards.iter().find(|b| b.uuid() == id.device)?;
        board.source(BoardField::ALL.into_iter().find(|f| f.as_str() == id.field)?).ok()
    };
    ids.iter().map_while(source).collect()
}

/// A recording in place of sensors: its readings, by the time since this run began. It stands for the whole machine.
fn recorded<'a>(path: &Path, calibrations: &[SensorCalibration]) -> Result<EnergySetup<'a>, Failure> {
    let file = file::read_samples(path).map_err(|e| Failure::Usage(e.to_string()))?;
    let of = |text: &Option<String>| text.clone().unwrap_or_else(|| "recorded".to_owned());
    let id = SourceId::new(&file.header.device, of(&file.header.driver), of(&file.header.field), Perimeter::Module);
    let kind = file.header.kind;
    let (found, mut notes) = match_calibrations(&[(id.clone(), kind)], calibrations, SystemWall.unix_ns() / 1_000_000_000);
    notes.push(format!("readings are not of this machine: they are those of {}", path.display()));
    if found.is_empty() {
        return Ok(EnergySetup::Absent { reason: NoData::Uncalibrated, notes });
    }
    let samples: Arc<[Sample]> = file.samples.into();
    let sensors: Vec<EnergySensorEntry> = found;
    let meter = SampledMeter::new(vec![(id.clone(), kind)], move |clock| {
        vec![Box::new(Recorded { id: id.clone(), kind, samples: Arc::clone(&samples), clock: Arc::clone(clock) })]
    });
    Ok(EnergySetup::Present { meter: Box::new(meter), sensors, notes })
}

/// Answers with what a recording says of the time since the clock's origin.
struct Recorded {
    id: SourceId,
    kind: ReadingKind,
    samples: Arc<[Sample]>,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Recorded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorded").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Source for Recorded {
    fn id(&self) -> &SourceId {
        &self.id
    }

    fn kind(&self) -> ReadingKind {
        self.kind
    }

    fn refresh(&self) -> Option<Duration> {
        None
    }

    fn read(&mut self, out: &mut dyn FnMut(Stamped)) -> Result<(), ReadError> {
        let (first, last) = self.samples.first().zip(self.samples.last()).ok_or(ReadError::Gone)?;
        let t_ns = first.t_ns.saturating_add(self.clock.now().as_nanos());
        if t_ns > last.t_ns {
            return Err(ReadError::Gone);
        }
        let after = self.samples.partition_point(|s| s.t_ns <= t_ns);
        let value = self.samples[after.saturating_sub(1)].value;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "readings are not negative; casts saturate")]
        let reading = match self.kind {
            ReadingKind::Counter => Reading::Counter { microjoules: (value * 1e3) as u64 },
            ReadingKind::Power => Reading::Power { milliwatts: value as u64 },
        };
        out(reading.into());
        Ok(())
    }
}
