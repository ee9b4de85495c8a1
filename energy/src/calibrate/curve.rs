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
    /// Each change at the middle between the poll that saw it and the one before. The first value is no change.
    #[expect(clippy::float_cmp, reason = "a repeated poll repeats the very number")]
    pub(crate) fn of(samples: &[Sample], origin_ns: u64) -> Self {
        let changes = samples.windows(2).filter(|w| w[0].value != w[1].value);
        let at: Vec<(f64, f64)> =
            changes.map(|w| (0.5 * (seconds(w[0].t_ns, origin_ns) + seconds(w[1].t_ns, origin_ns)), w[1].value / 1e3)).collect();
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
