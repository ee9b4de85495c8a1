//! `phase export` and `phase import`: runs for other tools, other tools' rows beside ours.

use crate::{
    argument,
    exit::{Failure, note},
    progress::watched,
};
use phase_export::{Foreign, Format};
use std::{fs, path::Path};

pub(crate) fn export(arguments: &argument::Export) -> Result<(), Failure> {
    let argument::Export { run, format, out } = arguments;
    if *format == Format::Llmd && out.extension().is_some_and(|e| e == "json") {
        return Err(Failure::Usage("llm-d's reports are one for every backend and cell: name a folder with -o".to_owned()));
    }
    let written = watched(|watch| phase_export::export_with(run, *format, out, watch)).map_err(|e| Failure::work(&e))?;
    for what in &written.left_out {
        note(&format!("left out: {what}"));
    }
    note(&format!(
        "wrote {} ({format})",
        match &written.files[..] {
            [one] => one.display().to_string(),
            many => format!("{} files in {}", many.len(), out.display()),
        }
    ));
    Ok(())
}

pub(crate) fn import(arguments: &argument::Import) -> Result<(), Failure> {
    let name = arguments.file.display().to_string();
    let bytes = fs::read(&arguments.file).map_err(|e| Failure::Usage(format!("{name}: {e}")))?;
    let foreign = Foreign::import(arguments.format, &name, &bytes).map_err(|e| Failure::work(&e))?;
    let text = foreign.to_json().map_err(|e| Failure::work(&e))?;
    phase_scenario::write_atomically(&arguments.out, text.as_bytes()).map_err(|e| Failure::work(&e))?;
    note(&format!(
        "wrote {}: {} rows of {} under {} boundaries of its own; `phase report RUN --foreign` shows them, nothing compares them with ours",
        arguments.out.display(),
        foreign.rows.len(),
        foreign.tool,
        foreign.boundaries.len()
    ));
    Ok(())
}

/// The sections of a report for files of foreign rows.
pub(crate) fn sections(files: &[std::path::PathBuf]) -> Result<String, Failure> {
    files.iter().try_fold(String::new(), |text, file| {
        let name = file.display().to_string();
        let bytes = fs::read(file).map_err(|e| Failure::Usage(format!("{name}: {e}")))?;
        let foreign = Foreign::parse(&name, &bytes).map_err(|e| Failure::work(&e))?;
        let foreign = foreign.ok_or_else(|| Failure::Usage(format!("{name}: not a file that `phase import` wrote")))?;
        Ok(format!("{text}\n{}", foreign.to_markdown()))
    })
}

/// Refuses to take a file of foreign rows for a run.
pub(crate) fn refuse_foreign(path: &Path) -> Result<(), Failure> {
    if !path.is_file() {
        return Ok(());
    }
    let name = path.display().to_string();
    let bytes = fs::read(path).map_err(|e| Failure::Usage(format!("{name}: {e}")))?;
    match Foreign::parse(&name, &bytes).map_err(|e| Failure::work(&e))? {
        None => Ok(()),
        Some(foreign) => Err(Failure::Usage(format!(
            "{name} holds rows of {}, measured under boundaries of its own ({}): nothing of ours is compared with them",
            foreign.tool,
            foreign.boundaries.keys().cloned().collect::<Vec<_>>().join(", ")
        ))),
    }
}
