//! Rotary tables against transformers' (`rope/make_rope.py`).
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and names why it skips")]

mod common;

use common::edit_json;
use phase_core::DType;
use phase_model::{Architecture, Checkpoint, inverse_frequencies, random, rope_tables};
use serde_json::Value;

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

#[test]
fn tables_agree_with_transformers_to_the_end_of_the_context() {
    let cases = common::json(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rope/rope.json"));
    for case in cases.as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model");
        let mut shape = random::Shape::tiny(Architecture::Llama);
        shape.head_dim = usize::try_from(case["head_dim"].as_u64().unwrap()).unwrap();
        shape.max_context = 131_072;
        random::write(&path, &shape, 1, DType::F32).unwrap();
        edit_json(path.join("config.json"), |config| {
            let keys = config.as_object_mut().unwrap();
            keys.remove("rope_theta");
            keys.remove("rope_scaling");
            keys.insert("rope_parameters".to_owned(), case["rope_parameters"].clone());
        });
        let checkpoint = Checkpoint::open(&path).unwrap();
        let config = checkpoint.config();
        let frequencies = inverse_frequencies(config.rope().unwrap(), config.head_dim);
        for (i, (ours, theirs)) in frequencies.iter().zip(floats(&case["inv_freq"])).enumerate() {
            assert!((f64::from(*ours) - theirs).abs() <= theirs * 1.2e-7, "{name}: frequency {i} is {ours:e}, theirs {theirs:e}");
        }
        let (cos, sin) = (floats(&case["cos"]), floats(&case["sin"]));
        let half = config.head_dim / 2;
        let mut worst = 0.0f64;
        for (row, position) in floats(&case["positions"]).into_iter().enumerate() {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positions are small integers")]
            let position = position as usize;
            let tables = rope_tables(config, position..position + 1).unwrap().unwrap();
            for i in 0..half {
                worst = worst.max((f64::from(tables.cos[i]) - cos[row * half + i]).abs());
                worst = worst.max((f64::from(tables.sin[i]) - sin[row * half + i]).abs());
            }
        }
        println!("{name}: {worst:e}");
        assert!(worst < 1e-4, "{name}: a table differs by {worst:e}");
    }
}

#[test]
fn positions_beyond_the_context_are_refused() {
    let checkpoint = Checkpoint::open(common::golden("tiny/llama-mqa")).unwrap();
    let max = checkpoint.config().max_context;
    assert!(rope_tables(checkpoint.config(), 0..max).is_ok());
    assert!(rope_tables(checkpoint.config(), 0..max + 1).unwrap_err().to_string().contains(&max.to_string()));
    let learned = Checkpoint::open(common::golden("tiny/gpt2")).unwrap();
    assert_eq!(rope_tables(learned.config(), 0..4).unwrap(), None);
}

#[test]
fn a_range_is_the_rows_one_by_one() {
    let checkpoint = Checkpoint::open(common::golden("tiny/llama3-rope-old")).unwrap();
    let all = rope_tables(checkpoint.config(), 0..9).unwrap().unwrap();
    let last = rope_tables(checkpoint.config(), 8..9).unwrap().unwrap();
    assert_eq!((all.positions, last.positions), (9, 1));
    assert_eq!(all.cos[8 * all.half..], last.cos);
    assert_eq!(all.sin[8 * all.half..], last.sin);
}
