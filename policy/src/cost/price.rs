//! Price books: named, dated, with tiers. The file form is JSON.

use super::{EnergyPrice, Ownership};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// What a price book's `schema` says.
pub const PRICES_SCHEMA: &str = "phase.prices/1";

/// How a machine is paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TierKind {
    /// By the hour, at any time.
    OnDemand,
    /// By the hour, until somebody pays more.
    Spot,
    /// Committed for a year.
    Reserved1y,
    /// Committed for three years.
    Reserved3y,
    /// Bought.
    Own,
}

impl TierKind {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 5] = [Self::OnDemand, Self::Spot, Self::Reserved1y, Self::Reserved3y, Self::Own];

    /// The name used in files, for example `on_demand`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OnDemand => "on_demand",
            Self::Spot => "spot",
            Self::Reserved1y => "reserved_1y",
            Self::Reserved3y => "reserved_3y",
            Self::Own => "own",
        }
    }
}

impl fmt::Display for TierKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One way to pay for one machine, with its hourly price worked out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Tier {
    /// Which.
    pub kind: TierKind,
    /// US dollars an hour; for [`TierKind::Own`], an hour powered on.
    pub usd_per_hour: f64,
}

/// What one machine costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Machine {
    /// Its name in this book.
    pub name: String,
    /// US dollars an hour, by tier. Not every machine is offered in every tier.
    #[serde(default, skip_serializing_if = "Rented::is_empty")]
    pub usd_per_hour: Rented,
    /// What it costs to own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<Ownership>,
}

/// Hourly prices by tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Rented {
    /// [`TierKind::OnDemand`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_demand: Option<f64>,
    /// [`TierKind::Spot`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spot: Option<f64>,
    /// [`TierKind::Reserved1y`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved_1y: Option<f64>,
    /// [`TierKind::Reserved3y`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved_3y: Option<f64>,
}

impl Rented {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Machine {
    /// The price of an hour in `kind`.
    ///
    /// # Errors
    /// [`PriceError::MissingTier`], with the tiers there are. Nothing is derived from another tier.
    pub fn tier(&self, kind: TierKind) -> Result<Tier, PriceError> {
        let Rented { on_demand, spot, reserved_1y, reserved_3y } = self.usd_per_hour;
        let found = match kind {
            TierKind::OnDemand => on_demand,
            TierKind::Spot => spot,
            TierKind::Reserved1y => reserved_1y,
            TierKind::Reserved3y => reserved_3y,
            TierKind::Own => self.own.as_ref().map(Ownership::usd_per_hour),
        };
        found.map(|usd_per_hour| Tier { kind, usd_per_hour }).ok_or_else(|| PriceError::MissingTier {
            machine: self.name.clone(),
            tier: kind,
            there: self.tiers().map(|t| t.kind).collect(),
        })
    }

    /// The tiers it has, in the order of [`TierKind::ALL`].
    pub fn tiers(&self) -> impl Iterator<Item = Tier> {
        let Rented { on_demand, spot, reserved_1y, reserved_3y } = self.usd_per_hour;
        let own = self.own.as_ref().map(Ownership::usd_per_hour);
        let all = TierKind::ALL.into_iter().zip([on_demand, spot, reserved_1y, reserved_3y, own]);
        all.filter_map(|(kind, usd)| usd.map(|usd_per_hour| Tier { kind, usd_per_hour }))
    }

    fn check(&self) -> Result<(), String> {
        let Rented { on_demand, spot, reserved_1y, reserved_3y } = self.usd_per_hour;
        if let Some(own) = &self.own {
            own.check()?;
        }
        for tier in self.tiers() {
            if !(tier.usd_per_hour.is_finite() && tier.usd_per_hour >= 0.0) {
                return Err(format!("{} costs {} $/h", tier.kind, tier.usd_per_hour));
            }
        }
        if self.tiers().next().is_none() {
            return Err("it has no price at all".to_owned());
        }
        // A commitment, or a risk, that costs more than none was mistyped. Spot against a commitment is the market's business.
        let commitments = [("reserved_3y", reserved_3y), ("reserved_1y", reserved_1y), ("on_demand", on_demand)];
        let ladders = [&commitments[..], &[("spot", spot), ("on_demand", on_demand)]];
        let given = ladders.map(|ladder| ladder.iter().filter_map(|(name, usd)| Some((*name, (*usd)?))).collect::<Vec<_>>());
        match given.iter().flat_map(|ladder| ladder.windows(2)).find(|pair| pair[0].1 > pair[1].1) {
            Some([(less, a), (more, b)]) => Err(format!("{less} at {a} $/h is dearer than {more} at {b} $/h")),
            _ => Ok(()),
        }
    }
}

/// A dated set of prices.
///
/// ```
/// use phase_policy::cost::{PriceBook, TierKind};
/// let book = PriceBook::from_json(r#"{
///     "schema": "phase.prices/1", "name": "shadow", "date": "2025-12-21", "source": "TR119",
///     "machines": [{ "name": "g5", "usd_per_hour": { "on_demand": 1.006, "spot": 0.302 } }]
/// }"#)?;
/// assert_eq!(book.machine("g5")?.tier(TierKind::Spot)?.usd_per_hour, 0.302);
/// assert!(book.machine("g5")?.tier(TierKind::Reserved1y).unwrap_err().to_string().contains("on_demand, spot"));
/// assert_eq!(book.age_days(1_767_225_600), 11);
/// # Ok::<(), phase_policy::cost::PriceError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct PriceBook {
    schema: String,
    name: String,
    date: String,
    source: String,
    machines: Vec<Machine>,
    #[serde(default)]
    energy: EnergyPrice,
}

impl PriceBook {
    /// Reads and checks a book.
    ///
    /// # Errors
    /// Not JSON, another schema, no date, no machine, two of one name, a price that is negative or not finite, or a
    /// commitment that costs more than none.
    pub fn from_json(json: &str) -> Result<Self, PriceError> {
        let value: serde_json::Value = serde_json::from_str(json)?;
        match value.get("schema").and_then(serde_json::Value::as_str) {
            Some(PRICES_SCHEMA) => {}
            found => return Err(PriceError::Schema { found: found.unwrap_or("nothing").to_owned() }),
        }
        let book: Self = serde_json::from_value(value)?;
        book.check()?;
        Ok(book)
    }

    fn check(&self) -> Result<(), PriceError> {
        let Self { schema: _, name, date, source: _, machines, energy } = self;
        let wrong = |problem: String| PriceError::Inconsistent { book: name.clone(), problem };
        day(date).ok_or_else(|| wrong(format!("`{date}` is no date of the form YYYY-MM-DD")))?;
        energy.check().map_err(wrong)?;
        if machines.is_empty() {
            return Err(wrong("it has no machine".to_owned()));
        }
        let mut seen = BTreeMap::new();
        for machine in machines {
            if seen.insert(&machine.name, ()).is_some() {
                return Err(wrong(format!("`{}` occurs twice", machine.name)));
            }
            machine.check().map_err(|problem| wrong(format!("`{}`: {problem}", machine.name)))?;
        }
        Ok(())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// When its prices held: `YYYY-MM-DD`.
    pub fn date(&self) -> &str {
        &self.date
    }

    /// Where they come from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What it prices, in the book's order.
    pub fn machines(&self) -> &[Machine] {
        &self.machines
    }

    /// What a kilowatt-hour costs and emits, where the book says.
    pub fn energy(&self) -> EnergyPrice {
        self.energy
    }

    /// The machine called `name`.
    ///
    /// # Errors
    /// [`PriceError::UnknownMachine`], with the names there are.
    pub fn machine(&self, name: &str) -> Result<&Machine, PriceError> {
        self.machines.iter().find(|m| m.name == name).ok_or_else(|| PriceError::UnknownMachine {
            name: name.to_owned(),
            there: self.machines.iter().map(|m| m.name.clone()).collect(),
        })
    }

    /// Days between the book's date and `now_unix_s`; negative for a book of the future.
    pub fn age_days(&self, now_unix_s: u64) -> i64 {
        let now = i64::try_from(now_unix_s / 86_400).unwrap_or(i64::MAX);
        now.saturating_sub(day(&self.date).unwrap_or(0))
    }

    /// Refuses a book that is older than `max_days`, or from the future.
    ///
    /// # Errors
    /// [`PriceError::Stale`], [`PriceError::Future`].
    pub fn require_fresh(&self, now_unix_s: u64, max_days: i64) -> Result<(), PriceError> {
        let age_days = self.age_days(now_unix_s);
        if (0..=max_days).contains(&age_days) {
            return Ok(());
        }
        let (book, date) = (self.name.clone(), self.date.clone());
        Err(if age_days < 0 { PriceError::Future { book, date } } else { PriceError::Stale { book, date, age_days, max_days } })
    }
}

/// Days since 1970-01-01 of a proleptic Gregorian date. Source: Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms", `days_from_civil`.
pub(crate) fn day(date: &str) -> Option<i64> {
    let mut parts = date.split('-');
    let mut number = |len: usize| parts.next().filter(|p| p.len() == len && p.bytes().all(|b| b.is_ascii_digit()))?.parse::<i64>().ok();
    let (year, month, day) = (number(4)?, number(2)?, number(2)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if parts.next().is_some() || !(1..=12).contains(&month) || !(1..=days).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468)
}

/// Prices that can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PriceError {
    /// A book whose prices do not hold yet.
    #[error("price book `{book}` of {date} is from the future")]
    Future {
        /// Its name.
        book: String,
        /// Its date.
        date: String,
    },
    /// A book that makes no sense.
    #[error("price book `{book}`: {problem}")]
    Inconsistent {
        /// Its name.
        book: String,
        /// What is wrong.
        problem: String,
    },
    /// Not JSON, cut off, or not of the right form.
    #[error("the price book {}", crate::json::state(.0))]
    Json(#[from] serde_json::Error),
    /// A tier that the machine is not offered in.
    #[error("`{machine}` has no {tier} price; it has {}", .there.iter().map(|t| t.as_str()).collect::<Vec<_>>().join(", "))]
    MissingTier {
        /// The machine.
        machine: String,
        /// The tier.
        tier: TierKind,
        /// Those it has.
        there: Vec<TierKind>,
    },
    /// Another file, or another version of one.
    #[error("this is not a price book: its schema is `{found}`, not `{PRICES_SCHEMA}`")]
    Schema {
        /// What the file says.
        found: String,
    },
    /// A book too old to plan with.
    #[error("price book `{book}` of {date} is {age_days} days old, at most {max_days} are allowed")]
    Stale {
        /// Its name.
        book: String,
        /// Its date.
        date: String,
        /// Its age.
        age_days: i64,
        /// The most it may be.
        max_days: i64,
    },
    /// A machine that the book does not have.
    #[error("the price book has no machine `{name}`; it has {}", .there.join(", "))]
    UnknownMachine {
        /// What was asked for.
        name: String,
        /// Those it has.
        there: Vec<String>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book(machines: &str) -> Result<PriceBook, PriceError> {
        let text = format!(r#"{{"schema":"phase.prices/1","name":"b","date":"2026-01-31","source":"s","machines":[{machines}]}}"#);
        PriceBook::from_json(&text)
    }

    #[test]
    fn the_reports_prices_are_a_book_and_read_back() {
        let text = include_str!("../../prices/tr119-2025-12-21.json");
        let tr119 = PriceBook::from_json(text).unwrap();
        assert_eq!(PriceBook::from_json(&serde_json::to_string(&tr119).unwrap()).unwrap(), tr119);
        let usd = |machine: &str, tier| tr119.machine(machine).unwrap().tier(tier).unwrap().usd_per_hour;
        assert!((usd("aws_g5_xlarge", TierKind::Reserved3y) - 0.503).abs() < 1e-12);
        assert_eq!(tr119.energy(), EnergyPrice::new(Some(0.20), Some(500.0)));
    }

    #[test]
    fn every_bad_book_is_refused_with_its_reason() {
        let good = r#"{"name":"m","usd_per_hour":{"on_demand":1.0}}"#;
        assert!(book(good).is_ok());
        let spot = r#"{"name":"m","usd_per_hour":{"on_demand":1.0,"reserved_3y":0.3,"spot":0.4}}"#;
        assert!(book(spot).is_ok(), "the market may ask more for a spot than for three years");
        for (machines, reason) in [
            ("", "no machine"),
            (r#"{"name":"m"}"#, "no price at all"),
            (r#"{"name":"m","usd_per_hour":{"on_demand":-1.0}}"#, "costs -1"),
            (r#"{"name":"m","usd_per_hour":{"on_demand":1.0,"spot":2.0}}"#, "spot at 2 $/h is dearer than on_demand at 1 $/h"),
            (r#"{"name":"m","usd_per_hour":{"reserved_1y":1.0,"reserved_3y":1.1}}"#, "reserved_3y at 1.1 $/h is dearer"),
            (r#"{"name":"m","own":{"purchase_usd":1200,"life_years":0,"hours_per_day":24}}"#, "`life_years`"),
            (&format!("{good},{good}"), "occurs twice"),
        ] {
            let error = book(machines).unwrap_err().to_string();
            assert!(error.contains(reason), "{error} should say {reason}");
        }
        assert!(matches!(book(r#"{"name":"m","usd_per_hour":{"monthly":1.0}}"#), Err(PriceError::Json(_))));
        assert!(matches!(PriceBook::from_json("{"), Err(PriceError::Json(_))));
        assert!(matches!(PriceBook::from_json("{}"), Err(PriceError::Schema { found }) if found == "nothing"));
    }

    #[test]
    fn dates_are_counted_and_stale_books_refused() {
        assert_eq!(["1970-01-01", "2000-03-01", "2026-11-24"].map(day), [Some(0), Some(11_017), Some(20_781)]);
        assert_eq!(day("2024-02-29"), Some(19_782));
        for bad in ["2025-02-29", "2026-13-01", "2026-00-10", "2026-1-1", "26-01-01", "2026-01-01-01", "", "yyyy-mm-dd"] {
            assert_eq!(day(bad), None, "{bad}");
        }
        let b = book(r#"{"name":"m","usd_per_hour":{"on_demand":1.0}}"#).unwrap();
        let now = u64::try_from(day("2026-03-02").unwrap()).unwrap() * 86_400;
        assert_eq!(b.age_days(now), 30);
        assert!(b.require_fresh(now, 30).is_ok());
        assert!(b.require_fresh(now, 29).unwrap_err().to_string().contains("30 days old"));
        assert!(b.require_fresh(0, 1000).unwrap_err().to_string().ends_with("is from the future"));
    }
}
