//! A run as tables: events, loads, failures, cells, boundaries, evidence, and the samples of its sensors.

use crate::{
    ExportError,
    table::{Column, Table, Text, Values},
};
use phase_core::{Energy, Fact, Outcome, Phase, Regime, Shape};
use phase_energy::{ReadingKind, file};
use phase_policy::ScenarioMatrix;
use phase_scenario::{Call, FailureRecord, LoadProcess, LoadRecord, PhaseRecord, Record, Role, SealedRun};
use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

fn whole(name: &'static str, values: impl Iterator<Item = u64>) -> Column {
    Column { name, values: Values::Whole(values.collect()) }
}

fn maybe_whole(name: &'static str, values: impl Iterator<Item = Option<u64>>) -> Column {
    Column { name, values: Values::MaybeWhole(values.collect()) }
}

fn maybe_real(name: &'static str, values: impl Iterator<Item = Option<f64>>) -> Column {
    Column { name, values: Values::MaybeReal(values.collect()) }
}

fn text(name: &'static str, values: Text) -> Column {
    Column { name, values: Values::Text(values) }
}

/// The small tables of `run` that have rows: all but its events, of which `others` are no calls, and `samples`, which are read
/// from the run directory: [`samples`].
pub(crate) fn small(run: &SealedRun, others: &[Record]) -> Vec<Table> {
    let all = [loads(others), failures(others), cells(run), boundaries(run), evidence(run)];
    all.into_iter().filter(|table| table.rows() > 0).collect()
}

/// The phase calls among `records`, one a row.
pub fn events(records: &[Record]) -> Table {
    // One pass over records that are far larger than any cache; a pass for every column takes three times as long.
    let mut rows = Events::with_capacity(records.len());
    records.iter().filter_map(|r| if let Record::Phase(call) = r { Some(call) } else { None }).for_each(|call| rows.record(call));
    rows.table()
}

/// Rows of `events`, call after call.
pub(crate) struct Events {
    text: [Text; TEXTS.len()],
    whole: [Vec<u64>; WHOLES.len()],
    maybe: [Vec<Option<u64>>; MAYBES.len()],
}

impl Events {
    pub(crate) fn with_capacity(rows: usize) -> Self {
        let text = TEXTS.map(|name| if name == "error_kind" { Text::with_nulls() } else { Text::default() });
        Self { text, whole: std::array::from_fn(|_| Vec::with_capacity(rows)), maybe: std::array::from_fn(|_| Vec::with_capacity(rows)) }
    }

    pub(crate) fn rows(&self) -> usize {
        self.whole[0].len()
    }

    fn record(&mut self, call: &PhaseRecord) {
        let PhaseRecord { seen, .. } = call;
        self.push(
            [&call.run_id, &call.scenario, &call.cell, seen.backend.as_str(), &seen.mode, &seen.boundary],
            (seen.phase, seen.regime, call.role, seen.outcome, seen.shape),
            [seen.block, call.repetition, call.segment, call.sample, call.call, call.step],
            [call.session.0, call.start_ns, call.end_ns, seen.duration_ns],
            seen.device_ns,
        );
    }

    pub(crate) fn call(&mut self, call: &Call<'_>) {
        self.push(
            [&call.run_id, &call.scenario, &call.cell, &call.backend, &call.mode, &call.boundary],
            (call.phase, call.regime, call.role, call.outcome, call.shape),
            [call.block, call.repetition, call.segment, call.sample, call.call, call.step],
            [call.session.0, call.start_ns, call.end_ns, call.duration_ns],
            call.device_ns,
        );
    }

    fn push(
        &mut self,
        [run_id, scenario, cell, backend, mode, boundary]: [&str; 6],
        (phase, warmth, role, ended, shape): (Phase, Regime, Role, Outcome, Shape),
        [block, repetition, segment, sample, at, step]: [u32; 6],
        [session, start_ns, end_ns, duration_ns]: [u64; 4],
        device_ns: Option<u64>,
    ) {
        let kind = if let Outcome::Failed(kind) = ended { Some(kind.as_str()) } else { None };
        let warmup = if let Regime::Warmup(n) = warmth { Some(u64::from(n)) } else { None };
        let words: [Option<&str>; TEXTS.len()] = [
            Some(run_id),
            Some(scenario),
            Some(cell),
            Some(backend),
            Some(mode),
            Some(phase.as_str()),
            Some(regime(warmth)),
            Some(role_name(role)),
            Some(outcome(ended)),
            kind,
            Some(boundary),
        ];
        let numbers: [u64; WHOLES.len()] = [
            size(shape.batch),
            size(shape.new_tokens),
            size(shape.context),
            u64::from(block),
            u64::from(repetition),
            u64::from(segment),
            u64::from(sample),
            u64::from(at),
            session,
            u64::from(step),
            start_ns,
            end_ns,
            duration_ns,
        ];
        self.text.iter_mut().zip(words).for_each(|(column, word)| column.push_maybe(word));
        self.whole.iter_mut().zip(numbers).for_each(|(column, number)| column.push(number));
        self.maybe.iter_mut().zip([warmup, device_ns]).for_each(|(column, number)| column.push(number));
    }

    /// The rows so far.
    pub(crate) fn table(self) -> Table {
        let text = TEXTS.into_iter().zip(self.text).map(|(name, column)| Column { name, values: Values::Text(column) });
        let whole = WHOLES.into_iter().zip(self.whole).map(|(name, column)| Column { name, values: Values::Whole(column) });
        let maybe = MAYBES.into_iter().zip(self.maybe).map(|(name, column)| Column { name, values: Values::MaybeWhole(column) });
        Table::new("events", text.chain(whole).chain(maybe).collect())
    }
}

const TEXTS: [&str; 11] = ["run_id", "scenario", "cell", "backend", "mode", "phase", "regime", "role", "outcome", "error_kind", "boundary"];
const WHOLES: [&str; 13] = [
    "batch",
    "new_tokens",
    "context",
    "block",
    "repetition",
    "segment",
    "sample",
    "call",
    "session",
    "step",
    "start_ns",
    "end_ns",
    "duration_ns",
];
const MAYBES: [&str; 2] = ["warmup_call", "device_ns"];

/// The loads among `records`.
pub fn loads(records: &[Record]) -> Table {
    let loads: Vec<&LoadRecord> = records.iter().filter_map(|r| if let Record::Load(load) = r { Some(load) } else { None }).collect();
    let arms: Vec<String> = loads.iter().map(|l| l.backend.to_string()).collect();
    let each = || loads.iter();
    let process = |p| if p == LoadProcess::Fresh { "fresh" } else { "runner" };
    let columns = vec![
        text("run_id", each().map(|l| l.run_id.as_str()).collect()),
        text("backend", arms.iter().map(String::as_str).collect()),
        text("process", each().map(|l| process(l.process)).collect()),
        maybe_whole("block", each().map(|l| l.block.map(u64::from))),
        whole("segment", each().map(|l| u64::from(l.segment))),
        whole("load_ns", each().map(|l| l.load_ns)),
        maybe_whole("process_ns", each().map(|l| l.process_ns)),
    ];
    Table::new("loads", columns)
}

/// The failures among `records`.
pub fn failures(records: &[Record]) -> Table {
    let all: Vec<&FailureRecord> = records.iter().filter_map(|r| if let Record::Failure(f) = r { Some(f) } else { None }).collect();
    let words: Vec<[String; 2]> = all.iter().map(|f| [f.backend.to_string(), f.stage.to_string()]).collect();
    let each = || all.iter();
    let columns = vec![
        text("run_id", each().map(|f| f.run_id.as_str()).collect()),
        text("backend", words.iter().map(|w| w[0].as_str()).collect()),
        text("cell", each().map(|f| f.cell.as_deref()).collect()),
        maybe_whole("block", each().map(|f| f.block.map(u64::from))),
        whole("segment", each().map(|f| u64::from(f.segment))),
        text("stage", words.iter().map(|w| w[1].as_str()).collect()),
        text("error_kind", each().map(|f| f.error_kind.as_str()).collect()),
        text("message", each().map(|f| f.message.as_str()).collect()),
    ];
    Table::new("failures", columns)
}

/// The matrix of `run`.
pub fn cells(run: &SealedRun) -> Table {
    let cells = run.matrix().map_or(&[][..], ScenarioMatrix::cells);
    let each = || cells.iter();
    let time = |of: fn(&phase_policy::TimeSummary) -> Option<f64>| each().map(move |c| c.time.as_ref().and_then(of));
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of one call are far below 2^53")]
    let real = |ns: u64| Some(ns as f64);
    let parts = each().map(|c| match c.energy {
        Energy::Measured { joules, low, high }
        | Energy::Interpolated { joules, low, high }
        | Energy::MacroWindow { joules, low, high, .. } => [Some(joules.0), Some(low.0), Some(high.0)],
        _ => [None; 3],
    });
    let joules: Vec<[Option<f64>; 3]> = parts.collect();
    let columns = vec![
        text("run_id", each().map(|_| run.run_id()).collect()),
        text("backend", each().map(|c| c.key.backend.as_str()).collect()),
        text("mode", each().map(|c| c.key.mode.as_str()).collect()),
        text("phase", each().map(|c| c.key.phase.as_str()).collect()),
        text("regime", each().map(|c| c.key.regime.as_str()).collect()),
        whole("batch", each().map(|c| size(c.key.shape.batch))),
        whole("new_tokens", each().map(|c| size(c.key.shape.new_tokens))),
        whole("context", each().map(|c| size(c.key.shape.context))),
        whole("n", each().map(|c| c.n)),
        whole("failures", each().map(|c| c.failures)),
        whole("cancelled", each().map(|c| c.cancelled)),
        whole("blocks", each().map(|c| size(c.blocks.len()))),
        maybe_real("median_ns", time(|t| Some(t.median_ns))),
        maybe_real("low_ns", time(|t| t.interval.map(|i| i.low))),
        maybe_real("high_ns", time(|t| t.interval.map(|i| i.high))),
        maybe_real("confidence", time(|t| t.interval.map(|i| i.confidence))),
        maybe_real("min_ns", each().map(|c| c.time.and_then(|t| real(t.min_ns)))),
        maybe_real("max_ns", each().map(|c| c.time.and_then(|t| real(t.max_ns)))),
        maybe_real("p95_ns", time(|t| t.p95_ns)),
        maybe_real("p99_ns", time(|t| t.p99_ns)),
        text("energy_status", each().map(|c| c.energy.status()).collect()),
        text("energy_reason", each().map(|c| c.energy.reason().map(phase_core::NoData::as_str)).collect()),
        maybe_real("energy_j", joules.iter().map(|j| j[0])),
        maybe_real("energy_low_j", joules.iter().map(|j| j[1])),
        maybe_real("energy_high_j", joules.iter().map(|j| j[2])),
        text("boundary", each().map(|c| c.boundary.as_str()).collect()),
    ];
    Table::new("cells", columns)
}

/// The facts of every boundary that an event names, one a row: `boundary` joins it to events and cells.
pub fn boundaries(run: &SealedRun) -> Table {
    let mut rows: Vec<[Option<String>; 5]> = Vec::new();
    for (id, boundary) in &run.manifest().boundaries {
        let mut row = |layer: &str, field: &str, value: Option<String>, unknown: Option<String>| {
            rows.push([Some(id.clone()), Some(layer.to_owned()), Some(field.to_owned()), value, unknown]);
        };
        for (layer, key, fact) in boundary.stack.iter() {
            match fact {
                Fact::Known(value) => row(layer.as_str(), key, Some(value.clone()), None),
                Fact::Unknown(why) => row(layer.as_str(), key, None, Some(why.clone())),
            }
        }
        let lower = |debug: String| Some(debug.to_lowercase());
        row("region", "span", lower(format!("{:?}", boundary.span)), None);
        row("region", "includes", Some(boundary.includes.to_string()), None);
        row("region", "timing", lower(format!("{:?}", boundary.timing)), None);
        if let Some(cadence) = boundary.cadence {
            row("region", "cadence_ns", Some(cadence.as_nanos().to_string()), None);
        }
        row("region", "definitions", Some(boundary.definitions.to_string()), None);
    }
    let column = |name, at: usize| text(name, rows.iter().map(|r| r[at].as_deref()).collect());
    let columns = vec![column("boundary", 0), column("layer", 1), column("field", 2), column("value", 3), column("unknown_because", 4)];
    Table::new("boundaries", columns)
}

/// What the runtimes were seen doing: operators by executor, and kernels.
pub fn evidence(run: &SealedRun) -> Table {
    let mut rows: Vec<(String, &str, &str, Option<u64>)> = Vec::new();
    for (backend, seen) in run.evidence().iter().filter_map(|file| Some((file.backend.to_string(), file.evidence.as_ref()?))) {
        rows.extend(seen.placement.iter().map(|p| (backend.clone(), "executor", p.executor.as_str(), Some(p.nodes))));
        rows.extend(seen.kernels.iter().map(|kernel| (backend.clone(), "kernel", kernel.as_str(), None)));
    }
    let columns = vec![
        text("backend", rows.iter().map(|r| r.0.as_str()).collect()),
        text("what", rows.iter().map(|r| r.1).collect()),
        text("name", rows.iter().map(|r| r.2).collect()),
        maybe_whole("operators", rows.iter().map(|r| r.3)),
    ];
    Table::new("evidence", columns)
}

/// Readings of sensors, one a row. `None` where there are none.
///
/// # Errors
/// [`ExportError::Samples`] for a file that is no samples file.
pub fn samples(files: &[PathBuf]) -> Result<Option<Table>, ExportError> {
    let (mut device, mut driver, mut field, mut kind) = (Text::default(), Text::default(), Text::default(), Text::default());
    let (mut t_ns, mut value, mut unit) = (Vec::new(), Vec::new(), Text::default());
    for path in files {
        let file::SampleFile { header, samples } = file::read_samples(path)?;
        for sample in &samples {
            device.push(&header.device);
            driver.push_maybe(header.driver.as_deref());
            field.push_maybe(header.field.as_deref());
            kind.push(if header.kind == ReadingKind::Counter { "counter" } else { "power" });
            t_ns.push(sample.t_ns);
            value.push(Some(sample.value));
            unit.push(&header.unit);
        }
    }
    let columns = vec![
        text("device", device),
        text("driver", driver),
        text("field", field),
        text("kind", kind),
        Column { name: "t_ns", values: Values::Whole(t_ns) },
        Column { name: "value", values: Values::MaybeReal(value) },
        text("unit", unit),
    ];
    Ok(Some(Table::new("samples", columns)).filter(|table| table.rows() > 0))
}

/// The samples files below a run directory, by their first line.
///
/// # Errors
/// [`ExportError::Io`].
pub fn samples_files(run: &Path) -> Result<Vec<PathBuf>, ExportError> {
    let mut found = Vec::new();
    let mut folders = vec![run.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(ExportError::io("read", &folder))? {
            let path = entry.map_err(ExportError::io("read", &folder))?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "jsonl") && begins_as_samples(&path)? {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn begins_as_samples(path: &Path) -> Result<bool, ExportError> {
    let mut line = String::new();
    let file = fs::File::open(path).map_err(ExportError::io("read", path))?;
    BufReader::new(file).read_line(&mut line).map_err(ExportError::io("read", path))?;
    let head: Option<serde_json::Value> = serde_json::from_str(&line).ok();
    Ok(head.is_some_and(|head| head["schema"] == file::SAMPLES_SCHEMA))
}

fn size(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

fn regime(regime: Regime) -> &'static str {
    phase_policy::RegimeClass::of(regime).map_or("other", phase_policy::RegimeClass::as_str)
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Cold => "cold",
        Role::Sample => "sample",
        Role::Settle => "settle",
        Role::Warmup => "warmup",
        _ => "other",
    }
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "ok",
        Outcome::Cancelled => "cancelled",
        Outcome::Failed(_) => "failed",
        _ => "other",
    }
}
