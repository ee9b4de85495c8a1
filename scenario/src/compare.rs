//! Two runs against each other, cell by cell. Within a run backends are paired by block; two runs have no common blocks,
//! so here the intervals are those of two independent samples (Welch, on the logarithms of the blocks' medians).

use crate::{Run, ScenarioError, table::Table};
use phase_core::{BackendId, Difference};
use phase_policy::{
    Cell, CellKey, RegimeClass,
    constants::{CONFIDENCE, MIN_BLOCKS, ROPE},
    stats::{Verdict, student_t_quantile},
};
use serde::Serialize;
use std::fmt;

/// What to do about numbers of different boundaries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Foreign {
    /// Compare all the same; the result says so. Only when whoever asks knows that the boundaries differ.
    Accept,
    /// Refuse, naming the fields.
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
    /// Differences of the boundaries that were accepted.
    pub foreign: Vec<ForeignBackend>,
    /// One row for each cell of either run.
    pub rows: Vec<Row>,
}

/// A path whose numbers were compared although its boundaries differ.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ForeignBackend {
    /// The path.
    pub backend: BackendId,
    /// The fields that differ.
    pub fields: Vec<Difference>,
}

/// One cell of either run.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Row {
    /// The cell.
    pub key: CellKey,
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
        ratio: f64,
        /// Lower end.
        low: f64,
        /// Upper end.
        high: f64,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// Compares run `b` with run `a`.
///
/// # Errors
/// [`ScenarioError::NotComparable`] naming the fields, when a path that both have ran under boundaries that are not
/// comparable and `foreign` does not accept that.
pub fn compare(a: &Run, b: &Run, foreign: Foreign) -> Result<Comparison, ScenarioError> {
    let mut accepted = Vec::new();
    for id in a.manifest().plan.backends.iter().filter(|id| b.manifest().plan.backends.contains(id)) {
        if let (Some(x), Some(y)) = (a.boundary(id), b.boundary(id))
            && let Err(mismatch) = x.comparable(y)
        {
            match foreign {
                Foreign::Refuse => return Err(ScenarioError::NotComparable(mismatch)),
                Foreign::Accept => accepted.push(ForeignBackend { backend: id.backend.clone(), fields: mismatch.fields }),
            }
        }
    }
    let cells = |run: &Run| run.matrix().map(|m| m.cells().to_vec()).unwrap_or_default();
    let (ours, theirs) = (cells(a), cells(b));
    let only = |run: &str| RowOutcome::NotComparable { why: format!("only in run {run}") };
    let mut rows: Vec<_> = ours
        .iter()
        .map(|cell| {
            let other = theirs.iter().find(|c| c.key == cell.key);
            Row { key: cell.key.clone(), outcome: other.map_or_else(|| only(a.run_id()), |other| judge(cell, other)) }
        })
        .collect();
    let missing = theirs.iter().filter(|c| !ours.iter().any(|o| o.key == c.key));
    rows.extend(missing.map(|c| Row { key: c.key.clone(), outcome: only(b.run_id()) }));
    Ok(Comparison { run_a: a.run_id().to_owned(), run_b: b.run_id().to_owned(), foreign: accepted, rows })
}

fn judge(a: &Cell, b: &Cell) -> RowOutcome {
    let why = |why: String| RowOutcome::NotComparable { why };
    if let Some((name, cell)) = [("A", a), ("B", b)].into_iter().find(|(_, c)| c.failures > 0) {
        return why(format!("{} of run {name}'s calls failed", cell.failures));
    }
    if let Some((name, cell)) = [("A", a), ("B", b)].into_iter().find(|(_, c)| c.blocks.len() < MIN_BLOCKS) {
        return why(format!("run {name} has {} blocks, {MIN_BLOCKS} are needed", cell.blocks.len()));
    }
    let logs = |cell: &Cell| cell.blocks.iter().map(|block| block.median_ns.ln()).collect::<Vec<_>>();
    match welch(&logs(b), &logs(a), CONFIDENCE) {
        Some((low, ratio, high)) => RowOutcome::Compared { ratio, low, high, verdict: verdict(low, high) },
        None => why("a block's time is not a positive number".to_owned()),
    }
}

fn verdict(low: f64, high: f64) -> Verdict {
    let (bottom, top) = (1.0 / (1.0 + ROPE), 1.0 + ROPE);
    if high < bottom {
        Verdict::Faster
    } else if low > top {
        Verdict::Slower
    } else if low >= bottom && high <= top {
        Verdict::Equivalent
    } else {
        Verdict::Ambiguous
    }
}

/// Interval of the ratio of two geometric means, from the logarithms of two independent samples.
#[expect(clippy::cast_precision_loss, reason = "numbers of blocks")]
fn welch(ours: &[f64], theirs: &[f64], confidence: f64) -> Option<(f64, f64, f64)> {
    let moments = |logs: &[f64]| {
        let n = logs.len() as f64;
        let mean = logs.iter().sum::<f64>() / n;
        (mean, logs.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / (n - 1.0) / n, n - 1.0)
    };
    let ((x, vx, dx), (y, vy, dy)) = (moments(ours), moments(theirs));
    let variance = vx + vy;
    let difference = x - y;
    let half = if variance > 0.0 {
        let degrees = variance.powi(2) / (vx.powi(2) / dx + vy.powi(2) / dy);
        student_t_quantile(0.5 + confidence / 2.0, degrees)? * variance.sqrt()
    } else {
        0.0
    };
    (difference + half).is_finite().then(|| ((difference - half).exp(), difference.exp(), (difference + half).exp()))
}

impl Comparison {
    /// All steady cells in one word.
    pub fn summary(&self) -> Summary {
        let verdicts: Vec<_> = self
            .rows
            .iter()
            .filter(|row| row.key.regime == RegimeClass::Steady)
            .filter_map(|row| match &row.outcome {
                RowOutcome::Compared { verdict, .. } => Some(*verdict),
                RowOutcome::NotComparable { .. } => None,
            })
            .collect();
        let any = |wanted| verdicts.contains(&wanted);
        match (any(Verdict::Faster), any(Verdict::Slower)) {
            _ if verdicts.is_empty() => Summary::Nothing,
            (true, true) => Summary::Mixed,
            (true, false) => Summary::Faster,
            (false, true) => Summary::Slower,
            (false, false) if any(Verdict::Ambiguous) => Summary::Ambiguous,
            (false, false) => Summary::Equivalent,
        }
    }
}

/// As Markdown.
impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Run {} against run {} (time ratio, below 1 is faster; {:.0}% interval)\n",
            self.run_b,
            self.run_a,
            CONFIDENCE * 100.0
        )?;
        for ForeignBackend { backend, fields } in &self.foreign {
            let fields: Vec<_> = fields.iter().map(ToString::to_string).collect();
            writeln!(f, "**Foreign numbers**, {backend}: {}\n", fields.join("; "))?;
        }
        let mut table = Table::new(&["cell", "ratio", "low", "high", "verdict"]);
        for row in &self.rows {
            let id = row.key.id();
            match &row.outcome {
                RowOutcome::Compared { ratio, low, high, verdict } => {
                    let number = |v: &f64| format!("{v:.3}");
                    table.row([id, number(ratio), number(low), number(high), format!("{verdict:?}").to_lowercase()]);
                }
                RowOutcome::NotComparable { why } => table.row([id, "-".to_owned(), "-".to_owned(), "-".to_owned(), why.clone()]),
            }
        }
        write!(f, "{table}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn welch_equals_a_calculation_by_hand() {
        // Two samples of 3 with variance 0.01: standard error sqrt(2 * 0.01 / 3) = 0.0816497, 4 degrees, t = 2.776445.
        let (low, ratio, high) = welch(&[0.0, 0.1, 0.2], &[0.5, 0.6, 0.7], 0.95).unwrap();
        for (got, log) in [(ratio, -0.5), (low, -0.5 - 0.226_696), (high, -0.5 + 0.226_696)] {
            assert!((got.ln() - log).abs() < 1e-5, "{got} should be exp({log})");
        }
        assert_eq!(welch(&[0.0; 3], &[f64::NEG_INFINITY; 3], 0.95), None);
    }

    #[test]
    fn equal_constants_are_equivalent() {
        let (low, _, high) = welch(&[1.0; 3], &[1.0; 3], 0.95).unwrap();
        assert_eq!(verdict(low, high), Verdict::Equivalent);
        assert_eq!([verdict(0.9, 0.95), verdict(1.05, 1.1), verdict(0.9, 1.1)], [Verdict::Faster, Verdict::Slower, Verdict::Ambiguous]);
    }
}
