//! `phase energy attribute`, `calibrate` and `watch`.

mod attribute;
mod calibrate;
mod watch;

use crate::{
    argument::{self, EnergyCommand},
    exit::Failure,
};
use phase_energy::{BoardField, NvmlLibrary, Rapl, Recording, Source as _, file};
use phase_policy::LiveSensor;
use std::{fs, path::Path};

pub(crate) fn run(arguments: &argument::Energy) -> Result<(), Failure> {
    match &arguments.command {
        EnergyCommand::Attribute(a) => attribute::run(a),
        EnergyCommand::Calibrate(a) => calibrate::run(a),
        EnergyCommand::Watch(a) => watch::run(a),
    }
}

/// The sensors that this machine has now, read or not.
pub(crate) fn live() -> Vec<LiveSensor> {
    let boards = NvmlLibrary::load().and_then(|l| l.boards()).unwrap_or_default();
    let of_boards = boards.iter().flat_map(|b| BoardField::ALL.map(|field| b.source_id(field)));
    let packages = Rapl::packages(Path::new("/sys")).unwrap_or_default();
    let all = of_boards.chain(packages.iter().map(|p| p.id().clone()));
    all.map(|id| LiveSensor { perimeter: id.perimeter.to_string(), device: id.device, driver: id.driver, field: id.field }).collect()
}

/// Makes the folder that readings are to be written in.
fn make_folder(folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder).map_err(|e| Failure::Usage(format!("{}: {e}", folder.display())))
}

/// Writes what a source said as a samples file.
fn keep(folder: &Path, name: &str, recording: &Recording) -> Result<(), Failure> {
    let file::SampleFile { header, samples } = recording.to_file();
    let mut bytes = Vec::new();
    file::write_samples(&mut bytes, &header, &samples).map_err(|e| Failure::work(&e))?;
    phase_scenario::write_atomically(&folder.join(name), &bytes).map_err(|e| Failure::work(&e))
}
