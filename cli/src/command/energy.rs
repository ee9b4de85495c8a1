//! `phase energy attribute`, `calibrate` and `watch`.

mod attribute;
mod calibrate;
mod watch;

use crate::{
    argument::{self, EnergyCommand},
    exit::Failure,
};
use phase_energy::{Recording, file};
use std::{fs, path::Path};

pub(crate) fn run(arguments: &argument::Energy) -> Result<(), Failure> {
    match &arguments.command {
        EnergyCommand::Attribute(a) => attribute::run(a),
        EnergyCommand::Calibrate(a) => calibrate::run(a),
        EnergyCommand::Watch(a) => watch::run(a),
    }
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
