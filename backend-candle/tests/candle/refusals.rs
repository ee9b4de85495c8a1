//! What can't be loaded or served is refused by kind, with a message that says what would be right.

use phase_backend_candle::{Candle, CandleConfig, CandleError};
use phase_core::{Backend, CacheSpec, ErrorKind, Fact, Layer, LoadSpec, Logits, Model, PhaseError, Prefill, PromptBatch, TokenId};

const TINY: &str = "tiny/llama-gqa-tied";

fn refused(backend: &Candle, spec: &LoadSpec) -> CandleError {
    backend.load(spec).map(drop).expect_err("this must not load")
}

#[test]
fn a_missing_checkpoint() {
    let error = refused(&Candle::cpu(), &LoadSpec::new("nowhere/at/all"));
    assert_eq!(error.kind(), ErrorKind::Load);
    assert!(error.to_string().contains("nowhere/at/all"), "{error}");
}

#[test]
fn settings_without_meaning() {
    let spec = LoadSpec::new(crate::common::dir(TINY));
    let error = refused(&Candle::cpu(), &spec.clone().with_threads(0));
    assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::InvalidInput, "threads is 0, expected 1 or more"));
    let error = refused(&Candle::new(CandleConfig::default().with_prefill_rows(0)), &spec);
    assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::InvalidInput, "prefill_rows is 0, expected 1 or more"));
    let error = refused(&Candle::cpu(), &spec.with_max_batch(0));
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn an_unknown_architecture() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), r#"{"model_type": "mamba", "vocab_size": 8}"#).unwrap();
    let error = refused(&Candle::cpu(), &LoadSpec::new(dir.path()));
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("mamba"), "{error}");
}

#[test]
fn a_cache_of_another_model() {
    let load = || Candle::cpu().load(&LoadSpec::new(crate::common::dir(TINY))).unwrap();
    let (mut one, mut other) = (load(), load());
    let mut cache = one.allocate(CacheSpec { batch: 1, capacity: 4 }).unwrap();
    let error = other.prefill(&mut cache, PromptBatch::single(&[TokenId(1)]).unwrap(), &mut Logits::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ForeignCache);
}

#[test]
fn slots_that_do_not_fit_the_rows() {
    let mut model = Candle::cpu().load(&LoadSpec::new(crate::common::dir(TINY))).unwrap();
    let mut cache = model.allocate(CacheSpec { batch: 1, capacity: 4 }).unwrap();
    let error = model.prefill_greedy(&mut cache, PromptBatch::single(&[TokenId(1)]).unwrap(), &mut []).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn the_stack_is_known() {
    let model = Candle::cpu().load(&LoadSpec::new(crate::common::dir(TINY)).with_threads(2)).unwrap();
    let stack = &model.info().stack;
    assert!(stack.iter().all(|(_, _, fact)| matches!(fact, Fact::Known(_))), "{stack:?}");
    let facts = |layer| stack.iter().filter(|(l, ..)| *l == layer).map(|(_, key, _)| key).collect::<Vec<_>>();
    assert_eq!(facts(Layer::Model), ["architecture", "digest", "dtype"]);
    assert_eq!(stack.fact(Layer::Runtime, "backend"), Some(&Fact::Known("candle-cpu".to_owned())));
    assert_eq!(stack.fact(Layer::Runtime, "threads"), Some(&Fact::Known("2".to_owned())));
    let Some(Fact::Known(library)) = stack.fact(Layer::Runtime, "library") else { panic!("{stack:?}") };
    assert!(library.starts_with("candle-core 0."), "{library}");
}
