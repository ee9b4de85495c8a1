//! From polls to distinct sensor updates, with the time each can have happened at.

use crate::{ReadingKind, SensorModel};
use serde::{Deserialize, Serialize};

/// One reading of a source: when it was taken, and what it said in the source's unit (millijoules or milliwatts).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a line of a samples file")]
pub struct Sample {
    /// Nanoseconds on the clock of the phases.
    pub t_ns: u64,
    /// Millijoules of a counter, milliwatts of a power source.
    pub value: f64,
}

/// A sensor update: the value changed, or the sensor's period had passed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Update {
    /// Middle of the time it can have happened in.
    pub(crate) at_s: f64,
    /// Half of that time.
    pub(crate) error_s: f64,
    /// Joules or watts.
    pub(crate) value: f64,
    /// The last poll that still showed it.
    pub(crate) last_s: f64,
    /// Longest time without a poll from this update's first poll to the next update's.
    pub(crate) silent_s: f64,
}

/// The period varies by no more than this share; a longer silence means that an update was missed or did not come.
const PERIOD_SLACK: f64 = 1.25;

/// Distinct updates in `samples`, seconds from `origin_ns`.
///
/// Polls that repeat a value are one update. A power source may repeat a value in earnest: there a value that stays for
/// several periods while it is being polled is that many updates.
pub(crate) fn updates(kind: ReadingKind, samples: &[Sample], origin_ns: u64, model: &SensorModel) -> Vec<Update> {
    let longest = PERIOD_SLACK * model.update_s();
    let mut found: Vec<Update> = Vec::new();
    let mut run: Option<Run> = None;
    let mut previous: Option<f64> = None;
    for sample in samples {
        let (t, value) = (seconds(sample.t_ns, origin_ns), sample.value / 1e3);
        let silent_s = previous.map_or(0.0, |p| t - p);
        let silent = silent_s > longest;
        previous = Some(t);
        if let Some(r) = &mut run {
            r.first.silent_s = r.first.silent_s.max(silent_s);
        }
        match &mut run {
            // A poll after a silence says nothing about the power between.
            Some(r) if r.same(value) && (kind == ReadingKind::Counter || !silent) => r.first.last_s = t,
            _ => {
                let from = run.as_ref().map_or(t - longest, |r| r.first.last_s.max(t - longest));
                let error_s = 0.5 * (t - from) + model.time_error_s();
                let first = Update { at_s: 0.5 * (from + t), error_s, value, last_s: t, silent_s: 0.0 };
                let done = run.replace(Run { first, seen_s: t, first_of_all: found.is_empty() && run.is_none() });
                if let Some(done) = done {
                    done.close((!silent).then_some(&first), kind, model, &mut found);
                }
            }
        }
    }
    if let Some(done) = run {
        done.close(None, kind, model, &mut found);
    }
    found
}

/// Polls that showed one value.
#[derive(Debug)]
struct Run {
    first: Update,
    seen_s: f64,
    first_of_all: bool,
}

impl Run {
    #[expect(clippy::float_cmp, reason = "a repeated poll repeats the very number")]
    fn same(&self, value: f64) -> bool {
        self.first.value == value
    }

    /// Adds this run's updates: one, or for a power source as many as periods passed until the next value.
    fn close(self, next: Option<&Update>, kind: ReadingKind, model: &SensorModel, found: &mut Vec<Update>) {
        let (first, period) = (self.first, model.update_s());
        if kind == ReadingKind::Counter {
            found.push(first);
            return;
        }
        // Where the first value came from is not known; where it went is, and periods are counted back from there.
        let (start, step, repeats) = match next {
            Some(next) if self.first_of_all => {
                let n = ((next.at_s - self.seen_s) / period).ceil().max(1.0);
                (next.at_s - n * period, period, n)
            }
            Some(next) => {
                let n = ((next.at_s - first.at_s) / period).round().max(1.0);
                (first.at_s, (next.at_s - first.at_s) / n, n)
            }
            None => (first.at_s, period, ((first.last_s - first.at_s) / period).floor() + 1.0),
        };
        let error_s = next.map_or(first.error_s, |n| first.error_s.min(n.error_s.max(0.125 * period)));
        found.push(Update { at_s: start, ..first });
        let mut k = 1.0;
        while k < repeats {
            found.push(Update { at_s: start + k * step, error_s, ..first });
            k += 1.0;
        }
    }
}

/// Seconds from `origin_ns` to `t_ns`.
#[expect(clippy::cast_precision_loss, reason = "2^53 ns are 104 days from the origin")]
pub(crate) fn seconds(t_ns: u64, origin_ns: u64) -> f64 {
    if t_ns >= origin_ns { (t_ns - origin_ns) as f64 * 1e-9 } else { -((origin_ns - t_ns) as f64 * 1e-9) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PowerBounds, SensorKind};

    fn model(kind: SensorKind) -> SensorModel {
        SensorModel::new(kind, 0.1, 0.1, 0.0, PowerBounds::new(10.0, 700.0).unwrap()).unwrap()
    }

    fn polls(values: &[f64], step_ms: u64) -> Vec<Sample> {
        values.iter().enumerate().map(|(i, v)| Sample { t_ns: i as u64 * step_ms * 1_000_000, value: *v }).collect()
    }

    #[test]
    fn repeated_polls_of_a_counter_are_one_update() {
        let found = updates(ReadingKind::Counter, &polls(&[5.0, 5.0, 5.0, 9.0, 9.0, 14.0], 40), 0, &model(SensorKind::Integrating));
        assert_eq!(found.iter().map(|u| u.value).collect::<Vec<_>>(), [0.005, 0.009, 0.014]);
        assert!((found[1].at_s - 0.1).abs() < 1e-12 && (found[1].error_s - 0.02).abs() < 1e-12);
        assert!((found[1].last_s - 0.16).abs() < 1e-12);
    }

    #[test]
    fn a_power_that_stays_is_an_update_a_period() {
        let steady = [vec![100.0; 5], vec![400.0; 25], vec![100.0; 5]].concat();
        let found = updates(ReadingKind::Power, &polls(&steady, 20), 0, &model(SensorKind::Boxcar));
        assert_eq!(found.iter().filter(|u| u.value > 0.3).count(), 5);
    }

    #[test]
    fn silence_is_not_taken_for_constant_power() {
        let mut samples = polls(&[100.0, 200.0, 200.0], 50);
        samples.push(Sample { t_ns: 2_000_000_000, value: 200.0 });
        let found = updates(ReadingKind::Power, &samples, 0, &model(SensorKind::Boxcar));
        assert_eq!(found.len(), 3);
        assert!(found[2].at_s > 1.8);
    }
}
