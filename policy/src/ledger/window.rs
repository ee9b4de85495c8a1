//! One backend's part of requests: a window of ratios, and what all windows add up to.

use super::{BAD_WINDOWS, LedgerEntry, Part, WINDOW, WindowReport};
use crate::{constants::TAIL_CONFIDENCE, router::Expected, stats::real};
use phase_core::BackendId;
use serde::Serialize;

/// Bins an octave: 64 are 1.1 to 1.6% wide, finer than any tie region worth having.
const PER_OCTAVE: usize = 64;

/// From a quarter to four times the prediction; what lies beyond counts in the outermost bins.
const BINS: usize = 4 * PER_OCTAVE;

/// Bits of a number below those that tell bins apart: 52 of the fraction, less 6.
const SHIFT: u32 = 46;

/// The lowest bin's bits.
const FLOOR: u64 = 0.25_f64.to_bits() >> SHIFT;

/// Normal quantile of 99%, both sides.
const Z: f64 = 2.576;

/// What a full window says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WindowVerdict {
    /// The median of the ratios may lie inside the predicted interval, and no more requests than chance explains lie above the
    /// bound of p95.
    Holds,
    /// The median surely lies outside of the predicted interval, widened by the tie region.
    Median,
    /// Half the predictions or more had no interval.
    NotKnown,
    /// More requests lie above the bound of p95 than chance explains.
    Tail,
}

#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) requests: u64,
    predicted_ns: f64,
    actual_ns: f64,
    with_interval: u64,
    inside: u64,
    with_p95: u64,
    below_p95: u64,
    windows: u64,
    bad_windows: u64,
    bad_in_a_row: u32,
    last: Option<WindowReport>,
    window: Window,
}

#[derive(Clone, Debug)]
struct Window {
    n: u32,
    with_interval: u32,
    with_p95: u32,
    above_p95: u32,
    /// Sums of the intervals' ends over their predictions.
    low: f64,
    high: f64,
    ratios: [u16; BINS],
}

impl Default for Window {
    fn default() -> Self {
        Self { n: 0, with_interval: 0, with_p95: 0, above_p95: 0, low: 0.0, high: 0.0, ratios: [0; BINS] }
    }
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            requests: 0,
            predicted_ns: 0.0,
            actual_ns: 0.0,
            with_interval: 0,
            inside: 0,
            with_p95: 0,
            below_p95: 0,
            windows: 0,
            bad_windows: 0,
            bad_in_a_row: 0,
            last: None,
            window: Window::default(),
        }
    }
}

impl Slot {
    #[inline]
    pub(super) fn note(&mut self, expected: &Expected, actual_ns: f64, rope: f64) {
        self.requests += 1;
        self.predicted_ns += expected.ns;
        self.actual_ns += actual_ns;
        let window = &mut self.window;
        window.n += 1;
        window.ratios[bin(actual_ns / expected.ns)] += 1;
        if let Some([low, high]) = expected.interval {
            self.with_interval += 1;
            self.inside += u64::from(low <= actual_ns && actual_ns <= high);
            window.with_interval += 1;
            window.low += low / expected.ns;
            window.high += high / expected.ns;
        }
        if let Some(p95) = expected.p95_upper_ns {
            let above = actual_ns > p95;
            self.with_p95 += 1;
            self.below_p95 += u64::from(!above);
            window.with_p95 += 1;
            window.above_p95 += u32::from(above);
        }
        if window.n == WINDOW {
            self.close(rope);
        }
    }

    #[cold]
    fn close(&mut self, rope: f64) {
        let report = self.window.report(rope);
        self.window = Window::default();
        self.windows += 1;
        match report.verdict {
            WindowVerdict::Median | WindowVerdict::Tail => {
                self.bad_windows += 1;
                self.bad_in_a_row += 1;
            }
            WindowVerdict::Holds => self.bad_in_a_row = 0,
            // It says nothing, either way.
            WindowVerdict::NotKnown => {}
        }
        self.last = Some(report);
    }

    pub(super) fn entry(&self, backend: BackendId, part: Part) -> LedgerEntry {
        let Self {
            requests,
            predicted_ns,
            actual_ns,
            with_interval,
            inside,
            with_p95,
            below_p95,
            windows,
            bad_windows,
            bad_in_a_row,
            last,
            window: _,
        } = *self;
        LedgerEntry {
            backend,
            part,
            requests,
            predicted_seconds: predicted_ns / 1e9,
            actual_seconds: actual_ns / 1e9,
            with_interval,
            inside_interval: inside,
            with_p95,
            below_p95,
            windows,
            bad_windows,
            bad_in_a_row,
            last_window: last,
            remeasure: bad_in_a_row >= BAD_WINDOWS,
        }
    }
}

impl Window {
    fn report(&self, rope: f64) -> WindowReport {
        let n = f64::from(self.n);
        // Order statistics around the median: the normal approximation of the binomial is good to a rank at this size.
        let reach = Z * n.sqrt() / 2.0;
        let [low, median, high] = [n / 2.0 - reach, n / 2.0, n / 2.0 + reach + 1.0].map(|rank| self.at(rank));
        let (low, high) = (edge(low), edge(high + 1));
        let share = f64::from(self.with_interval);
        let known = share * 2.0 > n;
        let off = known && (high < self.low / share / (1.0 + rope) || low > self.high / share * (1.0 + rope));
        let tail = 1.0 - 0.95;
        let counted = f64::from(self.with_p95);
        let by_chance = tail * counted + Z * (tail * (1.0 - tail) * counted).sqrt();
        let verdict = if off {
            WindowVerdict::Median
        } else if self.with_p95 > 0 && f64::from(self.above_p95) > by_chance {
            WindowVerdict::Tail
        } else if known {
            WindowVerdict::Holds
        } else {
            WindowVerdict::NotKnown
        };
        WindowReport { verdict, ratio: f64::midpoint(edge(median), edge(median + 1)), low, high, confidence: TAIL_CONFIDENCE }
    }

    /// The bin of the value of a rank, from 1.
    fn at(&self, rank: f64) -> usize {
        let mut below = 0;
        let found = self.ratios.iter().position(|count| {
            below += u64::from(*count);
            real(below) >= rank
        });
        found.unwrap_or(BINS - 1)
    }
}

/// The bin of a ratio, by the leading bits of the number: no logarithm.
#[inline]
fn bin(ratio: f64) -> usize {
    (ratio.to_bits() >> SHIFT).saturating_sub(FLOOR).min(BINS as u64 - 1) as usize
}

/// The lower edge of a bin; that of the first is 0, and above the last one lies everything.
fn edge(bin: usize) -> f64 {
    match bin {
        0 => 0.0,
        BINS.. => f64::INFINITY,
        _ => f64::from_bits((bin as u64 + FLOOR) << SHIFT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(interval: Option<[f64; 2]>, p95: Option<f64>) -> Expected {
        Expected { ns: 1000.0, interval, p95_upper_ns: p95 }
    }

    /// One window of ratios around `centre`, up to 5% to both sides, with every eighth request `slow` times as long.
    fn window(centre: f64, slow: f64, of: &Expected) -> WindowReport {
        let mut slot = Slot::default();
        for i in 0..WINDOW {
            let ratio = centre * (0.95 + 0.1 * f64::from(i * 37 % WINDOW) / f64::from(WINDOW));
            slot.note(of, 1000.0 * ratio * if i % 8 == 0 { slow } else { 1.0 }, 0.02);
        }
        slot.last.unwrap()
    }

    #[test]
    fn bins_hold_what_their_edges_say() {
        for ratio in [0.26, 0.5, 0.999, 1.0, 1.0155, 1.9, 3.9] {
            let i = bin(ratio);
            assert!(edge(i) <= ratio && ratio < edge(i + 1), "{ratio}");
            assert!(edge(i + 1) / edge(i) < 1.016);
        }
        assert_eq!([bin(0.0), bin(1e-300), bin(4.0), bin(1e300), bin(f64::INFINITY)], [0, 0, BINS - 1, BINS - 1, BINS - 1]);
    }

    #[test]
    fn a_window_is_bad_when_its_median_or_its_tail_surely_is() {
        let known = expected(Some([980.0, 1020.0]), Some(1200.0));
        assert_eq!(window(1.0, 1.0, &known).verdict, WindowVerdict::Holds);
        assert_eq!(window(1.02, 1.0, &known).verdict, WindowVerdict::Holds);
        for off in [0.9, 1.12] {
            let report = window(off, 1.0, &known);
            assert_eq!(report.verdict, WindowVerdict::Median);
            assert!(report.low <= off && off <= report.high && (report.ratio - off).abs() < 0.02, "{report:?}");
        }
        assert_eq!(window(1.0, 1.5, &known).verdict, WindowVerdict::Tail);
        assert_eq!(window(1.5, 1.0, &expected(None, None)).verdict, WindowVerdict::NotKnown);
        assert_eq!(window(1.0, 3.0, &expected(Some([980.0, 1020.0]), None)).verdict, WindowVerdict::Holds, "no bound, no judgement");
    }

    #[test]
    fn three_bad_windows_in_a_row_and_no_other_three() {
        let known = expected(Some([980.0, 1020.0]), None);
        let mut slot = Slot::default();
        let run = |slot: &mut Slot, ratio: f64| {
            (0..WINDOW).for_each(|_| slot.note(&known, 1000.0 * ratio, 0.02));
            slot.entry(crate::testing::A, Part::Request).remeasure
        };
        let due: Vec<_> = [1.5, 1.5, 1.0, 1.5, 1.5, 1.5, 1.5, 1.0].map(|ratio| run(&mut slot, ratio)).into();
        assert_eq!(due, [false, false, false, false, false, true, true, false]);
        let entry = slot.entry(crate::testing::A, Part::Request);
        assert_eq!((entry.windows, entry.bad_windows, entry.requests), (8, 6, 8 * u64::from(WINDOW)));
        assert_eq!(entry.inside_interval, 2 * u64::from(WINDOW));
    }
}
