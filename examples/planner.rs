//! The source document's cost table from its published throughputs, and what the table alone does not say.
//!
//! `cargo run --release -p phase-examples --example planner`
//!
//! TR119 measured GPT-2 in f32 on five runtimes and printed what a million tokens cost at 1.006 $/h and 0.20 $/kWh. From the
//! rates and powers that it printed, its dollars must follow; where they did not, this program would fail.

use phase_policy::cost::{Bounded, PriceBook, TierKind, WorkerCost};
use std::error::Error;

/// Tokens a second and watts, then the dollars a million tokens that the report prints.
struct Printed {
    backend: &'static str,
    prefill: [f64; 3],
    generate: [f64; 3],
}

/// TR119, means over its five scenarios.
const TABLE: [Printed; 5] = [
    Printed { backend: "onnxruntime-gpu", prefill: [2193.0, 16.47, 0.1279], generate: [233.4, 29.86, 1.204] },
    Printed { backend: "transformers-gpu-compile", prefill: [1406.0, 19.41, 0.1995], generate: [89.10, 27.53, 3.154] },
    Printed { backend: "transformers-gpu", prefill: [1076.0, 15.10, 0.2605], generate: [77.43, 22.92, 3.626] },
    Printed { backend: "onnxruntime-cpu", prefill: [1037.0, 97.29, 0.2748], generate: [52.94, 87.79, 5.370] },
    Printed { backend: "transformers-cpu", prefill: [291.3, 62.21, 0.9710], generate: [15.35, 73.35, 18.47] },
];

/// The report prints three to four digits of each.
const ROUNDING: f64 = 2e-3;

/// TR118 could not tell rates apart that are closer than this, and TR119 gives no intervals: an assumption, named as one.
const SPREAD: f64 = 0.05;

fn main() -> Result<(), Box<dyn Error>> {
    let prices = PriceBook::from_json(include_str!("../policy/prices/tr119-2025-12-21.json"))?;
    let hour = Bounded::exact(prices.machine("aws_g5_xlarge")?.tier(TierKind::OnDemand)?.usd_per_hour)?;
    println!("Prices: {} of {}. Dollars a million tokens, as computed and as printed:\n", prices.name(), prices.date());
    println!("| backend | phase | tokens/s | computed | printed | kWh/1M | if rates were {:.0}% uncertain |", SPREAD * 100.0);
    println!("|---|---|---|---|---|---|---|");
    let mut decode = Vec::new();
    for Printed { backend, prefill, generate } in &TABLE {
        for (phase, [rate, watts, printed]) in [("prefill", prefill), ("generate", generate)] {
            let cost = WorkerCost::new(Bounded::exact(*rate)?, hour).with_energy(Bounded::exact(*watts)?, prices.energy()).per_million()?;
            let uncertain = Bounded::new(*rate, rate * (1.0 - SPREAD), rate * (1.0 + SPREAD))?;
            let wide = WorkerCost::new(uncertain, hour).with_energy(Bounded::exact(*watts)?, prices.energy()).per_million()?;
            let usd = cost.usd_per_1m.value();
            let kwh = cost.kwh_per_1m.map_or_else(|| "no_data".to_owned(), |k| format!("{:.6}", k.value()));
            let ends = [wide.usd_per_1m.low(), wide.usd_per_1m.high()].map(|usd| format!("{usd:.4}"));
            println!("| {backend} | {phase} | {rate} | {usd:.4} | {printed:.4} | {kwh} | {} to {} |", ends[0], ends[1]);
            if (usd / printed - 1.0).abs() > ROUNDING {
                return Err(format!("{backend} {phase}: {usd} $ computed, {printed} $ printed").into());
            }
            if phase == "generate" {
                decode.push((backend, wide.usd_per_1m));
            }
        }
    }
    // A ranking holds where the intervals do not touch.
    println!();
    for pair in decode.windows(2) {
        let [(cheap, a), (dear, b)] = pair else { continue };
        let sure = if a.high() < b.low() { "surely" } else { "not surely" };
        println!("{cheap} is {sure} cheaper than {dear} in generation.");
    }
    println!("\nThe generation was uncached and eight tokens long, so its order says nothing of decoding with a cache: measure that.");
    Ok(())
}
