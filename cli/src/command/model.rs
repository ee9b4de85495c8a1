//! `phase model`: make or look at checkpoints.

use crate::{
    argument::{self, ModelCommand},
    exit::{Failure, note, say},
    progress::{during, watched},
};
use phase_model::{Checkpoint, random};
use std::path::Path;

pub(crate) fn run(arguments: &argument::Model) -> Result<(), Failure> {
    match &arguments.command {
        ModelCommand::Random { shape, seed, dtype, out } => {
            let shape = random::Shape::named(shape).ok_or_else(|| {
                Failure::Usage(format!("unknown shape `{shape}`: tiny, tiny-gpt2, tiny-qwen2, tiny-qwen3, tiny-mistral, smollm2-135m, llama-3.2-1b or llama-3.1-8b"))
            })?;
            watched(|watch| random::write_with(out, &shape, *seed, *dtype, watch)).map_err(|e| Failure::of(&e))?;
            note(&format!("wrote {}", out.display()));
            Ok(())
        }
        ModelCommand::Info { path, json } => info(path, *json),
    }
}

fn info(path: &Path, json: bool) -> Result<(), Failure> {
    let checkpoint = Checkpoint::open(path).map_err(|e| Failure::of(&e))?;
    let config = checkpoint.config();
    let digest = during("reading every weight", || checkpoint.digest()).map_err(|e| Failure::of(&e))?.to_string();
    let rows = [
        ("architecture", format!("{:?}", config.architecture)),
        ("parameters", config.parameters().to_string()),
        ("layers", config.layers.to_string()),
        ("hidden", config.hidden.to_string()),
        ("heads", config.heads.to_string()),
        ("kv_heads", config.kv_heads.to_string()),
        ("head_dim", config.head_dim.to_string()),
        ("vocab", config.vocab.to_string()),
        ("max_context", config.max_context.to_string()),
        ("stored_bytes", checkpoint.weights().stored_bytes().to_string()),
        ("tokenizer", checkpoint.tokenizer().map_or_else(|e| format!("no: {e}"), |_| "yes".to_owned())),
        ("chat_template", checkpoint.chat_template().map_or_else(|e| format!("no: {e}"), |_| "yes".to_owned())),
        ("digest", digest),
    ];
    if json {
        let map: serde_json::Map<_, _> = rows.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
        return say(&serde_json::Value::Object(map).to_string());
    }
    let lines: Vec<_> = rows.iter().map(|(key, value)| format!("{key:<14} {value}")).collect();
    say(&lines.join("\n"))
}
