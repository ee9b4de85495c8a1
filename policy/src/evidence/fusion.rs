//! burn 0.22's fusion log at level `full`: for each segment that ran, a table with its blocks.

use super::{Cover, Level, MAX_UNFUSED_SHARE, Reading, Violation};
use crate::stats::real;

pub(super) fn read(text: &str, during: Vec<Cover>) -> Result<Reading, String> {
    let (mut fused, mut unfused, mut planned) = (0_u64, 0_u64, 0_u64);
    for line in text.lines() {
        if let Some(block) = line.split_once('\u{25b8}').map(|(_, block)| block.trim_start()) {
            let operations = count(block).ok_or_else(|| format!("a block without a count of operations: `{}`", block.trim()))?;
            let sum = if block.starts_with("un-fused") { &mut unfused } else { &mut fused };
            *sum = sum.saturating_add(operations);
        } else if line.contains("operations unfused") || line.contains("unfused stream order") {
            let mut numbers = line.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u64>().ok());
            unfused = unfused.saturating_add(numbers.next_back().unwrap_or(1));
        } else if line.contains("selected single strategy") || line.contains("selected composed strategy") {
            planned += 1;
        }
    }
    let of = fused.saturating_add(unfused);
    if of == 0 && planned == 0 {
        return Err("it shows no block that ran and no strategy".to_owned());
    }
    let many = real(unfused) > MAX_UNFUSED_SHARE * real(of);
    let level = if fused > 0 {
        Level::Executed
    } else if planned > 0 {
        Level::Placed
    } else {
        Level::Configured
    };
    let violations = many.then_some(Violation::Unfused { operations: unfused, of }).into_iter().collect();
    Ok(Reading { level: Some(level), covers: if fused > 0 { during } else { Vec::new() }, violations, ..Reading::default() })
}

/// The number before `op` or `ops` at the end of a block's header.
fn count(block: &str) -> Option<u64> {
    let (_, header) = block.split_once('(')?;
    let (header, _) = header.split_once(')')?;
    let words: Vec<_> = header.split_whitespace().collect();
    let at = words.iter().position(|w| *w == "op" || *w == "ops")?;
    words.get(at.checked_sub(1)?)?.parse().ok()
}
