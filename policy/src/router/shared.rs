//! A router that is replaced while requests come in.

use super::Router;
use arc_swap::{ArcSwap, Guard};
use std::sync::Arc;

/// Holds the present router. Readers neither lock nor wait, whatever a writer does; each goes on with the router it took.
///
/// ```
/// # use phase_core::{BackendId, MeasurementBoundary, Phase, Shape, StackInfo};
/// # use phase_policy::{Observation, Policy, PolicyOptions, Router, ScenarioMatrix, SharedRouter, Workload};
/// # let shape = Shape { batch: 1, new_tokens: 32, context: 0 };
/// # let sim = BackendId::new("sim");
/// # let seen = [Observation::new(sim.clone(), Phase::Prefill, shape, 1_000).with_boundary("b")];
/// # let matrix = ScenarioMatrix::build(&seen, &[("b".to_owned(), MeasurementBoundary::call(StackInfo::new()))].into())?;
/// # let [old, new] = [1, 2].map(|at| Policy::compile(&matrix, &PolicyOptions::new(sim.clone(), at)));
/// let shared = SharedRouter::new(Router::new(old?));
/// let router = shared.load();
/// let decision = router.decide(&Workload::new(1, 32, 1));
/// let before = shared.replace(Router::new(new?));
/// assert_eq!(before.policy().created_unix_s(), 1);
/// assert_eq!((decision.route.backend, shared.load().policy().created_unix_s()), (&sim, 2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SharedRouter(ArcSwap<Router>);

/// A router taken from a [`SharedRouter`]: it stays the same however often that one is replaced. Short-lived: take a new
/// one for each request.
#[derive(Debug)]
pub struct Present(Guard<Arc<Router>>);

impl SharedRouter {
    /// Starts with `router`.
    pub fn new(router: Router) -> Self {
        Self(ArcSwap::from_pointee(router))
    }

    /// The present router. Lock-free, and free of allocation after a thread's first call.
    pub fn load(&self) -> Present {
        Present(self.0.load())
    }

    /// Puts `router` in its place and gives back the one before, which lives until its last reader is done.
    pub fn replace(&self, router: impl Into<Arc<Router>>) -> Arc<Router> {
        self.0.swap(router.into())
    }
}

impl std::ops::Deref for Present {
    type Target = Router;

    fn deref(&self) -> &Router {
        &self.0
    }
}
