//! Quantiles of Student's t distribution.

/// The `p`-quantile of Student's t with `degrees` degrees of freedom; `None` for a `p` outside of 0..1 or no degrees of
/// freedom.
///
/// ```
/// let t = phase_policy::stats::student_t_quantile(0.975, 9.0).ok_or("bad input")?;
/// assert!((t - 2.262_157).abs() < 1e-6);
/// # Ok::<(), &str>(())
/// ```
pub fn student_t_quantile(p: f64, degrees: f64) -> Option<f64> {
    if !(p > 0.0 && p < 1.0 && degrees > 0.0 && degrees.is_finite()) {
        return None;
    }
    let tail = p.min(1.0 - p);
    let upper_tail = |t: f64| student_t_upper_tail(t, degrees);
    let (mut low, mut high) = (0.0, 1.0);
    while upper_tail(high) > tail && high < 1e12 {
        high *= 2.0;
    }
    // Bisection down to the last bit: this runs when a policy is compiled, never on a request.
    for _ in 0..200 {
        let middle = f64::midpoint(low, high);
        if middle <= low || middle >= high {
            break;
        }
        if upper_tail(middle) > tail { low = middle } else { high = middle }
    }
    let t = f64::midpoint(low, high);
    Some(if p < 0.5 { -t } else { t })
}

/// The chance of a value above `t`.
pub(super) fn student_t_upper_tail(t: f64, degrees: f64) -> f64 {
    let beyond = 0.5 * regularized_beta(degrees / (degrees + t * t), degrees / 2.0, 0.5);
    if t < 0.0 { 1.0 - beyond } else { beyond }
}

/// The regularised incomplete beta function, by Lentz's evaluation of its continued fraction.
fn regularized_beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (-x).ln_1p()).exp();
    // The fraction converges fast on this side of the mode only; the other side follows from symmetry.
    if x < (a + 1.0) / (a + b + 2.0) { front * fraction(x, a, b) / a } else { 1.0 - front * fraction(1.0 - x, b, a) / b }
}

fn fraction(x: f64, a: f64, b: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let away_from_zero = |v: f64| if v.abs() < TINY { TINY } else { v };
    let mut c = 1.0;
    let mut d = 1.0 / away_from_zero(1.0 - (a + b) * x / (a + 1.0));
    let mut value = d;
    for step in 1..500_u32 {
        let m = f64::from(step);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let before = value;
        for coefficient in [even, odd] {
            d = 1.0 / away_from_zero(1.0 + coefficient * d);
            c = away_from_zero(1.0 + coefficient / c);
            value *= d * c;
        }
        if (value - before).abs() <= f64::EPSILON * value.abs() {
            break;
        }
    }
    value
}

/// The logarithm of the gamma function for positive arguments: Lanczos, g = 7, nine terms.
#[expect(clippy::excessive_precision, reason = "the published coefficients")]
fn ln_gamma(x: f64) -> f64 {
    const COEFFICIENTS: [f64; 8] = [
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_13,
        -176.615_029_162_140_59,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_571_6e-6,
        1.505_632_735_149_311_6e-7,
    ];
    let x = x - 1.0;
    let sum = (1u8..).zip(COEFFICIENTS).fold(0.999_999_999_999_809_93, |sum, (i, c)| sum + c / (x + f64::from(i)));
    let t = x + 7.5;
    0.5 * (2.0 * std::f64::consts::PI).ln() + (x + 0.5) * t.ln() - t + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_published_tables() {
        for (p, degrees, t) in [
            (0.975, 1.0, 12.706_205),
            (0.975, 2.0, 4.302_653),
            (0.95, 3.0, 2.353_363),
            (0.995, 5.0, 4.032_143),
            (0.975, 10.0, 2.228_139),
            (0.975, 30.0, 2.042_272),
            (0.9995, 4.0, 8.610_302),
            (0.975, 1000.0, 1.962_339),
            (0.9, 7.0, 1.414_924),
        ] {
            let got = student_t_quantile(p, degrees).unwrap();
            assert!((got - t).abs() < 1e-5, "t({p}, {degrees}) = {got}, the table says {t}");
            assert!((student_t_quantile(1.0 - p, degrees).unwrap() + got).abs() < 1e-8);
        }
        assert!(student_t_quantile(0.5, 3.0).unwrap().abs() < 1e-12);
    }

    #[test]
    fn nonsense_has_no_quantile() {
        for (p, degrees) in [(0.0, 3.0), (1.0, 3.0), (f64::NAN, 3.0), (0.9, 0.0), (0.9, f64::NAN), (0.9, f64::INFINITY)] {
            assert_eq!(student_t_quantile(p, degrees), None);
        }
    }
}
