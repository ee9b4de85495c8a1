//! Readings as an energy over time, as plainly as can be: what tests of a sensor are made with before its model is known.

use crate::{ReadingKind, Sample, attribution::seconds};

/// Where a source changed, seconds from an origin, and what it then said in joules or watts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    pub(crate) at: Vec<(f64, f64)>,
    /// Median time between changes.
    typical_s: f64,
}

impl Changes {
    /// Each change between the poll that saw it and the one before: in the middle, or where a clock puts it that ticks in
    /// every one of these stretches. The first value is no change.
    #[expect(clippy::float_cmp, reason = "a repeated poll repeats the very number")]
    pub(crate) fn of(samples: &[Sample], origin_ns: u64) -> Self {
        let changes: Vec<_> = samples.windows(2).filter(|w| w[0].value != w[1].value).collect();
        let polls: Vec<[f64; 2]> = changes.iter().map(|w| [seconds(w[0].t_ns, origin_ns), seconds(w[1].t_ns, origin_ns)]).collect();
        let times = on_grid(&polls).unwrap_or_else(|| polls.iter().map(|[a, b]| 0.5 * (a + b)).collect());
        let at: Vec<(f64, f64)> = times.into_iter().zip(&changes).map(|(t, w)| (t, w[1].value / 1e3)).collect();
        let typical_s = super::analysis::median(at.windows(2).map(|w| w[1].0 - w[0].0).collect()).unwrap_or(0.0);
        Self { at, typical_s }
    }

    pub(crate) fn between(&self, from_s: f64, to_s: f64) -> &[(f64, f64)] {
        let a = self.at.partition_point(|c| c.0 < from_s);
        let b = self.at.partition_point(|c| c.0 < to_s);
        &self.at[a..b]
    }

    /// Mean power from `from_s` to `to_s`. A counter is interpolated between its changes; a power holds back to the change
    /// before, or for the usual time where that is long ago: until then the value before it was repeated. `None` where the changes do not reach over both ends.
    pub(crate) fn mean_w(&self, kind: ReadingKind, from_s: f64, to_s: f64) -> Option<f64> {
        match kind {
            ReadingKind::Counter => Some((self.counter(to_s)? - self.counter(from_s)?) / (to_s - from_s)),
            ReadingKind::Power => {
                let a = self.at.partition_point(|c| c.0 <= from_s);
                let b = self.at.partition_point(|c| c.0 < to_s);
                if a == 0 || b >= self.at.len() {
                    return None;
                }
                let mut joules = 0.0;
                for k in a..=b {
                    let ((begin, old), (end, new)) = (self.at[k - 1], self.at[k]);
                    let turn = if end - begin > 1.5 * self.typical_s { end - self.typical_s } else { begin };
                    let length = |lo: f64, hi: f64| (hi.min(to_s) - lo.max(from_s)).max(0.0);
                    joules += old * length(begin, turn) + new * length(turn, end);
                }
                Some(joules / (to_s - from_s))
            }
        }
    }

    /// The value as it stands at `at_s`.
    pub(crate) fn latest(&self, at_s: f64) -> Option<f64> {
        let k = self.at.partition_point(|c| c.0 <= at_s);
        k.checked_sub(1).map(|k| self.at[k].1)
    }

    /// How far `at_s` is from the change before it to the next, as a share.
    pub(crate) fn share(&self, at_s: f64) -> Option<f64> {
        let k = self.at.partition_point(|c| c.0 <= at_s);
        let (before, after) = (self.at.get(k.checked_sub(1)?)?.0, self.at.get(k)?.0);
        Some((at_s - before) / (after - before))
    }

    fn counter(&self, at_s: f64) -> Option<f64> {
        let k = self.at.partition_point(|c| c.0 <= at_s);
        let ((t0, c0), (t1, c1)) = (*self.at.get(k.checked_sub(1)?)?, *self.at.get(k)?);
        Some(c0 + (c1 - c0) * (at_s - t0) / (t1 - t0))
    }

    /// Power at each change: what a power source said, what a counter gained since the change before.
    pub(crate) fn powers(&self, kind: ReadingKind) -> Vec<(f64, f64)> {
        match kind {
            ReadingKind::Power => self.at.clone(),
            ReadingKind::Counter => self.at.windows(2).map(|w| (w[1].0, (w[1].1 - w[0].1) / (w[1].0 - w[0].0))).collect(),
        }
    }
}

/// Times of changes that happen on a grid, each known to lie between two polls. A sensor that updates by a clock is known
/// far better than it is polled: half a read of the counter of an H100 is 2 ms, and its clock is good to microseconds.
/// `None` where there is no such grid.
fn on_grid(polls: &[[f64; 2]]) -> Option<Vec<f64>> {
    let middle = |p: &[f64; 2]| 0.5 * (p[0] + p[1]);
    let period = super::analysis::median(polls.windows(2).map(|w| middle(&w[1]) - middle(&w[0])).collect())?;
    if polls.len() < 10 || period <= 0.0 {
        return None;
    }
    let (mut n, mut sums) = (0.0, [0.0; 5]);
    let mut numbers = Vec::with_capacity(polls.len());
    for (k, p) in polls.iter().enumerate() {
        if k > 0 {
            n += ((middle(p) - middle(&polls[k - 1])) / period).round();
        }
        numbers.push(n);
        // A change between near polls says more.
        let weight = (p[1] - p[0]).max(1e-6).powi(-2);
        for (sum, term) in sums.iter_mut().zip([1.0, n, n * n, middle(p), n * middle(p)]) {
            *sum += weight * term;
        }
    }
    let [w, wn, wnn, wt, wnt] = sums;
    let slope = (w * wnt - wn * wt) / (w * wnn - wn * wn);
    let start = (wt - slope * wn) / w;
    let times: Vec<f64> = numbers.iter().map(|n| start + slope * n).collect();
    let outside = |(t, p): &(&f64, &[f64; 2])| (p[0] - **t).max(**t - p[1]);
    let strays = times.iter().zip(polls).filter(|pair| outside(pair) > MAX_STRAY * period).count();
    (slope.is_finite() && strays * 50 <= polls.len()).then(|| times.iter().zip(polls).map(|(t, p)| t.clamp(p[0], p[1])).collect())
}

/// A tick this much of a period outside of its stretch is none of the grid's.
const MAX_STRAY: f64 = 0.015;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_found_behind_coarse_polls() {
        // A counter that ticks every 100 ms, polled every 37 ms and a bit.
        let polls: Vec<f64> = (0..2000).map(|k| f64::from(k) * 0.0371).collect();
        let samples: Vec<Sample> = polls
            .iter()
            .map(|t| Sample {
                t_ns: std::time::Duration::from_secs_f64(*t).as_nanos().try_into().unwrap(),
                value: 5.0 * ((t - 0.0123) / 0.1).floor(),
            })
            .map(|s| Sample { value: s.value.max(0.0), ..s })
            .collect();
        let changes = Changes::of(&samples, 0);
        assert!(changes.at.len() > 700);
        for (t, _) in &changes.at {
            let off = ((t - 0.0123) / 0.1).rem_euclid(1.0);
            assert!(off.min(1.0 - off) < 0.02, "{t}: {off}");
        }
        // Changes at random have no grid.
        let mut random = crate::fake::Random::new(3);
        let mut t = 0.0;
        let stray: Vec<[f64; 2]> = (0..200)
            .map(|_| {
                t += random.within(0.05, 0.15);
                [t - 0.002, t]
            })
            .collect();
        assert_eq!(on_grid(&stray), None);
    }
}
