//! Bytes flipped, cut and rewritten at random: opening may fail, reading may fail, nothing may panic or run away.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and names why it skips")]

mod common;

use std::{fs, path::Path};

use common::{copy, golden};
use phase_model::{ChatMessage, Checkpoint, GenerationPrompt};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Damage {
    Flip { at: prop::sample::Index, bit: u8 },
    Cut { at: prop::sample::Index },
    Number { at: prop::sample::Index, value: u64 },
}

/// Positions lean to the start, where headers are.
fn damages() -> impl Strategy<Value = Vec<Damage>> {
    let number = prop_oneof![any::<u64>(), 0u64..64, Just(u64::MAX), (0u32..64).prop_map(|bit| 1u64 << bit)];
    let damage = prop_oneof![
        8 => (any::<prop::sample::Index>(), 0u8..8).prop_map(|(at, bit)| Damage::Flip { at, bit }),
        1 => any::<prop::sample::Index>().prop_map(|at| Damage::Cut { at }),
        4 => (any::<prop::sample::Index>(), number).prop_map(|(at, value)| Damage::Number { at, value }),
    ];
    prop::collection::vec(damage, 1..4)
}

fn apply(bytes: &mut Vec<u8>, header: usize, damages: &[Damage]) {
    for damage in damages {
        let len = bytes.len().max(1);
        match damage {
            Damage::Flip { at, bit } => {
                if let Some(byte) = bytes.get_mut(at.index(header.min(len))) {
                    *byte ^= 1 << bit;
                }
            }
            Damage::Cut { at } => bytes.truncate(at.index(len)),
            Damage::Number { at, value } => {
                let at = at.index(header.min(len));
                for (byte, new) in bytes.iter_mut().skip(at).zip(value.to_le_bytes()) {
                    *byte = new;
                }
            }
        }
    }
}

/// Everything that can be asked of a checkpoint.
fn use_all_of(path: &Path) {
    let Ok(checkpoint) = Checkpoint::open(path) else { return };
    let weights = checkpoint.weights();
    for role in weights.roles() {
        let _ = weights.to_vec::<f32>(role);
        let _ = weights.view(role);
        let _ = weights.blocks(role);
        let _ = weights.release(role);
    }
    let _ = checkpoint.digest();
    let _ = phase_model::rope_tables(checkpoint.config(), 0..1);
    if let Ok(tokenizer) = checkpoint.tokenizer()
        && let Ok(tokens) = tokenizer.encode("the cat and 12 rings")
    {
        let _ = tokenizer.decode(&tokens);
    }
    if let Ok(template) = checkpoint.chat_template() {
        let _ = template.render(&[ChatMessage::user("hello")], GenerationPrompt::Add);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn safetensors(damages in damages()) {
        let dir = copy("tiny/llama-gqa-tied");
        let path = dir.path().join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        apply(&mut bytes, 3000, &damages);
        fs::write(&path, bytes).unwrap();
        use_all_of(dir.path());
    }

    #[test]
    fn gguf(damages in damages(), which in 0usize..3) {
        let name = ["llama-q4_1-tied", "llama-mixed", "llama-k"][which];
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        let mut bytes = fs::read(golden("gguf").join(format!("{name}.gguf"))).unwrap();
        apply(&mut bytes, 12_000, &damages);
        fs::write(&path, bytes).unwrap();
        use_all_of(&path);
    }

    #[test]
    fn configuration(damages in damages(), file in 0usize..4) {
        let name = ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"][file];
        let dir = copy("tiny/llama-gqa-tied");
        let path = dir.path().join(name);
        let mut bytes = fs::read(&path).unwrap();
        let len = bytes.len();
        apply(&mut bytes, len, &damages);
        fs::write(&path, bytes).unwrap();
        use_all_of(dir.path());
    }
}
