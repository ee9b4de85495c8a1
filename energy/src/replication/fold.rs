//! Stroboscopic folding: what a part-time sensor saw of many replays of one request, laid on top of each other, says which
//! part of the request took what.

mod least_squares;

use super::{MIN_WINDOWS, judge::t95, locked};
use crate::{Baseline, JouleRange, SensorKind, SensorModel, SensorWindow};
use least_squares::{Equations, MOST_UNKNOWNS};
use phase_core::{Energy, MacroMethod, NoData};

/// One window of replays of a request, for folding.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "what a runner hands over, written out in full")]
pub struct FoldWindow {
    /// When each replay began, in seconds of the clock of `seen`; in order, and never before the one before it ended.
    pub starts_s: Vec<f64>,
    /// The sensor's windows around them, as [`Series::windows`](crate::Series::windows) gives them.
    pub seen: Vec<SensorWindow>,
}

/// A request that was folded.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Folded {
    /// The mean energy of each part, in order.
    pub parts: Vec<Energy>,
    /// That of all of them.
    pub whole: Energy,
    /// Condition number of the equations, with all windows.
    pub condition: f64,
}

/// Bins in a request: more resolve less noise, fewer hide a step within a part.
const BINS: f64 = 10.0;
/// Above this the sensor did not see every part of the request often enough to tell parts apart.
const MAX_CONDITION: f64 = 100.0;
/// What bins do to a power that changes within one, which no statistics show, as a share.
const SYSTEMATIC: f64 = 0.02;

/// Splits requests that last `ends_s.last()` each into parts that end at `ends_s`, in seconds from a request's start.
///
/// Power over the request is taken to be constant in about ten bins, none of which lies in two parts, and at `rest` between
/// requests; every update of the sensor is one equation about the bins it looked at. The interval is the 95% t-interval of a
/// jackknife over windows (the equations' own covariance is too small: neighbouring bins share their looks), plus what parts
/// change by when all looks are taken as late or as early as their times may be off, plus 2%.
///
/// For a part-time sensor and dithered replays only. On one that sees all of the time a look is longer than a short request,
/// and the split keeps a bias of 1 to 3% that its interval does not show. [`verdict`](super::verdict) over replays of each
/// part alone is the better answer; this is what it is checked against.
///
/// # Errors
/// `unsupported` (a sensor that is not part-time, no parts, or more of them than bins); `too_few_updates` (under five windows,
/// or an update less than two for each bin in all of them); `sensor_locked` (replays in step with the sensor, or a condition
/// number over 100).
pub fn folded(windows: &[FoldWindow], sensor: &SensorModel, ends_s: &[f64], rest: &Baseline) -> Result<Folded, NoData> {
    let edges_s = edges(ends_s).filter(|_| sensor.kind() == SensorKind::PartTime).ok_or(NoData::Unsupported)?;
    let bins = edges_s.len() - 1;
    let parts: Vec<usize> = (0..bins).filter(|bin| *bin == 0 || ends_s.contains(&edges_s[*bin])).collect();
    let starts_s: Vec<f64> = windows.iter().flat_map(|w| w.starts_s.iter().copied()).collect();
    if locked(&starts_s, sensor.update_s()) {
        return Err(NoData::SensorLocked);
    }
    let of = |shift_s: f64| -> Vec<Equations> { windows.iter().map(|w| equations(w, (&edges_s, &parts), rest.mean_w, shift_s)).collect() };
    let sum = |each: &[Equations]| each.iter().fold(Equations::new(bins, &parts), |sum, e| sum.and(e));
    let each = of(0.0);
    let all = sum(&each);
    if windows.len() < MIN_WINDOWS as usize || all.count() < 2 * bins {
        return Err(NoData::TooFewUpdates);
    }
    let condition = all.condition();
    if condition.is_nan() || condition > MAX_CONDITION {
        return Err(NoData::SensorLocked);
    }
    let solve = |e: &Equations| e.solve().ok_or(NoData::SensorLocked);
    let watts = solve(&all)?;
    // The looks lie within this much of where they are taken to be, all to the same side at worst.
    let looks = windows.iter().flat_map(|w| &w.seen);
    let late_s = looks.clone().map(|w| w.hi_error_s).sum::<f64>() / count(looks.count().max(1));
    let shifted = [solve(&sum(&of(-late_s)))?, solve(&sum(&of(late_s)))?];
    let without: Vec<Vec<f64>> = each.iter().map(|e| solve(&all.without(e))).collect::<Result<_, _>>()?;
    let replays = windows.iter().map(|w| w.starts_s.len()).max().unwrap_or(0);
    let energy = |from_s: f64, to_s: f64| {
        let joules = |watts: &[f64]| -> f64 {
            let inside = edges_s.windows(2).zip(watts).filter(|(bin, _)| bin[0] >= from_s - 1e-12 && bin[1] <= to_s + 1e-12);
            inside.map(|(bin, w)| w * (bin[1] - bin[0])).sum()
        };
        let mean = joules(&watts);
        let left_out: Vec<f64> = without.iter().map(|w| joules(w)).collect();
        let n = count(left_out.len());
        let middle = left_out.iter().sum::<f64>() / n;
        let variance = (n - 1.0) / n * left_out.iter().map(|j| (j - middle).powi(2)).sum::<f64>();
        let late_j = shifted.iter().map(|w| (joules(w) - mean).abs()).fold(0.0, f64::max);
        let found = JouleRange::around(mean, t95(left_out.len() - 1) * variance.sqrt() + late_j + SYSTEMATIC * mean.abs());
        if !(mean > 0.0 && found.relative() <= 0.5) {
            return Energy::NoData { reason: NoData::TooUncertain };
        }
        let [joules, low, high] = found.joules();
        let (replays, windows) = (u32::try_from(replays).unwrap_or(u32::MAX), u32::try_from(each.len()).unwrap_or(u32::MAX));
        Energy::MacroWindow { joules, low, high, replays, windows, method: MacroMethod::Folded }
    };
    let mut from_s = 0.0;
    let mut energies = Vec::with_capacity(ends_s.len());
    for &to_s in ends_s {
        energies.push(energy(from_s, to_s));
        from_s = to_s;
    }
    Ok(Folded { parts: energies, whole: energy(0.0, from_s), condition })
}

/// About ten bins, whose edges are those of the parts and some between; `None` where the parts are none, or too many.
fn edges(ends_s: &[f64]) -> Option<Vec<f64>> {
    let length_s = *ends_s.last()?;
    let mut edges_s = vec![0.0];
    for &end_s in ends_s {
        let from_s = *edges_s.last()?;
        if !(end_s.is_finite() && end_s > from_s) {
            return None;
        }
        let bins = (BINS * (end_s - from_s) / length_s).round().max(1.0);
        let mut k = 1.0;
        while k < bins {
            edges_s.push(from_s + (end_s - from_s) * k / bins);
            k += 1.0;
        }
        edges_s.push(end_s);
    }
    (edges_s.len() <= MOST_UNKNOWNS).then_some(edges_s)
}

/// What the sensor's windows say of the bins: the share of each in a look, and the power less what was rest.
fn equations(window: &FoldWindow, (edges_s, parts): (&[f64], &[usize]), rest_w: f64, shift_s: f64) -> Equations {
    let mut made = Equations::new(edges_s.len() - 1, parts);
    let length_s = edges_s.last().copied().unwrap_or(0.0);
    let (Some(first), Some(last)) = (window.starts_s.first(), window.starts_s.last()) else { return made };
    let mut row = vec![0.0; edges_s.len() - 1];
    // What lies outside of the replays may be anything; what lies between them is rest.
    let looks = window.seen.iter().map(|w| SensorWindow { lo_s: w.lo_s + shift_s, hi_s: w.hi_s + shift_s, ..*w });
    for look in looks.filter(|w| w.lo_s >= *first && w.hi_s <= last + length_s && w.sensed_s > 0.0) {
        row.fill(0.0);
        let from = window.starts_s.partition_point(|s| s + length_s <= look.lo_s);
        for start in window.starts_s[from..].iter().take_while(|s| **s < look.hi_s) {
            for (share, bin) in row.iter_mut().zip(edges_s.windows(2)) {
                let overlap = look.hi_s.min(start + bin[1]) - look.lo_s.max(start + bin[0]);
                *share += overlap.max(0.0) / (look.hi_s - look.lo_s);
            }
        }
        let busy: f64 = row.iter().sum();
        if busy > 0.0 {
            made.add(&row, look.joules / look.sensed_s - rest_w * (1.0 - busy));
        }
    }
    made
}

#[expect(clippy::cast_precision_loss, reason = "a count of windows")]
fn count(n: usize) -> f64 {
    n as f64
}
