//! The tests' arithmetic: pure functions over readings and pulses.

use super::{Busy, curve::Changes, run::Done};
use crate::{
    ReadingKind, Recording, Sample, SamplerCost, UpdateClock,
    attribution::{clock_of, seconds},
};
use serde::{Deserialize, Serialize};

/// T1: how often a source has something new.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Period {
    /// Mean time between updates, of those within half of the median, seconds.
    pub mean_s: f64,
    /// Standard deviation of it, with what polling adds taken off, seconds.
    pub jitter_s: f64,
    /// Smallest difference between two readings, in their unit.
    pub quantum: f64,
    /// Updates seen.
    pub updates: usize,
}

/// T1 from `from_ns` to `to_ns`, which had better be a time of load: a power at rest may repeat itself. `None` with fewer
/// than ten updates.
pub fn period(samples: &[Sample], from_ns: u64, to_ns: u64) -> Option<Period> {
    let inside: Vec<Sample> = samples.iter().filter(|s| (from_ns..to_ns).contains(&s.t_ns)).copied().collect();
    let changes = Changes::of(&inside, from_ns).at;
    if changes.len() < 10 {
        return None;
    }
    let gaps: Vec<f64> = changes.windows(2).map(|w| w[1].0 - w[0].0).collect();
    let median = median(gaps.clone())?;
    let near: Vec<f64> = gaps.into_iter().filter(|g| (0.5..1.5).contains(&(g / median))).collect();
    let (mean_s, variance) = moments(&near)?;
    let polls: Vec<f64> =
        inside.windows(2).filter(|w| w[0].value.to_bits() != w[1].value.to_bits()).map(|w| seconds(w[1].t_ns, w[0].t_ns)).collect();
    // A change lies anywhere between two polls: that adds a sixth of the squared poll period to the variance.
    let polling = polls.iter().map(|p| p * p).sum::<f64>() / count(polls.len()) / 6.0;
    let mut steps: Vec<f64> = inside.windows(2).map(|w| (w[1].value - w[0].value).abs()).filter(|d| *d > 0.0).collect();
    steps.sort_by(f64::total_cmp);
    Some(Period { mean_s, jitter_s: (variance - polling).max(0.0).sqrt(), quantum: steps.first().copied()?, updates: changes.len() })
}

/// T1: the clock of a counter's updates, where all of `recording` keeps one.
pub(super) fn clock(recording: &Recording, update_s: f64) -> Option<UpdateClock> {
    if recording.kind != ReadingKind::Counter {
        return None;
    }
    let (samples, error_s) = (&recording.samples, seconds(recording.time_error_ns, 0));
    let origin_ns = samples.first()?.t_ns;
    let changes = samples.windows(2).filter(|w| w[0].value.to_bits() != w[1].value.to_bits());
    let seen: Vec<[f64; 2]> = changes.map(|w| [seconds(w[0].t_ns, origin_ns) - error_s, seconds(w[1].t_ns, origin_ns) + error_s]).collect();
    clock_of(&seen, update_s)
}

/// T2: how a source follows a step of load.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StepResponse {
    /// From the step to half of the way, seconds.
    pub half_s: f64,
    /// From a tenth to nine tenths of the way, seconds.
    pub rise_s: f64,
    /// Power at rest and under load, watts.
    pub levels_w: [f64; 2],
}

impl StepResponse {
    /// The window that a mean over it would need to rise so slowly: `rise / 0.8`.
    pub fn window_s(&self) -> f64 {
        self.rise_s / 0.8
    }

    /// The lag behind such a window of `window_s`: `half - window / 2`, not negative.
    pub fn lag_s(&self, window_s: f64) -> f64 {
        (self.half_s - 0.5 * window_s).max(0.0)
    }
}

/// T2 over the pulses `busy`: updates after both edges of every pulse are laid on top of each other, scaled to 0 at rest
/// and 1 under load. `None` where the readings do not tell the two apart.
pub fn step_response(samples: &[Sample], kind: ReadingKind, busy: &[Busy]) -> Option<StepResponse> {
    let origin = samples.first()?.t_ns;
    let powers = Changes::of(samples, origin).powers(kind);
    let mut rest = Vec::new();
    let mut full = Vec::new();
    let spans: Vec<(f64, f64)> = busy.iter().map(|b| (seconds(b.start.as_nanos(), origin), seconds(b.end.as_nanos(), origin))).collect();
    for &(start, end) in &spans {
        let quarter = 0.25 * (end - start);
        rest.extend(powers.iter().filter(|p| p.0 > start - quarter && p.0 < start).map(|p| p.1));
        full.extend(powers.iter().filter(|p| p.0 > end - quarter && p.0 < end).map(|p| p.1));
    }
    let levels_w = [median(rest)?, median(full)?];
    if levels_w[1] < 1.2 * levels_w[0] {
        return None;
    }
    let scaled = |w: f64| (w - levels_w[0]) / (levels_w[1] - levels_w[0]);
    let mut points = Vec::new();
    for &(start, end) in &spans {
        let reach = 0.9 * (end - start);
        points.extend(powers.iter().filter(|p| p.0 > start - 0.05 && p.0 < start + reach).map(|p| (p.0 - start, scaled(p.1))));
        points.extend(powers.iter().filter(|p| p.0 > end - 0.05 && p.0 < end + reach).map(|p| (p.0 - end, 1.0 - scaled(p.1))));
    }
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let crossing = |level: f64| crossing(&points, level);
    let (tenth, half_s, nine) = (crossing(0.1)?, crossing(0.5)?, crossing(0.9)?);
    Some(StepResponse { half_s, rise_s: (nine - tenth).max(0.0), levels_w })
}

/// Where the points rise through `level`: the place that leaves as few of them as can be on the wrong side.
fn crossing(points: &[(f64, f64)], level: f64) -> Option<f64> {
    let above = points.iter().filter(|p| p.1 >= level).count();
    if points.len() < 20 || above == 0 || above == points.len() {
        return None;
    }
    // Wrong: points above to the left of the cut, points below to the right of it.
    let mut wrong = points.iter().filter(|p| p.1 < level).count();
    let (mut best, mut from, mut to) = (wrong, points[0].0, points[0].0);
    for (k, p) in points.iter().enumerate() {
        wrong = if p.1 < level { wrong - 1 } else { wrong + 1 };
        let next = points.get(k + 1).map_or(p.0, |n| n.0);
        if wrong < best {
            (best, from, to) = (wrong, p.0, next);
        } else if wrong == best {
            to = next;
        }
    }
    Some(0.5 * (from + to))
}

/// Mean power of a source from `from_ns` to `to_ns`, watts. `None` where its readings do not reach over both ends.
pub fn mean_w(samples: &[Sample], kind: ReadingKind, from_ns: u64, to_ns: u64) -> Option<f64> {
    Changes::of(samples, from_ns).mean_w(kind, 0.0, seconds(to_ns, from_ns))
}

/// T4: mean power of each train of pulses over whole periods, from the third pulse to the last but one.
pub fn phase_means(samples: &[Sample], kind: ReadingKind, trains: &[&[Busy]]) -> Vec<Option<f64>> {
    let Some(origin) = samples.first().map(|s| s.t_ns) else { return vec![None; trains.len()] };
    let changes = Changes::of(samples, origin);
    let mean = |train: &&[Busy]| {
        let (from, to) = (train.get(2)?, train.get(train.len().checked_sub(2)?)?);
        changes.mean_w(kind, seconds(from.start.as_nanos(), origin), seconds(to.start.as_nanos(), origin))
    };
    trains.iter().map(mean).collect()
}

/// Greatest less least over the mean. `None` for fewer than two values.
pub fn spread(values: &[f64]) -> Option<f64> {
    let (mean, _) = moments(values)?;
    let (least, most) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(*v), b.max(*v)));
    Some((most - least) / mean)
}

/// T6: the shortest window of a steady load, from `from_ns` to `to_ns`, of which 19 in 20 are within `share` of the whole.
/// Windows begin anywhere. `None` where even 0.7 of the whole is not.
pub fn shortest_window(samples: &[Sample], kind: ReadingKind, from_ns: u64, to_ns: u64, share: f64) -> Option<f64> {
    let changes = Changes::of(samples, from_ns);
    let whole_s = seconds(to_ns, from_ns);
    let reference = changes.mean_w(kind, 0.0, whole_s)?;
    let mut length = 0.05;
    while length <= 0.7 * whole_s {
        let windows = 200_u32;
        let step = (whole_s - length) / f64::from(windows);
        let within = (0..windows).filter_map(|k| {
            let start = f64::from(k) * step;
            // What a plain reader does: the counter as it stands at both ends, the mean of the powers that came in between.
            let mean = match kind {
                ReadingKind::Counter => (changes.latest(start + length)? - changes.latest(start)?) / length,
                ReadingKind::Power => {
                    let near = changes.between(start, start + length);
                    near.iter().map(|c| c.1).sum::<f64>() / count(near.len())
                }
            };
            Some((mean / reference - 1.0).abs() <= share)
        });
        if within.filter(|w| *w).count() * 20 >= 19 * 200 {
            return Some(length);
        }
        length *= 1.1;
    }
    None
}

/// A share with its standard error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a number and its error")]
pub struct Change {
    /// With the sampler over without it, less 1: mean over pairs.
    pub share: f64,
    /// Standard error of it.
    pub error: f64,
}

/// T7: what reading does to what is read.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Perturbation {
    /// Work a second.
    pub work: Change,
    /// Median time of a unit of work, over slices of a few milliseconds.
    pub p50: Change,
    /// 95th percentile of it.
    pub p95: Change,
    /// Energy of a unit of work above rest, by the device's own counter; absent without one.
    pub energy: Option<Change>,
    /// Share of a core that the sampler took; absent where nobody measured it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core: Option<f64>,
}

impl Change {
    /// Whether it stays below `limit` on either side, two standard errors included: `None` where they reach over it.
    pub fn below(self, limit: f64) -> Option<bool> {
        let (size, error) = (self.share.abs(), 2.0 * self.error);
        if size + error < limit { Some(true) } else { (size - error >= limit).then_some(false) }
    }
}

/// T7 from pairs of trains, with the sampler and without, of a device that draws `rest_w` at rest. `None` for fewer than
/// three pairs.
pub fn perturbation(polled: &[&Done], unpolled: &[&Done], rest_w: Option<f64>) -> Option<Perturbation> {
    let change = |of: &dyn Fn(&Done) -> Option<f64>| -> Option<Change> {
        let ratios: Vec<f64> =
            polled.iter().zip(unpolled).filter_map(|(p, u)| Some(of(p)? / of(u)? - 1.0)).filter(|r| r.is_finite()).collect();
        let (share, variance) = moments(&ratios).filter(|_| ratios.len() >= 3)?;
        Some(Change { share, error: (variance / count(ratios.len())).sqrt() })
    };
    let energy = |d: &Done| {
        let (counted, busy_s) = (d.counted?, span(d)?);
        Some((counted.joules - rest_w? * (counted.seconds - busy_s)) / work(d))
    };
    Some(Perturbation {
        work: change(&|d| Some(work(d) / span(d)?))?,
        p50: change(&|d| slice_time(d, 0.5))?,
        p95: change(&|d| slice_time(d, 0.95))?,
        energy: change(&energy),
        core: polled.iter().filter_map(|d| d.sampler).reduce(SamplerCost::and).map(SamplerCost::share),
    })
}

#[expect(clippy::cast_precision_loss, reason = "a count of pieces of work")]
fn work(d: &Done) -> f64 {
    d.busy.iter().map(|b| b.work as f64).sum()
}

/// From the beginning of the first pulse to the end of the last, seconds.
fn span(d: &Done) -> Option<f64> {
    Some(d.busy.last()?.end.since(d.busy.first()?.start).as_secs_f64())
}

/// The time of a unit of work that a `share` of pulses stays below, seconds.
fn slice_time(d: &Done, share: f64) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "a count of pieces of work")]
    let mut times: Vec<f64> = d.busy.iter().map(|b| b.end.since(b.start).as_secs_f64() / b.work as f64).filter(|t| t.is_finite()).collect();
    times.sort_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in the list")]
    let at = (share * count(times.len())) as usize;
    times.get(at.min(times.len().saturating_sub(1))).copied()
}

pub(super) fn median(mut values: Vec<f64>) -> Option<f64> {
    let middle = values.len() / 2;
    (!values.is_empty()).then(|| *values.select_nth_unstable_by(middle, f64::total_cmp).1)
}

/// Mean and variance. `None` for fewer than two values.
pub(super) fn moments(values: &[f64]) -> Option<(f64, f64)> {
    let n = count(values.len());
    let mean = values.iter().sum::<f64>() / n;
    (values.len() > 1).then(|| (mean, values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0)))
}

#[expect(clippy::cast_precision_loss, reason = "a count of readings")]
fn count(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrate::{Counted, Plan, Step, Test};
    use phase_core::Timestamp;

    /// Six trains of `arm`: slices of 5 ms with `work(slice)` pieces in train `k`, and `joules(k)` in all.
    fn arm(arm: Test, work: &dyn Fn(u32) -> u64, joules: &dyn Fn(u32) -> f64, core: Option<u64>) -> Vec<Done> {
        let steps: Vec<Step> = Plan::perturbation().steps.into_iter().filter(|s| s.test == arm).collect();
        let at = |k: u32| Timestamp::from_nanos(5_000_000 * u64::from(k));
        let train = |(k, step): (u32, Step)| {
            let busy = (0..step.count).map(|i| Busy { start: at(i), end: at(i + 1), work: work(i) }).collect();
            let mut done = Done::new(step, busy);
            done.counted = Some(Counted { seconds: 1.9, joules: joules(k) });
            done.sampler = core.map(|cpu_ns| SamplerCost::new(cpu_ns, 1_000_000_000));
            done
        };
        (0..).zip(steps).map(train).collect()
    }

    #[test]
    fn a_change_of_a_percent_is_told_from_none() {
        let plain = arm(Test::Unpolled, &|_| 200, &|_| 1000.0, None);
        let found =
            |polled: &[Done]| perturbation(&polled.iter().collect::<Vec<_>>(), &plain.iter().collect::<Vec<_>>(), Some(100.0)).unwrap();
        let none = found(&arm(Test::Paced, &|_| 200, &|_| 1000.0, Some(4_000_000)));
        let all = |p: Perturbation| [p.work, p.p50, p.p95, p.energy.unwrap()].map(|c| c.below(0.01));
        assert_eq!((all(none), none.core), ([Some(true); 4], Some(0.004)));
        // One slice in ten is slower by 5%: the tail is, the middle is not, and half a percent of the work is lost.
        let slow = found(&arm(Test::Polled, &|i| if i % 10 == 0 { 190 } else { 200 }, &|_| 1000.0, Some(500_000_000)));
        assert_eq!(all(slow), [Some(true), Some(true), Some(false), Some(true)]);
        assert!((slow.p95.share - 200.0 / 190.0 + 1.0).abs() < 1e-9 && slow.core == Some(0.5), "{slow:?}");
        // 2% more energy in every train is seen; 2% that come and go are not decided on.
        let more = found(&arm(Test::Polled, &|_| 200, &|_| 1018.8, None));
        assert!(more.energy.unwrap().below(0.01) == Some(false) && more.core.is_none(), "{more:?}");
        let noisy = found(&arm(Test::Polled, &|_| 200, &|k| if k.is_multiple_of(2) { 1040.0 } else { 980.0 }, None));
        assert_eq!(noisy.energy.unwrap().below(0.01), None, "{noisy:?}");
    }
}
