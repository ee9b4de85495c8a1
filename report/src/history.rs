//! One cell over many runs, with the places where its boundary changed.

use crate::{ReportError, figure::Figure, table::Table};
use phase_core::{Difference, MeasurementBoundary};
use phase_policy::RegimeClass;
use phase_scenario::{RunState, SealedRun, arm_of, run_state};
use serde::Serialize;
use std::{
    fmt,
    path::{Path, PathBuf},
};

/// A cell over many runs, oldest first.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct History {
    /// The cell.
    pub cell: String,
    /// The runs that have it.
    pub points: Vec<HistoryPoint>,
    /// Cells that these runs have, for who wants another.
    pub cells: Vec<String>,
    /// Folders that hold no complete run, and why.
    pub skipped: Vec<[String; 2]>,
}

/// One run of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct HistoryPoint {
    /// The run.
    pub run_id: String,
    /// When it was started.
    pub created: String,
    /// The same in seconds since 1970.
    pub created_unix_s: u64,
    /// The median in milliseconds.
    pub median: Figure,
    /// What is different from the run before; `None` for the first one and where nothing is.
    pub gap: Option<Gap>,
}

/// A change of the boundary between two runs: numbers on its two sides are not one series.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Gap {
    /// The fields.
    pub fields: Vec<Difference>,
    /// Whether the numbers may still be ranked: only the runtime changed, which is what a history is to show.
    pub comparable: bool,
}

/// Reads every run below `dir` and follows one steady cell through them: `cell`, by its id or the beginning of it, or the one
/// that most runs have, and of those the one with most blocks.
///
/// # Errors
/// [`ReportError::Nothing`] when no complete run has such a cell; [`ReportError::Run`] when the folder can't be read.
pub fn history(dir: &Path, cell: Option<&str>) -> Result<History, ReportError> {
    history_with(dir, cell, &mut |_, _, _| {})
}

/// As [`history`]; `watch` is told of the reading as [`SealedRun::open_with`] tells.
///
/// # Errors
/// As [`history`].
pub fn history_with(dir: &Path, cell: Option<&str>, watch: &mut dyn FnMut(u64, u64, &str)) -> Result<History, ReportError> {
    let mut found = Vec::new();
    let (mut runs, mut skipped) = (Vec::new(), Vec::new());
    let io = |source| phase_scenario::ScenarioError::Io { action: "list", path: dir.to_owned(), source };
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if !path.is_dir() {
            continue;
        }
        if !matches!(run_state(&path), Ok(RunState::Absent | RunState::Foreign)) {
            found.push(path);
        }
    }
    for (path, opened) in found.iter().zip(SealedRun::open_all(found.iter().map(PathBuf::as_path), watch)) {
        match opened {
            Ok(run) => runs.push(run),
            Err(e) => skipped.push([path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(), e.to_string()]),
        }
    }
    runs.sort_by_key(|run| run.manifest().created_unix_seconds);
    let ids = |run: &SealedRun| -> Vec<(String, usize)> {
        let cells = run.matrix().map(|m| m.cells()).unwrap_or_default();
        cells.iter().filter(|c| c.key.regime == RegimeClass::Steady && c.time.is_some()).map(|c| (c.key.id(), c.blocks.len())).collect()
    };
    let mut counts: Vec<(String, [usize; 2])> = Vec::new();
    for (id, blocks) in runs.iter().flat_map(ids) {
        match counts.iter_mut().find(|(name, _)| *name == id) {
            Some((_, [n, all])) => (*n, *all) = (*n + 1, *all + blocks),
            None => counts.push((id, [1, blocks])),
        }
    }
    // Of cells that as many runs have, the one with most blocks: a cell without an interval shows no change.
    let wanted = counts.iter().rev().filter(|(id, _)| cell.is_none_or(|c| id.starts_with(c))).max_by_key(|(_, n)| *n);
    let wanted = wanted.map(|(id, _)| id.clone()).ok_or_else(|| {
        let what = cell.map_or_else(|| "a steady cell".to_owned(), |c| format!("a steady cell `{c}`"));
        ReportError::Nothing(format!("no complete run in {} has {what}", dir.display()))
    })?;
    let points = points(&runs, &wanted);
    Ok(History { cell: wanted, points, cells: counts.into_iter().map(|(id, _)| id).collect(), skipped })
}

fn points(runs: &[SealedRun], wanted: &str) -> Vec<HistoryPoint> {
    let mut points: Vec<HistoryPoint> = Vec::new();
    let mut before: Option<MeasurementBoundary> = None;
    for run in runs {
        let Some(cell) = run.matrix().and_then(|m| m.cells().iter().find(|c| c.key.id() == wanted)) else { continue };
        let (Some(median), Some(boundary)) = (Figure::median_ms(cell), run.boundary(&arm_of(&cell.key.backend, &cell.key.mode))) else {
            continue;
        };
        let gap = before.as_ref().and_then(|last| {
            let mismatch = last.same(boundary).err()?;
            Some(Gap { fields: mismatch.fields, comparable: last.comparable(boundary).is_ok() })
        });
        before = Some(boundary.clone());
        points.push(HistoryPoint {
            run_id: run.run_id().to_owned(),
            created: run.manifest().created.clone(),
            created_unix_s: run.manifest().created_unix_seconds,
            median,
            gap,
        });
    }
    points
}

impl History {
    /// As one page that needs nothing else.
    ///
    /// # Errors
    /// [`ReportError::Plot`], [`ReportError::Template`].
    pub fn to_html(&self) -> Result<String, ReportError> {
        crate::html::history(self)
    }
}

/// One line a run, with a bar, and a line where the boundary changed.
impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.cell)?;
        let most = self.points.iter().map(|p| p.median.value).fold(0.0, f64::max);
        let mut table = Table::new(&["run", "ms", "low", "high", "n", ""]);
        let shown = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), crate::figure::digits);
        for point in &self.points {
            if let Some(gap) = &point.gap {
                let fields: Vec<_> = gap.fields.iter().map(|d| d.field.as_str()).collect();
                let rest = if gap.comparable { "comparable" } else { "NOT comparable" };
                table.row([format!("boundary changed, {rest}: {}", fields.join(", "))]);
            }
            let m = &point.median;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of 24 columns")]
            let bar = "\u{2588}".repeat((m.value / most * 24.0).round() as usize);
            table.row([point.run_id.clone(), shown(Some(m.value)), shown(m.low), shown(m.high), m.n.to_string(), bar]);
        }
        write!(f, "{table}")?;
        self.skipped.iter().try_for_each(|[name, why]| write!(f, "\nskipped {name}: {why}"))
    }
}
