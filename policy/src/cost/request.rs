//! What one request costs, and when a dearer model is worth it.

use super::{Bounded, EnergyPrice, OutOfRange};
use crate::{router::Prediction, stats::Interval};
use phase_core::Energy;
use serde::Serialize;

/// What one request costs on a worker that it has for itself while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RequestCost {
    /// Prefill and all decode steps.
    pub seconds: Bounded,
    /// `seconds / 3600 * usd_per_hour`, and energy where it is known and priced.
    pub usd: Bounded,
    /// The worker's time.
    pub infra_usd: Bounded,
    /// Energy; `None` where it was not measured or has no price.
    pub energy_usd: Option<Bounded>,
    /// Energy at the meter; `None` where it was not measured.
    pub kwh: Option<Bounded>,
    /// Its emissions; `None` where they are not known.
    pub gco2e: Option<Bounded>,
}

impl RequestCost {
    /// Prices a prediction. Times come from the cells of the request's own shape, never from a mean of rates over other
    /// shapes.
    ///
    /// # Errors
    /// For a price that is negative or not finite, or a prediction without sense.
    pub fn of(prediction: &Prediction, energy: &Energy, usd_per_hour: f64, price: &EnergyPrice) -> Result<Self, OutOfRange> {
        Self::from_parts(seconds(prediction.total.ns, prediction.total.interval)?, energy, usd_per_hour, price)
    }

    pub(crate) fn from_parts(seconds: Bounded, energy: &Energy, usd_per_hour: f64, price: &EnergyPrice) -> Result<Self, OutOfRange> {
        let infra_usd = seconds.product(Bounded::exact(usd_per_hour)?)?.times(1.0 / 3600.0)?;
        let kwh = match energy {
            Energy::Measured { joules, low, high }
            | Energy::Interpolated { joules, low, high }
            | Energy::MacroWindow { joules, low, high, .. } => Some(price.metered(Bounded::new(joules.0, low.0, high.0)?)?),
            _ => None,
        };
        let priced = |each: Option<f64>| kwh.zip(each).map(|(kwh, each)| kwh.times(each)).transpose();
        let energy_usd = priced(price.usd_per_kwh)?;
        let usd = energy_usd.map_or(infra_usd, |energy| infra_usd + energy);
        Ok(Self { seconds, usd, infra_usd, energy_usd, kwh, gco2e: priced(price.gco2e_per_kwh)? })
    }
}

/// Nanoseconds to seconds. Without an interval nothing is known of the next block: the range is the number itself, and
/// the caller says so.
pub(crate) fn seconds(ns: f64, interval: Option<Interval>) -> Result<Bounded, OutOfRange> {
    let (low, high) = interval.map_or((ns, ns), |i| (i.low.min(ns), i.high.max(ns)));
    Bounded::new(ns / 1e9, low / 1e9, high / 1e9)
}

/// Cost of one success when attempts succeed with probability `p` and failures are tried again: `usd / p`. `None` for a
/// `p` outside of `0 < p <= 1`. Source: TR121.
pub fn cost_per_success(usd: Bounded, p: f64) -> Option<Bounded> {
    (p > 0.0 && p <= 1.0).then(|| usd.times(1.0 / p).ok()).flatten()
}

/// The success probability from which the big model is the cheaper way to a success: `p_small * usd_big / usd_small`.
/// Above 1 means never. `None` for inputs that are not positive. Source: TR121.
///
/// ```
/// let needed = phase_policy::cost::required_success(2.69, 1.0, 0.70).ok_or("bad input")?;
/// assert!((needed - 1.883).abs() < 1e-3, "impossible, so the big model is not justified by retries");
/// # Ok::<(), &str>(())
/// ```
pub fn required_success(usd_big: f64, usd_small: f64, p_small: f64) -> Option<f64> {
    let needed = p_small * usd_big / usd_small;
    (p_small > 0.0 && p_small <= 1.0 && usd_big > 0.0 && usd_small > 0.0 && needed.is_finite()).then_some(needed)
}

/// Whether a big model's premium is worth what failures cost: `usd_big - usd_small <= (p_big - p_small) * failure_usd`.
/// `None` for probabilities outside of 0..=1 or amounts that are not finite. Source: TR121, the value form.
pub fn premium_is_worth_it(usd_big: f64, usd_small: f64, p_big: f64, p_small: f64, failure_usd: f64) -> Option<bool> {
    let unit = 0.0..=1.0;
    let sane = unit.contains(&p_big) && unit.contains(&p_small) && [usd_big, usd_small, failure_usd].iter().all(|v| v.is_finite());
    sane.then_some(usd_big - usd_small <= (p_big - p_small) * failure_usd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use phase_core::{Joules, NoData};

    #[test]
    fn a_request_costs_its_time_and_its_known_energy() {
        // TR119 with times instead of mean rates: 256 / 2193 + 128 / 233.4 = 0.6652 s, 0.000186 $.
        let time = Bounded::exact(256.0 / 2193.0 + 128.0 / 233.4).unwrap();
        let unknown = Energy::NoData { reason: NoData::NoSource };
        let price = EnergyPrice::new(Some(0.2), Some(500.0));
        let cost = RequestCost::from_parts(time, &unknown, 1.006, &price).unwrap();
        assert!((cost.usd.value() - 0.000_186).abs() < 1e-6);
        assert_eq!((cost.energy_usd, cost.kwh, cost.gco2e), (None, None, None));
        let measured = Energy::Measured { joules: Joules(36.0), low: Joules(18.0), high: Joules(72.0) };
        let cost = RequestCost::from_parts(time, &measured, 1.006, &price).unwrap();
        assert!((cost.energy_usd.unwrap().value() - 2e-6).abs() < 1e-12 && (cost.gco2e.unwrap().high() - 0.01).abs() < 1e-9);
        assert!(cost.usd.value() > cost.infra_usd.value());
        assert!(RequestCost::from_parts(time, &unknown, f64::NAN, &price).is_err());
    }

    #[test]
    fn tiers_by_success_and_by_value() {
        let one = Bounded::exact(1.0).unwrap();
        assert_eq!(cost_per_success(one, 0.5).unwrap().value().to_bits(), 2.0_f64.to_bits());
        assert_eq!([cost_per_success(one, 0.0), cost_per_success(one, f64::NAN), cost_per_success(one, 1.1)], [None; 3]);
        assert_eq!([required_success(0.0, 1.0, 0.5), required_success(1.0, 1.0, 0.0)], [None; 2]);
        assert_eq!(premium_is_worth_it(3.0, 1.0, 0.9, 0.7, 10.0), Some(true));
        assert_eq!(premium_is_worth_it(3.1, 1.0, 0.9, 0.7, 10.0), Some(false));
        assert_eq!(premium_is_worth_it(3.0, 1.0, 1.9, 0.7, 10.0), None);
    }
}
