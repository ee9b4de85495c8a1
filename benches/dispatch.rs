//! What erasure costs: the same decode call, static and through `BoxModel`.
//!
//! **Timing model:** elapsed / iterations = 100 calls of a model whose own work is a few tens of nanoseconds, and one
//! truncation. Target: erased at most 10 ns a call above static, 1 µs here.

use criterion::{Criterion, criterion_group, criterion_main};
use phase_benches::calls;
use phase_core::{Backend, BoxModel, LoadSpec, sim::Sim};

fn dispatch(c: &mut Criterion) {
    let load = || Sim::default().load(&LoadSpec::new("none")).expect("sim");
    calls(c, "dispatch/static", load());
    calls(c, "dispatch/erased", Box::new(load()) as BoxModel);
}

criterion_group!(benches, dispatch);
criterion_main!(benches);
