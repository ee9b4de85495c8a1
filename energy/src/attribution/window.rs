//! From updates to windows: what each update says about which stretch of time, and where the readings contradict
//! themselves.

use super::{fault::Faults, update::Update};
use crate::{Interval, PowerBounds, ReadingKind, SensorKind, SensorModel, SensorWindow};
use phase_core::NoData;

/// Windows of a recording, in order, and its void stretches.
#[derive(Debug, Default)]
pub(super) struct Windows {
    pub(super) windows: Vec<SensorWindow>,
    pub(super) faults: Faults,
    /// Longest time between updates, seconds.
    pub(super) max_gap_s: f64,
}

/// A reading is exact to one unit: a millijoule, a milliwatt.
const UNIT: f64 = 1e-3;

pub(super) fn windows(kind: ReadingKind, updates: &[Update], model: &SensorModel, max_gap_periods: f64) -> Windows {
    let mut out = Windows::default();
    match kind {
        ReadingKind::Counter => counter(updates, model, max_gap_periods, &mut out),
        ReadingKind::Power => power(updates, model, max_gap_periods, &mut out),
    }
    if faster_than_calibrated(updates, model) {
        out.faults.add(NoData::Uncalibrated, Interval::new(f64::NEG_INFINITY, f64::INFINITY));
    }
    out
}

fn counter(updates: &[Update], model: &SensorModel, max_gap_periods: f64, out: &mut Windows) {
    let longest = max_gap_periods * model.update_s().max(model.pace_s());
    for pair in updates.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        let (lo_s, hi_s) = (before.at_s - model.lag_s(), after.at_s - model.lag_s());
        let link = Interval::new(lo_s - before.error_s, hi_s + after.error_s);
        let joules = after.value - before.value;
        out.max_gap_s = out.max_gap_s.max(hi_s - lo_s);
        if joules < 0.0 {
            out.faults.add(NoData::CounterReset, link);
            continue;
        }
        let window = SensorWindow { lo_s, hi_s, joules, sensed_s: hi_s - lo_s, lo_error_s: before.error_s, hi_error_s: after.error_s };
        let plausible = window.plausible(model.power(), UNIT);
        if hi_s - lo_s > longest && hi_s - lo_s - before.silent_s > longest {
            out.faults.add(NoData::CounterStuck, link);
        } else if hi_s - lo_s > longest {
            // A device draws its least power even while nobody looks: a counter that did not advance says that the time is wrong.
            let too_little = joules < model.power().least((hi_s - lo_s - before.error_s - after.error_s).max(0.0)) - UNIT;
            // From there on nobody knows how far the times of readings are off.
            let ahead = Interval::new(link.start_s, f64::INFINITY);
            let (reason, void) = if too_little { (NoData::ClockJump, ahead) } else { (NoData::SampleGap, link) };
            out.faults.add(reason, void);
        } else if !plausible {
            out.faults.add(NoData::ImplausiblePower, link);
        }
        if model.kind() != SensorKind::PartTime {
            out.windows.push(window);
        } else if let Some(part) = part_of(&window, model) {
            out.windows.push(part);
        }
    }
    if let Some(last) = updates.last().filter(|u| u.last_s - u.at_s - u.silent_s > longest) {
        out.faults.add(NoData::CounterStuck, Interval::new(last.at_s - last.error_s - model.lag_s(), last.last_s));
    }
}

/// What a counter that adds up part-time samples says about the time it did look. Nothing, when an update was missed.
fn part_of(link: &SensorWindow, model: &SensorModel) -> Option<SensorWindow> {
    let periods = (link.hi_s - link.lo_s) / model.update_s();
    let (window_s, error) = (model.window_s(), link.hi_error_s);
    (periods < 1.5).then(|| SensorWindow {
        lo_s: link.hi_s - window_s,
        joules: link.joules / model.update_s() * window_s,
        sensed_s: window_s,
        lo_error_s: error,
        ..*link
    })
}

fn power(updates: &[Update], model: &SensorModel, max_gap_periods: f64, out: &mut Windows) {
    let PowerBoundsW { min, max } = bounds(model.power());
    let (window_s, lag_s, period) = (model.window_s(), model.lag_s(), model.update_s());
    for (k, update) in updates.iter().enumerate() {
        let hi_s = update.at_s - lag_s;
        let mut window = SensorWindow {
            lo_s: hi_s - window_s,
            hi_s,
            joules: update.value * window_s,
            sensed_s: window_s,
            lo_error_s: update.error_s,
            hi_error_s: update.error_s,
        };
        if let Some(before) = k.checked_sub(1).map(|i| &updates[i]) {
            let gap = update.at_s - before.at_s;
            out.max_gap_s = out.max_gap_s.max(gap);
            if gap > max_gap_periods * period {
                out.faults.add(NoData::SampleGap, Interval::new(before.at_s - lag_s, hi_s));
            }
        }
        if update.value < min || update.value > max {
            out.faults.add(NoData::ImplausiblePower, Interval::new(window.lo_s - update.error_s, hi_s + update.error_s));
        }
        if let Some(before) = out.windows.last() {
            let tolerance = before.hi_error_s + update.error_s + 0.1 * period;
            let gap = window.lo_s - before.hi_s;
            // An overlapping mean says nothing that its neighbours do not; a chain of means that follow on each other does.
            if gap < -tolerance || hi_s <= before.hi_s {
                continue;
            }
            if model.kind() == SensorKind::PartTime {
                window.lo_s = window.lo_s.max(before.hi_s);
            } else if gap <= tolerance {
                window.lo_s = before.hi_s;
                window.lo_error_s = before.hi_error_s;
            }
        }
        out.windows.push(window);
    }
}

/// Limits of a power reading, which is exact to its unit.
struct PowerBoundsW {
    min: f64,
    max: f64,
}

fn bounds(power: PowerBounds) -> PowerBoundsW {
    PowerBoundsW { min: power.min_w() - UNIT, max: power.max_w() + UNIT }
}

/// Whether updates come at less than half the calibrated period: then the calibration is of another sensor.
fn faster_than_calibrated(updates: &[Update], model: &SensorModel) -> bool {
    let mut gaps: Vec<f64> = updates.windows(2).map(|u| u[1].at_s - u[0].at_s).collect();
    if gaps.len() < 8 {
        return false;
    }
    let middle = gaps.len() / 2;
    let (_, median, _) = gaps.select_nth_unstable_by(middle, f64::total_cmp);
    *median < 0.5 * model.update_s()
}
