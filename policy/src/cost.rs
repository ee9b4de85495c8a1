//! The source document's two cost formulas. Blending, intervals and capacity are not here.

/// Seconds for a million tokens: `1e6 / tokens_per_s`. `None` for a rate that is not positive and finite.
///
/// ```
/// assert_eq!(phase_policy::cost::seconds_per_1m(1000.0), Some(1000.0));
/// assert_eq!(phase_policy::cost::seconds_per_1m(0.0), None);
/// ```
pub fn seconds_per_1m(tokens_per_s: f64) -> Option<f64> {
    let seconds = 1e6 / tokens_per_s;
    (tokens_per_s > 0.0 && tokens_per_s.is_finite() && seconds.is_finite()).then_some(seconds)
}

/// US dollars for a million tokens: `seconds_per_1m / 3600 * usd_per_hour`. A planning proxy at full utilisation, not a
/// total cost of ownership. `None` as in [`seconds_per_1m`], or for a price that is negative or not finite.
///
/// ```
/// let usd = phase_policy::cost::usd_per_1m(1000.0, 2.0).ok_or("no rate")?;
/// assert!((usd - 0.555_556).abs() < 1e-6);
/// # Ok::<(), &str>(())
/// ```
pub fn usd_per_1m(tokens_per_s: f64, usd_per_hour: f64) -> Option<f64> {
    let usd = seconds_per_1m(tokens_per_s)? / 3600.0 * usd_per_hour;
    (usd_per_hour >= 0.0 && usd.is_finite()).then_some(usd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reproduces_the_reports_and_refuses_nonsense() {
        // TR119: onnxruntime-gpu generate, 233.4 tokens/s at 1.006 $/h gives 1.197 $ before energy.
        assert!((usd_per_1m(233.4, 1.006).unwrap() - 1.1973).abs() < 1e-4);
        assert_eq!(usd_per_1m(100.0, 0.0), Some(0.0));
        for (rate, price) in [(0.0, 1.0), (-1.0, 1.0), (f64::NAN, 1.0), (f64::INFINITY, 1.0), (1e-320, 1.0), (1.0, -1.0), (1.0, f64::NAN)] {
            assert_eq!(usd_per_1m(rate, price), None, "{rate} {price}");
        }
    }
}
