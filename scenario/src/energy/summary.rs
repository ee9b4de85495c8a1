//! `energy.json`: what follows from the sittings.

use crate::{ScenarioError, files::json_text};
use phase_core::{Arm, Energy, NoData, Phase, Shape};
use phase_energy::{BaselineKind, SamplerCost};
use phase_policy::{CellKey, EnergyBasis};
use serde::{Deserialize, Serialize};

/// Schema of `energy.json`.
pub const ENERGY_SCHEMA: &str = "phase.energy/1";

/// What single calls are known to take, out of the first call of every replay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SingleShots {
    /// Calls looked at.
    pub calls: u32,
    /// Of them `measured`.
    pub measured: u32,
    /// Of them `interpolated`.
    pub interpolated: u32,
    /// The most frequent reason of the others.
    pub reason: Option<NoData>,
    /// The mean over them: `measured` where every one is, `interpolated` where every one has bounds, else `no_data`.
    pub energy: Energy,
}

/// The energy of one call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct EnergyCell {
    /// The cell of the matrix: `ort-cuda/eager/prefill/b1/n512/c0/steady`.
    pub cell: String,
    /// Who.
    pub backend: Arm,
    /// The phase.
    pub phase: Phase,
    /// The size of one call; in decode the context is the first of those replayed.
    pub shape: Shape,
    /// The energy of one call, by the reporting rule ([`phase_policy::reported_energy`]).
    pub energy: Energy,
    /// The mean over windows of replays.
    pub window: Energy,
    /// What single calls are known to take; `None` where none was made.
    pub single: Option<SingleShots>,
    /// Both verdicts and the sensors, as the policy keeps them; `None` without a sensor.
    pub basis: Option<EnergyBasis>,
    /// Joules a token: middle, lower and upper bound. In prefill a token of the prompt, in decode a token made.
    pub joules_per_token: Option<[f64; 3]>,
    /// Tokens a joule: middle, lower and upper bound.
    pub tokens_per_joule: Option<[f64; 3]>,
    /// Mean time of a call in the windows, seconds.
    pub call_s: Option<f64>,
    /// That over the median of the timed blocks, where no sampler ran: heat, clocks and the sampler.
    pub over_blocks: Option<f64>,
    /// Mean power over the windows by the sensor that counts over that by another one of the same device.
    pub cross_check: Option<f64>,
    /// The sitting it comes from.
    pub sitting: Option<u32>,
    /// What a reader should know.
    pub notes: Vec<String>,
    #[serde(skip)]
    pub(crate) key: Option<CellKey>,
}

/// The energy of one request of the plan: a prefill and the decode steps after it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct EnergyRequest {
    /// The planned cell: `s1/b1-p128-d64`.
    pub cell: String,
    /// Who.
    pub backend: Arm,
    /// New tokens, over all sequences.
    pub new_tokens: usize,
    /// Energy of the whole request: of all its sequences together.
    pub energy: Energy,
    /// Joules a new token: middle, lower and upper bound.
    pub joules_per_token: Option<[f64; 3]>,
    /// New tokens a joule: middle, lower and upper bound.
    pub tokens_per_joule: Option<[f64; 3]>,
}

/// Power at rest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ArmRest {
    /// The state of rest.
    pub rest: BaselineKind,
    /// The device.
    pub device: String,
    /// The sensor.
    pub field: String,
    /// The sitting.
    pub sitting: u32,
    /// Mean power, watts; `None` where it could not be taken.
    pub mean_w: Option<f64>,
    /// How far it may be off, watts: one standard error, or half of what two quiet times differ by.
    pub error_w: Option<f64>,
}

/// Everything that follows from the sittings of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct EnergySummary {
    /// Powers at rest.
    pub rests: Vec<ArmRest>,
    /// Energies of calls, in the order of backends and shapes.
    pub cells: Vec<EnergyCell>,
    /// Energies of requests.
    pub requests: Vec<EnergyRequest>,
    /// What the sampler took of a core in all sittings, where it had a thread of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampler: Option<SamplerCost>,
}

/// `energy.json`.
#[derive(Debug, Serialize)]
pub(crate) struct EnergyFile<'a> {
    pub(crate) schema: &'a str,
    pub(crate) run_id: &'a str,
    pub(crate) reason: Option<NoData>,
    #[serde(flatten)]
    pub(crate) summary: &'a EnergySummary,
}

/// `energy.json` as it is read back.
#[derive(Debug, Deserialize)]
pub(crate) struct StoredEnergy {
    #[serde(rename = "schema")]
    _schema: String,
    #[serde(rename = "run_id")]
    _run_id: String,
    #[serde(rename = "reason")]
    _reason: Option<NoData>,
    #[serde(flatten)]
    pub(crate) summary: EnergySummary,
}

impl EnergyFile<'_> {
    pub(crate) fn text(&self) -> Result<String, ScenarioError> {
        json_text(self)
    }
}

/// `energy` for each of `tokens`, and its inverse.
pub(super) fn per_token(energy: &Energy, tokens: usize) -> [Option<[f64; 3]>; 2] {
    let Some(j) = middle_and_bounds(energy).filter(|_| tokens > 0) else { return [None, None] };
    #[expect(clippy::cast_precision_loss, reason = "token counts are far below 2^52")]
    let each = j.map(|j| j / tokens as f64);
    let rate = (each[1] > 0.0).then(|| [1.0 / each[0], 1.0 / each[2], 1.0 / each[1]]);
    [Some(each), rate]
}

/// Middle, lower and upper bound.
pub fn middle_and_bounds(energy: &Energy) -> Option<[f64; 3]> {
    match energy {
        Energy::Measured { joules, low, high }
        | Energy::Interpolated { joules, low, high }
        | Energy::MacroWindow { joules, low, high, .. } => Some([joules.0, low.0, high.0]),
        _ => None,
    }
}
