//! What measuring costs: the same decode call bare, measured into nothing, and measured into a ring.
//!
//! **Timing model:** elapsed / iterations = 100 calls and one truncation; subtract `bare` for the cost of recording.
//! Target: ring at most 250 ns a call above bare, 25 µs here.

use criterion::{Criterion, criterion_group, criterion_main};
use phase_benches::calls;
use phase_core::{Backend, LoadSpec, Measured, MonotonicClock, NoopSink, RingSink, sim::Sim};

fn recording(c: &mut Criterion) {
    let load = || Sim::default().load(&LoadSpec::new("none")).expect("sim");
    calls(c, "recording/bare", load());
    calls(c, "recording/noop", Measured::new(load(), MonotonicClock::new(), NoopSink));
    calls(c, "recording/ring", Measured::new(load(), MonotonicClock::new(), RingSink::new(4096)));
}

criterion_group!(benches, recording);
criterion_main!(benches);
