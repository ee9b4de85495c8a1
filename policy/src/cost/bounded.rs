//! A quantity with the range it may lie in.

use serde::{Deserialize, Serialize};
use std::{fmt, ops::Add};

/// A quantity that is not negative, with the range it may lie in: `0 <= low <= value <= high`, all finite. Sums and
/// products take both parts at their ends at once, so that they hold whatever the correlation.
///
/// ```
/// use phase_policy::cost::Bounded;
/// let rate = Bounded::new(1000.0, 950.0, 1050.0)?;
/// assert_eq!(serde_json::to_string(&rate)?, r#"{"value":1000.0,"low":950.0,"high":1050.0}"#);
/// assert!(Bounded::new(1000.0, 1100.0, 1200.0).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Bounded {
    value: f64,
    low: f64,
    high: f64,
}

/// As read, before anybody looked at it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    value: f64,
    low: f64,
    high: f64,
}

/// Three numbers that are no bounded quantity.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{value} in [{low}, {high}] is no bounded quantity: it takes 0 <= low <= value <= high, all finite")]
#[non_exhaustive]
pub struct OutOfRange {
    /// The value.
    pub value: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Bounded {
    /// `value`, which lies in `low..=high`.
    ///
    /// # Errors
    /// Unless `0 <= low <= value <= high` and all are finite.
    pub fn new(value: f64, low: f64, high: f64) -> Result<Self, OutOfRange> {
        // A comparison with NaN is false, so this also refuses NaN.
        let ordered = 0.0 <= low && low <= value && value <= high && high < f64::INFINITY;
        if ordered { Ok(Self { value, low, high }) } else { Err(OutOfRange { value, low, high }) }
    }

    /// A number known exactly.
    ///
    /// # Errors
    /// When it is negative or not finite.
    pub fn exact(value: f64) -> Result<Self, OutOfRange> {
        Self::new(value, value, value)
    }

    /// The best estimate.
    pub const fn value(self) -> f64 {
        self.value
    }

    /// The lower end.
    pub const fn low(self) -> f64 {
        self.low
    }

    /// The upper end.
    pub const fn high(self) -> f64 {
        self.high
    }

    /// What `f` makes of it, where `f` never falls.
    ///
    /// # Errors
    /// When a result is negative or not finite.
    pub fn rising(self, f: impl Fn(f64) -> f64) -> Result<Self, OutOfRange> {
        Self::new(f(self.value), f(self.low), f(self.high))
    }

    /// What `f` makes of it, where `f` never rises: the lower end comes from the upper one.
    ///
    /// # Errors
    /// When a result is negative or not finite.
    pub fn falling(self, f: impl Fn(f64) -> f64) -> Result<Self, OutOfRange> {
        Self::new(f(self.value), f(self.high), f(self.low))
    }

    /// That many times it.
    ///
    /// # Errors
    /// For a factor that is negative or not finite, or a product too large to be a number.
    pub fn times(self, factor: f64) -> Result<Self, OutOfRange> {
        self.rising(|v| v * factor)
    }

    /// The product.
    ///
    /// # Errors
    /// When it is too large to be a number.
    pub fn product(self, other: Self) -> Result<Self, OutOfRange> {
        Self::new(self.value * other.value, self.low * other.low, self.high * other.high)
    }
}

impl Add for Bounded {
    type Output = Self;

    /// One and the other. A sum beyond the largest number stays at the largest number.
    fn add(self, other: Self) -> Self {
        let sum = |a: f64, b: f64| (a + b).min(f64::MAX);
        Self { value: sum(self.value, other.value), low: sum(self.low, other.low), high: sum(self.high, other.high) }
    }
}

impl TryFrom<Unchecked> for Bounded {
    type Error = OutOfRange;

    fn try_from(Unchecked { value, low, high }: Unchecked) -> Result<Self, OutOfRange> {
        Self::new(value, low, high)
    }
}

impl fmt::Display for Bounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { value, low, high } = *self;
        #[expect(clippy::float_cmp, reason = "an exact number is the same three times")]
        if low == high {
            return write!(f, "{}", Short(value));
        }
        write!(f, "{} [{}, {}]", Short(value), Short(low), Short(high))
    }
}

/// Four significant digits.
pub(crate) struct Short(pub(crate) f64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let magnitude = self.0.abs();
        if magnitude == 0.0 {
            f.write_str("0")
        } else if !(1e-4..1e7).contains(&magnitude) {
            write!(f, "{:.3e}", self.0)
        } else {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 7 places")]
            let places = (3.0 - magnitude.log10().floor()).clamp(0.0, 7.0) as usize;
            write!(f, "{:.places$}", self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nonsense_is_refused_and_words_are_short() {
        for (value, low, high) in
            [(1.0, 2.0, 3.0), (4.0, 2.0, 3.0), (-1.0, -1.0, -1.0), (f64::NAN, 0.0, 1.0), (1.0, f64::NAN, 1.0), (1.0, 1.0, f64::INFINITY)]
        {
            assert!(Bounded::new(value, low, high).is_err(), "{value} {low} {high}");
        }
        assert!(serde_json::from_str::<Bounded>(r#"{"value":1,"low":2,"high":3}"#).is_err());
        let words = |v, l, h| Bounded::new(v, l, h).unwrap().to_string();
        assert_eq!(words(0.555_555, 0.529_1, 0.584_8), "0.5556 [0.5291, 0.5848]");
        assert_eq!([words(0.0, 0.0, 0.0), words(38.580, 38.58, 38.58), words(1e9, 1e9, 1e9)], ["0", "38.58", "1.000e9"]);
    }

    fn any() -> impl Strategy<Value = Bounded> {
        (0.0..1e6_f64, 0.0..1e6_f64, 0.0..1e6_f64).prop_map(|(a, b, c)| Bounded::new(a + b, a, a + b + c).unwrap())
    }

    proptest! {
        #[test]
        fn sums_and_products_hold_what_their_parts_hold(a in any(), b in any(), s in 0.0..=1.0_f64, t in 0.0..=1.0_f64) {
            let inside = |x: Bounded, s: f64| x.low() + s * (x.high() - x.low());
            let (x, y) = (inside(a, s), inside(b, t));
            let slack = |v: f64| v * (1.0 + 1e-12) + 1e-12;
            let (sum, product) = (a + b, a.product(b).unwrap());
            prop_assert!(sum.low() <= slack(x + y) && x + y <= slack(sum.high()));
            prop_assert!(product.low() <= slack(x * y) && x * y <= slack(product.high()));
        }
    }
}
