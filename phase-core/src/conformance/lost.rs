//! What a backend owes its caller once the device is gone.

use super::{cache, decode};
use crate::{Backend, CacheSpec, Decode, ErrorKind, KvCache, LoadSpec, Logits, Model, PhaseError, Prefill, PromptBatch, TokenId};

/// Once `lose` has taken the device's context away, every call fails as [`ErrorKind::DeviceLost`], loading again too, and none
/// moves the cache. Not in [`conformance_suite!`]: nothing on the device works in that process afterwards, so this check wants a
/// test program of its own.
///
/// [`conformance_suite!`]: crate::conformance_suite
pub fn a_lost_device_is_named<B: Backend>(backend: &B, spec: &LoadSpec, lose: impl FnOnce()) {
    let mut m = backend.load(spec).expect("a model before the loss");
    let mut c = cache(&mut m, 1, 8);
    decode(&mut m, &mut c, &[TokenId(1)]);
    lose();
    let mut out = Logits::new();
    lost("decode", m.decode(&mut c, &[TokenId(1)], &mut out));
    let prompt = PromptBatch::single(&[TokenId(1), TokenId(2)]).expect("a prompt");
    lost("prefill", m.prefill(&mut c, prompt, &mut out));
    assert_eq!(c.len(), 1, "a call on a lost device moved the cache");
    lost("allocating", m.allocate(CacheSpec { batch: 1, capacity: 8 }));
    lost("loading", backend.load(spec));
}

fn lost<T, E: PhaseError>(what: &str, result: Result<T, E>) {
    match result {
        Ok(_) => panic!("{what} works although the device is lost"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::DeviceLost, "{what} on a lost device: {error}"),
    }
}
