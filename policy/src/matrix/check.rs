//! What must hold of cells and boundaries, wherever they come from.

use super::{Cell, MatrixError, TimeSummary};
use crate::stats::{BlockMedian, Interval, real};
use phase_core::{BackendId, Energy, MeasurementBoundary, Phase};
use std::collections::BTreeMap;

/// Every boundary is there; one backend and mode has one; all may be ranked against each other. Requests are apart:
/// their region differs from a call's by definition, and they are never compared with one.
pub(crate) fn check_boundaries<'a>(
    named: impl Iterator<Item = (&'a BackendId, &'a str, Phase, &'a str)>,
    boundaries: &BTreeMap<String, MeasurementBoundary>,
) -> Result<(), MatrixError> {
    let mut arms: BTreeMap<(bool, &BackendId, &str), &str> = BTreeMap::new();
    let name = |backend: &BackendId, mode: &str| format!("{backend}/{mode}");
    for (backend, mode, phase, id) in named {
        let Some(boundary) = boundaries.get(id) else {
            return Err(MatrixError::UnknownBoundary { backend: backend.clone(), boundary: id.to_owned() });
        };
        let first = *arms.entry((phase == Phase::Request, backend, mode)).or_insert(id);
        // The same record may hold unknown facts, which never equal themselves: one name is one capture.
        if first != id {
            boundaries[first].same(boundary).map_err(|mismatch| MatrixError::DifferentBoundaries {
                first: name(backend, mode),
                first_boundary: first.to_owned(),
                second: name(backend, mode),
                second_boundary: id.to_owned(),
                mismatch,
            })?;
        }
    }
    for requests in [false, true] {
        let mut kind = arms.iter().filter(|((r, ..), _)| *r == requests);
        let Some(((_, backend, mode), first)) = kind.next() else { continue };
        for ((_, other, other_mode), second) in kind.filter(|(_, second)| *second != first) {
            boundaries[*first].comparable(&boundaries[*second]).map_err(|mismatch| MatrixError::DifferentBoundaries {
                first: name(backend, mode),
                first_boundary: (*first).to_owned(),
                second: name(other, other_mode),
                second_boundary: (*second).to_owned(),
                mismatch,
            })?;
        }
    }
    Ok(())
}

/// Each cell agrees with itself, and there is one for each key; `cells` are ordered by key.
pub(crate) fn check_cells(cells: &[Cell], boundaries: &BTreeMap<String, MeasurementBoundary>) -> Result<(), MatrixError> {
    if cells.is_empty() {
        return Err(MatrixError::Empty);
    }
    for pair in cells.windows(2) {
        if pair[0].key >= pair[1].key {
            return Err(MatrixError::Inconsistent { cell: pair[1].key.id(), problem: "occurs twice or out of order".to_owned() });
        }
    }
    for cell in cells {
        let inconsistent = |problem: String| MatrixError::Inconsistent { cell: cell.key.id(), problem };
        if !boundaries.contains_key(&cell.boundary) {
            return Err(inconsistent(format!("its boundary `{}` is not there", cell.boundary)));
        }
        check_cell(cell).map_err(inconsistent)?;
    }
    Ok(())
}

fn check_cell(cell: &Cell) -> Result<(), String> {
    let Cell { key, boundary: _, n, failures: _, cancelled: _, blocks, contexts, time, steady: _, energy, energy_basis } = cell;
    if key.shape.batch == 0 || (key.phase != Phase::Request && key.shape.new_tokens == 0) {
        return Err("its shape is empty".to_owned());
    }
    if key.phase == Phase::Decode && key.shape.context != 0 && !key.shape.context.is_power_of_two() {
        return Err(format!("{} is not the lower end of a context octave", key.shape.context));
    }
    if blocks.windows(2).any(|pair| pair[0].block >= pair[1].block) {
        return Err("its blocks are out of order".to_owned());
    }
    if let Some(BlockMedian { block, median_ns, .. }) = blocks.iter().find(|b| !positive(b.median_ns) || b.n == 0) {
        return Err(format!("block {block} has a median of {median_ns} ns"));
    }
    if blocks.iter().try_fold(0_u64, |sum, b| sum.checked_add(b.n)) != Some(*n) {
        return Err(format!("its blocks do not add up to n = {n}"));
    }
    if let Some(c) = contexts.filter(|c| c.min > c.median || c.median > c.max) {
        return Err(format!("contexts {} / {} / {} are out of order", c.min, c.median, c.max));
    }
    match time {
        Some(time) if *n > 0 && contexts.is_some() => check_time(time)?,
        None if *n == 0 => {}
        _ => return Err(format!("n = {n} does not agree with its times")),
    }
    check_energy(energy)?;
    energy_basis.as_ref().map_or(Ok(()), super::EnergyBasis::check)
}

fn check_time(time: &TimeSummary) -> Result<(), String> {
    let TimeSummary { median_ns, interval, min_ns, max_ns, p95_ns, p95_upper_ns, p99_ns, p99_upper_ns, device_median_ns } = *time;
    let (min, max) = (real(min_ns), real(max_ns));
    if !(min >= 1.0 && min <= median_ns && median_ns <= max) {
        return Err(format!("a median of {median_ns} ns between {min_ns} and {max_ns} ns"));
    }
    if let Some(Interval { low, high, confidence }) = interval
        && !(min <= low && low <= median_ns && median_ns <= high && high <= max && confidence > 0.0 && confidence < 1.0)
    {
        return Err(format!("an interval [{low}, {high}] ns at confidence {confidence} around a median of {median_ns} ns"));
    }
    let tails = [("p95", p95_ns), ("upper bound of p95", p95_upper_ns), ("p99", p99_ns), ("upper bound of p99", p99_upper_ns)];
    for (name, tail) in tails {
        if let Some(tail) = tail.filter(|p| !(min <= *p && *p <= max)) {
            return Err(format!("a {name} of {tail} ns between {min_ns} and {max_ns} ns"));
        }
    }
    for (tail, upper) in [(p95_ns, p95_upper_ns), (p99_ns, p99_upper_ns)] {
        if let Some((tail, upper)) = tail.zip(upper).filter(|(tail, upper)| tail > upper) {
            return Err(format!("a percentile of {tail} ns above its own upper bound, {upper} ns"));
        }
    }
    match device_median_ns.filter(|d| !(d.is_finite() && *d >= 0.0)) {
        Some(device) => Err(format!("a device median of {device} ns")),
        None => Ok(()),
    }
}

pub(super) fn check_energy(energy: &Energy) -> Result<(), String> {
    match energy {
        Energy::Measured { joules, low, high }
        | Energy::Interpolated { joules, low, high }
        | Energy::MacroWindow { joules, low, high, .. }
            if !(0.0 <= low.0 && low <= joules && joules <= high && high.0.is_finite()) =>
        {
            Err(format!("an energy of {energy}"))
        }
        _ => Ok(()),
    }
}

fn positive(value: f64) -> bool {
    value > 0.0 && value.is_finite()
}
