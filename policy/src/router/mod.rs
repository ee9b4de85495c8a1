//! Answers per request from a compiled policy: no lock, no allocation, no lookup by name.

mod arm;
mod decide;
mod decision;
mod estimate;
mod expectation;
mod explain;
mod lengths;
mod objective;
mod place;
mod request;
mod rest;
mod scale;
mod shared;
mod tables;
mod tiers;

pub use decision::{Choice, Decision, Fallbacks, Limits, Prediction, WarmupAdvice};
pub use estimate::{Basis, Estimate, Unpredicted};
pub use expectation::{Expectation, Expected};
pub use explain::Explanation;
pub(crate) use explain::Nanos;
pub use objective::{Objective, ObjectiveError};
pub use rest::{LastCalls, Rest};
pub use shared::{Present, SharedRouter};
pub use tiers::{ModelTier, TierDecision, TierError, TierReason, TieredRouter};

use crate::{IdleCurve, LiveSensor, Policy, Slo, Validity, rules::Liveness, sensors, validity::BackendValidity};
use phase_core::{BackendId, Energy, MeasurementBoundary, NoData, Phase, Shape};
use serde::{Deserialize, Serialize};
use tables::Tables;

/// What a request asks for.
///
/// ```
/// let chat = phase_policy::Workload::new(1, 256, 128);
/// assert_eq!(chat.decode_steps(), 127, "the first token comes out of prefill");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Workload {
    /// Sequences.
    pub batch: usize,
    /// Prompt tokens of each.
    pub prompt_tokens: usize,
    /// Tokens to generate for each.
    pub new_tokens: usize,
}

impl Workload {
    /// A request of `batch` sequences.
    pub const fn new(batch: usize, prompt_tokens: usize, new_tokens: usize) -> Self {
        Self { batch, prompt_tokens, new_tokens }
    }

    /// Decode calls it takes: `new_tokens - 1`, because prefill gives the scores of the first token.
    pub const fn decode_steps(self) -> usize {
        self.new_tokens.saturating_sub(1)
    }
}

/// A policy made ready for requests.
#[derive(Clone, Debug)]
pub struct Router {
    policy: Policy,
    tables: Tables,
    validity: Option<Validity>,
    slo: Slo,
    cold_slo: Slo,
    /// The policy's digest, the first 64 bits of it.
    id: u64,
    /// Why the energy of a cell does not hold any more, by its place; empty where nobody looked.
    energy_voids: Vec<Option<NoData>>,
}

impl Router {
    /// Trusts that the process runs every backend under the policy's boundaries; see [`with_live`](Self::with_live).
    pub fn new(policy: Policy) -> Self {
        let id = policy.digest().get(..16).and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or_default();
        Self {
            tables: Tables::new(&policy),
            policy,
            validity: None,
            slo: Slo::default(),
            cold_slo: Slo::default(),
            id,
            energy_voids: Vec::new(),
        }
    }

    /// Holds the policy against the boundaries of the running process. A backend whose boundary changed is not routed
    /// to and its numbers are not used; where it would have won, or where the default-safe backend itself changed, the
    /// answer is default-safe. Backends that are not listed don't run here and are no candidates.
    #[must_use]
    pub fn with_live(mut self, live: &[(BackendId, MeasurementBoundary)]) -> Self {
        let validity = self.policy.validity(live);
        let liveness = |backend| match validity.of_backend(backend) {
            Some(BackendValidity::Valid) => Liveness::Live,
            Some(BackendValidity::Changed(_)) => Liveness::Changed,
            Some(BackendValidity::NotLive) | None => Liveness::NotLive,
        };
        let liveness = self.tables.backends.iter().map(liveness).collect();
        self.tables = self.tables.with_liveness(liveness, self.policy.constants());
        self.validity = Some(validity);
        self
    }

    /// Holds the policy's energies against the sensors that can be read now: where one is gone, has another driver, or was
    /// calibrated too long before `now_unix_s`, its energies are `no_data` and enter no decision. Times stay.
    #[must_use]
    pub fn with_sensors(mut self, live: &[LiveSensor], now_unix_s: u64) -> Self {
        self.energy_voids = self.policy.cells().iter().map(|cell| sensors::void(cell, live, now_unix_s)).collect();
        let voids = &self.energy_voids;
        self.tables = self.tables.with_energies(|cell| voids[cell].is_none(), self.policy.constants());
        self
    }

    /// Limits that a route must keep by upper bounds. Where the backend that would be chosen is not known to keep them, one
    /// that is known to takes the request; where there is none, the choice stays and [`Decision::limits`] says so.
    #[must_use]
    pub fn with_slo(mut self, slo: Slo) -> Self {
        self.slo = slo;
        self
    }

    /// Limits on requests whose calls are the first ones on their path, which move no route: [`Decision::cold_limits`] says
    /// whether they are kept, and [`warm_pool`](Self::warm_pool) what follows from it.
    #[must_use]
    pub fn with_cold_slo(mut self, slo: Slo) -> Self {
        self.cold_slo = slo;
        self
    }

    /// What counts: time, unless this says otherwise.
    ///
    /// # Errors
    /// A price that is missing, or not positive.
    pub fn with_objective(mut self, objective: &Objective) -> Result<Self, ObjectiveError> {
        let scale = objective.scale(&self)?;
        self.tables = self.tables.with_scale(scale, self.policy.constants());
        Ok(self)
    }

    /// Every backend of the policy, the default-safe one first: the order in which decisions number them.
    pub(crate) fn backends(&self) -> impl Iterator<Item = &BackendId> {
        self.tables.backends.iter()
    }

    /// What idling does to calls of `phase` on one backend, compiled or not: what was measured of the one says nothing of the
    /// other.
    pub(crate) fn idle_curves(&self, backend: usize, phase: Phase, compiled: bool) -> impl Iterator<Item = &IdleCurve> {
        let curves = self.tables.idle(backend, compiled).iter().map(|place| &self.policy.idle_curves()[*place]);
        curves.filter(move |curve| curve.phase == phase)
    }

    /// The number of a backend, and whether it would take a call of `phase` at `shape` compiled.
    pub(crate) fn runs(&self, backend: &BackendId, phase: Phase, shape: Shape) -> Option<(usize, bool)> {
        let index = self.tables.backends.iter().position(|id| id == backend)?;
        Some((index, decide::found(&decide::call(self, phase, shape)).is_some_and(|place| place.is_compiled(index))))
    }

    pub(crate) const fn short_digest(&self) -> u64 {
        self.id
    }

    /// The limits.
    pub fn slo(&self) -> &Slo {
        &self.slo
    }

    /// The limits on cold requests.
    pub fn cold_slo(&self) -> &Slo {
        &self.cold_slo
    }

    /// What it decides by.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// How the running process compares with the policy; `None` before [`with_live`](Self::with_live).
    pub fn validity(&self) -> Option<&Validity> {
        self.validity.as_ref()
    }

    /// Which backend takes the request, and what is known about it. Neither locks nor allocates.
    pub fn decide(&self, workload: &Workload) -> Decision<'_> {
        decide::decide(self, *workload, None)
    }

    /// As [`decide`](Self::decide), for a route that `incumbent` has: it keeps it unless something is better by more than
    /// the policy's hysteresis. An incumbent that does not run, or does not keep the limits, keeps nothing.
    pub fn decide_keeping(&self, workload: &Workload, incumbent: &BackendId) -> Decision<'_> {
        decide::decide(self, *workload, Some(incumbent))
    }

    /// As [`decide`](Self::decide), with the time since each backend's last call: [`Decision::rest`] says whether the routed
    /// one counts as cold, by measured idle curves and cold calls, and a winner whose first calls would take more than it gains
    /// leaves the request to the default-safe backend. Neither locks nor allocates.
    pub fn decide_after(&self, workload: &Workload, calls: &LastCalls, now_ns: u64) -> Decision<'_> {
        decide::decide_with(self, *workload, None, Some((calls, now_ns)))
    }

    /// What `workload` takes on `backend`, whoever is routed to.
    ///
    /// # Errors
    /// An unknown backend, one whose boundary changed, or a request outside of what was measured on it.
    pub fn predict(&self, backend: &BackendId, workload: &Workload) -> Result<Prediction, Unpredicted> {
        decide::predict(self, backend, *workload)
    }

    /// Energy of `workload` on `backend`, from cells measured at its very prompt length and in its context bucket. Never
    /// interpolated.
    pub fn energy(&self, backend: &BackendId, workload: &Workload) -> Energy {
        decide::energy(self, backend, *workload)
    }

    /// Which backend is best at one call of `phase`. A request is decided as a whole: `shape.context` is its prompt.
    pub fn decide_phase(&self, phase: Phase, shape: Shape) -> Choice<'_> {
        decide::decide_phase(self, phase, shape)
    }
}
