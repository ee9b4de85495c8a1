//! Owning against renting, gated by what a machine can do.

use super::{Bounded, OutOfRange, SECONDS_PER_MONTH};
use crate::stats::real;
use serde::{Deserialize, Serialize};

/// What a bought machine costs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Ownership {
    /// Its price.
    pub purchase_usd: f64,
    /// Years until it is written off.
    pub life_years: f64,
    /// Hours a day it is powered on. The reports priced one 1,200 $ card at 0.035, 0.046 and 0.061 $/h without saying
    /// that these are different hours a day.
    pub hours_per_day: f64,
    /// Labour, hosting and spare parts of one machine.
    #[serde(default)]
    pub ops_usd_per_month: f64,
}

impl Ownership {
    /// A machine that runs day and night and needs nobody.
    pub const fn new(purchase_usd: f64, life_years: f64) -> Self {
        Self { purchase_usd, life_years, hours_per_day: 24.0, ops_usd_per_month: 0.0 }
    }

    /// With labour, hosting and spare parts a month.
    #[must_use]
    pub const fn with_ops(mut self, ops_usd_per_month: f64) -> Self {
        self.ops_usd_per_month = ops_usd_per_month;
        self
    }

    /// US dollars for an hour powered on, without energy: `(purchase / life_years + 12 ops) / (365 hours_per_day)`.
    pub fn usd_per_hour(&self) -> f64 {
        let Self { purchase_usd, life_years, hours_per_day, ops_usd_per_month } = *self;
        (purchase_usd / life_years + 12.0 * ops_usd_per_month) / (365.0 * hours_per_day)
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        let Self { purchase_usd, life_years, hours_per_day, ops_usd_per_month } = *self;
        let checks = [
            ("purchase_usd", purchase_usd.is_finite() && purchase_usd >= 0.0, "0 or more"),
            ("life_years", life_years.is_finite() && life_years > 0.0, "positive"),
            ("hours_per_day", hours_per_day > 0.0 && hours_per_day <= 24.0, "between 0 and 24"),
            ("ops_usd_per_month", ops_usd_per_month.is_finite() && ops_usd_per_month >= 0.0, "0 or more"),
        ];
        match checks.into_iter().find(|(_, ok, _)| !ok) {
            Some((name, _, wanted)) => Err(format!("`{name}` must be {wanted}")),
            None => Ok(()),
        }
    }
}

/// Tokens that are asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Demand {
    /// Tokens a month of 30 days.
    pub tokens_per_month: f64,
    /// Load of the busy times over the mean load, from real traffic: p95 or p99 over mean.
    pub burst: f64,
    /// The share of a worker's rate that may be used. Source: TR128 (0.70; 0.50 to 0.60 for strict time to first token).
    pub utilisation_cap: f64,
}

impl Demand {
    /// The utilisation-perfect case: no bursts, every worker busy all the time.
    pub const fn new(tokens_per_month: f64) -> Self {
        Self { tokens_per_month, burst: 1.0, utilisation_cap: 1.0 }
    }

    /// With busy times.
    #[must_use]
    pub const fn with_burst(mut self, burst: f64) -> Self {
        self.burst = burst;
        self
    }

    /// With a cap on utilisation.
    #[must_use]
    pub const fn with_utilisation_cap(mut self, cap: f64) -> Self {
        self.utilisation_cap = cap;
        self
    }

    /// Mean rate: `tokens_per_month / 2,592,000`.
    pub fn tokens_per_s(&self) -> f64 {
        self.tokens_per_month / SECONDS_PER_MONTH
    }

    fn check(&self) -> Result<(), OutOfRange> {
        let Self { tokens_per_month, burst, utilisation_cap } = *self;
        Bounded::exact(tokens_per_month)?;
        Bounded::new(burst, 1.0, f64::MAX)?;
        if utilisation_cap > 0.0 { Bounded::new(utilisation_cap, 0.0, 1.0).map(|_| ()) } else { Err(out_of_unit(utilisation_cap)) }
    }
}

fn out_of_unit(value: f64) -> OutOfRange {
    OutOfRange { value, low: 0.0, high: 1.0 }
}

/// How many workers a demand takes, by rate alone: no queueing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct FleetSize {
    /// `tokens_per_s / worker_tokens_per_s`: utilisation-perfect, a lower bound.
    pub workers_lower_bound: Bounded,
    /// That times the burst factor, over the utilisation cap.
    pub workers_with_burst: Bounded,
    /// The upper end of that, rounded up, at least 1.
    pub machines: u64,
}

/// Sizes a fleet of workers that make `worker_tokens_per_s` each.
///
/// # Errors
/// For a rate whose lower end is 0, a demand that is negative or not finite, a burst below 1, or a cap outside of 0..=1.
pub fn fleet(demand: &Demand, worker_tokens_per_s: Bounded) -> Result<FleetSize, OutOfRange> {
    demand.check()?;
    let mean = demand.tokens_per_s();
    let workers_lower_bound = worker_tokens_per_s.falling(|rate| mean / rate)?;
    let workers_with_burst = workers_lower_bound.times(demand.burst / demand.utilisation_cap)?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative; saturates")]
    let machines = (workers_with_burst.high().ceil() as u64).max(1);
    Ok(FleetSize { workers_lower_bound, workers_with_burst, machines })
}

/// `upfront + months * (tokens_per_month / 1e6) * usd_per_1m`.
///
/// # Errors
/// For an input that is negative or not finite.
pub fn total_cost_of_ownership(upfront_usd: f64, months: f64, tokens_per_month: f64, usd_per_1m: Bounded) -> Result<Bounded, OutOfRange> {
    let millions = Bounded::exact(months)?.times(tokens_per_month / 1e6)?;
    Ok(Bounded::exact(upfront_usd)? + usd_per_1m.product(millions)?)
}

/// When buying has paid.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "break_even", rename_all = "snake_case")]
#[non_exhaustive]
pub enum BreakEven {
    /// After that many months.
    After {
        /// Machines it takes to carry the demand.
        machines: u64,
        /// Their price.
        upfront_usd: f64,
        /// Best estimate.
        months: f64,
        /// If renting costs as much as it may.
        earliest: f64,
        /// If renting costs as little as it may; `None` when that is never.
        latest: Option<f64>,
    },
    /// It would have paid after the machines are written off.
    BeyondLife {
        /// Machines it takes to carry the demand.
        machines: u64,
        /// When it would pay.
        months: f64,
        /// When they are written off.
        life_months: f64,
    },
    /// Running the machines costs at least as much as renting.
    Never {
        /// Machines it takes to carry the demand.
        machines: u64,
        /// What they cost to run: labour, hosting, energy.
        running_usd_per_month: f64,
        /// What renting costs at most.
        rented_usd_per_month: f64,
    },
}

/// When owning pays against renting at `rented_usd_per_month`: the price of as many machines as the demand takes, over
/// what they save a month. The machines come from [`fleet`], so that no break-even is promised for a load that one
/// machine can't carry. `energy_usd_per_1m` is what a million tokens draw on the owned machine.
///
/// ```
/// use phase_policy::cost::{Bounded, BreakEven, Demand, Ownership, break_even};
/// // 3.86 requests of 384 tokens a second against a card that serves 1.17 of them: 4 machines, not 1.
/// let demand = Demand::new(10e6 * 384.0);
/// let card = break_even(&Ownership::new(1200.0, 3.0), &demand, Bounded::exact(1.17 * 384.0)?, None, Bounded::exact(2880.0 / 12.0)?)?;
/// assert!(matches!(card, BreakEven::After { machines: 4, upfront_usd, months, .. } if upfront_usd == 4800.0 && months == 20.0));
/// # Ok::<(), phase_policy::cost::OutOfRange>(())
/// ```
///
/// # Errors
/// As [`fleet`], and for results too large to be numbers.
pub fn break_even(
    own: &Ownership,
    demand: &Demand,
    worker_tokens_per_s: Bounded,
    energy_usd_per_1m: Option<Bounded>,
    rented_usd_per_month: Bounded,
) -> Result<BreakEven, OutOfRange> {
    let machines = fleet(demand, worker_tokens_per_s)?.machines;
    let energy = energy_usd_per_1m.map(|usd| usd.times(demand.tokens_per_month / 1e6)).transpose()?;
    pays_after(own, machines, energy, rented_usd_per_month)
}

/// As [`break_even`], for a fleet that was sized otherwise.
pub(crate) fn pays_after(
    own: &Ownership,
    machines: u64,
    energy_usd_per_month: Option<Bounded>,
    rented_usd_per_month: Bounded,
) -> Result<BreakEven, OutOfRange> {
    let upfront_usd = Bounded::exact(real(machines) * own.purchase_usd)?.value();
    let labour = Bounded::exact(real(machines) * own.ops_usd_per_month)?;
    let running = energy_usd_per_month.map_or(labour, |energy| labour + energy);
    let after = |saving: f64| (saving > 0.0).then(|| upfront_usd / saving);
    let best = after(rented_usd_per_month.high() - running.low());
    let (Some(months), Some(earliest)) = (after(rented_usd_per_month.value() - running.value()), best) else {
        return Ok(BreakEven::Never {
            machines,
            running_usd_per_month: running.value(),
            rented_usd_per_month: rented_usd_per_month.high(),
        });
    };
    let life_months = 12.0 * own.life_years;
    if months > life_months {
        return Ok(BreakEven::BeyondLife { machines, months, life_months });
    }
    Ok(BreakEven::After { machines, upfront_usd, months, earliest, latest: after(rented_usd_per_month.low() - running.high()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(value: f64) -> Bounded {
        Bounded::exact(value).unwrap()
    }

    #[test]
    fn an_hour_of_ones_own_depends_on_the_hours_a_day_and_on_labour() {
        let all_day = Ownership::new(1200.0, 3.0);
        assert!((all_day.usd_per_hour() - 0.0457).abs() < 1e-4, "TR123: 0.046");
        let eighteen = Ownership { hours_per_day: 18.0, ..all_day };
        assert!((eighteen.usd_per_hour() - 0.0609).abs() < 1e-4, "C123-133: 0.061");
        // Four hours a month at 50 $: the 95% saving is gone.
        let staffed = Ownership { ops_usd_per_month: 200.0, ..all_day };
        assert!((staffed.usd_per_hour() - 0.3196).abs() < 1e-3);
    }

    #[test]
    fn workers_follow_the_reports_table() {
        let workers = |tokens, rate| fleet(&Demand::new(tokens), exact(rate)).unwrap().workers_lower_bound.value();
        // TR121, a billion tokens a month.
        for (rate, printed) in [(52.4, 7.36), (141.3, 2.73), (116.3, 3.32), (309.2, 1.25), (654.6, 0.59)] {
            assert!((workers(1e9, rate) - printed).abs() < 0.01, "{rate}");
        }
        let burst = fleet(&Demand::new(1e9).with_burst(5.0), exact(100.0)).unwrap();
        assert!((burst.workers_with_burst.value() - 19.29).abs() < 0.01);
        assert_eq!((burst.machines, fleet(&Demand::new(1.0), exact(100.0)).unwrap().machines), (20, 1));
        let capped = fleet(&Demand::new(1e9).with_utilisation_cap(0.7), exact(100.0)).unwrap();
        assert!((capped.workers_with_burst.value() - 5.511).abs() < 0.01);
    }

    #[test]
    fn nonsense_has_no_fleet() {
        let rate = exact(1.0);
        for demand in [
            Demand::new(-1.0),
            Demand::new(f64::NAN),
            Demand::new(1.0).with_burst(0.5),
            Demand::new(1.0).with_utilisation_cap(0.0),
            Demand::new(1.0).with_utilisation_cap(1.5),
            Demand::new(1.0).with_utilisation_cap(f64::NAN),
        ] {
            assert!(fleet(&demand, rate).is_err(), "{demand:?}");
        }
        assert!(fleet(&Demand::new(1.0), exact(0.0)).is_err());
    }

    #[test]
    fn buying_pays_never_late_or_in_between() {
        let own = Ownership { ops_usd_per_month: 200.0, ..Ownership::new(1200.0, 3.0) };
        let ask = |rented: Bounded| break_even(&own, &Demand::new(1e6), exact(100.0), None, rented).unwrap();
        // C123-133: 2,988 $ a year on demand against 2,400 $ of labour: 49 $ a month pay 1,200 $ in 24.5 months.
        assert!(matches!(ask(exact(249.0)), BreakEven::After { machines: 1, months, .. } if (months - 24.49).abs() < 0.01));
        assert!(matches!(ask(exact(200.0)), BreakEven::Never { machines: 1, .. }), "labour eats it");
        assert!(matches!(ask(exact(210.0)), BreakEven::BeyondLife { months, .. } if (months - 120.0).abs() < 1e-9));
        let unsure = ask(Bounded::new(250.0, 190.0, 300.0).unwrap());
        assert!(matches!(unsure, BreakEven::After { earliest, latest: None, .. } if (earliest - 12.0).abs() < 1e-9));
        let energy = Some(exact(10.0));
        let drawn = break_even(&own, &Demand::new(1e6), exact(100.0), energy, exact(249.0)).unwrap();
        assert!(matches!(drawn, BreakEven::After { months, .. } if (months - 1200.0 / 39.0).abs() < 1e-9));
    }
}
