//! Where an axis begins and ends, and which of its places get a label.

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use std::ops::Range;

/// Labels that fit beside each other.
const MOST: usize = 7;

/// One axis, ready to be drawn.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) log: bool,
    /// Places with a label and a line of the grid.
    pub(super) ticks: Vec<f64>,
}

/// What is asked of an axis.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wish<'a> {
    pub(super) log: bool,
    /// A linear one begins at zero.
    pub(super) from_zero: bool,
    /// Between two whole numbers there is nothing.
    pub(super) whole: bool,
    /// Places that should be the labels, those that fit; none leaves the choice to the axis.
    pub(super) at: &'a [f64],
}

impl Axis {
    pub(super) fn of(values: impl Iterator<Item = f64>, wish: Wish<'_>) -> Self {
        let Wish { log, from_zero, whole, at } = wish;
        let (low, high) = range(values, log, from_zero);
        let mut ticks = if at.is_empty() { Vec::new() } else { spaced(at, low, high, log) };
        if ticks.len() < 2 && at.len() != 1 {
            ticks = match log {
                true => decades(low, high).unwrap_or_else(|| steps(low, high, whole)),
                false => steps(low, high, whole),
            };
        }
        Self { low, high, log, ticks }
    }
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = place(*value, self.low, self.high, self.log);
        #[expect(clippy::cast_possible_truncation, reason = "pixels of a plot; what is not finite lies at the edge")]
        let at = (share.clamp(-1.0, 2.0) * f64::from(limit.1 - limit.0)).round() as i32;
        limit.0 + at
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

/// Where `value` lies between the ends, as a share.
fn place(value: f64, low: f64, high: f64, log: bool) -> f64 {
    if log { (value / low).ln() / (high / low).ln() } else { (value - low) / (high - low) }
}

fn range(values: impl Iterator<Item = f64>, log: bool, from_zero: bool) -> (f64, f64) {
    let finite = values.filter(|v| v.is_finite() && (!log || *v > 0.0));
    let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if low > high {
        return (1.0, 10.0);
    }
    if log {
        return (low / 1.25, high * 1.25);
    }
    let margin = if high > low { (high - low) * 0.06 } else { high.abs().max(1.0) * 0.1 };
    (if from_zero { 0.0 } else { low - margin }, high + margin)
}

/// Those of `at` that lie far enough from the one before to be read.
fn spaced(at: &[f64], low: f64, high: f64, log: bool) -> Vec<f64> {
    let place = |v: f64| place(v, low, high, log);
    let mut all: Vec<_> = at.iter().copied().filter(|v| (low..=high).contains(v)).collect();
    all.sort_by(f64::total_cmp);
    let mut kept: Vec<f64> = Vec::new();
    for v in all {
        if kept.last().is_none_or(|last| place(v) - place(*last) > 0.11) {
            kept.push(v);
        }
    }
    kept
}

/// 1, 2, 5, 10, ...; 1, 10, ...; 1, 100, ...: the densest that fits. Nothing when it has no two labels.
fn decades(low: f64, high: f64) -> Option<Vec<f64>> {
    #[expect(clippy::cast_possible_truncation, reason = "powers of ten of finite numbers")]
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let sets: [(&[f64], usize); 5] = [(&[1.0, 2.0, 5.0], 1), (&[1.0, 3.0], 1), (&[1.0], 1), (&[1.0], 2), (&[1.0], 4)];
    let ticks = |(set, every): (&[f64], usize)| -> Vec<f64> {
        let all = (first..=last).step_by(every).flat_map(|power| set.iter().map(move |m| m * 10f64.powi(power)));
        all.filter(|v| (low..=high).contains(v)).collect()
    };
    let fits = sets.into_iter().map(ticks).find(|t| t.len() <= MOST)?;
    (fits.len() >= 2).then_some(fits)
}

/// Multiples of 1, 2 or 5 times a power of ten.
fn steps(low: f64, high: f64, whole: bool) -> Vec<f64> {
    let rough = (high - low) / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= rough).unwrap_or(10.0 * power);
    let step = if whole { step.max(1.0).round() } else { step };
    let first = (low / step).ceil();
    (0..12_u32).map(|k| (first + f64::from(k)) * step).take_while(|v| *v <= high).collect()
}

/// A label: no more digits than it needs.
pub(super) fn tick(value: f64) -> String {
    let short = |v: f64, unit: &str| {
        let text = if v.abs() >= 9.95 { format!("{v:.0}") } else { format!("{v:.1}") };
        format!("{}{unit}", text.strip_suffix(".0").unwrap_or(&text))
    };
    let text = match value.abs() {
        0.0 => return "0".to_owned(),
        m if m >= 1e6 => return short(value / 1e6, "M"),
        m if m >= 10_000.0 => return short(value / 1e3, "k"),
        m if m >= 10.0 => format!("{value:.0}"),
        m if m >= 1.0 => format!("{value:.1}"),
        m if m >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(values: &[f64], wish: Wish<'_>) -> Vec<String> {
        Axis::of(values.iter().copied(), wish).ticks.into_iter().map(tick).collect()
    }

    #[test]
    fn a_logarithmic_axis_has_labels_however_short_it_is() {
        let log = Wish { log: true, ..Wish::default() };
        assert_eq!(labels(&[1.9, 11.0], log), ["2", "5", "10"]);
        assert_eq!(labels(&[120.0, 140.0], log), ["100", "120", "140", "160"], "no two of 1, 2, 5: steps");
        assert_eq!(labels(&[0.8, 100_000.0], log), ["1", "10", "100", "1000", "10k", "100k"]);
        assert_eq!(labels(&[1e-3, 1e9], log), ["0.01", "1", "100", "10k", "1M", "100M"], "every second power");
    }

    #[test]
    fn measured_lengths_are_the_labels_unless_they_are_too_close() {
        let at = [8.0, 128.0, 512.0, 520.0, 2048.0];
        let wish = Wish { log: true, at: &at, ..Wish::default() };
        assert_eq!(labels(&at, wish), ["8", "128", "512", "2048"]);
    }

    #[test]
    fn whole_numbers_are_not_split() {
        let whole = Wish { whole: true, ..Wish::default() };
        assert_eq!(labels(&[1.0, 2.0], whole), ["1", "2"]);
        assert_eq!(labels(&[1.0, 16.0], whole), ["5", "10", "15"]);
        let zero = Wish { from_zero: true, ..Wish::default() };
        assert_eq!(labels(&[0.9, 1.2], zero), ["0", "0.5", "1"]);
    }

    #[test]
    fn labels_are_short() {
        assert_eq!([0.0, 12_000.0, 15.0, 1.5, 0.25, 2e6, 150_000.0].map(tick), ["0", "12k", "15", "1.5", "0.25", "2M", "150k"]);
    }
}
