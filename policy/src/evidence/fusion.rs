//! burn 0.22's fusion log at level `full`: for each segment that runs, a table with its blocks, a line for each operation. Lines
//! that say what was planned, or that a plan did not fit, count nothing: what ran instead has a table too.

use super::{Cover, Level, MAX_UNFUSED_SHARE, Reading, Violation};
use crate::stats::real;

/// Begins a block in a table.
const BLOCK: char = '\u{25b8}';

pub(super) fn read(text: &str, during: Vec<Cover>) -> Result<Reading, String> {
    let (mut fused, mut unfused, mut planned) = (0_u64, 0_u64, false);
    let mut table: Option<Table> = None;
    for (number, line) in (1..).zip(text.lines()) {
        let wrong = |why: String| format!("line {number}: {why}");
        if let Some(open) = &mut table {
            // Freeing a tensor is no work.
            if open.row(line).map_err(wrong)? && !line.contains("  Drop  ") {
                *(if open.fuses { &mut fused } else { &mut unfused }) += 1;
            }
            table = table.filter(|open| !open.is_full());
        } else if let Some(title) = line.strip_prefix("fusion trace ") {
            let sizes = counted(title, "op").zip(counted(title, "block")).filter(|(rows, blocks)| *blocks > 0 && rows >= blocks);
            let (rows, blocks) = sizes.ok_or_else(|| wrong(format!("a table without a size: `{title}`")))?;
            table = Some(Table { rows, blocks, ..Table::default() });
        } else if line.contains(BLOCK) {
            return Err(wrong("a block outside of a table".to_owned()));
        } else {
            planned |= line == "selected single strategy" || line.starts_with("selected composed strategy (");
        }
    }
    if let Some(Table { rows, seen, .. }) = table {
        return Err(format!("cut off: its last table has {seen} of {rows} operations"));
    }
    let of = fused + unfused;
    if of == 0 && !planned {
        return Err("it shows no block that ran and no strategy".to_owned());
    }
    let level = if fused > 0 {
        Level::Executed
    } else if planned {
        Level::Placed
    } else {
        Level::Configured
    };
    let many = real(unfused) > MAX_UNFUSED_SHARE * real(of);
    let violations = many.then_some(Violation::Unfused { operations: unfused, of }).into_iter().collect();
    Ok(Reading { level: Some(level), covers: if fused > 0 { during } else { Vec::new() }, violations, ..Reading::default() })
}

/// A table that is being read: what its title and the block's header state, and what was seen of it.
#[derive(Default)]
struct Table {
    rows: u64,
    blocks: u64,
    heads: usize,
    seen: u64,
    /// Operations of the block that are still to come.
    left: u64,
    fuses: bool,
}

impl Table {
    /// Whether `line` is an operation, and not part of the head.
    fn row(&mut self, line: &str) -> Result<bool, String> {
        if let Some(head) = ["idx ", "---"].get(self.heads) {
            self.heads += 1;
            return if line.starts_with(head) { Ok(false) } else { Err(format!("no head of a table: `{line}`")) };
        }
        if line.split_whitespace().next().and_then(|index| index.parse().ok()) != Some(self.seen) {
            return Err(format!("not operation {} of a table of {}: `{line}`", self.seen, self.rows));
        }
        if let Some((_, header)) = line.split_once(BLOCK) {
            let operations = counted(header, "op").filter(|n| *n > 0 && self.left == 0 && self.blocks > 0);
            self.left = operations.ok_or_else(|| format!("a block that does not fit its table: `{}`", header.trim()))?;
            self.blocks -= 1;
            self.fuses = header.trim_start().starts_with("fused ");
        }
        self.left = self.left.checked_sub(1).ok_or_else(|| format!("an operation in no block: `{line}`"))?;
        self.seen += 1;
        if self.seen == self.rows && (self.left, self.blocks) != (0, 0) {
            return Err(format!("its table of {} operations lacks {} of them and {} blocks", self.rows, self.left, self.blocks));
        }
        Ok(true)
    }

    fn is_full(&self) -> bool {
        self.heads == 2 && self.seen == self.rows
    }
}

/// The number before `unit`, singular or plural, in the first parentheses of `header`.
fn counted(header: &str, unit: &str) -> Option<u64> {
    let (_, inside) = header.split_once('(')?;
    let (inside, _) = inside.split_once(')')?;
    let part = |part: &str| {
        let (number, name) = part.trim().split_once(' ')?;
        (name.strip_suffix('s').unwrap_or(name) == unit).then(|| number.parse().ok())?
    };
    inside.split(',').find_map(part)
}
