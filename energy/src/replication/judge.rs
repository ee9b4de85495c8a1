//! What a set of windows is worth.

use super::{MIN_UPDATES, MIN_WINDOWS, locked};
use crate::{Attribution, Baseline, JouleRange, Seen, SensorKind, SensorModel};
use phase_core::{Energy, MacroMethod, NoData};

/// One window of replays as it came out.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "what a runner hands over, written out in full")]
pub struct ReplayWindow {
    /// From the start of the first replay to the end of the last, without what was discarded.
    pub attribution: Attribution,
    /// What the windows wholly inside that stretch saw.
    pub seen: Seen,
    /// Length of the stretch, seconds.
    pub seconds: f64,
    /// When each replay began, in seconds of one clock.
    pub starts_s: Vec<f64>,
    /// Time between replays, in which nothing ran, seconds.
    pub idle_s: f64,
    /// Temperature in the first and in the last third, degrees Celsius, where it can be read.
    pub celsius: Option<[f64; 2]>,
    /// Clock of the device in the first and in the last third, MHz, where it can be read.
    pub clock_mhz: Option<[f64; 2]>,
    /// Heat or hardware held the clock down.
    pub slowed: bool,
}

/// Largest change of temperature over a window, degrees.
const MAX_DEGREES: f64 = 3.0;
/// Largest change of the clock over a window, as a share.
const MAX_CLOCK: f64 = 0.02;
/// What windows of one board differ by from day to day, whatever their interval says, as a share.
const SYSTEMATIC: f64 = 0.015;
/// Updates may be so many fewer than planned: those at the edges of a window may fall outside of it.
const UPDATES_SLACK: f64 = 2.0;

/// The mean energy of one replay, from `windows` under `sensor`; `rest` is taken off for the time between replays.
///
/// The interval is the 95% t-interval over the windows' means, and never narrower than the mean of what is guaranteed of
/// each window allows, plus 1.5% that no repetition takes away. For a part-time sensor only the former is of use: what the
/// sensor did not see is averaged over by the dither, which the phase gate checks.
///
/// # Refusals
/// In this order: `sensor_locked` (replays in step with a part-time sensor); a window's own reason; `thermal_drift` (over
/// 3 degrees or 2% of the clock within a window, or held down by heat); `too_few_updates` (under 18 in a window, which is planned for 20; under
/// five windows, or windows of different numbers of replays); `too_uncertain` (an interval of more than half of the mean).
pub fn verdict(windows: &[ReplayWindow], sensor: &SensorModel, rest: Option<&Baseline>, method: MacroMethod) -> Energy {
    match judge(windows, sensor, rest) {
        Ok((mean, replays)) => {
            let [joules, low, high] = mean.joules();
            Energy::MacroWindow { joules, low, high, replays, windows: u32::try_from(windows.len()).unwrap_or(u32::MAX), method }
        }
        Err(reason) => Energy::NoData { reason },
    }
}

fn judge(windows: &[ReplayWindow], sensor: &SensorModel, rest: Option<&Baseline>) -> Result<(JouleRange, u32), NoData> {
    let part_time = sensor.kind() == SensorKind::PartTime;
    // Over all windows: a window alone has too few replays to fill every bin.
    let starts_s: Vec<f64> = windows.iter().flat_map(|w| w.starts_s.iter().copied()).collect();
    if part_time && locked(&starts_s, sensor.update_s()) {
        return Err(NoData::SensorLocked);
    }
    for window in windows {
        match window.attribution.energy {
            // A part-time sensor is never certain of a window; its windows count by their readings.
            Energy::NoData { reason: NoData::TooUncertain } if part_time => {}
            Energy::NoData { reason } => return Err(reason),
            _ => {}
        }
        if window.slowed || drifted(window) {
            return Err(NoData::ThermalDrift);
        }
    }
    let replays = windows.first().map_or(0, |w| w.starts_s.len());
    if windows.len() < MIN_WINDOWS as usize || replays == 0 || windows.iter().any(|w| w.starts_s.len() != replays) {
        return Err(NoData::TooFewUpdates);
    }
    let n = count(replays);
    let mut means = Vec::with_capacity(windows.len());
    let mut guaranteed_j = 0.0;
    for window in windows {
        let bracket = window.attribution.bracket.ok_or(NoData::NotBracketed)?;
        if f64::from(bracket.updates) < MIN_UPDATES - UPDATES_SLACK {
            return Err(NoData::TooFewUpdates);
        }
        let idle_j = rest.map_or(0.0, |r| r.mean_w * window.idle_s);
        // The edges' share is taken to be as the rest.
        means.push((window.seen.joules / window.seen.seconds * window.seconds - idle_j) / n);
        guaranteed_j += bracket.energy.half_j() / n;
    }
    let k = count(means.len());
    let mean = means.iter().sum::<f64>() / k;
    let variance = means.iter().map(|m| (m - mean).powi(2)).sum::<f64>() / (k - 1.0);
    let statistical_j = t95(means.len() - 1) * (variance / k).sqrt();
    // Edges fall differently in every window, so their mean, not their sum, bounds the mean.
    let hard_j = if part_time { 0.0 } else { guaranteed_j / k };
    let half_j = statistical_j.max(hard_j) + SYSTEMATIC * mean.abs();
    let found = JouleRange::around(mean, half_j);
    let useful = mean > 0.0 && found.relative() <= 0.5;
    if useful { Ok((found, u32::try_from(replays).unwrap_or(u32::MAX))) } else { Err(NoData::TooUncertain) }
}

fn drifted(window: &ReplayWindow) -> bool {
    let warmer = window.celsius.is_some_and(|[a, b]| (b - a).abs() > MAX_DEGREES);
    warmer || window.clock_mhz.is_some_and(|[a, b]| (b / a - 1.0).abs() > MAX_CLOCK)
}

/// One isolated event between quiet guards.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "what a runner hands over, written out in full")]
pub struct GuardedWindow {
    /// From before the event to after it, guards included.
    pub attribution: Attribution,
    /// What the windows wholly inside that stretch saw: its edges lie in the guards, where the power is that of rest.
    pub seen: Seen,
    /// Quiet time before and after the event, seconds.
    pub guards_s: [f64; 2],
}

/// Quiet time on either side of a guarded shot: three updates, and not less than this, seconds.
const MIN_GUARD_S: f64 = 0.3;

/// The response energy of an isolated event, from `shots` of it: what the device drew above `rest` over event and guards.
/// It includes what the device does afterwards (clocks falling back), so it is not the energy of the event in a busy
/// device. Right for what cannot be replayed back to back, a cold start for one.
///
/// The sensor has to see all time, and updates have to fall into both guards: then the edges of what it saw lie where the
/// power is that of rest, and take nothing of the event with them. The interval is the 95% t-interval over shots, plus two
/// standard errors of `rest`, plus 1.5% and the sensor's residual.
///
/// # Refusals
/// `unsupported` (a sensor that does not see all time); a shot's own reason, but for `too_uncertain`; `not_bracketed` (a guard
/// of less than 0.3 s or three updates); `too_few_updates` (under five shots); `too_uncertain` (an interval of more than half
/// of the mean).
pub fn guarded_shot(shots: &[GuardedWindow], sensor: &SensorModel, rest: &Baseline) -> Energy {
    match guarded(shots, sensor, rest) {
        Ok(mean) => {
            let [joules, low, high] = mean.joules();
            let windows = u32::try_from(shots.len()).unwrap_or(u32::MAX);
            Energy::MacroWindow { joules, low, high, replays: 1, windows, method: MacroMethod::GuardedShot }
        }
        Err(reason) => Energy::NoData { reason },
    }
}

fn guarded(shots: &[GuardedWindow], sensor: &SensorModel, rest: &Baseline) -> Result<JouleRange, NoData> {
    if !matches!(sensor.kind(), SensorKind::Integrating | SensorKind::Boxcar) {
        return Err(NoData::Unsupported);
    }
    let guard_s = (3.0 * sensor.update_s()).max(MIN_GUARD_S);
    let mut above = Vec::with_capacity(shots.len());
    for shot in shots {
        if let Some(reason) = shot.attribution.energy.reason().filter(|r| *r != NoData::TooUncertain) {
            return Err(reason);
        }
        if shot.guards_s.iter().any(|g| *g < guard_s) {
            return Err(NoData::NotBracketed);
        }
        above.push(shot.seen.joules - rest.mean_w * shot.seen.seconds);
    }
    if above.len() < MIN_WINDOWS as usize {
        return Err(NoData::TooFewUpdates);
    }
    let n = count(above.len());
    let mean = above.iter().sum::<f64>() / n;
    let variance = above.iter().map(|e| (e - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let longest_s = shots.iter().map(|s| s.seen.seconds).fold(0.0, f64::max);
    let rest_j = 2.0 * rest.error_w * longest_s;
    let half_j = t95(above.len() - 1) * (variance / n).sqrt() + rest_j + (SYSTEMATIC + sensor.residual()) * mean.abs();
    let found = JouleRange::around(mean, half_j);
    let useful = mean > 0.0 && found.relative() <= 0.5;
    if useful { Ok(found) } else { Err(NoData::TooUncertain) }
}

/// Two-sided 95% quantile of Student's t with `df` degrees of freedom: exact to the third digit up to 10, then within 1%.
pub(super) fn t95(df: usize) -> f64 {
    const EXACT: [f64; 10] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];
    match df {
        0 => f64::INFINITY,
        1..=10 => EXACT[df - 1],
        _ => 1.96 + 2.5 / count(df),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a count of windows or replays")]
fn count(n: usize) -> f64 {
    n as f64
}
