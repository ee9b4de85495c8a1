//! From a run directory to files of another tool.

use crate::{
    ExportError, LlamaBench,
    file::TableFile,
    llmd, openmetrics,
    parquet::GROUP,
    tables::{Events, samples, samples_files, small},
};
use phase_scenario::{EVENT_SCHEMA, Event, Record, Run, SealedRun, write_atomically};
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
/// Tables are those of a [`SealedRun`], whose files are all as they were sealed, and hold a row group of events in memory at a
/// time; the other formats open a [`Run`], whose cells are computed anew.
///
/// # Errors
/// [`ExportError`]: a run that is not intact, nothing to export, a place that can't be written.
pub fn export(dir: &Path, format: Format, out: &Path) -> Result<Written, ExportError> {
    export_with(dir, format, out, &mut |_, _, _| {})
}

/// As [`export`]; `watch` is told how much is read, of how much in all, and what is being worked on. The first never decreases,
/// the second never changes, and both are equal before the last files are written.
///
/// # Errors
/// As [`export`].
pub fn export_with(dir: &Path, format: Format, out: &Path, watch: &mut dyn FnMut(u64, u64, &str)) -> Result<Written, ExportError> {
    let mut written = Written::default();
    if matches!(format, Format::Csv | Format::Parquet) {
        export_tables(dir, format, out, watch, &mut written)?;
        return Ok(written);
    }
    let run = Run::open_with(dir, watch)?;
    match format {
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
        _ => put(out, openmetrics(&run).as_bytes(), &mut written)?,
    }
    Ok(written)
}

fn export_tables(
    dir: &Path,
    format: Format,
    out: &Path,
    watch: &mut dyn FnMut(u64, u64, &str),
    written: &mut Written,
) -> Result<(), ExportError> {
    let events = fs::metadata(dir.join("events.jsonl")).map_or(0, |found| found.len());
    let mut before = 0;
    let run = SealedRun::open_with(dir, &mut |done, total, what| {
        before = total;
        watch(done, total + events, what);
    })?;
    let notes = notes(&run);
    let (events, others) = read_events(&run, format, &notes, &mut |done, cell| {
        watch(before + share(events, done, run.events()), before + events, cell);
    })?;
    let extension = format.as_str();
    if out.extension().is_some_and(|e| e == extension) {
        let why = || ExportError::Nothing { format: extension, why: "the run has no events".to_owned() };
        return put(out, &events.ok_or_else(why)?, written);
    }
    make(out)?;
    if let Some(events) = events {
        put(&out.join(format!("events.{extension}")), &events, written)?;
    }
    for table in small(&run, &others).iter().chain(&samples(&samples_files(dir)?)?) {
        let mut file = TableFile::new(format, table, &notes)?;
        file.add(table)?;
        put(&out.join(format!("{}.{extension}", table.name())), &file.finish()?, written)?;
    }
    Ok(())
}

/// The file of the calls, where there are any, and the records that are none.
fn read_events(
    run: &SealedRun,
    format: Format,
    notes: &[(&str, &str)],
    watch: &mut dyn FnMut(u64, &str),
) -> Result<(Option<Vec<u8>>, Vec<Record>), ExportError> {
    /// Calls between two words to who watches.
    const WATCHED: u64 = 4096;
    let fresh = || Events::with_capacity(GROUP);
    let mut file = TableFile::new(format, &fresh().table(), notes)?;
    let (mut rows, mut others, mut calls, mut failed) = (fresh(), Vec::new(), 0_u64, None);
    run.read_events(|event| match event {
        Event::Call(call) => {
            rows.call(call);
            calls += 1;
            if rows.rows() == GROUP && failed.is_none() {
                failed = file.add(&std::mem::replace(&mut rows, fresh()).table()).err();
            }
            if calls.is_multiple_of(WATCHED) {
                watch(calls, &format!("reading {}", call.cell));
            }
        }
        Event::Other(record) => others.push(record.clone()),
        _ => {}
    })?;
    if let Some(failed) = failed {
        return Err(failed);
    }
    file.add(&rows.table())?;
    watch(run.events(), "writing the tables");
    Ok(((calls > 0).then(|| file.finish()).transpose()?, others))
}

/// `part` of `whole` as a part of `bytes`.
fn share(bytes: u64, part: u64, whole: u64) -> u64 {
    let share = u128::from(bytes) * u128::from(part.min(whole)) / u128::from(whole.max(1));
    u64::try_from(share).unwrap_or(bytes)
}

fn notes(run: &SealedRun) -> Vec<(&str, &str)> {
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
