//! Do the backends give the same scores? A comparison of what `phase logits --json` wrote.

use crate::run::{Result, read};
use std::path::{Path, PathBuf};

/// Two files of scores, and how far apart they may be.
#[derive(Debug)]
pub struct Comparison {
    pub reference: PathBuf,
    pub scores: PathBuf,
    /// As a share of the reference's largest score.
    pub tolerance: f64,
}

impl Comparison {
    /// How far apart they are, or what is wrong. A row's best token counts as different unless the reference's two best
    /// scores are within twice the tolerance: then either choice is right.
    pub fn verdict(&self) -> Result<String> {
        let (reference, scores) = (rows(&self.reference)?, rows(&self.scores)?);
        let lengths = |rows: &[Vec<f64>]| rows.iter().map(Vec::len).collect::<Vec<_>>();
        if lengths(&reference) != lengths(&scores) {
            return Err(format!("rows of {:?} scores, the reference has {:?}", lengths(&scores), lengths(&reference)));
        }
        let (mut worst, mut different) = (0.0f64, 0);
        for (expected, found) in reference.iter().zip(&scores) {
            let scale = expected.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
            let apart = expected.iter().zip(found).fold(0.0f64, |largest, (a, b)| largest.max((a - b).abs()));
            worst = worst.max(apart / scale);
            let (best, second) = best_two(expected);
            if best_two(found).0 != best && expected[best] - expected[second] > 2.0 * self.tolerance * scale {
                different += 1;
            }
        }
        let says = format!(
            "largest difference {worst:.1e} of the scale, {} allowed; {different} of {} best tokens differ",
            self.tolerance,
            scores.len()
        );
        if worst <= self.tolerance && different == 0 { Ok(says) } else { Err(says) }
    }
}

/// `{"logits":[[1.0,2.0],[3.0,4.0]]}`.
fn rows(file: &Path) -> Result<Vec<Vec<f64>>> {
    let text = read(file)?;
    let inner = text.trim().strip_prefix("{\"logits\":[[").and_then(|t| t.strip_suffix("]]}"));
    let inner = inner.ok_or_else(|| format!("{}: no scores", file.display()))?;
    let number = |text: &str| match text.parse::<f64>() {
        Ok(x) if x.is_finite() => Ok(x),
        _ => Err(format!("{}: `{text}` is no score", file.display())),
    };
    let rows: Vec<Vec<f64>> = inner.split("],[").map(|row| row.split(',').map(number).collect()).collect::<Result<_>>()?;
    if rows.iter().any(|row| row.len() < 2) {
        return Err(format!("{}: a row of fewer than two scores", file.display()));
    }
    Ok(rows)
}

/// Where the best and the second-best score are.
fn best_two(row: &[f64]) -> (usize, usize) {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.select_nth_unstable_by(1, |a, b| row[*b].total_cmp(&row[*a]));
    (order[0], order[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(name: &str, reference: &str, scores: &str) -> Result<String> {
        let place = std::env::temp_dir().join(format!("phase-parity-{name}-{}", std::process::id()));
        crate::run::folder(&place).unwrap();
        let file = |name: &str, rows: &str| {
            let file = place.join(name);
            crate::run::write(&file, format!("{{\"logits\":{rows}}}\n")).unwrap();
            file
        };
        let verdict = Comparison { reference: file("reference", reference), scores: file("scores", scores), tolerance: 0.01 }.verdict();
        std::fs::remove_dir_all(&place).unwrap();
        verdict
    }

    #[test]
    fn scores_agree_within_the_tolerance_only() {
        assert!(compare("same", "[[1.0,10.0,3.0],[2.0,1.0,-4.0]]", "[[1.0,10.05,3.0],[2.0,1.0,-4.01]]").unwrap().contains("0 of 2"));
        assert!(compare("far", "[[1.0,10.0,3.0]]", "[[1.0,10.2,3.0]]").unwrap_err().contains("2.0e-2"));
        assert!(compare("nan", "[[1.0,10.0,3.0]]", "[[1.0,null,3.0]]").unwrap_err().contains("no score"));
        assert!(compare("short", "[[1.0,10.0,3.0]]", "[[1.0,10.0]]").unwrap_err().contains("[2]"));
        assert!(compare("error", "[[1.0,10.0,3.0]]", "").is_err());
    }

    #[test]
    fn another_best_token_counts_unless_it_is_a_near_tie() {
        assert!(compare("tie", "[[10.0,9.99]]", "[[9.99,10.0]]").unwrap().contains("0 of 1"));
        assert!(compare("other", "[[10.0,9.0]]", "[[9.0,10.0]]").unwrap_err().contains("1 of 1"));
    }
}
