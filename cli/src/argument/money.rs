//! `cost` and `plan`.

use clap::Args;
use phase_policy::{
    Slo,
    cost::{Bounded, TierKind},
};
use std::path::PathBuf;

#[derive(Args, Debug)]
#[command(allow_negative_numbers = true)]
#[command(after_help = "Example: phase cost --tokens-per-s 900,850,950 --usd-per-hour 2.5")]
pub(crate) struct Cost {
    /// Tokens a second of one worker, with a lower and an upper bound where they are known
    #[arg(long, value_name = "X[,LOW,HIGH]", value_parser = rate)]
    pub(crate) tokens_per_s: Bounded,
    /// Price of an hour of it
    #[arg(long, value_name = "Y[,LOW,HIGH]", value_parser = bounded)]
    pub(crate) usd_per_hour: Bounded,
    /// Power it draws while it works
    #[arg(long, value_name = "W[,LOW,HIGH]", value_parser = bounded)]
    pub(crate) watts: Option<Bounded>,
    /// Price of electricity; it is added to the price of the hour
    #[arg(long, value_name = "P", requires = "watts", value_parser = positive)]
    pub(crate) usd_per_kwh: Option<f64>,
    /// Carbon intensity of electricity, in grams of CO2 equivalent
    #[arg(long, value_name = "G", requires = "watts", value_parser = positive)]
    pub(crate) g_per_kwh: Option<f64>,
    /// Tokens asked for in a month of 30 days
    #[arg(long, value_name = "M", value_parser = positive)]
    pub(crate) tokens_per_month: Option<f64>,
    /// Load of the busy time over the mean load
    #[arg(long, value_name = "B", requires = "tokens_per_month", value_parser = at_least_one)]
    pub(crate) burst: Option<f64>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A number, or a number with its bounds.
fn bounded(text: &str) -> Result<Bounded, String> {
    let numbers = text.split(',').map(|n| n.trim().parse::<f64>().map_err(|e| format!("`{n}`: {e}"))).collect::<Result<Vec<_>, _>>()?;
    match numbers[..] {
        [value] if !value.is_finite() || value < 0.0 => return Err("it must be 0 or more, and finite".to_owned()),
        [value] => Bounded::exact(value),
        [value, low, high] => Bounded::new(value, low, high),
        _ => return Err("one number, or three: the value, its lower and its upper bound".to_owned()),
    }
    .map_err(|e| e.to_string())
}

fn rate(text: &str) -> Result<Bounded, String> {
    bounded(text).and_then(|v| if v.low() > 0.0 { Ok(v) } else { Err("a rate must be above 0, its lower bound too".to_owned()) })
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(v) if v.is_finite() && v >= 0.0 => Ok(v),
        Ok(_) => Err("it must be 0 or more".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}

fn at_least_one(text: &str) -> Result<f64, String> {
    positive(text).and_then(|v| if v >= 1.0 { Ok(v) } else { Err("it must be 1 or more".to_owned()) })
}

#[derive(Args, Debug)]
#[command(allow_negative_numbers = true)]
#[command(group = clap::ArgGroup::new("load").required(true).args(["trace", "mix"]))]
#[command(after_help = "Example: phase plan --policy policy.json --mix 512x64:1 --requests-per-s 5 --prices prices.json")]
pub(crate) struct Plan {
    /// The policy file
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: PathBuf,
    /// Requests as they came: CSV with `arrival_s,prompt_tokens,new_tokens`, or the columns of `BurstGPT` or of Azure's traces
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
    /// Requests by share: PROMPTxNEW:WEIGHT,... or BATCHxPROMPTxNEW:WEIGHT,...
    #[arg(long, value_name = "MIX", requires = "requests_per_s")]
    pub(crate) mix: Option<String>,
    /// Mean rate of the mix
    #[arg(long, value_name = "R", conflicts_with = "trace")]
    pub(crate) requests_per_s: Option<f64>,
    /// Load of the busy time over the mean load of the mix
    #[arg(long, value_name = "B", default_value_t = 1.0, conflicts_with = "trace")]
    pub(crate) burst: f64,
    /// Variability of the mix's arrivals: 1 for Poisson, 4 to 9 for bursts
    #[arg(long, value_name = "V", default_value_t = 1.0, conflicts_with = "trace")]
    pub(crate) ca2: f64,
    /// Limits, by upper bounds: ttft=500ms,tpot=60ms,total=10s and p50, p95 or p99
    #[arg(long, value_name = "LIMITS", default_value = "p50")]
    pub(crate) slo: Slo,
    /// The price book
    #[arg(long, value_name = "FILE")]
    pub(crate) prices: PathBuf,
    /// Refuse a price book older than this
    #[arg(long, value_name = "DAYS")]
    pub(crate) max_price_age: Option<i64>,
    /// Tiers to price: `on_demand`, `spot`, `reserved_1y`, `reserved_3y`, `own` [default: all that each machine has]
    #[arg(long, value_delimiter = ',', value_name = "LIST", value_parser = tier)]
    pub(crate) tiers: Vec<TierKind>,
    /// Share of requests that may lie outside of what was measured; they are left out of every number
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub(crate) may_leave_out: f64,
    /// Write cost against load as an SVG picture
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

fn tier(text: &str) -> Result<TierKind, String> {
    let known = || TierKind::ALL.map(TierKind::as_str).join(", ");
    TierKind::ALL.into_iter().find(|t| t.as_str() == text).ok_or_else(|| format!("one of {}", known()))
}
