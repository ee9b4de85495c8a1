//! `phase generate`: streamed text and the phases' times.

use crate::{
    argument,
    exit::{Failure, note},
    progress::loading,
    setting::Setting,
};
use phase_core::{
    BoxModel, FinishReason, GenerateOptions, Greedy, Measured, MonotonicClock, Nucleus, Phase, PhaseEvent, RingSink, Sampler, Session,
    TokenId, metrics,
};
use phase_model::{ChatMessage, Checkpoint, GenerationPrompt, Tokenizer};
use phase_policy::{Policy, Router, Workload};
use std::{io::Write, sync::Arc};

type Loaded = Measured<BoxModel, MonotonicClock, Arc<RingSink>>;

pub(crate) fn run(setting: &Setting, arguments: &argument::Generate) -> Result<(), Failure> {
    let checkpoint = Checkpoint::open(&arguments.checkpoint.model).map_err(|e| Failure::of(&e))?;
    let tokenizer = checkpoint.tokenizer().map_err(|e| Failure::of(&e))?;
    let prompt = encode(&checkpoint, &tokenizer, arguments)?;
    check_length(prompt.len(), arguments.max_tokens, checkpoint.config().max_context)?;
    let sink = Arc::new(RingSink::new(arguments.max_tokens.saturating_add(16)));
    let mut model = match (&arguments.policy, arguments.backend.as_str()) {
        (Some(path), "auto") => routed(setting, arguments, &super::policy::read(path)?, prompt.len(), &sink)?,
        (Some(_), named) => return Err(Failure::Usage(format!("--policy is asked with --backend auto only, not with {named}"))),
        (None, named) => load(setting, arguments, named, &sink)?,
    };
    match arguments.temperature {
        None => stream(&mut model, &sink, &tokenizer, arguments, &prompt, Greedy),
        Some(t) => {
            let sampler = Nucleus::new(t, arguments.top_p, arguments.seed)
                .ok_or_else(|| Failure::Usage("--temperature must be above 0, --top-p above 0 and at most 1".to_owned()))?;
            stream(&mut model, &sink, &tokenizer, arguments, &prompt, sampler)
        }
    }
}

fn encode(checkpoint: &Checkpoint, tokenizer: &Tokenizer, arguments: &argument::Generate) -> Result<Vec<TokenId>, Failure> {
    let tokens = if arguments.chat {
        let template = checkpoint.chat_template().map_err(|e| Failure::of(&e))?;
        let text = template.render(&[ChatMessage::user(&arguments.prompt)], GenerationPrompt::Add).map_err(|e| Failure::of(&e))?;
        tokenizer.encode_rendered(&text)
    } else {
        tokenizer.encode(&arguments.prompt)
    };
    let tokens = tokens.map_err(|e| Failure::of(&e))?;
    if tokens.is_empty() {
        return Err(Failure::Usage("the prompt holds no token: give some text, or --chat".to_owned()));
    }
    Ok(tokens)
}

/// Before anything is loaded, or memory for that many events taken.
fn check_length(prompt_tokens: usize, max_tokens: usize, limit: usize) -> Result<(), Failure> {
    if prompt_tokens.saturating_add(max_tokens) <= limit {
        return Ok(());
    }
    let rest = limit.saturating_sub(prompt_tokens);
    Err(Failure::Usage(format!(
        "{prompt_tokens} prompt tokens and --max-tokens {max_tokens} exceed the model's context of {limit}: at most {rest} are left"
    )))
}

fn load(setting: &Setting, arguments: &argument::Generate, backend: &str, sink: &Arc<RingSink>) -> Result<Loaded, Failure> {
    let spec = setting.load_spec(&arguments.checkpoint.model, arguments.checkpoint.dtype);
    let backend = setting.backend(backend)?;
    let model = loading(backend, spec).map_err(|e| Failure::of(&e))?;
    Ok(Measured::new(model, MonotonicClock::new(), sink.clone()))
}

/// Asks the policy, loads what it says, and checks that the policy still holds on what was loaded.
fn routed(
    setting: &Setting,
    arguments: &argument::Generate,
    policy: &Policy,
    prompt_tokens: usize,
    sink: &Arc<RingSink>,
) -> Result<Loaded, Failure> {
    let router = Router::new(policy.clone());
    let decision = router.decide(&Workload::new(1, prompt_tokens, arguments.max_tokens));
    note(&format!("{}\n", decision.explain()));
    let chosen = decision.route.backend;
    let model = load(setting, arguments, chosen.as_str(), sink)?;
    match policy.check(chosen, model.boundary()) {
        Ok(()) => Ok(model),
        Err(changed) => {
            let safe = policy.default_safe();
            note(&format!("the policy does not hold here, so {safe} answers: {changed}\n"));
            if safe == chosen {
                return Ok(model);
            }
            // Two models at once may not fit.
            drop(model);
            load(setting, arguments, safe.as_str(), sink)
        }
    }
}

fn stream(
    model: &mut Loaded,
    sink: &RingSink,
    tokenizer: &Tokenizer,
    arguments: &argument::Generate,
    prompt: &[TokenId],
    sampler: impl Sampler,
) -> Result<(), Failure> {
    let mut session = Session::new(model, prompt.len() + arguments.max_tokens).map_err(|e| Failure::of(&e))?;
    let options = GenerateOptions::new(arguments.max_tokens).with_stop(tokenizer.eos().iter().copied());
    let mut tokens = session.generate(prompt, options, sampler).map_err(|e| Failure::work(&e))?;
    let mut text = tokenizer.stream();
    let mut whole = String::new();
    let mut count = 0;
    for token in tokens.by_ref() {
        count += 1;
        if let Some(piece) = text.push(token.map_err(|e| Failure::of(&e))?).map_err(|e| Failure::of(&e))? {
            whole.push_str(&piece);
            if !arguments.json && !show(&piece)? {
                break;
            }
        }
    }
    let rest = text.finish().map_err(|e| Failure::of(&e))?.unwrap_or_default();
    let finish = tokens.finish();
    drop(tokens);
    whole.push_str(&rest);
    let events = sink.drain();
    if arguments.json {
        return crate::exit::say(&summary(&whole, prompt.len(), count, finish, &events).to_string());
    }
    show(&rest)?;
    show("\n")?;
    note(&times(&events));
    Ok(())
}

/// Writes a piece of the answer at once; `false` when nobody reads any more.
fn show(piece: &str) -> Result<bool, Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(piece.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Failure::Check(format!("standard output: {e}"))),
        Ok(()) => Ok(true),
    }
}

fn summary(text: &str, prompt_tokens: usize, new_tokens: usize, finish: Option<FinishReason>, events: &[PhaseEvent]) -> serde_json::Value {
    let first = events.iter().find(|e| e.phase == Phase::Prefill);
    let request = events.iter().rfind(|e| e.phase == Phase::Request);
    let milliseconds = |d: std::time::Duration| d.as_secs_f64() * 1e3;
    serde_json::json!({
        "text": text,
        "backend": first.map(|e| &e.backend),
        "prompt_tokens": prompt_tokens,
        "new_tokens": new_tokens,
        "finish": match finish {
            Some(FinishReason::Stop(_)) => "stop",
            Some(FinishReason::Length) => "length",
            Some(FinishReason::ContextFull) => "context_full",
            _ => "cancelled",
        },
        "prefill_ms": first.map(|e| milliseconds(e.duration())),
        "prefill_tokens_per_s": first.and_then(metrics::prefill_tokens_per_second),
        "time_per_output_token_ms": metrics::time_per_output_token(events).map(milliseconds),
        "decode_fraction": metrics::decode_fraction(events),
        "request_ms": request.map(|e| milliseconds(e.duration())),
        "unattributed_ms": request.map(|r| milliseconds(metrics::unattributed(r, events))),
        "boundary": first.map(|e| e.boundary.id()),
    })
}

fn times(events: &[PhaseEvent]) -> String {
    let Some(prefill) = events.iter().find(|e| e.phase == Phase::Prefill) else {
        return "no phase ran".to_owned();
    };
    let mut text = format!(
        "\n{}  boundary {}\nprefill  {} tokens in {:.1} ms, {:.0} tokens/s (cold: the first call after loading)",
        prefill.backend,
        prefill.boundary.id(),
        prefill.shape.new_tokens,
        prefill.duration().as_secs_f64() * 1e3,
        metrics::prefill_tokens_per_second(prefill).unwrap_or(0.0),
    );
    let mut gaps = metrics::inter_token_latency(events);
    if let Some(mean) = metrics::time_per_output_token(events) {
        gaps.sort_unstable();
        text += &format!(
            "\ndecode   {} tokens, TPOT {:.2} ms ({:.1} tokens/s), ITL median {:.2} ms, longest {:.2} ms",
            gaps.len(),
            mean.as_secs_f64() * 1e3,
            1.0 / mean.as_secs_f64(),
            gaps[gaps.len() / 2].as_secs_f64() * 1e3,
            gaps[gaps.len() - 1].as_secs_f64() * 1e3,
        );
    }
    if let Some(request) = events.iter().rfind(|e| e.phase == Phase::Request) {
        text += &format!(
            "\nrequest  {:.1} ms, of it {:.1} ms in no phase (sampling, text)",
            request.duration().as_secs_f64() * 1e3,
            metrics::unattributed(request, events).as_secs_f64() * 1e3,
        );
    }
    text
}
