//! Random checkpoints: reproducible, complete or absent, and sane in scale.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and names why it skips")]

mod common;

use phase_core::DType;
use phase_model::{Architecture, Checkpoint, LayerRole, Role, random};

#[test]
fn every_family_opens_in_every_format() {
    for name in random::NAMES.iter().filter(|name| name.starts_with("tiny")) {
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(name);
            random::write(&path, &random::Shape::named(name).unwrap(), 5, dtype).unwrap();
            let checkpoint = Checkpoint::open(&path).unwrap();
            assert_eq!(checkpoint.config().declared_dtype, Some(dtype), "{name}");
            assert_eq!(checkpoint.weights().stored_bytes(), checkpoint.config().parameters() * dtype.size_bytes() as u64);
        }
    }
}

#[test]
fn who_watches_sees_every_byte_written() {
    let dir = tempfile::tempdir().unwrap();
    let (path, mut told) = (dir.path().join("m"), Vec::new());
    let shape = random::Shape::tiny(Architecture::Llama);
    random::write_with(&path, &shape, 5, DType::F32, &mut |done, total, what| told.push((done, total, what.to_owned()))).unwrap();
    let total = Checkpoint::open(&path).unwrap().weights().stored_bytes();
    assert!(told.iter().all(|t| t.1 == total) && told.windows(2).all(|w| w[0].0 <= w[1].0), "{told:?}");
    assert_eq!(told.last().unwrap().0, total);
    assert!(told[0].2.contains("embed"), "{told:?}");
}

#[test]
fn named_shapes_have_the_published_sizes() {
    for (name, parameters) in [("smollm2-135m", 134_515_008), ("llama-3.2-1b", 1_235_814_400), ("llama-3.1-8b", 8_030_261_248)] {
        let config = random::Shape::named(name).unwrap().config(DType::Bf16).unwrap();
        assert_eq!(config.parameters(), parameters, "{name}");
    }
    assert!(random::Shape::named("gpt-5").is_none());
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let shape = random::Shape::tiny(Architecture::Gpt2);
    let digest = |name: &str, seed| {
        let path = dir.path().join(name);
        random::write(&path, &shape, seed, DType::F32).unwrap();
        Checkpoint::open(&path).unwrap().digest().unwrap().to_string()
    };
    let (first, again, other) = (digest("a", 1), digest("b", 1), digest("c", 2));
    assert_eq!(first, again);
    assert_ne!(first, other);
    assert_eq!(first.len(), 64);
}

#[test]
fn numbers_have_the_scale_promised() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model");
    random::write(&path, &random::Shape::tiny(Architecture::Llama), 11, DType::F32).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let values = checkpoint.weights().to_vec::<f32>(Role::Layer(0, LayerRole::Down)).unwrap();
    let (n, fan_in) = (values.len() as f64, checkpoint.config().intermediate as f64);
    let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
    let deviation = (values.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n).sqrt() * fan_in.sqrt();
    assert!(mean.abs() < 0.01 && (deviation - 1.0).abs() < 0.05, "mean {mean}, deviation {deviation}");
}

#[test]
fn shards_hold_the_same_weights_as_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut shape = random::Shape::tiny(Architecture::Qwen3);
    random::write(&dir.path().join("one"), &shape, 4, DType::Bf16).unwrap();
    shape.shard_bytes = 50_000;
    random::write(&dir.path().join("many"), &shape, 4, DType::Bf16).unwrap();
    let (one, many) = (Checkpoint::open(dir.path().join("one")).unwrap(), Checkpoint::open(dir.path().join("many")).unwrap());
    assert!(dir.path().join("many/model.safetensors.index.json").is_file());
    for role in one.weights().roles() {
        assert_eq!(one.weights().to_vec::<f32>(role).unwrap(), many.weights().to_vec::<f32>(role).unwrap());
    }
}

#[test]
fn nothing_is_overwritten_and_nothing_half_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model");
    let mut shape = random::Shape::tiny(Architecture::Llama);
    shape.kv_heads = 3;
    let error = random::write(&path, &shape, 1, DType::F32).unwrap_err();
    assert!(error.to_string().contains("num_key_value_heads"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    shape.kv_heads = 2;
    random::write(&path, &shape, 1, DType::F32).unwrap();
    assert!(random::write(&path, &shape, 1, DType::F32).is_err());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn digests_are_cached_for_large_files_and_follow_changes() {
    let dir = tempfile::tempdir().unwrap();
    let (path, cache) = (dir.path().join("model"), dir.path().join("cache"));
    let mut shape = random::Shape::tiny(Architecture::Llama);
    shape.vocab = 80_000;
    random::write(&path, &shape, 1, DType::F32).unwrap();
    let open = || Checkpoint::open(&path).unwrap().with_digest_cache(&cache);
    let digest = open().digest().unwrap();
    let entries: Vec<_> = std::fs::read_dir(&cache).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(entries.len(), 1);
    assert_eq!(open().digest().unwrap(), digest);
    assert_eq!(Checkpoint::open(&path).unwrap().digest().unwrap(), digest, "the cache changes nothing");
    let text = std::fs::read_to_string(&entries[0]).unwrap();
    std::fs::write(&entries[0], text.replacen(text.chars().next().unwrap(), "#", 1)).unwrap();
    assert_eq!(open().digest().unwrap(), digest, "a damaged entry is ignored");

    let weights = path.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::remove_file(&weights).unwrap();
    std::fs::write(&weights, bytes).unwrap();
    assert_ne!(open().digest().unwrap(), digest, "another file is hashed anew");
}
