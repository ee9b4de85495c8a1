//! One number with everything it needs to be believed, and how numbers are written.

use phase_core::{Phase, Shape};
use phase_policy::{Cell, stats::RatioInterval};
use serde::Serialize;

/// A measured number: never shown without its count and its boundary.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Figure {
    /// The number.
    pub value: f64,
    /// Lower end of its interval, where it has one.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
    /// Confidence of the interval.
    pub confidence: Option<f64>,
    /// Its unit.
    pub unit: &'static str,
    /// Calls it rests on.
    pub n: u64,
    /// Replication blocks it rests on.
    pub blocks: usize,
    /// The id of the boundary it was taken under.
    pub boundary: String,
}

impl Figure {
    /// The median of a cell, in milliseconds; `None` without a successful call.
    pub(crate) fn median_ms(cell: &Cell) -> Option<Self> {
        let time = cell.time?;
        let interval = time.interval;
        Some(Self {
            value: time.median_ns / 1e6,
            low: interval.map(|i| i.low / 1e6),
            high: interval.map(|i| i.high / 1e6),
            confidence: interval.map(|i| i.confidence),
            ..Self::of_cell(cell, "ms")
        })
    }

    /// Another number of the same calls, without an interval.
    pub(crate) fn of_cell(cell: &Cell, unit: &'static str) -> Self {
        let (n, blocks) = (cell.n, cell.blocks.len());
        Self { value: 0.0, low: None, high: None, confidence: None, unit, n, blocks, boundary: cell.boundary.clone() }
    }

    /// The same with another value.
    #[must_use]
    pub(crate) fn with(self, value: f64) -> Self {
        Self { value, ..self }
    }

    /// `rate / value`: what a time is as a rate, its interval turned round.
    #[must_use]
    pub(crate) fn rate(&self, amount: f64, unit: &'static str) -> Self {
        let per = |ms: f64| amount / (ms / 1e3);
        Self { value: per(self.value), low: self.high.map(per), high: self.low.map(per), unit, ..self.clone() }
    }

    /// Everything about it in one line: what is shown on hover or tap.
    pub fn provenance(&self) -> String {
        let Self { value, low, high, confidence, unit, n, blocks, boundary } = self;
        let interval = match (low, high, confidence) {
            (Some(low), Some(high), Some(c)) => format!(" [{}, {}] at {}", digits(*low), digits(*high), percent(*c)),
            (Some(low), Some(high), None) => format!(" [{}, {}]", digits(*low), digits(*high)),
            _ => " without an interval".to_owned(),
        };
        let blocks = if *blocks == 0 { String::new() } else { format!(" in {blocks} {}", plural(*blocks, "block")) };
        let boundary = if boundary.is_empty() { String::new() } else { format!(" \u{b7} boundary {boundary}") };
        format!("{} {unit}{interval} \u{b7} n = {n}{blocks}{boundary}", digits(*value))
    }
}

/// One time over another, as it is stored in a report.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Ratio {
    /// Ours over theirs: below 1 ours is faster.
    pub ratio: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Confidence of the interval.
    pub confidence: f64,
    /// Common blocks.
    pub blocks: usize,
}

impl From<RatioInterval> for Ratio {
    fn from(r: RatioInterval) -> Self {
        Self { ratio: r.ratio, low: r.low, high: r.high, confidence: r.confidence, blocks: r.blocks }
    }
}

impl Ratio {
    /// `0.760 [0.742, 0.778]`.
    pub fn text(&self) -> String {
        format!("{:.3} [{:.3}, {:.3}]", self.ratio, self.low, self.high)
    }

    /// The same with its confidence and its blocks: `0.760 [0.742, 0.778] at 99 %, 5 blocks`.
    pub fn full(&self) -> String {
        format!("{} at {}, {} {}", self.text(), percent(self.confidence), self.blocks, plural(self.blocks, "block"))
    }

    /// How often as fast ours is: `1.32 [1.29, 1.35]`.
    pub fn speed(&self) -> String {
        format!("{:.2}\u{d7} [{:.2}, {:.2}]", 1.0 / self.ratio, 1.0 / self.high, 1.0 / self.low)
    }
}

/// Four significant digits at most, in plain notation.
pub(crate) fn digits(value: f64) -> String {
    let magnitude = value.abs();
    if !value.is_finite() {
        return "-".to_owned();
    }
    match magnitude {
        0.0 => "0".to_owned(),
        m if !(1e-4..1e6).contains(&m) => format!("{value:.2e}"),
        m if m >= 100.0 => format!("{value:.0}"),
        m if m >= 10.0 => format!("{value:.1}"),
        m if m >= 1.0 => format!("{value:.2}"),
        m if m >= 0.1 => format!("{value:.3}"),
        m if m >= 0.01 => format!("{value:.4}"),
        m if m >= 0.001 => format!("{value:.5}"),
        _ => format!("{value:.6}"),
    }
}

/// `2.10 [1.90, 2.29]`: a number between its bounds.
pub(crate) fn between([middle, low, high]: [f64; 3]) -> String {
    format!("{} [{}, {}]", digits(middle), digits(low), digits(high))
}

/// A share as a percentage.
pub(crate) fn percent(share: f64) -> String {
    let value = share * 100.0;
    if value > 0.0 && value < 0.95 {
        format!("{value:.2} %")
    } else if (value - value.round()).abs() < 0.05 {
        format!("{value:.0} %")
    } else {
        format!("{value:.1} %")
    }
}

/// 1 block, 2 blocks.
pub(crate) fn plural(n: usize, word: &str) -> String {
    if n == 1 { word.to_owned() } else { format!("{word}s") }
}

/// Thousands set apart: 48 312.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// A bucket in words: `batch 1, 128 tokens`, `batch 1, context 128-255`.
pub(crate) fn bucket(phase: Phase, shape: Shape) -> String {
    let Shape { batch, new_tokens, context } = shape;
    match phase {
        Phase::Decode if context > 0 => format!("batch {batch}, context {context}\u{2013}{}", context.saturating_mul(2) - 1),
        Phase::Decode => format!("batch {batch}, no context"),
        _ if context == 0 => format!("batch {batch}, {new_tokens} {}", plural(new_tokens, "token")),
        _ => format!("batch {batch}, {new_tokens} {} at {context}", plural(new_tokens, "token")),
    }
}

/// Counts and nanoseconds as real numbers: exact, because none comes near 2^53.
#[expect(clippy::cast_precision_loss, reason = "counts, bytes and nanoseconds of a run are far below 2^53")]
pub(crate) fn real(n: u64) -> f64 {
    n as f64
}

/// As [`real`], for sizes.
#[expect(clippy::cast_precision_loss, reason = "token counts are far below 2^53")]
pub(crate) fn real_size(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_or_four_digits() {
        let shown = [0.0, 0.004_095, 0.012_345, 0.5, 1.234, 56.78, 123.4, 12_345.6, 1.5e7].map(digits);
        assert_eq!(shown, ["0", "0.00409", "0.0123", "0.500", "1.23", "56.8", "123", "12346", "1.50e7"]);
        assert_eq!([0.75, 0.9375, 0.004].map(percent), ["75 %", "93.8 %", "0.40 %"]);
        assert_eq!([7, 1_234, 1_000_000].map(count), ["7", "1\u{202f}234", "1\u{202f}000\u{202f}000"]);
    }

    #[test]
    fn a_figure_tells_where_it_comes_from() {
        let figure = Figure {
            value: 1.5,
            low: Some(1.4),
            high: Some(1.6),
            confidence: Some(0.75),
            unit: "ms",
            n: 40,
            blocks: 3,
            boundary: "ab12".to_owned(),
        };
        assert_eq!(figure.provenance(), "1.50 ms [1.40, 1.60] at 75 % \u{b7} n = 40 in 3 blocks \u{b7} boundary ab12");
        let rate = figure.rate(3.0, "tok/s");
        assert_eq!(
            (digits(rate.value), digits(rate.low.unwrap()), digits(rate.high.unwrap())),
            ("2000".into(), "1875".into(), "2143".into())
        );
    }
}
