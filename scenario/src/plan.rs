//! What will be run, in which order: sets x backends, expanded into randomised blocks. The same inputs and seed give the
//! same plan.

use crate::{Effort, ParitySpec, ScenarioError, ScenarioSet, Workload, random::Random, rates::Rates};
use phase_core::{Arm, TokenId};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Schema of a plan.
pub const PLAN_SCHEMA: &str = "phase.plan/1";

/// Which calls are measured: the two have different boundaries and are never compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Calls {
    /// `prefill_greedy` and `decode_greedy`: the token is picked inside the call.
    Greedy,
    /// `prefill` and `decode`: the scores come back to the host.
    #[default]
    Scores,
}

/// Which models are in memory at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Residency {
    /// All of them, loaded once: calls of all backends are interleaved within a block.
    #[default]
    All,
    /// One at a time: within a block each backend is loaded, runs its workloads and is dropped. Needs the memory of one
    /// model, and every block is a fresh load, at the price of the loads.
    One,
}

/// What to plan. Made with [`PlanSpec::new`], changed by field.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PlanSpec {
    /// The sets.
    pub sets: Vec<ScenarioSet>,
    /// The paths that compete.
    pub backends: Vec<Arm>,
    /// The scale of the sets; `cpu` by default.
    pub scale: String,
    /// How much of each set.
    pub effort: Effort,
    /// Order and prompts follow from it.
    pub seed: u64,
    /// Whose scores are the reference of the agreement check; the first backend by default.
    pub reference: Option<Arm>,
    /// Which calls are measured.
    pub calls: Calls,
    /// Which models are in memory at once.
    pub residency: Residency,
    /// Replaces the number of blocks of every set.
    pub blocks: Option<u32>,
    /// Prompts are cut from these tokens; drawn at random when there are none.
    pub prompt: Vec<TokenId>,
}

impl PlanSpec {
    /// `sets` on `backends`, at full effort and the `cpu` scale.
    pub fn new(sets: Vec<ScenarioSet>, backends: impl IntoIterator<Item: Into<Arm>>) -> Self {
        Self {
            sets,
            backends: backends.into_iter().map(Into::into).collect(),
            scale: "cpu".to_owned(),
            effort: Effort::Full,
            seed: 1,
            reference: None,
            calls: Calls::Scores,
            residency: Residency::All,
            blocks: None,
            prompt: Vec::new(),
        }
    }
}

/// The plan of a run. Read-only: what was planned is what is stored, run and checked against.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Plan {
    /// [`PLAN_SCHEMA`].
    pub schema: String,
    /// Order and prompts follow from it.
    pub seed: u64,
    /// The scale of the sets.
    pub scale: String,
    /// How much of each set.
    pub effort: Effort,
    /// Which calls are measured.
    pub calls: Calls,
    /// Which models are in memory at once.
    pub residency: Residency,
    /// The paths, the reference of the agreement check first.
    pub backends: Vec<Arm>,
    /// How the agreement is checked.
    pub parity: ParitySpec,
    /// What is run.
    pub cells: Vec<PlannedCell>,
    /// In which order.
    pub blocks: Vec<Block>,
    /// The tokens prompts are cut from, when they are not random.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prompt: Vec<TokenId>,
}

/// A workload of a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PlannedCell {
    /// The set's id.
    pub scenario: String,
    /// What is run.
    pub workload: Workload,
}

impl PlannedCell {
    /// `s1/b1-p128-d64`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.scenario, self.workload.id)
    }
}

/// One replication of one set: every backend runs every workload once, in an order drawn for this block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Block {
    /// The set's id.
    pub scenario: String,
    /// Which replication of its set it is, from 0.
    pub repetition: u32,
    /// In the order they are run.
    pub tasks: Vec<Task>,
}

/// One workload on one backend: positions in [`Plan::cells`] and [`Plan::backends`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Task {
    /// Position in [`Plan::cells`].
    pub cell: usize,
    /// Position in [`Plan::backends`].
    pub backend: usize,
}

impl Plan {
    /// Expands `spec`.
    ///
    /// The sets' blocks alternate, so that a run that is stopped early has replications of every set.
    ///
    /// # Errors
    /// [`ScenarioError::Plan`] or [`ScenarioError::Set`]: nothing to run, a backend named twice, an unknown reference.
    ///
    /// ```
    /// use phase_core::BackendId;
    /// use phase_scenario::{Plan, PlanSpec, ScenarioSet};
    /// let spec = PlanSpec::new(vec![ScenarioSet::built_in("s2")?], [BackendId::new("a"), BackendId::new("b")]);
    /// let plan = Plan::new(&spec)?;
    /// assert_eq!(plan.blocks.len(), 10);
    /// assert_eq!(plan, Plan::new(&spec)?);
    /// # Ok::<(), phase_scenario::ScenarioError>(())
    /// ```
    pub fn new(spec: &PlanSpec) -> Result<Self, ScenarioError> {
        let backends = order_backends(spec)?;
        let mut cells = Vec::new();
        let mut queues = Vec::new();
        for set in &spec.sets {
            let size = set.size(&spec.scale, spec.effort)?;
            let first = cells.len();
            cells.extend(size.workloads.iter().map(|w| PlannedCell { scenario: set.id.clone(), workload: w.clone() }));
            queues.push((set.id.clone(), first..cells.len(), spec.blocks.unwrap_or(size.blocks)));
        }
        let mut ids: Vec<_> = spec.sets.iter().map(|set| set.id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.len() != spec.sets.len() || cells.is_empty() {
            return Err(ScenarioError::plan("no sets, or one of them twice"));
        }
        if queues.iter().any(|(_, _, blocks)| *blocks == 0) {
            return Err(ScenarioError::plan("0 blocks measure nothing"));
        }
        let rounds = queues.iter().map(|(_, _, blocks)| *blocks).max().unwrap_or(0);
        let mut random = Random::new(spec.seed, "order");
        let mut blocks = Vec::new();
        for repetition in 0..rounds {
            for (scenario, range, _) in queues.iter().filter(|(_, _, blocks)| repetition < *blocks) {
                let tasks = order_tasks(&mut random, range.clone(), backends.len(), spec.residency);
                blocks.push(Block { scenario: scenario.clone(), repetition, tasks });
            }
        }
        Ok(Self {
            schema: PLAN_SCHEMA.to_owned(),
            seed: spec.seed,
            scale: spec.scale.clone(),
            effort: spec.effort,
            calls: spec.calls,
            residency: spec.residency,
            backends,
            parity: parity(&spec.sets)?,
            cells,
            blocks,
            prompt: spec.prompt.clone(),
        })
    }

    /// The most rows any part of the plan puts into one cache.
    pub fn max_batch(&self) -> usize {
        self.cells.iter().map(|c| c.workload.batch).fold(self.parity.batch, usize::max)
    }

    /// The most positions any part of the plan puts into one cache.
    pub fn max_context(&self) -> usize {
        self.cells.iter().map(|c| c.workload.capacity()).fold(self.parity.prompt_tokens + self.parity.decode_steps, usize::max)
    }

    /// How long the plan will take at `rates`.
    pub fn estimate(&self, rates: &Rates) -> Duration {
        let tasks: f64 = self.blocks.iter().flat_map(|b| &b.tasks).map(|t| rates.seconds(&self.cells[t.cell].workload)).sum();
        #[expect(clippy::cast_precision_loss, reason = "a handful of loads")]
        let loads = match self.residency {
            Residency::All => self.backends.len(),
            Residency::One => self.backends.len() * (1 + self.blocks.len()),
        } as f64;
        let warmup: f64 = self.cells.iter().map(|c| rates.warmup_seconds(&c.workload)).sum();
        #[expect(clippy::cast_precision_loss, reason = "a handful of backends")]
        let backends = self.backends.len() as f64;
        Duration::from_secs_f64(tasks + loads * rates.load_seconds + warmup * backends)
    }
}

fn order_backends(spec: &PlanSpec) -> Result<Vec<Arm>, ScenarioError> {
    let mut backends = spec.backends.clone();
    if backends.is_empty() {
        return Err(ScenarioError::plan("no backend"));
    }
    let mut unique = backends.clone();
    unique.sort();
    unique.dedup();
    if unique.len() != backends.len() {
        return Err(ScenarioError::plan("a backend is named twice"));
    }
    if let Some(reference) = &spec.reference {
        let at = backends.iter().position(|b| b == reference);
        let at = at.ok_or_else(|| ScenarioError::plan(format!("the reference `{reference}` is not among the backends")))?;
        backends[..=at].rotate_right(1);
    }
    Ok(backends)
}

fn order_tasks(random: &mut Random, cells: std::ops::Range<usize>, backends: usize, residency: Residency) -> Vec<Task> {
    let mut tasks: Vec<_> = cells.flat_map(|cell| (0..backends).map(move |backend| Task { cell, backend })).collect();
    random.shuffle(&mut tasks);
    if residency == Residency::One {
        let mut order: Vec<_> = (0..backends).collect();
        random.shuffle(&mut order);
        tasks.sort_by_key(|t| order.iter().position(|b| *b == t.backend));
    }
    tasks
}

/// The agreement check is a gate for every run, so runs without S0 take S0's.
fn parity(sets: &[ScenarioSet]) -> Result<ParitySpec, ScenarioError> {
    match sets.iter().find_map(|set| set.parity.clone()) {
        Some(spec) => Ok(spec),
        None => ScenarioSet::built_in("s0")?.parity.ok_or_else(|| ScenarioError::plan("S0 has no parity check")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use phase_core::BackendId;
    use std::collections::BTreeSet;

    fn arm(id: &'static str) -> Arm {
        BackendId::new(id).into()
    }

    fn spec(sets: &[&str]) -> PlanSpec {
        let sets = sets.iter().map(|id| ScenarioSet::built_in(id).unwrap()).collect();
        PlanSpec::new(sets, ["a", "b", "c"].map(BackendId::new))
    }

    #[test]
    fn every_block_holds_every_backend_and_workload_of_its_set_once() {
        for residency in [Residency::All, Residency::One] {
            let plan = Plan::new(&PlanSpec { residency, ..spec(&["s0", "s1", "s3"]) }).unwrap();
            for block in &plan.blocks {
                let want: BTreeSet<_> = (0..plan.cells.len())
                    .filter(|c| plan.cells[*c].scenario == block.scenario)
                    .flat_map(|c| (0..3).map(move |b| (c, b)))
                    .collect();
                let have: BTreeSet<_> = block.tasks.iter().map(|t| (t.cell, t.backend)).collect();
                assert_eq!((have, block.tasks.len()), (want.clone(), want.len()));
            }
        }
    }

    #[test]
    fn orders_differ_between_blocks_and_seeds() {
        let plan = Plan::new(&spec(&["s1"])).unwrap();
        assert_ne!(plan.blocks[0].tasks, plan.blocks[1].tasks);
        let other = Plan::new(&PlanSpec { seed: 2, ..spec(&["s1"]) }).unwrap();
        assert_ne!(plan.blocks[0].tasks, other.blocks[0].tasks);
    }

    #[test]
    fn one_resident_model_means_one_stretch_per_backend() {
        let plan = Plan::new(&PlanSpec { residency: Residency::One, ..spec(&["s2"]) }).unwrap();
        for block in &plan.blocks {
            let changes = block.tasks.windows(2).filter(|w| w[0].backend != w[1].backend).count();
            assert_eq!(changes, 2);
        }
    }

    #[test]
    fn the_built_in_sets_fit_their_time() {
        let minutes = |sets: &[&str], effort| {
            let plan = Plan::new(&PlanSpec { effort, ..spec(sets) }).unwrap();
            plan.estimate(&Rates::default()).as_secs_f64() / 60.0
        };
        let full = minutes(&["s0", "s1", "s2", "s3"], Effort::Full);
        assert!((12.0..25.0).contains(&full), "full: {full} min");
        let short = minutes(&["s0", "s1", "s2"], Effort::Short);
        assert!((1.0..3.0).contains(&short), "short: {short} min");
    }

    #[test]
    fn a_plan_that_makes_no_sense_is_refused() {
        for (change, says) in [
            (PlanSpec { backends: vec![], ..spec(&["s1"]) }, "no backend"),
            (PlanSpec { backends: vec![arm("a"), arm("a")], ..spec(&["s1"]) }, "twice"),
            (PlanSpec { reference: Some(arm("z")), ..spec(&["s1"]) }, "`z`"),
            (PlanSpec { blocks: Some(0), ..spec(&["s1"]) }, "0 blocks"),
            (spec(&["s1", "s1"]), "twice"),
            (PlanSpec { scale: "npu".to_owned(), ..spec(&["s1"]) }, "npu"),
        ] {
            let error = Plan::new(&change).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn the_reference_comes_first_and_a_stored_plan_reads_back() {
        let plan = Plan::new(&PlanSpec { reference: Some(arm("c")), ..spec(&["s0"]) }).unwrap();
        assert_eq!(plan.backends.iter().map(ToString::to_string).collect::<Vec<_>>(), ["c", "a", "b"]);
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
    }
}
