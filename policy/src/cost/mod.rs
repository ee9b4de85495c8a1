//! What tokens and requests cost: the source document's formulas on intervals, dated prices, energy and carbon, blends,
//! requests, and owning against renting. No price is built in as a default, and a price that is missing is an error: the
//! reports' fall-backs (0.6 of on-demand for reserved, 0.3 for spot) are guesses.
//!
//! Rates are only ever averaged as times. `1e6 / mean(rates)` is not the mean cost: TR119 fell into that trap and printed
//! request costs 14 to 41% too low.

mod blend;
mod bounded;
mod formula;
mod own;
mod price;
mod request;

pub use blend::{Blend, mean_rate, sustained_rate};
pub(crate) use blend::{shares, weighted};
pub(crate) use bounded::Short;
pub use bounded::{Bounded, OutOfRange};
pub use formula::{EnergyPrice, PerMillion, WorkerCost, seconds_per_1m, usd_per_1m};
pub(crate) use own::pays_after;
pub use own::{BreakEven, Demand, FleetSize, Ownership, break_even, fleet, total_cost_of_ownership};
pub(crate) use price::day;
pub use price::{Machine, PRICES_SCHEMA, PriceBook, PriceError, Rented, Tier, TierKind};
pub(crate) use request::seconds;
pub use request::{RequestCost, cost_per_success, premium_is_worth_it, required_success};

/// Seconds of a month of 30 days, which every monthly number here means. Source: TR121.
pub const SECONDS_PER_MONTH: f64 = 2_592_000.0;

/// Hours of such a month.
pub const HOURS_PER_MONTH: f64 = SECONDS_PER_MONTH / 3600.0;

/// Joules of a kilowatt-hour.
pub const JOULES_PER_KWH: f64 = 3.6e6;
