//! Scenario sets, the matrix runner, and the run directories it leaves behind.
//!
//! | step | takes | gives |
//! |---|---|---|
//! | [`ScenarioSet`] | a TOML file, or one of S0 to S3 | workloads by scale and effort |
//! | [`Plan::new`] | sets x backends, a seed | randomised blocks: the order of everything |
//! | [`Runner`] | a [`Registry`](phase_core::Registry), a plan, a clock | a run directory |
//! | [`validate`], [`Run::open`] | a run directory | proof that every cell follows from the raw events |
//! | [`SealedRun`] | a run directory | cells, evidence and a stream of events, as sealed, for reports |
//!
//! The sets' names come from the source document, which never defines them; the definitions are ours: **S0** smoke and
//! agreement of the backends, **S1** interactive and decode-heavy, **S2** batched prefill, **S3** mixed: long contexts,
//! batched decode, cold starts in fresh processes.
//!
//! # What a run guarantees
//! - **One clock, one place.** Every phase call is timed by [`phase_core::Measured`]; prompts, tokens, caches, files and
//!   progress are outside of the timed regions.
//! - **Same work for all.** Within a block every backend gets the same tokens, decode steps included, in an order drawn
//!   for that block.
//! - **Regimes apart.** Warm-up calls are recorded as such; cold starts are fresh processes; neither enters a steady cell.
//! - **Agreement first.** Every backend's scores are compared with the reference's before anything is timed; one that
//!   differs keeps its rows and loses its place in [`Run::policy_matrix`].
//! - **Whole blocks.** A killed run goes on after its last whole block, under the same boundary, or says which field
//!   changed.
//! - **Energy apart.** With [`Runner::with_energy`], every steady cell's call is replayed after the last block, in windows that
//!   the sensor model asks for; blocks are timed without a sampler, and replays enter no time.
//! - **Recomputable.** `cells.json`, `cells.csv` and `loads.json` follow from `events.jsonl`, and [`validate`] checks that
//!   they do.
//!
//! # A run directory
//! | file | what | schema |
//! |---|---|---|
//! | `manifest.json` | plan, boundaries before and after, models, energy sources | [`RUN_SCHEMA`] |
//! | `events.jsonl` | one phase call, load or failure a line | [`EVENT_SCHEMA`] |
//! | `blocks.jsonl` | one whole block a line, with the length and digest of the events so far | [`BLOCK_SCHEMA`] |
//! | `cells.json`, `cells.csv` | the scenario matrix | [`CELLS_SCHEMA`] |
//! | `loads.json` | load times | [`LOADS_SCHEMA`] |
//! | `parity.json` | the agreement check | [`PARITY_SCHEMA`] |
//! | `energy/<n>.json`, `energy/<n>-<sensor>.jsonl` | a sitting: what was replayed when, and what each sensor said | [`ENERGY_SITTING_SCHEMA`] |
//! | `energy.json` | energy of calls and requests, powers at rest | [`ENERGY_SCHEMA`] |
//! | `ceilings/<n>.json` | what a device can do at most, measured before the first load or beside the blocks | [`CEILINGS_SCHEMA`] |
//! | `evidence/<backend>.json` | what the runtime was seen doing | [`EVIDENCE_SCHEMA`] |
//! | `evidence/<backend>/*` | the runtime's own records | their writers' |
//! | `digests.json` | the seal, written last: size and BLAKE3 of every other file | [`DIGESTS_SCHEMA`] |
//!
//! # What it does not do
//! It knows no backend, opens no checkpoint, reads no calendar, no environment and no driver, and prints nothing.
//! Blocks of one run share a process unless [`Residency::One`] loads afresh in each: variation between processes shows
//! only there, in cold starts, and between runs.

mod ceilings;
mod clock;
mod cold;
mod dir;
mod energy;
mod error;
mod evidence;
mod files;
mod idle;
mod manifest;
mod open;
mod other_load;
mod parity;
mod plan;
mod progress;
mod random;
mod rates;
mod reading;
mod record;
mod results;
mod run;
mod runs;
mod sealed;
mod set;
mod stable;
mod task;

pub use ceilings::{CEILINGS_SCHEMA, CeilingFailure, CeilingKind, CeilingLoad, CeilingMeter, CeilingRate, Ceilings};
pub use clock::rfc3339;
pub use cold::{ColdCall, ColdError, ColdLauncher, ColdReport, ColdRequest, CommandLauncher, StoredLoad, cold_start};
pub use dir::{DIGESTS_SCHEMA, RunState, run_state};
pub use energy::{
    ArmRest, DeviceState, ENERGY_SCHEMA, ENERGY_SITTING_SCHEMA, EnergyCell, EnergyOptions, EnergyPlan, EnergyRequest, EnergySensorEntry,
    EnergySetup, EnergySitting, EnergySummary, LeftOut, Meter, MeterError, PlannedReplays, ReplayedWindow, Rest, SampledMeter, SingleShots,
    SittingCall, SittingFailure, SittingKind, best_sensors, match_calibrations, middle_and_bounds,
};
pub use error::ScenarioError;
pub use evidence::{ArtefactFile, EVIDENCE_SCHEMA, EvidenceFile};
pub use idle::{IDLE_SCHEMA, IdleFile, IdlePlan, IdleReport, measure_idle};
pub use manifest::{BackendEntry, Change, Manifest, ModelEntry, RUN_SCHEMA, Segment};
pub use open::{Run, Validated, validate, validate_with};
pub use other_load::{CpuTicks, LoadProbe, NoLoad, OTHER_LOAD_LIMIT, ProcLoad};
pub use parity::{PARITY_SCHEMA, Parity, ParityCheck, ParityVerdict};
pub use plan::{Block, Calls, PLAN_SCHEMA, Plan, PlanSpec, PlannedCell, Residency, Task};
pub use progress::{Observer, Progress};
pub use rates::Rates;
pub use record::{BLOCK_SCHEMA, BlockRecord, EVENT_SCHEMA, FailureRecord, LoadProcess, LoadRecord, PhaseRecord, Record, Role, Stage};
pub use results::{CELLS_SCHEMA, LOADS_SCHEMA, LoadSummary, arm_of};
pub use run::{Finish, Runner};
pub use runs::{Runs, load_runs, load_runs_with, write_atomically};
pub use sealed::{Call, Event, SealedFile, SealedRun};
pub use set::{BenchCells, Effort, ParitySpec, SET_SCHEMA, ScenarioSet, Size, Workload, WorkloadKind};

#[cfg(test)]
mod tests;
