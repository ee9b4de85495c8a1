//! A router that is replaced while requests come in.

use super::Router;
use arc_swap::{ArcSwap, Guard};
use std::sync::{Arc, Mutex, PoisonError};

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
pub struct SharedRouter {
    present: ArcSwap<Router>,
    /// Routers that were replaced, kept so that no reader frees one: that takes a lock of the allocator, and as long as the
    /// policy is large. Only writers come here.
    retired: Mutex<Vec<Arc<Router>>>,
}

/// A router taken from a [`SharedRouter`]: it stays the same however often that one is replaced. Short-lived: take a new
/// one for each request.
#[derive(Debug)]
pub struct Present(Guard<Arc<Router>>);

impl SharedRouter {
    /// Starts with `router`.
    pub fn new(router: Router) -> Self {
        Self { present: ArcSwap::from_pointee(router), retired: Mutex::default() }
    }

    /// The present router. Lock-free, and free of allocation after a thread's first call.
    pub fn load(&self) -> Present {
        Present(self.present.load())
    }

    /// Puts `router` in its place and gives back the one before. That one is freed by a later `replace`, once its last reader is
    /// done, or with the whole.
    pub fn replace(&self, router: Router) -> Arc<Router> {
        let before = self.present.swap(Arc::new(router));
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody can take one of these any more: a count of 1 stays 1.
        let free: Vec<_> = retired.extract_if(.., |old| Arc::strong_count(old) == 1).collect();
        retired.push(Arc::clone(&before));
        drop(retired);
        drop(free);
        before
    }
}

impl std::ops::Deref for Present {
    type Target = Router;

    fn deref(&self) -> &Router {
        &self.0
    }
}
