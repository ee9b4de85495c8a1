//! A ledger as plain numbers: what an exporter reads, and what is due.

use super::WindowVerdict;
use crate::{Policy, matrix::RegimeClass};
use phase_core::{BackendId, Phase};
use serde::Serialize;
use std::collections::BTreeSet;

/// A part of a request that is predicted by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Part {
    /// The prefill call.
    Prefill,
    /// One decode step: the mean over the request's.
    DecodeStep,
    /// All phase calls of the request.
    Request,
}

impl Part {
    /// All of them, in the order of an entry list.
    pub const ALL: [Self; 3] = [Self::Prefill, Self::DecodeStep, Self::Request];

    /// The name used in metrics: `prefill`, `decode_step`, `request`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prefill => "prefill",
            Self::DecodeStep => "decode_step",
            Self::Request => "request",
        }
    }

    /// Whether its predictions come from cells of `phase`.
    fn rests_on(self, phase: Phase) -> bool {
        match self {
            Self::Prefill => phase == Phase::Prefill,
            Self::DecodeStep => phase == Phase::Decode,
            Self::Request => phase != Phase::Request,
        }
    }
}

/// A [`Ledger`](super::Ledger) at one moment. All counts only grow, until a reset.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(clippy::exhaustive_structs, reason = "plain numbers for exporters, which build them in their tests")]
pub struct LedgerSnapshot {
    /// The policy's digest.
    pub policy_digest: String,
    /// By backend and part; those without a request are left out.
    pub entries: Vec<LedgerEntry>,
    /// What other routes would have taken.
    pub regret: Regret,
    /// Requests without a prediction.
    pub unpredicted: u64,
    /// Requests of another policy, or without times.
    pub unusable: u64,
}

/// One part of the requests of one backend.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(clippy::exhaustive_structs, reason = "as the snapshot")]
pub struct LedgerEntry {
    /// The backend.
    pub backend: BackendId,
    /// Which part.
    pub part: Part,
    /// Requests.
    pub requests: u64,
    /// Sum of the predictions, in seconds.
    pub predicted_seconds: f64,
    /// Sum of what it took, in seconds.
    pub actual_seconds: f64,
    /// Requests whose prediction had an interval.
    pub with_interval: u64,
    /// Those that lay inside. An interval is where the median lies, so single requests may well lie outside; windows judge.
    pub inside_interval: u64,
    /// Requests whose prediction had a bound of p95.
    pub with_p95: u64,
    /// Those that lay at or below it: 95% or more, if it holds.
    pub below_p95: u64,
    /// Full windows.
    pub windows: u64,
    /// Those that were bad.
    pub bad_windows: u64,
    /// The last ones that were bad, in a row.
    pub bad_in_a_row: u32,
    /// The last full window.
    pub last_window: Option<WindowReport>,
    /// Whether a measurement is due.
    pub remeasure: bool,
}

/// One full window.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[expect(clippy::exhaustive_structs, reason = "as the snapshot")]
pub struct WindowReport {
    /// What it says.
    pub verdict: WindowVerdict,
    /// Median of actual over predicted.
    pub ratio: f64,
    /// Where that median lies, to the width of a bin.
    pub low: f64,
    /// The upper end.
    pub high: f64,
    /// How surely.
    pub confidence: f64,
}

/// What the best other route was predicted to take, against what the chosen one took. It compares a fact with a
/// prediction: the other route was not run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[expect(clippy::exhaustive_structs, reason = "as the snapshot")]
pub struct Regret {
    /// Requests with another route that is predicted.
    pub requests: u64,
    /// Those that took longer than the other route was predicted to.
    pub worse: u64,
    /// By how much they did, in seconds: the regret.
    pub regret_seconds: f64,
    /// By how much the others were faster, in seconds.
    pub saved_seconds: f64,
}

impl Regret {
    #[inline]
    pub(super) fn note(&mut self, actual_ns: f64, other_ns: f64) {
        let more = (actual_ns - other_ns) / 1e9;
        self.requests += 1;
        self.worse += u64::from(more > 0.0);
        self.regret_seconds += more.max(0.0);
        self.saved_seconds += (-more).max(0.0);
    }
}

/// A measurement that is due, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Remeasure {
    /// The backend.
    pub backend: BackendId,
    /// Which part of its requests.
    pub part: Part,
    /// Median of actual over predicted in the last window.
    pub ratio: f64,
    /// Bad windows in a row.
    pub windows: u32,
    /// The cells that its predictions rest on, and the default-safe backend's in the same buckets: comparisons are paired.
    pub cells: Vec<String>,
}

impl LedgerSnapshot {
    /// Adds what another worker saw under the same policy. Windows stay each worker's own: a measurement is due when one of
    /// them says so, and the last window is that of the worker with more bad ones in a row.
    ///
    /// # Errors
    /// [`LedgerMismatch`] when the policies differ; nothing is added then.
    pub fn merge(&mut self, other: &Self) -> Result<(), LedgerMismatch> {
        if self.policy_digest != other.policy_digest {
            return Err(LedgerMismatch { ours: self.policy_digest.clone(), theirs: other.policy_digest.clone() });
        }
        for theirs in &other.entries {
            match self.entries.iter_mut().find(|e| e.backend == theirs.backend && e.part == theirs.part) {
                Some(ours) => ours.add(theirs),
                None => self.entries.push(theirs.clone()),
            }
        }
        self.regret.requests += other.regret.requests;
        self.regret.worse += other.regret.worse;
        self.regret.regret_seconds += other.regret.regret_seconds;
        self.regret.saved_seconds += other.regret.saved_seconds;
        self.unpredicted += other.unpredicted;
        self.unusable += other.unusable;
        Ok(())
    }

    /// What is due to be measured again.
    pub fn remeasure(&self, policy: &Policy) -> Vec<Remeasure> {
        let due = self.entries.iter().filter(|e| e.remeasure);
        due.filter_map(|entry| {
            let keys = || policy.phase_cells().map(|c| &c.key).filter(|k| k.regime == RegimeClass::Steady && entry.part.rests_on(k.phase));
            let buckets: BTreeSet<_> = keys().filter(|k| k.backend == entry.backend).map(|k| (k.phase, k.shape)).collect();
            let paired = [&entry.backend, policy.default_safe()];
            let cells = keys().filter(|k| paired.contains(&&k.backend) && buckets.contains(&(k.phase, k.shape)));
            Some(Remeasure {
                backend: entry.backend.clone(),
                part: entry.part,
                ratio: entry.last_window?.ratio,
                windows: entry.bad_in_a_row,
                cells: cells.map(crate::CellKey::id).collect(),
            })
        })
        .collect()
    }
}

impl LedgerEntry {
    fn add(&mut self, other: &Self) {
        let Self {
            backend: _,
            part: _,
            requests,
            predicted_seconds,
            actual_seconds,
            with_interval,
            inside_interval,
            with_p95,
            below_p95,
            windows,
            bad_windows,
            bad_in_a_row,
            last_window,
            remeasure,
        } = other;
        self.requests += requests;
        self.predicted_seconds += predicted_seconds;
        self.actual_seconds += actual_seconds;
        self.with_interval += with_interval;
        self.inside_interval += inside_interval;
        self.with_p95 += with_p95;
        self.below_p95 += below_p95;
        self.windows += windows;
        self.bad_windows += bad_windows;
        if self.last_window.is_none() || *bad_in_a_row > self.bad_in_a_row {
            self.last_window = *last_window;
        }
        self.bad_in_a_row = self.bad_in_a_row.max(*bad_in_a_row);
        self.remeasure |= remeasure;
    }
}

/// Two ledgers of different policies.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a ledger of policy {theirs} can't be added to one of {ours}")]
#[non_exhaustive]
pub struct LedgerMismatch {
    /// The policy of the one.
    pub ours: String,
    /// The policy of the other.
    pub theirs: String,
}
