//! Load a checkpoint on one runtime, stream an answer, look at the phases.
//!
//! `PHASE_MODEL=... cargo run --release -p phase-examples --example quickstart` (a folder or GGUF file; `cargo xtask
//! fetch` prints one).

use phase_backend_candle::Candle;
use phase_core::{Backend, GenerateOptions, Greedy, LoadSpec, Measured, MonotonicClock, Phase, RingSink, Session, metrics};
use phase_model::Checkpoint;
use std::{error::Error, io::Write, sync::Arc};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::var_os("PHASE_MODEL").ok_or("set PHASE_MODEL to a checkpoint: `cargo xtask fetch` fetches one")?;
    let tokenizer = Checkpoint::open(&path)?.tokenizer()?;

    let events = Arc::new(RingSink::new(256));
    let model = Candle::cpu().load(&LoadSpec::new(&path))?;
    let mut model = Measured::new(model, MonotonicClock::new(), events.clone());

    let prompt = tokenizer.encode("The capital of France is")?;
    let mut session = Session::new(&mut model, 64)?;
    let mut text = tokenizer.stream();
    for token in session.generate(&prompt, GenerateOptions::new(16), Greedy)? {
        print!("{}", text.push(token?)?.unwrap_or_default());
        std::io::stdout().flush()?;
    }
    println!("\n");

    for event in events.drain().iter().filter(|e| e.phase != Phase::Request) {
        let rate = metrics::prefill_tokens_per_second(event).or_else(|| metrics::decode_tokens_per_second(event));
        println!(
            "{:<8} {:?} context {:<3} {:?} {:.1} tokens/s",
            event.phase,
            event.regime,
            event.shape.context,
            event.duration(),
            rate.unwrap_or(0.0)
        );
    }
    Ok(())
}
