//! `phase logits`: scores for parity checks.

use crate::{
    argument,
    exit::{Failure, say},
    progress::loading,
    setting::Setting,
};
use phase_core::{CacheSpec, CallError, Decode, Logits, Model, Prefill, PromptBatch, TokenId};
use std::fmt::Write;

pub(crate) fn run(setting: &Setting, arguments: &argument::Logits) -> Result<(), Failure> {
    let backend = setting.backend(&arguments.backend)?;
    let tokens: Vec<_> = arguments.tokens.iter().copied().map(TokenId).collect();
    let prompt = PromptBatch::single(&tokens).map_err(|e| Failure::of(&e))?;
    let spec = setting.load_spec(&arguments.checkpoint.model, arguments.checkpoint.dtype);
    let mut model = loading(backend, spec).map_err(|e| Failure::of(&e))?;
    // Checked before any work, so that a bad `--then` does not cost a prefill.
    let vocab = model.info().vocab;
    if let Some(bad) = arguments.then.iter().find(|t| **t as usize >= vocab) {
        return Err(Failure::of(&CallError::Token { token: *bad, row: 0, vocab }));
    }
    let capacity = tokens.len() + arguments.then.len();
    let mut cache = model.allocate(CacheSpec { batch: 1, capacity }).map_err(|e| Failure::of(&e))?;
    let mut rows = Vec::with_capacity(1 + arguments.then.len());
    let mut logits = Logits::new();
    model.prefill(&mut cache, prompt, &mut logits).map_err(|e| Failure::of(&e))?;
    rows.push(logits.as_slice().to_vec());
    for token in &arguments.then {
        model.decode(&mut cache, &[TokenId(*token)], &mut logits).map_err(|e| Failure::of(&e))?;
        rows.push(logits.as_slice().to_vec());
    }
    say(&if arguments.json { serde_json::json!({ "logits": rows }).to_string() } else { table(&rows) })
}

/// The ten best tokens of each row.
fn table(rows: &[Vec<f32>]) -> String {
    let mut text = String::new();
    for (i, row) in rows.iter().enumerate() {
        let mut order: Vec<_> = row.iter().enumerate().collect();
        order.sort_by(|a, b| b.1.total_cmp(a.1).then(a.0.cmp(&b.0)));
        let best: Vec<_> = order.iter().take(10).map(|(id, score)| format!("{id} {score:.4}")).collect();
        let name = if i == 0 { "prefill".to_owned() } else { format!("then {i}") };
        let _ = writeln!(text, "{name:<8}  {}", best.join("  "));
    }
    text
}
