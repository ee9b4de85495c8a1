//! What every number of a page rests on: calls, blocks, boundaries, in the words that are shown when it is pointed at.

use crate::{
    CellRow, Report,
    figure::{count, plural},
};
use std::collections::{BTreeSet, HashMap};

/// Looks up what numbers rest on.
pub(super) struct Origin<'a> {
    report: &'a Report,
    cells: HashMap<&'a str, &'a CellRow>,
}

impl<'a> Origin<'a> {
    pub(super) fn of(report: &'a Report) -> Self {
        Self { report, cells: report.cells.iter().map(|c| (c.id.as_str(), c)).collect() }
    }

    /// The boundaries of a competitor, by its whole name or by its backend's.
    pub(super) fn boundaries(&self, arm: &str) -> BTreeSet<&'a str> {
        let own = |name: &str| name == arm || name.strip_prefix(arm).is_some_and(|rest| rest.starts_with('@'));
        self.report.boundaries.iter().filter(|b| b.arms.iter().any(|a| own(a))).map(|b| b.id.as_str()).collect()
    }

    /// Of one competitor or of several.
    pub(super) fn of_arms<'b>(&self, arms: impl IntoIterator<Item = &'b str>) -> String {
        listed(&arms.into_iter().flat_map(|arm| self.boundaries(arm)).collect())
    }

    /// Of the whole report.
    pub(super) fn all(&self) -> String {
        listed(&self.report.boundaries.iter().map(|b| b.id.as_str()).collect())
    }

    /// Of the cells that a decision or a sum was made from.
    pub(super) fn of_cells<'b>(&self, ids: impl IntoIterator<Item = &'b str>) -> String {
        let found: Vec<_> = ids.into_iter().filter_map(|id| self.cells.get(id)).filter_map(|c| c.median.as_ref()).collect();
        let n: u64 = found.iter().map(|m| m.n).sum();
        let boundaries = found.iter().map(|m| m.boundary.as_str()).collect();
        format!("n = {} calls of {} {} \u{b7} {}", count(n), found.len(), plural(found.len(), "cell"), listed(&boundaries))
    }
}

fn listed(ids: &BTreeSet<&str>) -> String {
    let all: Vec<_> = ids.iter().copied().collect();
    format!("{} {}", if all.len() == 1 { "boundary" } else { "boundaries" }, all.join(", "))
}
