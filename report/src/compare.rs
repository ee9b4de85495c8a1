//! Two runs against each other, cell by cell. Within a run backends are paired by block; two runs have no common blocks,
//! so here the intervals are those of two independent samples.

use crate::{figure::Ratio, table::Table};
use phase_core::{Arm, Difference};
use phase_policy::{
    Cell, CellKey, RegimeClass,
    constants::{CONFIDENCE, MIN_BLOCKS, ROPE},
    stats::{Verdict, independent_ratio},
};
use phase_scenario::{SealedRun, arm_of};
use serde::Serialize;
use std::fmt;

/// What to do about numbers of different boundaries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Foreign {
    /// Compare all the same; the result says so. Only when whoever asks knows that the boundaries differ.
    Accept,
    /// No verdict: every cell says which fields differ.
    #[default]
    Refuse,
}

/// Run B against run A.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Comparison {
    /// The run that is the base.
    pub run_a: String,
    /// The run that is compared with it.
    pub run_b: String,
    /// Differences below this share are equivalent.
    pub threshold: f64,
    /// Competitors that both runs have under boundaries that are not comparable.
    pub foreign: Vec<ForeignBackend>,
    /// Whether they were compared all the same.
    pub foreign_accepted: bool,
    /// One row for each cell of either run.
    pub rows: Vec<Row>,
}

/// A competitor whose boundaries differ.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ForeignBackend {
    /// Who.
    pub backend: Arm,
    /// The fields that differ or are unknown.
    pub fields: Vec<Difference>,
}

/// One cell of either run.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Row {
    /// The cell.
    pub key: CellKey,
    /// Its median in run A, in milliseconds.
    pub a_ms: Option<f64>,
    /// Its median in run B.
    pub b_ms: Option<f64>,
    /// Calls in A and in B.
    pub n: [u64; 2],
    /// The boundaries of A's and B's calls.
    pub boundaries: [Option<String>; 2],
    /// What can be said.
    pub outcome: RowOutcome,
}

/// What can be said about one cell of two runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
#[non_exhaustive]
pub enum RowOutcome {
    /// Time of B over time of A, with an interval.
    Compared {
        /// Geometric means of the blocks' medians, B over A: below 1 B is faster.
        ratio: Ratio,
        /// What the interval says about B.
        verdict: Verdict,
    },
    /// Nothing.
    NotComparable {
        /// Why.
        why: String,
    },
}

/// A comparison in one word, over the steady cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Summary {
    /// No cell faster or slower, and not all of them equivalent.
    Ambiguous,
    /// Every cell equivalent.
    Equivalent,
    /// At least one cell faster, none slower.
    Faster,
    /// Some faster, some slower.
    Mixed,
    /// No cell could be compared.
    Nothing,
    /// At least one cell slower, none faster.
    Slower,
}

/// Compares run `b` with run `a`: differences below `threshold`, a share, are equivalent. `None` takes the policy's region of
/// practical equivalence.
pub fn compare(a: &SealedRun, b: &SealedRun, threshold: Option<f64>, foreign: Foreign) -> Comparison {
    let rope = threshold.unwrap_or(ROPE);
    let mut differing = Vec::new();
    for id in a.manifest().plan.backends.iter().filter(|id| b.manifest().plan.backends.contains(id)) {
        if let (Some(x), Some(y)) = (a.boundary(id), b.boundary(id))
            && let Err(mismatch) = x.comparable(y)
        {
            differing.push(ForeignBackend { backend: id.clone(), fields: mismatch.fields });
        }
    }
    let cells = |run: &SealedRun| run.matrix().map(|m| m.cells().to_vec()).unwrap_or_default();
    let (ours, theirs) = (cells(a), cells(b));
    let judge = |x: &Cell, y: &Cell| match differing.iter().find(|f| f.backend == arm_of(&x.key.backend, &x.key.mode)) {
        Some(differs) if foreign == Foreign::Refuse => {
            let fields: Vec<_> = differs.fields.iter().map(|d| d.field.as_str()).collect();
            RowOutcome::NotComparable { why: format!("boundaries differ in {}", fields.join(", ")) }
        }
        _ => judge(x, y, rope),
    };
    let mut rows: Vec<_> = ours
        .iter()
        .map(|cell| {
            let other = theirs.binary_search_by(|c| c.key.cmp(&cell.key)).ok().map(|at| &theirs[at]);
            let outcome = other.map_or_else(|| only(a.run_id()), |other| judge(cell, other));
            row(Some(cell), other, cell.key.clone(), outcome)
        })
        .collect();
    let missing = theirs.iter().filter(|c| ours.binary_search_by(|o| o.key.cmp(&c.key)).is_err());
    rows.extend(missing.map(|c| row(None, Some(c), c.key.clone(), only(b.run_id()))));
    Comparison {
        run_a: a.run_id().to_owned(),
        run_b: b.run_id().to_owned(),
        threshold: rope,
        foreign_accepted: foreign == Foreign::Accept && !differing.is_empty(),
        foreign: differing,
        rows,
    }
}

fn only(run: &str) -> RowOutcome {
    RowOutcome::NotComparable { why: format!("only in run {run}") }
}

fn row(a: Option<&Cell>, b: Option<&Cell>, key: CellKey, outcome: RowOutcome) -> Row {
    let median = |cell: Option<&Cell>| Some(cell?.time?.median_ns / 1e6);
    let n = |cell: Option<&Cell>| cell.map_or(0, |c| c.n);
    let boundary = |cell: Option<&Cell>| cell.map(|c| c.boundary.clone());
    Row { key, a_ms: median(a), b_ms: median(b), n: [n(a), n(b)], boundaries: [boundary(a), boundary(b)], outcome }
}

fn judge(a: &Cell, b: &Cell, rope: f64) -> RowOutcome {
    let why = |why: String| RowOutcome::NotComparable { why };
    if let Some((name, cell)) = [("A", a), ("B", b)].into_iter().find(|(_, c)| c.failures > 0) {
        return why(format!("{} of run {name}'s calls failed", cell.failures));
    }
    if let Some((name, cell)) = [("A", a), ("B", b)].into_iter().find(|(_, c)| c.blocks.len() < MIN_BLOCKS) {
        let n = cell.blocks.len();
        return why(format!("run {name} has {n} {}, {MIN_BLOCKS} are needed", crate::figure::plural(n, "block")));
    }
    match independent_ratio(&b.blocks, &a.blocks, CONFIDENCE) {
        Some(ratio) => RowOutcome::Compared { verdict: ratio.verdict(rope), ratio: ratio.into() },
        None => why("a block's time is not a positive number".to_owned()),
    }
}

impl Comparison {
    /// All steady cells in one word.
    pub fn summary(&self) -> Summary {
        let (faster, slower) = (self.count(Verdict::Faster), self.count(Verdict::Slower));
        let (ambiguous, equivalent) = (self.count(Verdict::Ambiguous), self.count(Verdict::Equivalent));
        match (faster > 0, slower > 0) {
            _ if faster + slower + ambiguous + equivalent == 0 => Summary::Nothing,
            (true, true) => Summary::Mixed,
            (true, false) => Summary::Faster,
            (false, true) => Summary::Slower,
            (false, false) if ambiguous > 0 => Summary::Ambiguous,
            (false, false) => Summary::Equivalent,
        }
    }

    /// Steady cells with this verdict.
    pub fn count(&self, wanted: Verdict) -> usize {
        let steady = self.rows.iter().filter(|row| row.key.regime == RegimeClass::Steady);
        steady.filter(|row| matches!(&row.outcome, RowOutcome::Compared { verdict, .. } if *verdict == wanted)).count()
    }

    /// Whether boundaries differ and no verdict was given for that reason.
    pub fn refused(&self) -> bool {
        !self.foreign.is_empty() && !self.foreign_accepted
    }

    /// As one page that needs nothing else.
    ///
    /// # Errors
    /// [`ReportError::Template`](crate::ReportError::Template).
    pub fn to_html(&self) -> Result<String, crate::ReportError> {
        crate::html::comparison(self)
    }
}

/// One line a cell: old, new, change, verdict. Readable as Markdown too.
impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { run_a, run_b, threshold, foreign, foreign_accepted, rows } = self;
        writeln!(
            f,
            "A {run_a}\nB {run_b}\nB's time over A's: below 1 is faster; {:.0}% interval; equivalent within {:.1}%\n",
            CONFIDENCE * 100.0,
            threshold * 100.0
        )?;
        for ForeignBackend { backend, fields } in foreign {
            let fields: Vec<_> = fields.iter().map(ToString::to_string).collect();
            let done = if *foreign_accepted { "compared all the same" } else { "not compared" };
            writeln!(f, "**Different boundaries**, {backend}, {done}: {}\n", fields.join("; "))?;
        }
        let mut table = Table::new(&["cell", "A ms", "B ms", "B/A", "low", "high", "verdict"]);
        let ms = |v: &Option<f64>| v.map_or_else(|| "-".to_owned(), crate::figure::digits);
        for Row { key, a_ms, b_ms, outcome, .. } in rows {
            let id = key.id();
            match outcome {
                RowOutcome::Compared { ratio, verdict } => {
                    let number = |v: f64| format!("{v:.3}");
                    let word = format!("{verdict:?}").to_lowercase();
                    table.row([id, ms(a_ms), ms(b_ms), number(ratio.ratio), number(ratio.low), number(ratio.high), word]);
                }
                RowOutcome::NotComparable { why } => {
                    let none = || "-".to_owned();
                    table.row([id, ms(a_ms), ms(b_ms), none(), none(), none(), format!("not comparable: {why}")]);
                }
            }
        }
        let [faster, slower, equivalent, ambiguous] =
            [Verdict::Faster, Verdict::Slower, Verdict::Equivalent, Verdict::Ambiguous].map(|v| self.count(v));
        write!(f, "{table}\nSteady cells: {faster} faster, {slower} slower, {equivalent} equivalent, {ambiguous} ambiguous.")
    }
}
