//! What was predicted against what then happened. Measures nothing and changes no route: it says when to measure again.

mod snapshot;
mod window;

pub use snapshot::{LedgerEntry, LedgerMismatch, LedgerSnapshot, Part, Regret, Remeasure, WindowReport};
pub use window::WindowVerdict;

use crate::{Expectation, Policy, Router, stats::real};
use phase_core::BackendId;
use window::Slot;

/// Requests in a window: enough for the median of ratios to be known to 99% within 16 of 100 ranks.
pub const WINDOW: u32 = 256;

/// Bad windows in a row after which a measurement is due: one or two may be a neighbour's noise.
pub const BAD_WINDOWS: u32 = 3;

/// Predictions against actual times, by backend and part of a request. Its memory is fixed when it is made, and noting a
/// request allocates nothing. It belongs to one policy and one thread: a worker keeps its own, and
/// [`LedgerSnapshot::merge`] adds them up.
///
/// ```
/// # use phase_core::{BackendId, MeasurementBoundary, Phase, Shape, StackInfo};
/// # use phase_policy::{Observation, Policy, PolicyOptions, ScenarioMatrix};
/// use phase_policy::{Actual, Ledger, Part, Router, Workload};
/// # let sim = BackendId::new("sim");
/// # let shapes = [(Phase::Prefill, 32, 0, 1_000_000), (Phase::Decode, 1, 40, 100_000)];
/// # let seen: Vec<_> = (0..6).flat_map(|block| shapes.map(|(phase, new_tokens, context, ns)| {
/// #     let shape = Shape { batch: 1, new_tokens, context };
/// #     Observation::new(sim.clone(), phase, shape, ns + u64::from(block)).with_boundary("b").with_block(block)
/// # })).collect();
/// # let matrix = ScenarioMatrix::build(&seen, &[("b".to_owned(), MeasurementBoundary::call(StackInfo::new()))].into())?;
/// # let policy = Policy::compile(&matrix, &PolicyOptions::new(sim, 0))?;
/// let router = Router::new(policy);
/// let mut ledger = Ledger::new(&router);
/// for _ in 0..1000 {
///     let decision = router.decide(&Workload::new(1, 32, 11));
///     // Run the request: 1 ms of prefill as measured, and decode steps that take twice as long as they did then.
///     ledger.note(decision.expectation().as_ref(), &Actual::new(1_000_000, 2_000_000));
/// }
/// let due = ledger.remeasure(router.policy());
/// assert_eq!(due[0].part, Part::DecodeStep);
/// assert!((due[0].ratio - 2.0).abs() < 0.03);
/// assert!(due.iter().all(|d| d.part != Part::Prefill));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Ledger {
    policy: u64,
    digest: String,
    backends: Vec<BackendId>,
    /// Three a backend: [`Part`].
    slots: Vec<Slot>,
    regret: Regret,
    unpredicted: u64,
    unusable: u64,
    rope: f64,
}

/// What a request took, in the regions that predictions are about: the phase calls, without queue, tokenizer, sampling and
/// network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Actual {
    /// The prefill call.
    pub prefill_ns: u64,
    /// All decode calls together; 0 where there were none.
    pub decode_ns: u64,
}

impl Actual {
    /// A prefill call of `prefill_ns`, and `decode_ns` in all decode calls together.
    pub const fn new(prefill_ns: u64, decode_ns: u64) -> Self {
        Self { prefill_ns, decode_ns }
    }
}

impl Ledger {
    /// An empty ledger for what `router` decides.
    pub fn new(router: &Router) -> Self {
        let backends: Vec<_> = router.backends().cloned().collect();
        Self {
            policy: router.short_digest(),
            digest: router.policy().digest().to_owned(),
            slots: vec![Slot::default(); backends.len() * Part::ALL.len()],
            backends,
            regret: Regret::default(),
            unpredicted: 0,
            unusable: 0,
            rope: router.policy().constants().rope,
        }
    }

    /// Notes one finished request: what [`Decision::expectation`](crate::Decision::expectation) said when it was routed, and
    /// what it took. A request that failed is not noted. One that ended early is, with its real number of steps:
    /// [`Expectation::with_decode_steps`].
    #[inline]
    pub fn note(&mut self, expectation: Option<&Expectation>, actual: &Actual) {
        let Some(expected) = expectation else {
            self.unpredicted += 1;
            return;
        };
        let steps = f64::from(expected.steps);
        let decodes = expected.steps > 0;
        // Of another policy, or no times: nothing to hold against each other.
        if expected.policy != self.policy || actual.prefill_ns == 0 || decodes != (actual.decode_ns > 0) {
            self.unusable += 1;
            return;
        }
        let (prefill, decode) = (real(actual.prefill_ns), real(actual.decode_ns));
        let total = prefill + decode;
        let first = expected.backend as usize * Part::ALL.len();
        let Some([for_prefill, for_step, for_total]) = self.slots.get_mut(first..first + Part::ALL.len()) else {
            self.unusable += 1;
            return;
        };
        for_prefill.note(&expected.prefill, prefill, self.rope);
        if let (true, Some(step)) = (decodes, &expected.decode_step) {
            for_step.note(step, decode / steps, self.rope);
        }
        for_total.note(&expected.total(), total, self.rope);
        if let Some(other) = expected.best_other_ns {
            self.regret.note(total, other);
        }
    }

    /// All of it as plain numbers, for an exporter. Allocates.
    pub fn snapshot(&self) -> LedgerSnapshot {
        let parts = self.backends.iter().flat_map(|id| Part::ALL.map(|part| (id, part)));
        let entries = parts.zip(&self.slots).filter(|(_, slot)| slot.requests > 0);
        LedgerSnapshot {
            policy_digest: self.digest.clone(),
            entries: entries.map(|((id, part), slot)| slot.entry(id.clone(), part)).collect(),
            regret: self.regret,
            unpredicted: self.unpredicted,
            unusable: self.unusable,
        }
    }

    /// What is due to be measured again: the parts whose last [`BAD_WINDOWS`] windows were bad, with the cells that they
    /// rest on. Allocates.
    pub fn remeasure(&self, policy: &Policy) -> Vec<Remeasure> {
        self.snapshot().remeasure(policy)
    }

    /// Forgets everything, as after a measurement.
    pub fn reset(&mut self) {
        self.slots.fill(Slot::default());
        (self.regret, self.unpredicted, self.unusable) = (Regret::default(), 0, 0);
    }
}
