//! A streaming conversation: the KV cache keeps the earlier turns, so a turn prefills only what is new.
//!
//! `PHASE_MODEL=... cargo run --release -p phase-examples --example chat -- "first turn" "second turn"`; without turns it
//! asks two of its own. End a stream early by dropping it, as the third reply does.

use phase_backend_candle::Candle;
use phase_core::{Backend, FinishReason, GenerateOptions, Greedy, LoadSpec, Measured, MonotonicClock, Outcome, Phase, RingSink, Session};
use phase_model::{ChatMessage, Checkpoint, GenerationPrompt};
use std::{error::Error, io::Write, sync::Arc};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::var_os("PHASE_MODEL").ok_or("set PHASE_MODEL to a checkpoint: `cargo xtask fetch` fetches one")?;
    let checkpoint = Checkpoint::open(&path)?;
    let (tokenizer, template) = (checkpoint.tokenizer()?, checkpoint.chat_template()?);
    let mut turns: Vec<String> = std::env::args().skip(1).collect();
    if turns.is_empty() {
        turns = ["Name a fruit.", "What colour is it?"].map(str::to_owned).to_vec();
    }

    let events = Arc::new(RingSink::new(4096));
    let model = Candle::cpu().load(&LoadSpec::new(&path))?;
    let mut model = Measured::new(model, MonotonicClock::new(), events.clone());
    let mut session = Session::new(&mut model, 1024)?;
    let mut conversation = Vec::new();
    // The text of what the session holds. A later turn encodes only what comes after it: encoding an answer anew could
    // give other tokens than the model generated.
    let mut held = String::new();
    for turn in &turns {
        println!("> {turn}");
        conversation.push(ChatMessage::user(turn));
        let rendered = template.render(&conversation, GenerationPrompt::Add)?;
        let new = rendered.strip_prefix(&held).ok_or("this template rewrites earlier turns")?;
        let options = GenerateOptions::new(48).with_stop(tokenizer.eos().iter().copied());
        let mut text = tokenizer.stream();
        let mut answer = String::new();
        let mut tokens = session.generate(&tokenizer.encode_rendered(new)?, options, Greedy)?;
        for token in tokens.by_ref() {
            let piece = text.push(token?)?.unwrap_or_default();
            print!("{piece}");
            std::io::stdout().flush()?;
            answer += &piece;
        }
        println!("\n");
        held = rendered + &answer;
        // The session keeps the stop token as part of the conversation, like the tokens given out.
        if let Some(FinishReason::Stop(token)) = tokens.finish() {
            held += &tokenizer.token_text(token).unwrap_or_default();
        }
        drop(tokens);
        conversation.push(ChatMessage::assistant(&answer));
    }

    let more = tokenizer.encode("\nOne more thing:")?;
    let mut stream = session.generate(&more, GenerateOptions::new(48), Greedy)?;
    stream.next().transpose()?;
    drop(stream);

    for event in events.drain() {
        match event.phase {
            Phase::Prefill => {
                println!("prefilled {} tokens on {} cached ones in {:?}", event.shape.new_tokens, event.shape.context, event.duration())
            }
            Phase::Request if event.outcome == Outcome::Cancelled => println!("cancelled after {} tokens", event.shape.new_tokens),
            _ => {}
        }
    }
    Ok(())
}
