//! What requests cost on their routes, by the policy's own formulas. Without a price book there are seconds and no money.

use phase_policy::{
    Router, Workload,
    cost::{Bounded, OutOfRange, PriceBook, RequestCost, Tier},
};
use serde::Serialize;

/// The section.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CostSection {
    /// The price book: name, date, source. `None` when nobody gave one.
    pub book: Option<String>,
    /// Machine, tier and dollars an hour of each column of money.
    pub columns: Vec<String>,
    /// One row for each request whose time is known.
    pub rows: Vec<CostRow>,
}

/// One request on its route.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CostRow {
    /// Sequences, prompt tokens and new tokens of each.
    pub request: [usize; 3],
    /// Who takes it.
    pub route: String,
    /// Seconds a worker is busy with one.
    pub seconds: Bounded,
    /// Seconds a worker takes for a million new tokens of such requests, one after the other.
    pub seconds_per_1m: Bounded,
    /// US dollars a thousand requests, by column.
    pub usd_per_1k: Vec<Bounded>,
    /// Whether energy is in the dollars: only where it is known and priced.
    pub with_energy: bool,
}

/// Requests that can't be priced are left out; the formulas refuse, they don't guess.
pub(crate) fn section(router: &Router, requests: &[Workload], book: Option<&PriceBook>) -> CostSection {
    let tiers: Vec<(String, Tier)> = book
        .into_iter()
        .flat_map(PriceBook::machines)
        .flat_map(|machine| {
            machine.tiers().map(|tier| (format!("{} {} {} $/h", machine.name, tier.kind, tier.usd_per_hour), tier)).collect::<Vec<_>>()
        })
        .collect();
    let rows = requests.iter().filter_map(|request| row(router, request, book, &tiers).ok().flatten());
    CostSection {
        book: book.map(|b| format!("{} of {}: {}", b.name(), b.date(), b.source())),
        rows: rows.collect(),
        columns: tiers.into_iter().map(|(name, _)| name).collect(),
    }
}

fn row(router: &Router, request: &Workload, book: Option<&PriceBook>, tiers: &[(String, Tier)]) -> Result<Option<CostRow>, OutOfRange> {
    let decision = router.decide(request);
    let Some(prediction) = decision.predicted() else { return Ok(None) };
    let energy = decision.energy();
    let price = book.map(PriceBook::energy).unwrap_or_default();
    let of = |usd_per_hour: f64| RequestCost::of(&prediction, &energy, usd_per_hour, &price);
    let seconds = of(0.0)?.seconds;
    let tokens = crate::figure::real_size(request.batch * request.new_tokens);
    let costs = tiers.iter().map(|(_, tier)| of(tier.usd_per_hour)).collect::<Result<Vec<_>, _>>()?;
    Ok(Some(CostRow {
        request: [request.batch, request.prompt_tokens, request.new_tokens],
        route: decision.route.backend.to_string(),
        seconds,
        seconds_per_1m: seconds.times(1e6 / tokens)?,
        with_energy: costs.iter().any(|c| c.energy_usd.is_some()),
        usd_per_1k: costs.iter().map(|c| c.usd.times(1e3)).collect::<Result<_, _>>()?,
    }))
}
