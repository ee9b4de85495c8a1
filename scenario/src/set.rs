//! Scenario sets as data: what is run, at which size, how often.
//!
//! The source document names the sets S0 to S3 and defines none of them. The definitions in `sets/` are ours: S0 smoke
//! and agreement, S1 interactive and decode-heavy, S2 batched prefill, S3 mixed with long contexts and cold starts.

use crate::ScenarioError;
use phase_core::DType;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// Schema of a scenario file.
pub const SET_SCHEMA: &str = "phase.scenarios/1";

const BUILT_IN: [(&str, &str); 4] = [
    ("s0", include_str!("../sets/s0.toml")),
    ("s1", include_str!("../sets/s1.toml")),
    ("s2", include_str!("../sets/s2.toml")),
    ("s3", include_str!("../sets/s3.toml")),
];

/// One scenario set, at every scale it is defined for.
///
/// ```
/// use phase_scenario::{Effort, ScenarioSet};
/// let set = ScenarioSet::built_in("s1")?;
/// assert!(set.size("cpu", Effort::Full)?.workloads.iter().all(|w| w.batch == 1 && w.new_tokens() >= 64));
/// # Ok::<(), phase_scenario::ScenarioError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ScenarioSet {
    /// [`SET_SCHEMA`].
    pub schema: String,
    /// Short name: `s1`.
    pub id: String,
    /// One line for people.
    pub title: String,
    /// How the backends' agreement is checked; S0 has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parity: Option<ParitySpec>,
    /// Sizes by scale (`cpu`, `gpu`; others may be added without a new schema).
    pub scale: BTreeMap<String, BTreeMap<Effort, Size>>,
}

/// How much of a set is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Effort {
    /// Every workload, with blocks enough for narrow intervals.
    #[default]
    Full,
    /// Fewer workloads and the fewest blocks that still give an interval: for a demonstration.
    Short,
}

impl Effort {
    /// The name used in files: `full`, `short`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Short => "short",
        }
    }
}

impl fmt::Display for Effort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Effort {
    type Err = ScenarioError;

    fn from_str(s: &str) -> Result<Self, ScenarioError> {
        match s {
            "full" => Ok(Self::Full),
            "short" => Ok(Self::Short),
            _ => Err(ScenarioError::plan(format!("unknown effort `{s}`: one of full, short"))),
        }
    }
}

/// The workloads of one scale and effort, and how often they are repeated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Size {
    /// Replication blocks: in each, every backend runs every workload.
    pub blocks: u32,
    /// What is run.
    pub workloads: Vec<Workload>,
}

/// What a workload measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WorkloadKind {
    /// Load, first prefill and first decode steps in a process of its own.
    Cold,
    /// Prefill and decode on a warm, loaded model.
    Steady,
}

/// One request shape: a prefill of `batch` rows and the decode steps after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Workload {
    /// Name within its set.
    pub id: String,
    /// What it measures.
    pub kind: WorkloadKind,
    /// Sequences.
    pub batch: usize,
    /// Prompt tokens per sequence.
    pub prompt_tokens: usize,
    /// Decode steps after the prefill; the prefill itself gives the first new token.
    #[serde(default)]
    pub decode_steps: usize,
    /// Samples in each block.
    #[serde(default = "one")]
    pub samples: u32,
    /// Unsampled, recorded calls before a backend's first sample.
    #[serde(default = "two")]
    pub warmup: u32,
}

const fn one() -> u32 {
    1
}

const fn two() -> u32 {
    2
}

impl Workload {
    /// A steady workload, with one sample a block and two warm-up calls.
    pub fn steady(batch: usize, prompt_tokens: usize, decode_steps: usize) -> Self {
        let mut id = format!("b{batch}-p{prompt_tokens}");
        if decode_steps > 0 {
            id = format!("{id}-d{decode_steps}");
        }
        Self { id, kind: WorkloadKind::Steady, batch, prompt_tokens, decode_steps, samples: one(), warmup: two() }
    }

    /// New tokens per sequence: one from the prefill, one from every decode step.
    pub fn new_tokens(&self) -> usize {
        self.decode_steps + 1
    }

    /// Cache positions per sequence it needs.
    pub fn capacity(&self) -> usize {
        self.prompt_tokens + self.decode_steps
    }
}

/// How the agreement of the backends is checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ParitySpec {
    /// Prompt tokens per sequence.
    pub prompt_tokens: usize,
    /// Sequences, each of other tokens.
    pub batch: usize,
    /// Decode steps compared after the prefill, all backends fed with the reference's tokens.
    pub decode_steps: usize,
    /// Largest absolute difference of a score, by the dtype of the weights.
    pub tolerance: BTreeMap<DType, f64>,
}

impl ScenarioSet {
    /// Ids of the sets that come with this crate.
    pub fn built_in_ids() -> impl Iterator<Item = &'static str> {
        BUILT_IN.into_iter().map(|(id, _)| id)
    }

    /// One of the sets that come with this crate.
    ///
    /// # Errors
    /// [`ScenarioError::Set`] for an unknown id, naming the known ones.
    pub fn built_in(id: &str) -> Result<Self, ScenarioError> {
        let wanted = id.to_ascii_lowercase();
        let Some((_, text)) = BUILT_IN.into_iter().find(|(known, _)| *known == wanted) else {
            let known: Vec<_> = Self::built_in_ids().collect();
            return Err(ScenarioError::Set { set: id.to_owned(), why: format!("unknown: one of {}", known.join(", ")) });
        };
        Self::parse(text)
    }

    /// Reads a scenario file.
    ///
    /// # Errors
    /// [`ScenarioError::Set`] or [`ScenarioError::Schema`].
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let set: Self = toml::from_str(text).map_err(|e| ScenarioError::Set { set: "file".to_owned(), why: e.to_string() })?;
        if set.schema != SET_SCHEMA {
            return Err(ScenarioError::Schema { file: format!("scenario set {}", set.id), found: set.schema, wanted: SET_SCHEMA });
        }
        set.check()?;
        Ok(set)
    }

    /// Cells in the manner of `llama-bench`: a prefill cell for each batch and prompt length, a decode cell for each
    /// batch and number of new tokens, after each depth of cached tokens; each repeated `repetitions` times.
    ///
    /// # Errors
    /// [`ScenarioError::Set`] when a list makes no cell or a size is zero.
    pub fn bench(cells: &BenchCells) -> Result<Self, ScenarioError> {
        let BenchCells { prompt_tokens, decode_steps, batches, depths, repetitions } = cells;
        let mut workloads = Vec::new();
        for batch in batches {
            workloads.extend(prompt_tokens.iter().filter(|p| **p > 0).map(|p| Workload::steady(*batch, *p, 0)));
            for depth in depths {
                workloads.extend(decode_steps.iter().filter(|n| **n > 0).map(|n| Workload::steady(*batch, (*depth).max(1), *n)));
            }
        }
        let size = Size { blocks: *repetitions, workloads };
        let efforts = BTreeMap::from([(Effort::Full, size.clone()), (Effort::Short, size)]);
        let set = Self {
            schema: SET_SCHEMA.to_owned(),
            id: "bench".to_owned(),
            title: "Cells given on the command line".to_owned(),
            parity: None,
            scale: ["cpu", "gpu"].map(|scale| (scale.to_owned(), efforts.clone())).into(),
        };
        set.check()?;
        Ok(set)
    }

    /// The workloads at a scale and effort.
    ///
    /// # Errors
    /// [`ScenarioError::Set`] when the set has no such scale.
    pub fn size(&self, scale: &str, effort: Effort) -> Result<&Size, ScenarioError> {
        self.scale.get(scale).and_then(|efforts| efforts.get(&effort)).ok_or_else(|| {
            let known: Vec<_> = self.scale.keys().map(String::as_str).collect();
            self.wrong(format!("no scale `{scale}` with effort `{effort}`: scales are {}", known.join(", ")))
        })
    }

    fn check(&self) -> Result<(), ScenarioError> {
        for (scale, efforts) in &self.scale {
            for (effort, size) in efforts {
                size.check().map_err(|why| self.wrong(format!("{scale}, {effort}: {why}")))?;
            }
        }
        match &self.parity {
            Some(p) if p.prompt_tokens == 0 || p.batch == 0 => Err(self.wrong("parity needs a prompt and a row".to_owned())),
            _ => Ok(()),
        }
    }

    fn wrong(&self, why: String) -> ScenarioError {
        ScenarioError::Set { set: self.id.clone(), why }
    }
}

impl Size {
    fn check(&self) -> Result<(), String> {
        if self.blocks == 0 || self.workloads.is_empty() {
            return Err("no blocks or no workloads".to_owned());
        }
        let mut seen = std::collections::BTreeSet::new();
        for w in &self.workloads {
            if w.batch == 0 || w.prompt_tokens == 0 || w.samples == 0 {
                return Err(format!("workload `{}`: batch, prompt_tokens and samples must be 1 or more", w.id));
            }
            if !seen.insert(&w.id) {
                return Err(format!("workload `{}` is there twice", w.id));
            }
        }
        Ok(())
    }
}

/// Cells asked for one by one: see [`ScenarioSet::bench`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "plain arguments, all of them needed")]
pub struct BenchCells {
    /// Prompt lengths of the prefill cells.
    pub prompt_tokens: Vec<usize>,
    /// Steps of the decode cells.
    pub decode_steps: Vec<usize>,
    /// Sequences, for both.
    pub batches: Vec<usize>,
    /// Cached tokens before the decode steps; 0 counts as 1, because a cache is filled by a prefill.
    pub depths: Vec<usize>,
    /// Samples of each cell, each in a block of its own.
    pub repetitions: u32,
}

impl Default for BenchCells {
    fn default() -> Self {
        Self { prompt_tokens: vec![512], decode_steps: vec![128], batches: vec![1], depths: vec![1], repetitions: 5 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_sets_are_what_they_say() {
        for id in ScenarioSet::built_in_ids() {
            let set = ScenarioSet::built_in(id).unwrap();
            assert_eq!(set.id, id);
            for (scale, effort) in [("cpu", Effort::Full), ("cpu", Effort::Short), ("gpu", Effort::Full), ("gpu", Effort::Short)] {
                assert!(set.size(scale, effort).is_ok());
            }
        }
        let full = |id: &str| ScenarioSet::built_in(id).unwrap().size("cpu", Effort::Full).unwrap().clone();
        assert!(full("s2").workloads.iter().all(|w| w.new_tokens() == 1));
        assert!(full("s2").workloads.iter().any(|w| w.batch == 8));
        assert!(full("s3").workloads.iter().any(|w| w.kind == WorkloadKind::Cold));
        assert!(ScenarioSet::built_in("s0").unwrap().parity.is_some());
    }

    #[test]
    fn a_full_s1_makes_the_steps_that_compiled_decode_is_judged_by() {
        let full = ScenarioSet::built_in("s1").unwrap().size("gpu", Effort::Full).unwrap().clone();
        let needed = phase_policy::stats::needed_for_quantile(0.99).unwrap();
        for w in &full.workloads {
            let octave = |context: usize| context.ilog2();
            assert_eq!(octave(w.prompt_tokens), octave(w.prompt_tokens + w.decode_steps - 1), "{}: its steps fall into two cells", w.id);
            assert!(u64::from(full.blocks) * w.decode_steps as u64 >= needed as u64, "{}: too few for a tail", w.id);
        }
        let short = ScenarioSet::built_in("s1").unwrap().size("gpu", Effort::Short).unwrap().clone();
        let steps = u64::from(short.blocks) * 64;
        assert!(short.workloads.iter().all(|w| w.decode_steps == 64) && steps < needed as u64, "the documentation says {steps}");
    }

    #[test]
    fn another_scale_needs_no_new_schema() {
        let text = include_str!("../sets/s1.toml").replace("scale.cpu", "scale.npu");
        let set = ScenarioSet::parse(&text).unwrap();
        assert!(set.size("npu", Effort::Full).is_ok());
        assert!(set.size("cpu", Effort::Full).unwrap_err().to_string().contains("scales are gpu, npu"));
    }

    #[test]
    fn damaged_sets_are_refused() {
        let text = include_str!("../sets/s1.toml");
        for (from, to, says) in [
            ("phase.scenarios/1", "phase.scenarios/2", "phase.scenarios/2"),
            ("batch = 1", "batch = 0", "1 or more"),
            ("blocks = 10", "blocks = 0", "no blocks"),
            ("b1-p32-d64", "b1-p128-d64", "twice"),
            ("decode_steps", "steps", "steps"),
        ] {
            let error = ScenarioSet::parse(&text.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(says), "{from} -> {to}: {error}");
        }
        assert!(ScenarioSet::built_in("s9").unwrap_err().to_string().contains("s0, s1, s2, s3"));
    }

    #[test]
    fn bench_cells_are_prefill_and_decode_apart() {
        let cells = BenchCells { prompt_tokens: vec![64], decode_steps: vec![16, 0], batches: vec![1, 2], depths: vec![4], repetitions: 2 };
        let set = ScenarioSet::bench(&cells).unwrap();
        let ids: Vec<_> = set.size("cpu", Effort::Full).unwrap().workloads.iter().map(|w| w.id.as_str()).collect();
        assert_eq!(ids, ["b1-p64", "b1-p4-d16", "b2-p64", "b2-p4-d16"]);
        assert!(ScenarioSet::bench(&BenchCells { batches: vec![], ..cells }).is_err());
    }
}
