//! Time of a call against how long the loaded model stood idle before it.

use crate::{
    constants::Constants,
    stats::{BlockMedian, Edges, Ordered, RatioInterval, Verdict, paired_ratio, real},
};
use phase_core::{BackendId, Phase, Shape};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One call after an idle time. It is no [`Observation`](crate::Observation), so that it can't reach a steady cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct IdleSample {
    /// The path.
    pub backend: BackendId,
    /// Its mode.
    pub mode: String,
    /// The phase of the call.
    pub phase: Phase,
    /// The size of the call.
    pub shape: Shape,
    /// Names the boundary it was taken under.
    pub boundary: String,
    /// The pass over all idle times that it belongs to: calls of one pass are paired.
    pub block: u32,
    /// From the end of the call before to the start of this one.
    pub idle_ns: u64,
    /// What was asked for: samples are grouped by it.
    pub asked_ns: u64,
    /// Wall time of the call.
    pub duration_ns: u64,
}

impl IdleSample {
    /// A call of `duration_ns` in block 0, `idle_ns` after the one before, where `idle_ns` was asked for.
    pub fn new(backend: BackendId, phase: Phase, shape: Shape, idle_ns: u64, duration_ns: u64) -> Self {
        let (mode, boundary) = (crate::DEFAULT_MODE.to_owned(), String::new());
        Self { backend, mode, phase, shape, boundary, block: 0, idle_ns, asked_ns: idle_ns, duration_ns }
    }

    /// In another mode.
    #[must_use]
    pub fn with_mode(mut self, mode: impl Into<String>) -> Self {
        self.mode = mode.into();
        self
    }

    /// Under the boundary named `boundary`.
    #[must_use]
    pub fn with_boundary(mut self, boundary: impl Into<String>) -> Self {
        self.boundary = boundary.into();
        self
    }

    /// In another pass.
    #[must_use]
    pub fn with_block(mut self, block: u32) -> Self {
        self.block = block;
        self
    }

    /// Where another idle time was asked for than came about.
    #[must_use]
    pub fn with_asked_ns(mut self, asked_ns: u64) -> Self {
        self.asked_ns = asked_ns;
        self
    }
}

/// One idle time of a curve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct IdlePoint {
    /// The idle time asked for.
    pub idle_ns: u64,
    /// The passes, by number.
    pub blocks: Vec<BlockMedian>,
    /// Median of the passes' medians.
    pub median_ns: f64,
    /// The value of the closest curve that never falls: isotonic regression by pool-adjacent-violators, weighted by calls.
    pub fitted_ns: f64,
    /// Time after this idle time over time at the shortest one, paired by pass; `None` at the shortest, and below
    /// [`MIN_BLOCKS`](crate::constants::MIN_BLOCKS) common passes.
    pub ratio: Option<RatioInterval>,
}

/// What idling does to one path.
///
/// ```
/// use phase_core::{BackendId, Phase, Shape};
/// use phase_policy::{IdleCurve, IdleSample, constants::Constants};
/// let shape = Shape { batch: 1, new_tokens: 1, context: 128 };
/// // 10 ms a step, 15 ms after a second's rest.
/// let call = |pass: u32, idle_ms: u64| {
///     let ns = if idle_ms < 1000 { 10_000_000 } else { 15_000_000 } + u64::from(pass);
///     IdleSample::new(BackendId::new("sim"), Phase::Decode, shape, idle_ms * 1_000_000, ns).with_block(pass)
/// };
/// let samples: Vec<_> = (0..5).flat_map(|pass| [0, 100, 1000, 5000].map(|ms| call(pass, ms))).collect();
/// let curve = &IdleCurve::fit(&samples, &Constants::default())?[0];
/// assert_eq!(curve.cools_after_ns, Some(1_000_000_000));
/// assert!((curve.worst - 1.5).abs() < 0.01 && curve.dip == 0.0);
/// # Ok::<(), phase_policy::IdleError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct IdleCurve {
    /// The path.
    pub backend: BackendId,
    /// Its mode.
    pub mode: String,
    /// The phase.
    pub phase: Phase,
    /// The size of the calls.
    pub shape: Shape,
    /// Names the boundary of the calls.
    pub boundary: String,
    /// By idle time, the shortest first.
    pub points: Vec<IdlePoint>,
    /// The shortest idle time after which the interval of the ratio lies beyond the tie region; `None` where no measured one
    /// does.
    pub cools_after_ns: Option<u64>,
    /// The fitted curve's last value over its first: 1 or more.
    pub worst: f64,
    /// The largest share by which a median lies below an earlier one. Far above the noise, a curve that never falls is
    /// the wrong picture.
    pub dip: f64,
}

/// Samples that make no curve, or a curve that contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("idle times of `{backend}` {phase}: {problem}")]
#[non_exhaustive]
pub struct IdleError {
    /// The path.
    pub backend: BackendId,
    /// The phase.
    pub phase: Phase,
    /// What is wrong.
    pub problem: String,
}

type Group<'s> = (&'s BackendId, &'s str, Phase, Shape);

impl IdleCurve {
    /// One curve for each path, mode, phase and size.
    ///
    /// # Errors
    /// A call of 0 ns, a single idle time, or two boundaries in one curve.
    pub fn fit(samples: &[IdleSample], constants: &Constants) -> Result<Vec<Self>, IdleError> {
        let mut groups: BTreeMap<Group<'_>, Vec<&IdleSample>> = BTreeMap::new();
        for s in samples {
            groups.entry((&s.backend, &s.mode, s.phase, s.shape)).or_default().push(s);
        }
        groups
            .into_iter()
            .map(|((backend, mode, phase, shape), samples)| {
                let wrong = |problem: &str| IdleError { backend: backend.clone(), phase, problem: problem.to_owned() };
                let boundary = &samples[0].boundary;
                if samples.iter().any(|s| s.boundary != *boundary) {
                    return Err(wrong("the calls were taken under two boundaries"));
                }
                if samples.iter().any(|s| s.duration_ns == 0) {
                    return Err(wrong("a call took 0 ns"));
                }
                let points = by_idle_time(&samples);
                let [first, _, ..] = points.as_slice() else { return Err(wrong("a curve takes two idle times or more")) };
                let of = |blocks: &[BlockMedian]| Ordered::new(blocks.iter().map(|b| b.median_ns)).map(|m| m.median());
                let medians: Vec<_> = points.iter().filter_map(|(_, blocks)| of(blocks)).collect();
                let weights: Vec<_> = points.iter().map(|(_, blocks)| real(blocks.iter().map(|b| b.n).sum())).collect();
                let fitted = never_falling(&medians, &weights);
                let base = first.1.clone();
                let numbers = medians.iter().zip(&fitted);
                let points: Vec<_> = points
                    .into_iter()
                    .zip(numbers)
                    .enumerate()
                    .map(|(i, ((idle_ns, blocks), (median_ns, fitted_ns)))| {
                        let ratio = if i == 0 { None } else { paired_ratio(&blocks, &base, constants.confidence) };
                        let ratio = ratio.filter(|r| r.blocks >= constants.min_blocks);
                        IdlePoint { idle_ns, blocks, median_ns: *median_ns, fitted_ns: *fitted_ns, ratio }
                    })
                    .collect();
                let slower = |p: &&IdlePoint| p.ratio.is_some_and(|r| Edges::of(constants.rope).verdict(r.low, r.high) == Verdict::Slower);
                Ok(Self {
                    backend: backend.clone(),
                    mode: mode.to_owned(),
                    phase,
                    shape,
                    boundary: boundary.clone(),
                    cools_after_ns: points.iter().find(slower).map(|p| p.idle_ns),
                    worst: fitted[fitted.len() - 1] / fitted[0],
                    dip: dip(&medians),
                    points,
                })
            })
            .collect()
    }

    /// Time after `idle_ns` of rest over the time without one, on the line between the two neighbouring idle times; `None`
    /// beyond the longest idle time measured.
    pub fn ratio_after(&self, idle_ns: u64) -> Option<f64> {
        let after = self.points.partition_point(|p| p.idle_ns < idle_ns);
        let high = self.points.get(after)?;
        let base = self.points[0].fitted_ns;
        let Some(low) = after.checked_sub(1).map(|i| &self.points[i]) else { return Some(high.fitted_ns / base) };
        let share = real(idle_ns - low.idle_ns) / real(high.idle_ns - low.idle_ns);
        Some((low.fitted_ns + share * (high.fitted_ns - low.fitted_ns)) / base)
    }

    /// A document's curve must follow from its own blocks.
    pub(crate) fn check(&self, constants: &Constants) -> Result<(), String> {
        let sound =
            |p: &IdlePoint| !p.blocks.is_empty() && p.blocks.iter().all(|b| b.n > 0 && b.median_ns.is_finite() && b.median_ns > 0.0);
        let name = format!("the idle curve of `{}` {}", self.backend, self.phase);
        if self.points.len() < 2 || !self.points.iter().all(sound) {
            return Err(format!("{name} has an empty point, or a single one"));
        }
        if self.points.windows(2).any(|w| w[0].idle_ns >= w[1].idle_ns) {
            return Err(format!("{name} is out of order"));
        }
        let medians: Vec<_> =
            self.points.iter().filter_map(|p| Ordered::new(p.blocks.iter().map(|b| b.median_ns))).map(|m| m.median()).collect();
        let weights: Vec<_> = self.points.iter().map(|p| real(p.blocks.iter().fold(0, |n, b| b.n.saturating_add(n)))).collect();
        let fitted = never_falling(&medians, &weights);
        let same = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-9;
        let mut points = self.points.iter().zip(medians.iter().zip(&fitted));
        let follows = points.all(|(p, (median, fitted))| same(p.median_ns, *median) && same(p.fitted_ns, *fitted));
        let ratios = self.points.iter().filter_map(|p| p.ratio).try_for_each(|r| r.check());
        let slower = |p: &&IdlePoint| p.ratio.is_some_and(|r| Edges::of(constants.rope).verdict(r.low, r.high) == Verdict::Slower);
        let cools = self.points.iter().find(slower).map(|p| p.idle_ns) == self.cools_after_ns;
        let ends = same(self.worst, fitted[fitted.len() - 1] / fitted[0]) && (self.dip - dip(&medians)).abs() < 1e-9;
        if follows && cools && ends {
            ratios.map_err(|e| format!("{name}: {e}"))
        } else {
            Err(format!("{name} does not follow from its blocks"))
        }
    }
}

/// The passes of each idle time, both ordered.
fn by_idle_time(samples: &[&IdleSample]) -> Vec<(u64, Vec<BlockMedian>)> {
    let mut times: BTreeMap<u64, BTreeMap<u32, Vec<f64>>> = BTreeMap::new();
    for s in samples {
        times.entry(s.asked_ns).or_default().entry(s.block).or_default().push(real(s.duration_ns));
    }
    let median = |(block, times): (u32, Vec<f64>)| {
        let n = times.len() as u64;
        Ordered::new(times).map(|times| BlockMedian::new(block, n, times.median()))
    };
    times.into_iter().map(|(idle, blocks)| (idle, blocks.into_iter().filter_map(median).collect())).collect()
}

/// The weighted least-squares fit that never falls (pool adjacent violators; Ayer et al., 1955).
fn never_falling(values: &[f64], weights: &[f64]) -> Vec<f64> {
    let mut pools: Vec<(f64, f64, usize)> = Vec::with_capacity(values.len());
    for (value, weight) in values.iter().zip(weights) {
        let mut pool = (*value, *weight, 1);
        while let Some((before, w, n)) = pools.last().copied().filter(|(before, ..)| *before > pool.0) {
            pools.pop();
            pool = ((before * w + pool.0 * pool.1) / (w + pool.1), w + pool.1, n + pool.2);
        }
        pools.push(pool);
    }
    pools.into_iter().flat_map(|(value, _, n)| std::iter::repeat_n(value, n)).collect()
}

fn dip(medians: &[f64]) -> f64 {
    let mut highest = 0.0_f64;
    medians.iter().fold(0.0, |dip, m| {
        highest = highest.max(*m);
        dip.max(1.0 - m / highest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::A;
    use proptest::prelude::*;

    const SHAPE: Shape = Shape { batch: 1, new_tokens: 1, context: 64 };

    fn curve(times: &[(u64, u64)]) -> IdleCurve {
        let samples = (0..5).flat_map(|pass| {
            times.iter().map(move |(idle, ns)| IdleSample::new(A, Phase::Decode, SHAPE, *idle, ns + u64::from(pass)).with_block(pass))
        });
        IdleCurve::fit(&samples.collect::<Vec<_>>(), &Constants::default()).unwrap().remove(0)
    }

    #[test]
    fn a_flat_curve_never_cools_and_a_rising_one_does_at_its_first_sure_step() {
        let flat = curve(&[(0, 100_000), (10, 100_500), (100, 99_800)]);
        assert_eq!(flat.cools_after_ns, None);
        assert!(flat.worst < 1.002 && (flat.dip - 0.007).abs() < 1e-3, "{flat:?}");
        let rising = curve(&[(0, 100_000), (10, 101_000), (100, 130_000), (1000, 120_000)]);
        assert_eq!(rising.cools_after_ns, Some(100));
        assert_eq!(rising.ratio_after(100).map(|r| (r * 100.0).round()), Some(125.0), "the dip is pooled");
        assert_eq!(rising.ratio_after(1001), None, "not beyond what was measured");
        assert!(rising.ratio_after(55).is_some_and(|r| r > 1.1 && r < 1.2));
        assert_eq!(rising.ratio_after(0), Some(1.0));
        assert!(rising.check(&Constants::default()).is_ok());
    }

    #[test]
    fn a_curve_that_does_not_follow_from_its_blocks_is_refused() {
        let good = curve(&[(0, 100_000), (10, 150_000)]);
        let edits: [fn(&mut IdleCurve); 7] = [
            |c| c.worst = 1.0,
            |c| c.dip = 0.5,
            |c| c.cools_after_ns = None,
            |c| c.points[1].fitted_ns = 1.0,
            |c| c.points[1].blocks.clear(),
            |c| c.points[1].blocks[0].median_ns = f64::NAN,
            |c| c.points.reverse(),
        ];
        for (i, edit) in edits.into_iter().enumerate() {
            let mut bad = good.clone();
            edit(&mut bad);
            assert!(bad.check(&Constants::default()).is_err(), "edit {i}");
        }
    }

    #[test]
    fn what_makes_no_curve_is_an_error() {
        let call = |idle, ns| IdleSample::new(A, Phase::Decode, SHAPE, idle, ns);
        let fit = |samples: &[IdleSample]| IdleCurve::fit(samples, &Constants::default()).map_err(|e| e.problem);
        assert!(fit(&[call(0, 5)]).unwrap_err().contains("two idle times"));
        assert!(fit(&[call(0, 5), call(1, 0)]).unwrap_err().contains("0 ns"));
        assert!(fit(&[call(0, 5), call(1, 5).with_boundary("other")]).unwrap_err().contains("two boundaries"));
        assert_eq!(fit(&[]), Ok(Vec::new()));
    }

    proptest! {
        #[test]
        fn the_fit_never_falls_keeps_the_mean_and_leaves_a_rising_series_alone(values in prop::collection::vec(1.0..1e9_f64, 1..20)) {
            let fitted = never_falling(&values, &vec![1.0; values.len()]);
            prop_assert_eq!(fitted.len(), values.len());
            prop_assert!(fitted.windows(2).all(|w| w[0] <= w[1]));
            let (a, b) = (values.iter().sum::<f64>(), fitted.iter().sum::<f64>());
            prop_assert!((a / b - 1.0).abs() < 1e-9);
            let mut sorted = values;
            sorted.sort_by(f64::total_cmp);
            prop_assert_eq!(&never_falling(&sorted, &vec![1.0; sorted.len()]), &sorted);
        }
    }
}
