//! Whether a series of times has a steady state, and from where: change points in mean and variance, then the classes of
//! Barrett et al. (OOPSLA 2017), who found that most programs never settle.

use super::{Ordered, real_size};
use serde::{Deserialize, Serialize};

/// What a series of times does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "class", rename_all = "snake_case")]
#[non_exhaustive]
pub enum SteadyState {
    /// The same from the first call to the last.
    Flat,
    /// It never settles: a drift, or a change within its last quarter.
    None,
    /// It settles at a slower time than it had before.
    Slowdown {
        /// The first call of the steady state.
        from: usize,
    },
    /// Fewer than [`NEEDED`] calls: nothing can be said.
    TooShort,
    /// It settles at the fastest time it had.
    Warmup {
        /// The first call of the steady state.
        from: usize,
    },
}

/// Calls that a series needs before it is classified.
pub const NEEDED: usize = 40;

/// Segments whose means lie within this share of the last one's are the same state.
pub const SAME: f64 = 0.01;

/// Longer series are averaged in so many bins: the search is quadratic where nothing changes.
const BINS: usize = 128;

/// What a change must gain, in logarithms of the length. Barrett et al. take 15 on series of 2,000; bins of many calls have
/// less noise, and gain less in this cost. With 8, flat series stay flat, of synthetic noise and of the noise of recorded
/// decode steps, and a warm-up of 60 calls at 1.5 times is still found in that noise (see the tests).
const PENALTY: f64 = 8.0;

/// So many outliers in a row are none.
const RUN: usize = 3;

/// Calls in the window within which an outlier is one.
const WINDOW: usize = 200;

/// Classifies a series in the order it was measured. Outliers (beyond three times the distance from p10 to p90 around the
/// median of their window) are left out of the search, because one in a hundred of them tears any series to pieces; no
/// statistic of times leaves them out.
///
/// ```
/// use phase_policy::stats::{SteadyState, steady_state};
/// let wobble = |i: usize| ((i * 7919) % 101) as f64 * 1e-4;
/// let series: Vec<f64> = (0..400).map(|i| if i < 60 { 2.0 } else { 1.0 } + wobble(i)).collect();
/// assert!(matches!(steady_state(&series), SteadyState::Warmup { from } if (55..=64).contains(&from)));
/// assert_eq!(steady_state(&series[..39]), SteadyState::TooShort);
/// ```
pub fn steady_state(times: &[f64]) -> SteadyState {
    with_penalty(times, PENALTY)
}

fn with_penalty(times: &[f64], penalty: f64) -> SteadyState {
    if times.len() < NEEDED || times.iter().any(|t| !t.is_finite() || *t <= 0.0) {
        return SteadyState::TooShort;
    }
    let kept = inliers(times);
    let (bins, width) = binned(&kept, times);
    let n = bins.len();
    // A floor under the variance, far below any real one: a run of equal values has a logarithm too.
    let floor = (1e-6 * bins.iter().sum::<f64>() / real_size(n)).powi(2);
    let ends = change_points(&bins, penalty * real_size(n).ln(), floor);
    let original = |bin: usize| kept[(bin * width).min(kept.len() - 1)];
    classify(&bins, &ends, original)
}

fn classify(bins: &[f64], ends: &[usize], original: impl Fn(usize) -> usize) -> SteadyState {
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let segments: Vec<(usize, f64)> =
        starts.zip(ends).map(|(start, end)| (start, bins[start..*end].iter().sum::<f64>() / real_size(end - start))).collect();
    let last = segments[segments.len() - 1].1;
    let changed = segments.iter().rposition(|(_, mean)| (mean / last - 1.0).abs() > SAME);
    let Some(changed) = changed else { return SteadyState::Flat };
    let (from, _) = segments[changed + 1];
    if from > bins.len() - bins.len() / 4 {
        return SteadyState::None;
    }
    let from = original(from);
    if segments[..=changed].iter().any(|(_, mean)| *mean < last * (1.0 - SAME)) {
        SteadyState::Slowdown { from }
    } else {
        SteadyState::Warmup { from }
    }
}

/// Indices of the values that are no outliers in their window.
fn inliers(times: &[f64]) -> Vec<usize> {
    let mut kept = Vec::with_capacity(times.len());
    // The last window is as long as the others, so that it has the same quantiles.
    for start in (0..times.len()).step_by(WINDOW) {
        let window = start.min(times.len().saturating_sub(WINDOW))..times.len().min(start + WINDOW);
        let Some(sorted) = Ordered::new(times[window.clone()].iter().copied()) else { continue };
        let at = |tenths: usize| sorted.as_slice()[(sorted.as_slice().len() - 1) * tenths / 10];
        let reach = 3.0 * (at(9) - at(1));
        let outlies = |i: &usize| (times[*i] - sorted.median()).abs() > reach;
        // A run of them is no outlier but a state: a short warm-up, for one.
        let indices: Vec<_> = (start..window.end).collect();
        let runs = indices.chunk_by(|a, b| outlies(a) == outlies(b));
        kept.extend(runs.filter(|run| run.len() >= RUN || !outlies(&run[0])).flatten());
    }
    if kept.is_empty() { (0..times.len()).collect() } else { kept }
}

/// Means of runs of `width` kept values.
fn binned(kept: &[usize], times: &[f64]) -> (Vec<f64>, usize) {
    let width = kept.len().div_ceil(BINS);
    let bins = kept.chunks(width).map(|bin| bin.iter().map(|i| times[*i]).sum::<f64>() / real_size(bin.len()));
    (bins.collect(), width)
}

/// Ends of segments of one mean and variance each, the last one being the length: PELT with the Gaussian cost and a
/// penalty for each change (Killick, Fearnhead and Eckley, 2012).
fn change_points(values: &[f64], penalty: f64, floor: f64) -> Vec<usize> {
    const SHORTEST: usize = 4;
    let n = values.len();
    let centre = values.iter().sum::<f64>() / real_size(n);
    let (mut sums, mut squares) = (vec![0.0; n + 1], vec![0.0; n + 1]);
    for (i, value) in values.iter().enumerate() {
        let d = value - centre;
        sums[i + 1] = sums[i] + d;
        squares[i + 1] = squares[i] + d * d;
    }
    let cost = |from: usize, to: usize| {
        let length = real_size(to - from);
        let sum: f64 = sums[to] - sums[from];
        let variance = ((squares[to] - squares[from] - sum * sum / length) / length).max(floor);
        length * variance.ln()
    };
    let mut best = vec![f64::INFINITY; n + 1];
    let mut before = vec![0; n + 1];
    best[0] = -penalty;
    let mut starts = vec![0];
    for end in SHORTEST..=n {
        for &start in starts.iter().filter(|s| end - **s >= SHORTEST) {
            let total = best[start] + cost(start, end) + penalty;
            if total < best[end] {
                (best[end], before[end]) = (total, start);
            }
        }
        // A start that is worse than the best by more than a penalty can never be in the answer.
        starts.retain(|&s| end - s < SHORTEST || best[s] + cost(s, end) <= best[end]);
        starts.push(end + 1 - SHORTEST);
        starts.dedup();
    }
    let mut ends = vec![n];
    let mut at = n;
    while before[at] > 0 {
        at = before[at];
        ends.push(at);
    }
    ends.reverse();
    ends
}

/// How many blocks of a cell did what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Steadiness {
    /// Steady from the first call.
    pub flat: u32,
    /// Steady after a warm-up, whose calls were moved to the warm-up cell.
    pub warmup: u32,
    /// Slower at the end than before.
    pub slowdown: u32,
    /// Never steady.
    pub none: u32,
    /// Too few calls to tell.
    pub too_short: u32,
}

impl Steadiness {
    /// Counts one block.
    pub(crate) fn count(&mut self, state: SteadyState) {
        let counter = match state {
            SteadyState::Flat => &mut self.flat,
            SteadyState::Warmup { .. } => &mut self.warmup,
            SteadyState::Slowdown { .. } => &mut self.slowdown,
            SteadyState::None => &mut self.none,
            SteadyState::TooShort => &mut self.too_short,
        };
        *counter += 1;
    }

    /// Blocks that were long enough to be judged.
    pub const fn judged(&self) -> u32 {
        self.flat.saturating_add(self.warmup).saturating_add(self.slowdown).saturating_add(self.none)
    }

    /// Blocks that slowed down or never settled.
    pub const fn unsteady(&self) -> u32 {
        self.slowdown.saturating_add(self.none)
    }

    /// Whether half of the judged blocks or more slowed down or never settled: then there is no steady time to route by.
    pub const fn is_unsteady(&self) -> bool {
        self.judged() > 0 && self.unsteady() >= self.judged().div_ceil(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{
        prelude::*,
        test_runner::{RngAlgorithm, TestRng},
    };

    struct Noise(TestRng);

    impl Noise {
        fn new() -> Self {
            Self(TestRng::deterministic_rng(RngAlgorithm::ChaCha))
        }

        fn uniform(&mut self) -> f64 {
            f64::from(self.0.next_u32()) / (f64::from(u32::MAX) + 1.0)
        }

        /// Twelve uniforms make a normal good enough here.
        fn normal(&mut self) -> f64 {
            (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
        }

        /// `n` values around `mean` with 1% noise.
        fn series(&mut self, n: u32, mean: impl Fn(u32) -> f64) -> Vec<f64> {
            (0..n).map(|i| mean(i) * (1.0 + 0.01 * self.normal())).collect()
        }
    }

    fn share(trials: u32, mut hit: impl FnMut() -> bool) -> f64 {
        f64::from((0..trials).map(|_| u32::from(hit())).sum::<u32>()) / f64::from(trials)
    }

    #[test]
    fn the_four_classes_are_told_apart() {
        let mut noise = Noise::new();
        for n in [200, 2000] {
            let step = n / 20;
            let warm = noise.series(n, |i| {
                if i < step / 4 {
                    3.0
                } else if i < step {
                    1.2
                } else {
                    1.0
                }
            });
            let SteadyState::Warmup { from } = steady_state(&warm) else { panic!("{:?}", steady_state(&warm)) };
            let off = i64::try_from(from).unwrap() - i64::from(step);
            assert!(off.unsigned_abs() <= u64::from(n.div_ceil(64).max(4)), "{n}: {from} for {step}");
            let slow = noise.series(n, |i| if i < n / 5 { 1.0 } else { 1.1 });
            assert!(matches!(steady_state(&slow), SteadyState::Slowdown { .. }));
            let late = noise.series(n, |i| if i < n - n / 8 { 1.0 } else { 1.2 });
            assert_eq!(steady_state(&late), SteadyState::None);
        }
        let drift = noise.series(2000, |i| 1.0 + 1e-4 * f64::from(i));
        assert!(matches!(steady_state(&drift), SteadyState::None | SteadyState::Slowdown { .. }), "{:?}", steady_state(&drift));
    }

    #[test]
    fn flat_is_called_flat_with_and_without_spikes() {
        let mut noise = Noise::new();
        for n in [40, 100, 400, 2000] {
            let flat = share(100, || steady_state(&noise.series(n, |_| 1.0)) == SteadyState::Flat);
            assert!(flat >= 0.98, "{n}: {flat}");
        }
        let spiky = share(60, || {
            let mut times = noise.series(2000, |_| 1.0);
            times.iter_mut().filter(|_| noise.uniform() < 0.01).for_each(|t| *t += 0.3);
            steady_state(&times) == SteadyState::Flat
        });
        assert!(spiky >= 0.95, "{spiky}");
    }

    #[test]
    fn two_clock_states_are_no_steady_state() {
        let mut noise = Noise::new();
        // Two states of 5% apart, changing every 150 calls on average.
        let flapping = share(40, || {
            let mut fast = true;
            let mut times = Vec::new();
            for _ in 0..2000 {
                fast ^= noise.uniform() < 1.0 / 150.0;
                times.push(if fast { 1.0 } else { 1.05 } * (1.0 + 0.01 * noise.normal()));
            }
            steady_state(&times) != SteadyState::Flat
        });
        assert!(flapping >= 0.9, "{flapping}");
    }

    #[test]
    fn nonsense_is_not_classified_and_equal_values_are_flat() {
        assert_eq!(steady_state(&[]), SteadyState::TooShort);
        assert_eq!(steady_state(&[f64::NAN; 100]), SteadyState::TooShort);
        assert_eq!(steady_state(&[-1.0; 100]), SteadyState::TooShort);
        assert_eq!(steady_state(&[1e9; 100]), SteadyState::Flat);
        assert_eq!(steady_state(&[1e9; 100_000]), SteadyState::Flat);
    }

    /// Decode steps of SmolLM2 on two paths of one busy machine: ten blocks of 300 calls.
    fn recorded() -> Vec<Vec<f64>> {
        #[derive(Deserialize)]
        struct Series {
            duration_us: Vec<f64>,
        }
        let all: Vec<Series> = serde_json::from_str(include_str!("../../tests/data/smollm2-decode-series.json")).unwrap();
        all.into_iter().map(|s| s.duration_us).collect()
    }

    /// A shuffled series has the noise of the recorded one and no change of state.
    fn shuffled(noise: &mut Noise, times: &[f64]) -> Vec<f64> {
        let mut times = times.to_vec();
        for i in (1..times.len()).rev() {
            times.swap(i, usize::try_from(noise.0.next_u32()).unwrap() % (i + 1));
        }
        times
    }

    #[test]
    fn the_penalty_holds_on_recorded_noise() {
        let mut noise = Noise::new();
        let series = recorded();
        let mut flat = |penalty: f64| {
            let mut next = series.iter().cycle();
            share(300, || with_penalty(&shuffled(&mut noise, next.next().unwrap()), penalty) == SteadyState::Flat)
        };
        let (ours, less) = (flat(PENALTY), flat(2.0));
        assert!(ours >= 0.95, "{ours} of shuffled series stay flat");
        assert!(less < 0.95, "{less}: this noise would not show a penalty that is too small");
    }

    #[test]
    fn a_warm_up_is_found_in_recorded_noise() {
        let mut noise = Noise::new();
        let series = recorded();
        let mut next = series.iter().cycle();
        let mut found = |factor: f64| {
            share(200, || {
                let mut times = shuffled(&mut noise, next.next().unwrap());
                times[..60].iter_mut().for_each(|t| *t *= factor);
                matches!(steady_state(&times), SteadyState::Warmup { from } if (48..=72).contains(&from))
            })
        };
        let (large, none) = (found(1.5), found(1.0));
        assert!(large >= 0.8, "{large}");
        assert!(none <= 0.02, "{none}");
    }

    #[test]
    fn half_of_the_judged_blocks_decide() {
        let of = |flat, none, too_short| Steadiness { flat, none, too_short, ..Steadiness::default() }.is_unsteady();
        assert_eq!([of(0, 0, 9), of(3, 2, 0), of(2, 2, 0), of(0, 1, 9)], [false, false, true, true]);
    }
}
