//! Regimes as types: a call that is cold or warming can't be added to steady ones, because they are of another type.

use super::RegimeClass;
use crate::Observation;
use std::marker::PhantomData;

mod sealed {
    #[expect(unnameable_types, reason = "sealed: nobody adds a regime")]
    pub trait Sealed {}
}

/// First calls after loading.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a name, of which there is no value")]
pub enum Cold {}

/// Calls before the path is trusted to be warm.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a name, of which there is no value")]
pub enum Warming {}

/// Calls on a warmed path.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a name, of which there is no value")]
pub enum Steady {}

/// One of the three.
pub trait Warmness: sealed::Sealed {
    /// The regime of its cells.
    const CLASS: RegimeClass;
}

impl sealed::Sealed for Cold {}
impl sealed::Sealed for Warming {}
impl sealed::Sealed for Steady {}

impl Warmness for Cold {
    const CLASS: RegimeClass = RegimeClass::Cold;
}

impl Warmness for Warming {
    const CLASS: RegimeClass = RegimeClass::Warmup;
}

impl Warmness for Steady {
    const CLASS: RegimeClass = RegimeClass::Steady;
}

/// Calls of one regime. The matrix makes a steady cell of `Calls<Steady>` and of nothing else, and there is one way between the
/// types: steady calls that turn out to be warm-up are [demoted](Calls::demote).
///
/// ```
/// use phase_core::{BackendId, Phase, Regime, Shape};
/// use phase_policy::{Calls, Cold, Observation, Steady};
/// let shape = Shape { batch: 1, new_tokens: 32, context: 0 };
/// let call = Observation::new(BackendId::new("sim"), Phase::Prefill, shape, 1_000);
/// let cold = call.clone().with_regime(Regime::Cold);
/// let mut steady = Calls::<Steady>::default();
/// assert!(steady.push(&call) && !steady.push(&cold), "by its own word it is cold");
/// let mut first = Calls::<Cold>::default();
/// assert!(first.push(&cold) && !first.push(&call));
/// assert_eq!((steady.as_slice().len(), first.as_slice().len()), (1, 1));
/// ```
///
/// What takes steady calls takes no cold ones:
///
/// ```compile_fail,E0308
/// use phase_policy::{Calls, Cold, Steady};
/// fn steady_statistics(calls: &Calls<'_, Steady>) -> usize {
///     calls.as_slice().len()
/// }
/// let cold = Calls::<Cold>::default();
/// steady_statistics(&cold);
/// ```
///
/// Nor can they be put together:
///
/// ```compile_fail,E0308
/// use phase_policy::{Calls, Cold, Steady};
/// let mut steady = Calls::<Steady>::default();
/// steady.append(Calls::<Cold>::default());
/// ```
#[derive(Clone, Debug)]
pub struct Calls<'a, R: Warmness> {
    calls: Vec<&'a Observation>,
    regime: PhantomData<R>,
}

impl<R: Warmness> Default for Calls<'_, R> {
    fn default() -> Self {
        Self { calls: Vec::new(), regime: PhantomData }
    }
}

impl<'a, R: Warmness> Calls<'a, R> {
    /// Adds a call of this regime; whether it is one.
    pub fn push(&mut self, call: &'a Observation) -> bool {
        let fits = RegimeClass::of(call.regime) == Some(R::CLASS);
        if fits {
            self.calls.push(call);
        }
        fits
    }

    /// Adds calls of the same regime.
    pub fn append(&mut self, mut other: Self) {
        self.calls.append(&mut other.calls);
    }

    /// The calls, in the order in which they were added.
    pub fn as_slice(&self) -> &[&'a Observation] {
        &self.calls
    }
}

impl<'a> Calls<'a, Steady> {
    /// Takes out the calls that are none: `keep` says which stay.
    pub fn demote(self, mut keep: impl FnMut(usize) -> bool) -> (Self, Calls<'a, Warming>) {
        let (mut steady, mut warming) = (Self::default(), Calls::default());
        for (i, call) in self.calls.into_iter().enumerate() {
            if keep(i) { steady.calls.push(call) } else { warming.calls.push(call) }
        }
        (steady, warming)
    }
}
