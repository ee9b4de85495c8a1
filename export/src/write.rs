//! From a run directory to files of another tool.

use crate::{
    ExportError, LlamaBench, csv, llmd, openmetrics, parquet,
    table::Table,
    tables::{samples, samples_files, tables},
};
use phase_scenario::{EVENT_SCHEMA, Run, write_atomically};
use std::{
    fmt, fs,
    path::{Path, PathBuf},
    str::FromStr,
};

/// What a run can be exported as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// Tables as CSV.
    Csv,
    /// Rows as `llama-bench -o json` writes them.
    LlamaBench,
    /// Rows as `llama-bench -o sql` writes them.
    LlamaBenchSql,
    /// llm-d's Benchmark Report, one for every competitor and planned cell.
    Llmd,
    /// One OpenMetrics text.
    OpenMetrics,
    /// Tables as Parquet.
    Parquet,
}

impl Format {
    /// All of them, by name.
    pub const ALL: [Self; 6] = [Self::Csv, Self::LlamaBench, Self::LlamaBenchSql, Self::Llmd, Self::OpenMetrics, Self::Parquet];

    /// The name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::LlamaBench => "llama-bench",
            Self::LlamaBenchSql => "llama-bench-sql",
            Self::Llmd => "llmd",
            Self::OpenMetrics => "openmetrics",
            Self::Parquet => "parquet",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|f| f.as_str() == text).ok_or_else(|| format!("one of {}", Self::ALL.map(Self::as_str).join(", ")))
    }
}

/// What an export left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Written {
    /// The files.
    pub files: Vec<PathBuf>,
    /// What the format can't hold and was left out, in words.
    pub left_out: Vec<String>,
}

/// Exports the sealed run in `dir` to `out`: a file for the formats that are one, a folder for `csv`, `parquet` and `llmd`. A name
/// that ends in `.csv` or `.parquet` gets the events alone.
///
/// # Errors
/// [`ExportError`]: a run that is not intact, nothing to export, a place that can't be written.
pub fn export(dir: &Path, format: Format, out: &Path) -> Result<Written, ExportError> {
    let run = Run::open(dir)?;
    let mut written = Written::default();
    match format {
        Format::Csv | Format::Parquet => {
            let mut all = tables(&run);
            all.extend(samples(&samples_files(dir)?)?);
            export_tables(&run, &all, format, out, &mut written)?;
        }
        Format::LlamaBench | Format::LlamaBenchSql => {
            let rows = LlamaBench::of(&run)?;
            if rows.batched > 0 {
                written.left_out.push(format!("{} cells of more than one sequence: llama-bench has none", rows.batched));
            }
            let text = if format == Format::LlamaBench { rows.to_json()? } else { rows.to_sql() };
            put(out, text.as_bytes(), &mut written)?;
        }
        Format::Llmd => {
            make(out)?;
            for report in llmd(&run)? {
                let text = serde_json::to_string_pretty(&report.report)? + "\n";
                put(&out.join(format!("{}.json", report.name)), text.as_bytes(), &mut written)?;
            }
        }
        Format::OpenMetrics => put(out, openmetrics(&run).as_bytes(), &mut written)?,
    }
    Ok(written)
}

fn export_tables(run: &Run, all: &[Table], format: Format, out: &Path, written: &mut Written) -> Result<(), ExportError> {
    let extension = format.as_str();
    let text = |table: &Table| match format {
        Format::Csv => csv(table),
        _ => parquet(table, &notes(run)),
    };
    if out.extension().is_some_and(|e| e == extension) {
        let why = || ExportError::Nothing { format: extension, why: "the run has no events".to_owned() };
        let events = all.iter().find(|table| table.name() == "events").ok_or_else(why)?;
        return put(out, &text(events)?, written);
    }
    make(out)?;
    for table in all {
        put(&out.join(format!("{}.{extension}", table.name())), &text(table)?, written)?;
    }
    Ok(())
}

fn notes(run: &Run) -> Vec<(&str, &str)> {
    let manifest = run.manifest();
    vec![
        ("phase.schema", EVENT_SCHEMA),
        ("phase.run_id", run.run_id()),
        ("phase.program", &manifest.program),
        ("phase.created", &manifest.created),
    ]
}

fn make(folder: &Path) -> Result<(), ExportError> {
    fs::create_dir_all(folder).map_err(ExportError::io("make", folder))
}

fn put(path: &Path, bytes: &[u8], written: &mut Written) -> Result<(), ExportError> {
    write_atomically(path, bytes)?;
    written.files.push(path.to_owned());
    Ok(())
}
