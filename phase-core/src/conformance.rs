//! What every backend must pass. Outside semantic versioning: a release may add checks.
//!
//! Each check is a plain generic function that takes a way to load the model; [`conformance_suite!`] makes a test of
//! each. Checks read [`Capabilities`](crate::Capabilities): claiming an ability buys its checks. The kit itself is tested
//! against models with one defect each ([`sim::Fault`](crate::sim::Fault)).
//!
//! Give it a small checkpoint (a vocabulary of 16 and a context of 24 at least): the checks fill whole caches.
//!
//! [`conformance_suite!`]: crate::conformance_suite

#![expect(clippy::missing_panics_doc, reason = "a check panics when it fails: that is what it is for")]

use crate::{
    BoxModel, CacheSpec, DType, Decode, ErrorKind, KvCache, Logits, ManualClock, Measured, Model, Outcome, Phase, PhaseError, PromptBatch,
    RingSink, TokenId,
};
use std::{sync::Arc, time::Duration};

mod lost;
#[cfg(test)]
mod tests;

pub use lost::a_lost_device_is_named;

/// How far the scores of two computations of the same thing may differ, relative to the spread of a row.
///
/// f32 sums in another order differ by some 1e-6; half formats round every stored key and value, so that a chunk
/// boundary moves scores by some of their own epsilons.
pub fn tolerance(dtype: DType) -> f32 {
    match dtype {
        DType::F32 => 2e-4,
        DType::F16 => 2e-2,
        DType::Bf16 => 1e-1,
    }
}

fn tokens<M: Model>(model: &M, n: usize, seed: u32) -> Vec<TokenId> {
    let vocab = u32::try_from(model.info().vocab).unwrap_or(u32::MAX);
    (0..u32::try_from(n).unwrap_or(0)).map(|i| TokenId((i * 7 + i * i + seed * 13 + 3) % vocab)).collect()
}

fn cache<M: Model>(model: &mut M, batch: usize, capacity: usize) -> M::Cache {
    model.allocate(CacheSpec { batch, capacity }).expect("a cache inside the limits")
}

fn prefill<M: Model>(model: &mut M, cache: &mut M::Cache, tokens: &[TokenId], batch: usize) -> Logits {
    let mut out = Logits::new();
    model.prefill(cache, PromptBatch::new(tokens, batch).expect("a prompt"), &mut out).expect("prefill");
    out
}

fn decode<M: Model>(model: &mut M, cache: &mut M::Cache, tokens: &[TokenId]) -> Logits {
    let mut out = Logits::new();
    model.decode(cache, tokens, &mut out).expect("decode");
    out
}

fn assert_close<M: Model>(model: &M, a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}: rows of different length");
    let spread = a.iter().fold(0.0f32, |m, v| m.max(v.abs())).max(1.0);
    let worst = a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
    let most = tolerance(model.info().dtype) * spread;
    assert!(worst <= most, "{what}: scores differ by {worst}, at most {most} is rounding");
}

/// Splitting a sequence between the phases does not change what the model predicts.
pub fn phase_split_is_invisible<M: Model>(load: impl Fn() -> M) {
    let mut m = load();
    let t = tokens(&m, 9, 1);
    let mut split = cache(&mut m, 1, 16);
    let mut a = prefill(&mut m, &mut split, &t[..3], 1);
    for token in &t[3..] {
        a = decode(&mut m, &mut split, &[*token]);
    }
    let mut whole = cache(&mut m, 1, 16);
    let b = prefill(&mut m, &mut whole, &t, 1);
    assert_close(&m, a.as_slice(), b.as_slice(), "token by token against one prefill");
}

/// Prefilling in chunks does not change what the model predicts, for one row and for several.
pub fn chunking_is_invisible<M: Model>(load: impl Fn() -> M) {
    let mut m = load();
    if !m.capabilities().chunked_prefill {
        return;
    }
    for batch in 1..=m.capabilities().max_batch.min(2) {
        let rows: Vec<_> = (0..batch).map(|row| tokens(&m, 12, 2 + u32::try_from(row).unwrap_or(0))).collect();
        let part = |from: usize, to: usize| rows.iter().flat_map(|r| r[from..to].to_vec()).collect::<Vec<_>>();
        let mut chunked = cache(&mut m, batch, 16);
        prefill(&mut m, &mut chunked, &part(0, 5), batch);
        prefill(&mut m, &mut chunked, &part(5, 9), batch);
        let a = prefill(&mut m, &mut chunked, &part(9, 12), batch);
        let mut whole = cache(&mut m, batch, 16);
        let b = prefill(&mut m, &mut whole, &part(0, 12), batch);
        assert_close(&m, a.as_slice(), b.as_slice(), "three chunks against one prefill");
    }
}

/// A row's prediction does not depend on its neighbours, in either phase.
pub fn rows_are_independent<M: Model>(load: impl Fn() -> M) {
    let mut m = load();
    if m.capabilities().max_batch < 3 {
        return;
    }
    let rows: Vec<_> = (0..3).map(|seed| tokens(&m, 6, 10 + seed)).collect();
    let mut all = cache(&mut m, 3, 8);
    let first = prefill(&mut m, &mut all, &rows.concat(), 3);
    let next: Vec<_> = rows.iter().map(|r| r[0]).collect();
    let second = decode(&mut m, &mut all, &next);
    for (i, row) in rows.iter().enumerate() {
        let mut solo = cache(&mut m, 1, 8);
        let a = prefill(&mut m, &mut solo, row, 1);
        let b = decode(&mut m, &mut solo, &next[i..=i]);
        let pick = |l: &Logits| l.rows().nth(i).expect("a row each").to_vec();
        assert_close(&m, a.as_slice(), &pick(&first), "prefill alone against prefill among neighbours");
        assert_close(&m, b.as_slice(), &pick(&second), "decode alone against decode among neighbours");
    }
}

/// Two caches of one model don't see each other.
pub fn sessions_are_independent<M: Model>(load: impl Fn() -> M) {
    let mut m = load();
    let (x, y) = (tokens(&m, 6, 20), tokens(&m, 4, 30));
    let mut alone = cache(&mut m, 1, 8);
    prefill(&mut m, &mut alone, &x, 1);
    let a = decode(&mut m, &mut alone, &x[..1]);
    let (mut first, mut second) = (cache(&mut m, 1, 8), cache(&mut m, 1, 8));
    prefill(&mut m, &mut first, &x, 1);
    prefill(&mut m, &mut second, &y, 1);
    decode(&mut m, &mut second, &y[..1]);
    let b = decode(&mut m, &mut first, &x[..1]);
    assert_eq!(a, b, "another cache's calls changed this cache's scores");
}

/// The same input gives the same output, bit for bit.
pub fn same_input_same_output<M: Model>(load: impl Fn() -> M) {
    let mut m = load();
    let t = tokens(&m, 7, 3);
    let mut run = || {
        let mut c = cache(&mut m, 1, 8);
        let a = prefill(&mut m, &mut c, &t, 1);
        (a, decode(&mut m, &mut c, &t[..1]))
    };
    assert!(run() == run(), "the same input gave another output");
}

/// The cache counts what it was given.
pub fn lengths_are_counted<M: Model>(load: impl Fn() -> M) {
    let mut m = load();
    let batch = m.capabilities().max_batch.min(2);
    let mut c = cache(&mut m, batch, 10);
    assert_eq!((c.batch(), c.len(), c.is_empty()), (batch, 0, true), "a fresh cache is empty");
    assert_eq!(c.capacity(), 10, "capacity is what was asked for");
    let t = tokens(&m, 4 * batch, 4);
    let out = prefill(&mut m, &mut c, &t, batch);
    assert_eq!((out.batch(), out.vocab()), (batch, m.info().vocab), "one row of the vocabulary's size per sequence");
    assert!(out.as_slice().iter().all(|v| v.is_finite()), "scores are finite");
    assert_eq!(c.len(), 4, "prefill adds its tokens");
    decode(&mut m, &mut c, &t[..batch]);
    assert_eq!(c.len(), 5, "decode adds one position");
}

/// Truncating forgets, and only what it should.
pub fn truncating_forgets<M: Model>(load: impl Fn() -> M) {
    let mut m = load();
    let t = tokens(&m, 8, 5);
    let mut c = cache(&mut m, 1, 12);
    prefill(&mut m, &mut c, &t, 1);
    c.truncate(99);
    assert_eq!(c.len(), 8, "truncating beyond the end does nothing");
    c.truncate(4);
    assert_eq!(c.len(), 4, "truncating sets the length");
    let a = decode(&mut m, &mut c, &t[..1]);
    let mut fresh = cache(&mut m, 1, 12);
    prefill(&mut m, &mut fresh, &t[..4], 1);
    let b = decode(&mut m, &mut fresh, &t[..1]);
    assert_close(&m, a.as_slice(), b.as_slice(), "after truncating against never having seen the rest");
    c.truncate(0);
    assert!(c.is_empty(), "truncating to nothing empties the cache");
}

/// A call that does not fit is refused by kind and leaves the cache as it was; a full cache can be used to its end.
pub fn overflow_leaves_the_cache_usable<M: Model>(load: impl Fn() -> M) {
    let mut m = load();
    let t = tokens(&m, 9, 6);
    let mut c = cache(&mut m, 1, 8);
    let mut out = Logits::new();
    prefill(&mut m, &mut c, &t[..5], 1);
    let error = m.prefill(&mut c, PromptBatch::single(&t[..4]).expect("a prompt"), &mut out).expect_err("4 positions don't fit into 3");
    assert_eq!(error.kind(), ErrorKind::ContextOverflow);
    assert_eq!(c.len(), 5, "a refused prefill adds nothing");
    let a = decode(&mut m, &mut c, &t[5..6]);
    let mut fresh = cache(&mut m, 1, 8);
    let b = prefill(&mut m, &mut fresh, &t[..6], 1);
    assert_close(&m, a.as_slice(), b.as_slice(), "after a refused call against never having asked");
    decode(&mut m, &mut c, &t[6..7]);
    decode(&mut m, &mut c, &t[7..8]);
    let error = m.decode(&mut c, &t[8..9], &mut out).expect_err("a full cache refuses");
    assert_eq!((error.kind(), c.len()), (ErrorKind::ContextOverflow, 8));
}

/// Bad input is an error of the right kind, never a panic, and changes nothing.
pub fn bad_input_is_a_kind<M: Model>(load: impl Fn() -> M) {
    let mut m = load();
    let limits = m.capabilities().clone();
    let kind = |m: &mut M, batch, capacity| m.allocate(CacheSpec { batch, capacity }).map(drop).expect_err("outside the limits").kind();
    assert_eq!(kind(&mut m, 0, 8), ErrorKind::InvalidInput, "no rows");
    assert_eq!(kind(&mut m, limits.max_batch + 1, 8), ErrorKind::InvalidInput, "too many rows");
    assert_eq!(kind(&mut m, 1, 0), ErrorKind::ContextOverflow, "no positions");
    assert_eq!(kind(&mut m, 1, limits.max_context + 1), ErrorKind::ContextOverflow, "too many positions");
    let t = tokens(&m, 4, 7);
    let alien = TokenId(u32::try_from(m.info().vocab).unwrap_or(u32::MAX));
    let mut c = cache(&mut m, 1, 8);
    let mut out = Logits::new();
    prefill(&mut m, &mut c, &t, 1);
    let bad = [t[0], alien];
    let error = m.prefill(&mut c, PromptBatch::single(&bad).expect("a prompt"), &mut out).expect_err("an unknown token");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let error = m.decode(&mut c, &[alien], &mut out).expect_err("an unknown token");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let error = m.decode(&mut c, &t[..2], &mut out).expect_err("two tokens for one row");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(m.decode(&mut c, &[], &mut out).expect_err("no token").kind(), ErrorKind::InvalidInput);
    let error = m.prefill(&mut c, PromptBatch::new(&t, 2).expect("a prompt"), &mut out).expect_err("two rows for one");
    assert_eq!((error.kind(), c.len()), (ErrorKind::InvalidInput, 4));
    let a = decode(&mut m, &mut c, &t[..1]);
    let mut fresh = cache(&mut m, 1, 8);
    prefill(&mut m, &mut fresh, &t, 1);
    let b = decode(&mut m, &mut fresh, &t[..1]);
    assert_eq!(a, b, "refused calls changed the cache");
}

/// The greedy calls pick what the scores say.
pub fn greedy_agrees_with_the_scores<M: Model>(load: impl Fn() -> M) {
    let mut m = load();
    let batch = m.capabilities().max_batch.min(2);
    let t = tokens(&m, 5 * batch, 8);
    let mut c = cache(&mut m, batch, 12);
    let scores = prefill(&mut m, &mut c, &t, batch).argmax();
    let mut d = cache(&mut m, batch, 12);
    let mut picked = vec![TokenId(0); batch];
    m.prefill_greedy(&mut d, PromptBatch::new(&t, batch).expect("a prompt"), &mut picked).expect("prefill");
    assert_eq!(picked, scores, "greedy prefill picked another token than its scores say");
    for _ in 0..3 {
        let scores = decode(&mut m, &mut c, &picked).argmax();
        let mut next = picked.clone();
        m.decode_greedy(&mut d, &picked, &mut next).expect("decode");
        assert_eq!(next, scores, "greedy decode picked another token than its scores say");
        picked = next;
    }
}

/// A run of steps picks what single steps pick, leaves the cache as they do, and happens whole or not at all.
pub fn a_run_is_its_steps<M: Model>(load: impl Fn() -> M) {
    const STEPS: usize = 4;
    let mut m = load();
    let batch = m.capabilities().max_batch.min(2);
    let t = tokens(&m, 5 * batch, 10);
    let (first, capacity) = (&t[..batch], 6 + STEPS);
    let mut one = cache(&mut m, batch, capacity);
    let mut run = cache(&mut m, batch, capacity);
    prefill(&mut m, &mut one, &t, batch);
    prefill(&mut m, &mut run, &t, batch);
    let mut steps = first.to_vec();
    for step in 0..STEPS {
        let mut next = vec![TokenId(0); batch];
        m.decode_greedy(&mut one, &steps[step * batch..], &mut next).expect("decode");
        steps.extend(next);
    }
    let mut picked = vec![TokenId(0); STEPS * batch];
    m.decode_run(&mut run, first, &mut picked).expect("a run");
    assert_eq!(picked, steps[batch..], "a run picked other tokens than its steps");
    assert_eq!(run.len(), one.len(), "a run counts another length than its steps");
    let last = &steps[STEPS * batch..];
    let long = m.decode_run(&mut run, last, &mut vec![TokenId(0); 2 * batch]).expect_err("a run beyond the capacity");
    assert_eq!((long.kind(), run.len()), (ErrorKind::ContextOverflow, one.len()), "a run that does not fit must not begin");
    let torn = m.decode_run(&mut run, last, &mut vec![TokenId(0); 2 * batch + 1]).expect_err("a run of no whole steps");
    assert_eq!(run.len(), one.len(), "a refused run moved the cache: {torn}");
    m.decode_run(&mut run, last, &mut []).expect("a run of no steps");
    assert_eq!(decode(&mut m, &mut run, last).as_slice().len(), decode(&mut m, &mut one, last).as_slice().len());
}

/// Decode on an empty cache is a one-token prompt.
pub fn decode_on_empty_is_a_prompt<M: Model>(load: impl Fn() -> M) {
    let mut m = load();
    let t = tokens(&m, 1, 9);
    let mut c = cache(&mut m, 1, 4);
    let mut a = Logits::new();
    m.decode(&mut c, &t, &mut a).expect("decode on an empty cache");
    let mut d = cache(&mut m, 1, 4);
    let b = prefill(&mut m, &mut d, &t, 1);
    assert_close(&m, a.as_slice(), b.as_slice(), "decode on an empty cache against prefill");
}

/// A prompt as long as the model's context works, and the last position is used.
pub fn the_whole_context_is_usable<M: Model>(load: impl Fn() -> M) {
    let mut m = load();
    let n = m.capabilities().max_context.min(1024);
    let t = tokens(&m, n, 11);
    let mut c = cache(&mut m, 1, n);
    prefill(&mut m, &mut c, &t[..n - 1], 1);
    let a = decode(&mut m, &mut c, &t[n - 1..]);
    let mut d = cache(&mut m, 1, n);
    let b = prefill(&mut m, &mut d, &t, 1);
    assert_close(&m, a.as_slice(), b.as_slice(), "the last position by decode against by prefill");
}

/// The largest batch works, and each row predicts what it predicts alone.
pub fn the_largest_batch_is_usable<M: Model>(load: impl Fn() -> M) {
    let mut m = load();
    let batch = m.capabilities().max_batch.min(64);
    let rows: Vec<_> = (0..batch).map(|row| tokens(&m, 3, 40 + u32::try_from(row).unwrap_or(0))).collect();
    let mut c = cache(&mut m, batch, 5);
    prefill(&mut m, &mut c, &rows.concat(), batch);
    let next: Vec<_> = rows.iter().map(|r| r[0]).collect();
    let all = decode(&mut m, &mut c, &next);
    let mut solo = cache(&mut m, 1, 5);
    prefill(&mut m, &mut solo, &rows[batch - 1], 1);
    let alone = decode(&mut m, &mut solo, &next[batch - 1..]);
    let last = all.rows().last().expect("a row each");
    assert_close(&m, alone.as_slice(), last, "the last row of the largest batch against alone");
}

/// Device time is there when, and only when, it is claimed, and never exceeds the time between two host readings.
pub fn device_time_is_as_claimed<M: Model>(load: impl Fn() -> M) {
    let mut m = load();
    let mut c = cache(&mut m, 1, 4);
    let t = tokens(&m, 2, 12);
    let clock = crate::MonotonicClock::new();
    let before = crate::Clock::now(&clock);
    prefill(&mut m, &mut c, &t, 1);
    let wall = crate::Clock::now(&clock).since(before);
    match m.device_time() {
        Some(device) => {
            assert!(m.capabilities().device_timing, "device time without claiming it");
            assert!(device <= wall, "{device:?} on the device inside {wall:?} of wall time: the call returned before its work was done");
        }
        None => assert!(!m.capabilities().device_timing, "device timing is claimed and not given"),
    }
}

/// Wrapped in [`Measured`], every call leaves one event, also the one that fails.
pub fn every_call_leaves_one_event<M: Model>(load: impl Fn() -> M) {
    let sink = Arc::new(RingSink::new(16));
    let mut m = Measured::new(load(), ManualClock::ticking(Duration::from_nanos(1)), sink.clone());
    let t = tokens(&m, 3, 13);
    let mut c = cache(&mut m, 1, 4);
    prefill(&mut m, &mut c, &t, 1);
    decode(&mut m, &mut c, &t[..1]);
    m.decode(&mut c, &t[..1], &mut Logits::new()).expect_err("full");
    let events = sink.drain();
    let seen: Vec<_> = events.iter().map(|e| (e.phase, e.outcome)).collect();
    let full = Outcome::Failed(ErrorKind::ContextOverflow);
    assert_eq!(seen, [(Phase::Prefill, Outcome::Ok), (Phase::Decode, Outcome::Ok), (Phase::Decode, full)]);
    assert!(events.windows(2).all(|pair| pair[0].end <= pair[1].start), "events overlap");
    let known = events[0].boundary.stack.iter().filter(|(layer, _, _)| *layer == crate::Layer::Runtime).count();
    assert!(known > 0, "the boundary says nothing about the runtime");
}

/// After work there is evidence of where it ran.
pub fn placement_is_evidenced<M: Model>(load: impl Fn() -> M) {
    let mut m = load();
    let mut c = cache(&mut m, 1, 4);
    let t = tokens(&m, 2, 14);
    prefill(&mut m, &mut c, &t, 1);
    decode(&mut m, &mut c, &t[..1]);
    let evidence = m.evidence().expect("evidence");
    assert!(!evidence.source.is_empty(), "no evidence: it names no source");
    assert!(evidence.placement.iter().any(|p| p.nodes > 0), "no evidence: no operator was seen on any executor");
}

/// Two loads of one checkpoint are the same model.
pub fn reloading_changes_nothing<M: Model>(load: impl Fn() -> M) {
    let run = || {
        let mut m = load();
        let t = tokens(&m, 5, 15);
        let mut c = cache(&mut m, 1, 8);
        prefill(&mut m, &mut c, &t, 1)
    };
    assert!(run() == run(), "a second load gave another model");
}

/// The model works erased and on another thread, and refuses another model's cache.
pub fn works_erased_and_on_another_thread<M: Model + 'static>(load: impl Fn() -> M) {
    let mut direct = load();
    let t = tokens(&direct, 4, 16);
    let mut c = cache(&mut direct, 1, 8);
    let a = prefill(&mut direct, &mut c, &t, 1);
    let mut boxed: BoxModel = Box::new(load());
    let prompt = t.clone();
    let (b, mut boxed) = std::thread::spawn(move || {
        let mut c = cache(&mut boxed, 1, 8);
        (prefill(&mut boxed, &mut c, &prompt, 1), boxed)
    })
    .join()
    .expect("no panic on another thread");
    assert_eq!(a, b, "erased, the model gave other scores");
    let stranger = crate::Backend::load(&crate::sim::Sim::default(), &crate::LoadSpec::new("none")).expect("sim");
    let wrap = |m| Measured::new(m, ManualClock::default(), crate::NoopSink);
    // Wrapped twice, its cache is of a type that no backend has.
    let mut stranger: BoxModel = Box::new(Measured::new(wrap(stranger), ManualClock::default(), crate::NoopSink));
    let mut foreign = cache(&mut stranger, 1, 8);
    let prompt = PromptBatch::single(&t[..1]).expect("a prompt");
    let error = boxed.prefill_dyn(&mut foreign, prompt, &mut Logits::new()).expect_err("another model's cache");
    assert_eq!(error.kind(), ErrorKind::ForeignCache);
}

/// A test of each check: `conformance_suite!(|| load_my_model())`. For a device that is not everywhere,
/// `conformance_suite!(when here() => || load_my_model())` passes where `here()` is false, which should print why.
#[macro_export]
macro_rules! conformance_suite {
    (when $ready:expr => $load:expr) => {
        $crate::conformance_suite!(@each $ready, $load;
            phase_split_is_invisible, chunking_is_invisible, rows_are_independent, sessions_are_independent, same_input_same_output,
            lengths_are_counted, truncating_forgets, overflow_leaves_the_cache_usable, bad_input_is_a_kind,
            greedy_agrees_with_the_scores, a_run_is_its_steps, decode_on_empty_is_a_prompt, the_whole_context_is_usable, the_largest_batch_is_usable,
            device_time_is_as_claimed, every_call_leaves_one_event, placement_is_evidenced, reloading_changes_nothing,
            works_erased_and_on_another_thread);
    };
    ($load:expr) => {
        $crate::conformance_suite!(when true => $load);
    };
    (@each $ready:expr, $load:expr; $($check:ident),+) => {
        $(
            #[test]
            fn $check() {
                if $ready {
                    $crate::conformance::$check($load);
                }
            }
        )+
    };
}
