//! The laws of intervals, held against random power curves.

use phase_core::{Energy, NoData, Timestamp};
use phase_energy::{
    Gate, Interval, JouleRange, PowerBounds, ReadingKind, Sample, SensorKind, SensorModel, SensorWindow, Series, bracket, classify,
};
use proptest::prelude::*;

const MIN_W: f64 = 60.0;
const MAX_W: f64 = 700.0;

fn power() -> PowerBounds {
    PowerBounds::new(MIN_W, MAX_W).expect("bounds of a device")
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "times of a recording that begins at 0")]
fn ns(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

/// Piecewise constant power within the bounds, known exactly.
#[derive(Clone, Debug)]
struct Curve {
    steps: Vec<(f64, f64)>,
}

impl Curve {
    /// Energy from 0 to `t`.
    fn joules(&self, t: f64) -> f64 {
        let (mut at, mut sum) = (0.0, 0.0);
        for (length, watts) in &self.steps {
            let part = (t - at).clamp(0.0, *length);
            sum += part * watts;
            at += length;
        }
        sum
    }

    fn between(&self, a: f64, b: f64) -> f64 {
        self.joules(b) - self.joules(a)
    }

    fn seconds(&self) -> f64 {
        self.steps.iter().map(|s| s.0).sum()
    }
}

fn curve() -> impl Strategy<Value = Curve> {
    prop::collection::vec((0.005..0.4_f64, MIN_W..MAX_W), 12..40).prop_map(|steps| Curve { steps })
}

/// Exact windows of a sensor that looks for `window` of every `period`, beginning at `phase`.
fn windows(curve: &Curve, period: f64, window: f64, phase: f64) -> Vec<SensorWindow> {
    let mut found = Vec::new();
    let mut hi = phase + period;
    while hi < curve.seconds() {
        found.push(SensorWindow::exact(hi - window, hi, curve.between(hi - window, hi) / window));
        hi += period;
    }
    found
}

fn contains(range: JouleRange, joules: f64) -> bool {
    range.widened(1e-6).contains(joules)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4000) })]

    /// E3: whatever the device did within its limits, its energy is in the interval.
    #[test]
    fn the_truth_is_inside(c in curve(), period in 0.01..0.2_f64, share in 0.1..=1.0_f64, phase in 0.0..0.1_f64, cut in (0.0..1.0_f64, 0.0..1.0_f64)) {
        let (a, b) = (cut.0.min(cut.1) * c.seconds(), cut.0.max(cut.1) * c.seconds());
        prop_assume!(b > a);
        let found = bracket(&windows(&c, period, period * share, phase), Interval::new(a, b), power());
        prop_assert!(contains(found.energy, c.between(a, b)), "{found:?} against {}", c.between(a, b));
        prop_assert!(found.inside <= found.observed + 1e-9);
        // E4: what is called measured passed the source document's gate as well.
        if let Energy::Measured { .. } = classify(&found, &Gate::default()) {
            prop_assert!(found.updates >= 2 && found.energy.relative() <= 0.1);
        }
    }

    /// E2: knowing one update more never widens the interval.
    #[test]
    fn another_update_never_widens(c in curve(), period in 0.02..0.2_f64, share in 0.1..=1.0_f64, left_out in any::<prop::sample::Index>(), cut in (0.0..1.0_f64, 0.0..1.0_f64)) {
        let (a, b) = (cut.0.min(cut.1) * c.seconds(), cut.0.max(cut.1) * c.seconds());
        let all = windows(&c, period, period * share, 0.0);
        prop_assume!(b > a && all.len() > 2);
        let mut fewer = all.clone();
        fewer.remove(left_out.index(all.len()));
        let (more, less) = (bracket(&all, Interval::new(a, b), power()).energy, bracket(&fewer, Interval::new(a, b), power()).energy);
        prop_assert!(less.low_j <= more.low_j + 1e-6 && more.high_j <= less.high_j + 1e-6, "{more:?} in {less:?}");
    }

    /// E2: a counter read twice as often never widens the interval either.
    #[test]
    fn a_finer_counter_never_widens(c in curve(), period in 0.02..0.2_f64, cut in (0.0..1.0_f64, 0.0..1.0_f64)) {
        let (a, b) = (cut.0.min(cut.1) * c.seconds(), cut.0.max(cut.1) * c.seconds());
        prop_assume!(b > a);
        let coarse: Vec<_> = windows(&c, period, period, 0.0);
        let fine: Vec<_> = coarse.iter().flat_map(|w| {
            let mid = 0.5 * (w.lo_s + w.hi_s);
            [(w.lo_s, mid), (mid, w.hi_s)].map(|(lo, hi)| SensorWindow::exact(lo, hi, c.between(lo, hi) / (hi - lo)))
        }).collect();
        let (fine, coarse) = (bracket(&fine, Interval::new(a, b), power()).energy, bracket(&coarse, Interval::new(a, b), power()).energy);
        prop_assert!(coarse.low_j <= fine.low_j + 1e-6 && fine.high_j <= coarse.high_j + 1e-6);
    }

    /// E2: parts together never know more than the whole, and as much when the cut is an update.
    #[test]
    fn parts_contain_the_whole(c in curve(), period in 0.02..0.2_f64, share in 0.1..=1.0_f64, cut in (0.0..1.0_f64, 0.0..1.0_f64, 0.0..1.0_f64)) {
        let mut at = [cut.0, cut.1, cut.2].map(|x| x * c.seconds());
        at.sort_by(f64::total_cmp);
        let [a, m, b] = at;
        prop_assume!(a < m && m < b);
        let all = windows(&c, period, period * share, 0.0);
        let of = |a, b| bracket(&all, Interval::new(a, b), power()).energy;
        let (whole, parts) = (of(a, b), of(a, m) + of(m, b));
        prop_assert!(parts.low_j <= whole.low_j + 1e-6 && whole.high_j <= parts.high_j + 1e-6, "{whole:?} in {parts:?}");
        if let Some(w) = all.iter().find(|w| w.hi_s > a && w.hi_s < b) {
            let parts = of(a, w.hi_s) + of(w.hi_s, b);
            prop_assert!((parts.low_j - whole.low_j).abs() < 1e-6 && (parts.high_j - whole.high_j).abs() < 1e-6);
        }
    }
}

/// Polls of a counter that covers all time, updated every `period_ns`, at `step_ns`.
fn poll_counter(c: &Curve, period_ns: u64, step_ns: u64, offset_ns: u64) -> Vec<Sample> {
    let end_ns = ns(c.seconds());
    (0..)
        .map(|i| offset_ns + i * step_ns)
        .take_while(|t| *t < end_ns)
        .map(|t_ns| {
            let update = t_ns / period_ns * period_ns;
            Sample { t_ns, value: (c.joules(update as f64 * 1e-9) * 1e3).floor() }
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// E1: updates are counted, polls are not.
    #[test]
    fn polling_faster_does_not_count_more(c in curve(), period_ms in 20..150_u64, faster in 2..6_u64) {
        let (period, step) = (period_ms * 1_000_000, period_ms * 250_000);
        let model = SensorModel::new(SensorKind::Integrating, period as f64 * 1e-9, 0.0, 0.0, power()).unwrap();
        let series = |step| Series::new(ReadingKind::Counter, &poll_counter(&c, period, step, 0), model, Gate::default()).unwrap();
        let (slow, fast) = (series(step), series(step / faster));
        prop_assert!(fast.windows().len().abs_diff(slow.windows().len()) <= 1);
        // An event that keeps clear of the updates has the same ones inside, however often they were read.
        let (a, b) = (Timestamp::from_nanos(2 * period + period / 2), Timestamp::from_nanos(7 * period + period / 2));
        let count = |s: &Series| s.attribute(a, b).bracket.map(|b| b.updates);
        prop_assert_eq!(count(&slow), count(&fast));
        prop_assert!(count(&fast).is_none_or(|n| n == 5));
    }

    /// E3 on polls: not even the time of an update is known, and the truth is still inside.
    #[test]
    fn polled_truth_is_inside(c in curve(), period_ms in 10..150_u64, step_ms in 1..300_u64, offset in 0..50_000_000_u64, cut in (0.0..1.0_f64, 0.0..1.0_f64)) {
        let period = period_ms * 1_000_000;
        let model = SensorModel::new(SensorKind::Integrating, period as f64 * 1e-9, 0.0, 0.0, power()).unwrap();
        let samples = poll_counter(&c, period, step_ms * 1_000_000, offset);
        let series = Series::new(ReadingKind::Counter, &samples, model, Gate::default()).unwrap();
        let mut at = [cut.0, cut.1].map(|x| ns(x * c.seconds()));
        at.sort_unstable();
        let found = series.attribute(Timestamp::from_nanos(at[0]), Timestamp::from_nanos(at[1]));
        prop_assert!(found.energy != Energy::NoData { reason: NoData::ImplausiblePower }, "a true curve is plausible");
        if let Some(b) = found.bracket {
            prop_assert!(contains(b.energy, c.between(at[0] as f64 * 1e-9, at[1] as f64 * 1e-9)), "{found:?}");
        }
    }

    /// The prefix sums give what the plain sum gives.
    #[test]
    fn a_series_is_a_bracket(c in curve(), period_ms in 10..150_u64, cuts in prop::collection::vec((0.0..1.0_f64, 0.0..1.0_f64), 1..20)) {
        let period = period_ms * 1_000_000;
        let model = SensorModel::new(SensorKind::Integrating, period as f64 * 1e-9, 0.0, 0.0, power()).unwrap();
        let series = Series::new(ReadingKind::Counter, &poll_counter(&c, period, period / 4, 0), model, Gate::default()).unwrap();
        let mut cursor = phase_energy::Cursor::default();
        for (x, y) in cuts {
            let (a, b) = (Timestamp::from_nanos(ns(x.min(y) * c.seconds())), Timestamp::from_nanos(ns(x.max(y) * c.seconds())));
            let Some(fast) = series.attribute_from(&mut cursor, a, b).bracket else { continue };
            let plain = bracket(series.windows(), Interval::new(series.seconds(a), series.seconds(b)), power());
            prop_assert_eq!(fast.updates, plain.updates);
            prop_assert!((fast.energy.low_j - plain.energy.low_j).abs() < 2e-3 && (fast.energy.high_j - plain.energy.high_j).abs() < 2e-3);
        }
    }

    /// E9: sums and ratios keep what is true.
    #[test]
    fn sums_and_ratios_keep_the_truth(parts in prop::collection::vec((0.0..100.0_f64, 0.0..10.0_f64, -1.0..=1.0_f64), 2..8)) {
        let ranges: Vec<_> = parts.iter().map(|(mid, half, _)| JouleRange::around(mid + half, *half)).collect();
        let truths: Vec<_> = parts.iter().map(|(mid, half, at)| mid + half + half * at).collect();
        prop_assert!(contains(ranges.iter().copied().sum(), truths.iter().sum()));
        if let Some([low, high]) = ranges[0].ratio(ranges[1]) {
            let ratio = truths[0] / truths[1];
            prop_assert!(low <= ratio + 1e-9 && ratio <= high + 1e-9);
        }
        prop_assert!(!(ranges[0].surely_below(ranges[1], 0.0) && truths[0] > truths[1]));
    }
}
