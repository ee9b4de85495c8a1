//! The source document's formulas.

use super::{Bounded, JOULES_PER_KWH, OutOfRange};
use serde::{Deserialize, Serialize};

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

/// What a kilowatt-hour costs and emits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct EnergyPrice {
    /// US dollars a kWh; `None` where it is in the hourly price already, or not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd_per_kwh: Option<f64>,
    /// Grams of CO2 equivalent a kWh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gco2e_per_kwh: Option<f64>,
    /// Power drawn at the meter over power drawn by the machine; 1 where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pue: Option<f64>,
}

impl EnergyPrice {
    /// A price and an intensity, without an overhead.
    pub const fn new(usd_per_kwh: Option<f64>, gco2e_per_kwh: Option<f64>) -> Self {
        Self { usd_per_kwh, gco2e_per_kwh, pue: None }
    }

    /// Kilowatt-hours at the meter for that energy at the machine.
    pub(crate) fn metered(&self, joules: Bounded) -> Result<Bounded, OutOfRange> {
        joules.times(self.pue.unwrap_or(1.0) / JOULES_PER_KWH)
    }

    /// What is wrong with it, in words.
    pub(crate) fn check(&self) -> Result<(), String> {
        let Self { usd_per_kwh, gco2e_per_kwh, pue } = *self;
        let sane = |v: Option<f64>, least: f64| v.is_none_or(|v| v.is_finite() && v >= least);
        match (sane(usd_per_kwh, 0.0), sane(gco2e_per_kwh, 0.0), sane(pue, 1.0)) {
            (true, true, true) => Ok(()),
            (false, _, _) => Err("`usd_per_kwh` must be 0 or more".to_owned()),
            (_, false, _) => Err("`gco2e_per_kwh` must be 0 or more".to_owned()),
            (_, _, false) => Err("`pue` must be 1 or more".to_owned()),
        }
    }
}

/// One worker that does nothing but make tokens: its rate, its price, its power.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct WorkerCost {
    /// Tokens a second.
    pub tokens_per_s: Bounded,
    /// US dollars an hour.
    pub usd_per_hour: Bounded,
    /// Watts while it works; `None` where they were not measured.
    pub watts: Option<Bounded>,
    /// What a kilowatt-hour costs and emits.
    pub energy: EnergyPrice,
}

/// What a million tokens take. A part whose inputs are not known is `None`, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PerMillion {
    /// `1e6 / tokens_per_s`.
    pub seconds_per_1m: Bounded,
    /// `infra_usd_per_1m`, and `energy_usd_per_1m` where it is known.
    pub usd_per_1m: Bounded,
    /// `seconds_per_1m / 3600 * usd_per_hour`.
    pub infra_usd_per_1m: Bounded,
    /// `kwh_per_1m * usd_per_kwh`.
    pub energy_usd_per_1m: Option<Bounded>,
    /// `watts * seconds_per_1m / 3.6e6`, times the PUE.
    pub kwh_per_1m: Option<Bounded>,
    /// `kwh_per_1m * gco2e_per_kwh`.
    pub gco2e_per_1m: Option<Bounded>,
}

impl WorkerCost {
    /// A worker of unknown power.
    pub const fn new(tokens_per_s: Bounded, usd_per_hour: Bounded) -> Self {
        Self { tokens_per_s, usd_per_hour, watts: None, energy: EnergyPrice::new(None, None) }
    }

    /// With its power, and what that costs and emits.
    #[must_use]
    pub const fn with_energy(mut self, watts: Bounded, energy: EnergyPrice) -> Self {
        self.watts = Some(watts);
        self.energy = energy;
        self
    }

    /// The formulas: a lower rate is a higher cost, so the upper end of each cost comes from the lower end of the rate.
    ///
    /// ```
    /// use phase_policy::cost::{Bounded, EnergyPrice, WorkerCost};
    /// // TR119, onnxruntime-gpu, generate: 233.4 tokens/s and 29.86 W at 1.006 $/h and 0.20 $/kWh.
    /// let worker = WorkerCost::new(Bounded::exact(233.4)?, Bounded::exact(1.006)?);
    /// let cost = worker.with_energy(Bounded::exact(29.86)?, EnergyPrice::new(Some(0.20), Some(500.0))).per_million()?;
    /// assert!((cost.usd_per_1m.value() - 1.204).abs() < 5e-4);
    /// # Ok::<(), phase_policy::cost::OutOfRange>(())
    /// ```
    ///
    /// # Errors
    /// For a rate whose lower end is 0, or results too large to be numbers.
    pub fn per_million(&self) -> Result<PerMillion, OutOfRange> {
        let Self { tokens_per_s, usd_per_hour, watts, energy } = *self;
        let seconds_per_1m = tokens_per_s.falling(|rate| 1e6 / rate)?;
        let infra_usd_per_1m = seconds_per_1m.product(usd_per_hour)?.times(1.0 / 3600.0)?;
        let kwh_per_1m = watts.map(|w| energy.metered(w.product(seconds_per_1m)?)).transpose()?;
        let priced = |each: Option<f64>| kwh_per_1m.zip(each).map(|(kwh, each)| kwh.times(each)).transpose();
        let energy_usd_per_1m = priced(energy.usd_per_kwh)?;
        Ok(PerMillion {
            seconds_per_1m,
            usd_per_1m: energy_usd_per_1m.map_or(infra_usd_per_1m, |energy| infra_usd_per_1m + energy),
            infra_usd_per_1m,
            energy_usd_per_1m,
            kwh_per_1m,
            gco2e_per_1m: priced(energy.gco2e_per_kwh)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(value: f64) -> Bounded {
        Bounded::exact(value).unwrap()
    }

    #[test]
    fn reproduces_the_reports_and_refuses_nonsense() {
        // TR119: onnxruntime-gpu generate, 233.4 tokens/s at 1.006 $/h gives 1.197 $ before energy.
        assert!((usd_per_1m(233.4, 1.006).unwrap() - 1.1973).abs() < 1e-4);
        assert_eq!(usd_per_1m(100.0, 0.0), Some(0.0));
        for (rate, price) in [(0.0, 1.0), (-1.0, 1.0), (f64::NAN, 1.0), (f64::INFINITY, 1.0), (1e-320, 1.0), (1.0, -1.0), (1.0, f64::NAN)] {
            assert_eq!(usd_per_1m(rate, price), None, "{rate} {price}");
        }
    }

    /// Source: TR119, all five backends, prefill and generate: tokens/s, W, kWh/1M, $/1M.
    const TR119: [(f64, f64, f64, f64); 10] = [
        (2193.0, 16.47, 0.002_087, 0.1279),
        (1406.0, 19.41, 0.003_834, 0.1995),
        (1076.0, 15.10, 0.003_898, 0.2605),
        (1037.0, 97.29, 0.026_07, 0.2748),
        (291.3, 62.21, 0.059_31, 0.9710),
        (233.4, 29.86, 0.035_53, 1.204),
        (89.10, 27.53, 0.085_82, 3.154),
        (77.43, 22.92, 0.082_22, 3.626),
        (52.94, 87.79, 0.4606, 5.370),
        (15.35, 73.35, 1.328, 18.47),
    ];

    #[test]
    fn every_row_of_the_published_cost_table_follows_from_its_throughput() {
        for (rate, watts, kwh, usd) in TR119 {
            let worker = WorkerCost::new(exact(rate), exact(1.006)).with_energy(exact(watts), EnergyPrice::new(Some(0.2), Some(500.0)));
            let cost = worker.per_million().unwrap();
            let close = |got: f64, printed: f64| (got / printed - 1.0).abs() < 2e-3;
            assert!(close(cost.kwh_per_1m.unwrap().value(), kwh), "{cost:?}");
            assert!(close(cost.usd_per_1m.value(), usd), "{cost:?} {usd}");
            assert!(close(cost.gco2e_per_1m.unwrap().value(), kwh * 500.0));
        }
    }

    #[test]
    fn the_upper_cost_comes_from_the_lower_rate() {
        let worker = WorkerCost::new(Bounded::new(1000.0, 950.0, 1050.0).unwrap(), exact(2.0));
        let cost = worker.per_million().unwrap();
        let [value, low, high] = [cost.usd_per_1m.value(), cost.usd_per_1m.low(), cost.usd_per_1m.high()];
        assert!((value - 0.5556).abs() < 1e-4 && (low - 0.5291).abs() < 1e-4 && (high - 0.5848).abs() < 1e-4, "{cost:?}");
        assert_eq!((cost.kwh_per_1m, cost.energy_usd_per_1m, cost.gco2e_per_1m), (None, None, None), "unknown power is no zero");
        assert!(WorkerCost::new(Bounded::new(10.0, 0.0, 20.0).unwrap(), exact(1.0)).per_million().is_err());
    }

    #[test]
    fn electricity_is_counted_at_the_meter() {
        // 0.4 J/token at 0.10 $/kWh: 0.0111 $ a million tokens, 1.2 times that with a PUE of 1.2.
        let energy = EnergyPrice { pue: Some(1.2), ..EnergyPrice::new(Some(0.10), None) };
        let cost = WorkerCost::new(exact(1000.0), exact(2.0)).with_energy(exact(400.0), energy).per_million().unwrap();
        assert!((cost.energy_usd_per_1m.unwrap().value() - 0.011_111 * 1.2).abs() < 1e-5);
        assert!(energy.check().is_ok());
        assert!(EnergyPrice { pue: Some(0.9), ..energy }.check().unwrap_err().contains("pue"));
        assert!(EnergyPrice::new(Some(f64::NAN), None).check().is_err() && EnergyPrice::new(None, Some(-1.0)).check().is_err());
    }
}
