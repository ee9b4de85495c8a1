//! A policy of your own over the same measurements: cells are data, and the rules are yours.
//!
//! This one minimises the time a user waits for the first eight tokens, and never trusts a cell of fewer than three
//! blocks. `PHASE_MODEL=... cargo run --release -p phase-examples --example own_policy`

use phase_backend_burn::Burn;
use phase_backend_candle::Candle;
use phase_core::{BackendId, Phase, Registry};
use phase_policy::{Cell, RegimeClass, ScenarioMatrix};
use std::{collections::BTreeMap, error::Error, time::Duration};

/// Picks a backend for a prompt length, by worst cases.
trait Pick {
    fn pick(&self, prompt_tokens: usize) -> Option<(&BackendId, Duration)>;
}

/// The upper bound of `prefill + 8 x decode` per backend and measured prompt length.
struct FirstEightTokens(BTreeMap<usize, Vec<(BackendId, Duration)>>);

impl FirstEightTokens {
    fn new(matrix: &ScenarioMatrix) -> Self {
        let steady = |phase| matrix.cells().iter().filter(move |c| c.key.phase == phase && c.key.regime == RegimeClass::Steady);
        let mut by_prompt: BTreeMap<usize, Vec<_>> = BTreeMap::new();
        for prefill in steady(Phase::Prefill).filter(|c| c.key.shape.batch == 1 && c.key.shape.context == 0) {
            let decode = steady(Phase::Decode).filter(|c| c.key.backend == prefill.key.backend && c.key.shape.batch == 1);
            let slowest = decode.filter_map(worst_ns).fold(None, |m: Option<f64>, v| Some(m.map_or(v, |m| m.max(v))));
            if let (Some(first), Some(step)) = (worst_ns(prefill), slowest) {
                let total = Duration::from_secs_f64((first + 8.0 * step) / 1e9);
                by_prompt.entry(prefill.key.shape.new_tokens).or_default().push((prefill.key.backend.clone(), total));
            }
        }
        Self(by_prompt)
    }
}

/// The upper end of the median's interval; none for a cell that has too few blocks to have one.
fn worst_ns(cell: &Cell) -> Option<f64> {
    let time = cell.time.as_ref().filter(|_| cell.blocks.len() >= 3)?;
    time.interval.as_ref().map(|interval| interval.high)
}

impl Pick for FirstEightTokens {
    fn pick(&self, prompt_tokens: usize) -> Option<(&BackendId, Duration)> {
        // A longer measured prompt bounds a shorter one; beyond the longest nothing is known.
        let (_, candidates) = self.0.range(prompt_tokens..).next()?;
        candidates.iter().min_by_key(|(_, time)| *time).map(|(backend, time)| (backend, *time))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let registry = Registry::new().with(Candle::cpu()).with(Burn::cpu());
    let matrix = phase_examples::measure(&registry, &phase_examples::model()?)?;
    let policy = FirstEightTokens::new(&matrix);
    for prompt_tokens in [10, 50, 5000] {
        match policy.pick(prompt_tokens) {
            Some((backend, time)) => println!("{prompt_tokens} prompt tokens: {backend}, first eight tokens within {time:.1?}"),
            None => println!("{prompt_tokens} prompt tokens: not measured, so no answer"),
        }
    }
    Ok(())
}
