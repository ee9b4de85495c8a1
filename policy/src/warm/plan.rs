//! What to run before requests are routed: the exact phases and shapes, and a function that runs them.

use crate::{LastCalls, Router, TieredRouter, Workload, constants::WARMUP_CALLS};
use phase_core::{BackendId, CacheSpec, KvCache as _, Logits, Model, Phase, PromptBatch, Shape, TokenId};
use serde::Serialize;
use std::{collections::BTreeMap, fmt};

/// Calls that warm one path for one shape. Warming is specific to the phase and to the shape: kernels are compiled, plans made
/// and memory reserved for each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WarmupCall {
    /// The path.
    pub backend: BackendId,
    /// The phase.
    pub phase: Phase,
    /// The size of the call; a decode call's `context` is what is cached before it.
    pub shape: Shape,
    /// How often it is called.
    pub calls: u32,
    /// What it is warmed for.
    pub purpose: WarmFor,
}

/// What a path is warmed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WarmFor {
    /// Requests are routed to it.
    Route,
    /// It is the first to be tried where the routed one fails.
    Fallback,
}

/// The calls that warm every path that a router sends the given requests to, and the first fallback of each. For the backends
/// of one model tier.
///
/// ```
/// # use phase_core::{Backend, BackendId, LoadSpec, MeasurementBoundary, Phase, Shape, StackInfo, sim::Sim};
/// # use phase_policy::{Observation, Policy, PolicyOptions, Router, ScenarioMatrix};
/// use phase_policy::{WarmupPlan, Workload};
/// # let id = Sim::default().id();
/// # let shape = Shape { batch: 1, new_tokens: 8, context: 0 };
/// # let seen = [Observation::new(id.clone(), Phase::Prefill, shape, 1_000).with_boundary("b")];
/// # let matrix = ScenarioMatrix::build(&seen, &[("b".to_owned(), MeasurementBoundary::call(StackInfo::new()))].into())?;
/// # let router = Router::new(Policy::compile(&matrix, &PolicyOptions::new(id.clone(), 0))?);
/// # let mut model = Sim::default().load(&LoadSpec::new("sim"))?;
/// // The application knows what it will be asked.
/// let plan = WarmupPlan::new(&router, [Workload::new(1, 8, 4)]);
/// println!("{plan}");
/// // Before the first request is routed:
/// assert_eq!(plan.run(&id, &mut model)?, plan.of(&id).map(|c| c.calls).sum::<u32>());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WarmupPlan(Vec<WarmupCall>);

/// A call of a plan that failed: the path is not warm.
#[derive(Debug, thiserror::Error)]
#[error("warming {} {} for batch {}, {} tokens at context {}", .call.backend, .call.phase, .call.shape.batch, .call.shape.new_tokens, .call.shape.context)]
#[non_exhaustive]
pub struct WarmupError<E: std::error::Error + 'static> {
    /// The call.
    pub call: WarmupCall,
    /// Why.
    #[source]
    pub source: E,
}

impl WarmupPlan {
    /// For the requests that will come. Those without sequences or prompt are left out.
    pub fn new(router: &Router, workloads: impl IntoIterator<Item = Workload>) -> Self {
        let mut calls: BTreeMap<(BackendId, Phase, Shape), WarmFor> = BTreeMap::new();
        for workload in workloads.into_iter().filter(|w| w.batch > 0 && w.prompt_tokens > 0) {
            let decision = router.decide(&workload);
            let fallback = decision.fallbacks().next().map(|id| (id, WarmFor::Fallback));
            for (backend, purpose) in std::iter::once((decision.route.backend, WarmFor::Route)).chain(fallback) {
                for (phase, shape) in shapes(workload) {
                    let known = calls.entry((backend.clone(), phase, shape)).or_insert(purpose);
                    *known = purpose.min(*known);
                }
            }
        }
        let call = |((backend, phase, shape), purpose)| WarmupCall { backend, phase, shape, calls: WARMUP_CALLS, purpose };
        Self(calls.into_iter().map(call).collect())
    }

    /// The calls that are due at `now_ns`: of those backends that count as cold, because they were never called or have been
    /// idle for longer than the time after which one of their calls here was measured to be slower, in the mode it runs in.
    #[must_use]
    pub fn due(&self, router: &Router, calls: &LastCalls, now_ns: u64) -> Self {
        let cooled = |backend: &BackendId, idle: u64| {
            self.of(backend).any(|call| {
                let Some((index, compiled)) = router.runs(backend, call.phase, call.shape) else { return false };
                router.idle_curves(index, call.phase, compiled).filter_map(|c| c.cools_after_ns).any(|cools| cools <= idle)
            })
        };
        let due = |call: &&WarmupCall| calls.idle_ns(&call.backend, now_ns).is_none_or(|idle| cooled(&call.backend, idle));
        Self(self.0.iter().filter(due).cloned().collect())
    }

    /// All calls: by backend, prefill before decode, small before large.
    pub fn calls(&self) -> &[WarmupCall] {
        &self.0
    }

    /// The calls of one backend, in the order in which they are run.
    pub fn of<'p>(&'p self, backend: &'p BackendId) -> impl Iterator<Item = &'p WarmupCall> {
        self.0.iter().filter(move |call| call.backend == *backend)
    }

    /// Runs the calls of `backend` on its loaded model, which may be a `BoxModel`, and gives their number. Wrapped in
    /// [`Measured`](phase_core::Measured), they leave their events as cold and warm-up calls. Caches are made and dropped.
    ///
    /// # Errors
    /// [`WarmupError`] with the first call that failed; those before it are done.
    pub fn run<M: Model>(&self, backend: &BackendId, model: &mut M) -> Result<u32, WarmupError<M::Error>> {
        let mut done = 0;
        for call in self.of(backend) {
            warm(call, model).map_err(|source| WarmupError { call: call.clone(), source })?;
            done += call.calls;
        }
        Ok(done)
    }
}

impl TieredRouter {
    /// A plan for each tier, by name: for the requests that are sent to it.
    pub fn warmup_plans(&self, workloads: impl IntoIterator<Item = Workload>) -> Vec<(&str, WarmupPlan)> {
        let mut by_tier: BTreeMap<&str, Vec<Workload>> = BTreeMap::new();
        for workload in workloads {
            by_tier.entry(self.decide(&workload).tier).or_default().push(workload);
        }
        self.routers().filter_map(|(name, router)| Some((name, WarmupPlan::new(router, by_tier.remove(name)?)))).collect()
    }
}

impl fmt::Display for WarmupPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing to warm");
        }
        for (i, WarmupCall { backend, phase, shape: Shape { batch, new_tokens, context }, calls, purpose }) in self.0.iter().enumerate() {
            let end = if i == 0 { "" } else { "\n" };
            let purpose = if *purpose == WarmFor::Route { "routed to" } else { "the fallback" };
            match phase {
                Phase::Decode => write!(f, "{end}{backend}: {calls} decode steps of batch {batch} at context {context} ({purpose})")?,
                _ => write!(f, "{end}{backend}: {calls} prefills of batch {batch} with {new_tokens} tokens ({purpose})")?,
            }
        }
        Ok(())
    }
}

/// The prefill, the first decode step, and one in each octave of context that the request grows into.
fn shapes(workload: Workload) -> Vec<(Phase, Shape)> {
    let Workload { batch, prompt_tokens, .. } = workload;
    let mut shapes = vec![(Phase::Prefill, Shape { batch, new_tokens: prompt_tokens, context: 0 })];
    let steps = workload.decode_steps();
    if steps > 0 {
        let last = prompt_tokens.saturating_add(steps - 1);
        let octaves = std::iter::successors(prompt_tokens.checked_next_power_of_two(), |c| c.checked_mul(2));
        let contexts = std::iter::once(prompt_tokens).chain(octaves.filter(|c| *c > prompt_tokens).take_while(|c| *c <= last));
        shapes.extend(contexts.map(|context| (Phase::Decode, Shape { batch, new_tokens: 1, context })));
    }
    shapes
}

fn warm<M: Model>(call: &WarmupCall, model: &mut M) -> Result<(), M::Error> {
    let Shape { batch, new_tokens, context } = call.shape;
    let vocab = u32::try_from(model.info().vocab).unwrap_or(u32::MAX).max(1);
    let prompt = if call.phase == Phase::Decode { context } else { new_tokens };
    let mut tokens = Vec::new();
    // Any tokens do; they are not all the same, because equal rows might be cheaper.
    tokens.extend((0..batch.saturating_mul(prompt)).map(|i| TokenId(u32::try_from(i * 7919 % vocab as usize).unwrap_or(0))));
    let mut cache = model.allocate(CacheSpec { batch, capacity: prompt.saturating_add(1) })?;
    let mut logits = Logits::new();
    if call.phase == Phase::Decode {
        model.prefill(&mut cache, PromptBatch::new(&tokens, batch)?, &mut logits)?;
        for _ in 0..call.calls {
            cache.truncate(context);
            model.decode(&mut cache, &tokens[..batch], &mut logits)?;
        }
    } else {
        for _ in 0..call.calls {
            cache.truncate(0);
            model.prefill(&mut cache, PromptBatch::new(&tokens, batch)?, &mut logits)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_warms_its_prompt_its_first_step_and_every_octave_it_grows_into() {
        let of = |prompt, new| shapes(Workload::new(2, prompt, new)).iter().map(|(p, s)| (*p, s.new_tokens, s.context)).collect::<Vec<_>>();
        assert_eq!(of(100, 1), [(Phase::Prefill, 100, 0)]);
        assert_eq!(of(100, 29), [(Phase::Prefill, 100, 0), (Phase::Decode, 1, 100)], "contexts 100 to 127");
        assert_eq!(of(100, 30), [(Phase::Prefill, 100, 0), (Phase::Decode, 1, 100), (Phase::Decode, 1, 128)]);
        assert_eq!(of(128, 200).iter().map(|s| s.2).collect::<Vec<_>>(), [0, 128, 256]);
        assert_eq!(of(usize::MAX, 3).len(), 2, "nothing overflows");
    }
}
