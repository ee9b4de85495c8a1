//! Arithmetic of energies that are known as intervals.

use phase_core::Joules;
use serde::{Deserialize, Serialize};
use std::{iter::Sum, ops::Add};

/// An energy that lies between two bounds, in joules.
///
/// Sums add bounds; nothing is assumed to cancel.
///
/// ```
/// use phase_energy::JouleRange;
/// let (a, b) = (JouleRange::new(1.0, 2.0), JouleRange::new(10.0, 11.0));
/// assert_eq!([a, b].into_iter().sum::<JouleRange>(), JouleRange::new(11.0, 13.0));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "an interval is its two bounds")]
pub struct JouleRange {
    /// Lower bound.
    pub low_j: f64,
    /// Upper bound.
    pub high_j: f64,
}

impl JouleRange {
    /// Between `low_j` and `high_j`.
    pub const fn new(low_j: f64, high_j: f64) -> Self {
        Self { low_j, high_j }
    }

    /// A known energy.
    pub const fn exactly(joules: f64) -> Self {
        Self { low_j: joules, high_j: joules }
    }

    /// `mid_j` give or take `half_j`.
    pub const fn around(mid_j: f64, half_j: f64) -> Self {
        Self { low_j: mid_j - half_j, high_j: mid_j + half_j }
    }

    /// The middle.
    pub fn mid_j(self) -> f64 {
        0.5 * (self.low_j + self.high_j)
    }

    /// Half the width.
    pub fn half_j(self) -> f64 {
        0.5 * (self.high_j - self.low_j)
    }

    /// Half the width relative to the middle; infinite where the middle is not positive.
    pub fn relative(self) -> f64 {
        if self.mid_j() > 0.0 { self.half_j() / self.mid_j() } else { f64::INFINITY }
    }

    /// Both bounds moved outwards by `by_j`.
    #[must_use]
    pub fn widened(self, by_j: f64) -> Self {
        Self { low_j: self.low_j - by_j, high_j: self.high_j + by_j }
    }

    /// Whether `joules` is possible.
    pub fn contains(self, joules: f64) -> bool {
        self.low_j <= joules && joules <= self.high_j
    }

    /// Whether no energy is in both.
    pub fn disjoint(self, other: Self) -> bool {
        self.high_j < other.low_j || other.high_j < self.low_j
    }

    /// The bounds per one of `n` equal parts.
    #[must_use]
    pub fn per(self, n: f64) -> Self {
        Self { low_j: self.low_j / n, high_j: self.high_j / n }
    }

    /// `self / other`, bounded: `[low / other.high, high / other.low]`. `None` unless `other` is surely positive and
    /// `self` surely not negative.
    ///
    /// ```
    /// use phase_energy::JouleRange;
    /// assert_eq!(JouleRange::new(2.0, 3.0).ratio(JouleRange::new(1.0, 2.0)), Some([1.0, 3.0]));
    /// ```
    pub fn ratio(self, other: Self) -> Option<[f64; 2]> {
        (other.low_j > 0.0 && self.low_j >= 0.0).then(|| [self.low_j / other.high_j, self.high_j / other.low_j])
    }

    /// Whether `self` is surely less than `other` by more than the share `rope`: the only ground on which a decision may
    /// prefer one energy to another.
    pub fn surely_below(self, other: Self, rope: f64) -> bool {
        self.ratio(other).is_some_and(|[_, high]| high < 1.0 - rope)
    }

    /// The bounds in the vocabulary of events.
    pub(crate) fn joules(self) -> [Joules; 3] {
        [Joules(self.mid_j()), Joules(self.low_j), Joules(self.high_j)]
    }
}

impl Add for JouleRange {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { low_j: self.low_j + other.low_j, high_j: self.high_j + other.high_j }
    }
}

impl Sum for JouleRange {
    fn sum<I: Iterator<Item = Self>>(ranges: I) -> Self {
        ranges.fold(Self::exactly(0.0), Add::add)
    }
}
