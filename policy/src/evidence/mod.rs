//! Whether a path was really compiled, and where it really ran. Built only from raw records of the runtimes: a label, a
//! setting or a summary has no constructor here.
//!
//! | form | read by | shows |
//! |---|---|---|
//! | profile, source and optimised model of ONNX Runtime | `ort`, `onnx` | executors by operator and time, fused operators that ran |
//! | captured CUDA graphs | `graph` | nodes and replays by batch |
//! | compilation, autotune and tune records of CubeCL | `cubecl` | kernels built, candidates measured, answers cut short |
//! | burn's fusion log | `fusion` | operations in fused and unfused blocks that ran |
//!
//! This keeps accidents and labels out, not a malicious author: nothing is signed.

mod cubecl;
mod fusion;
mod graph;
mod onnx;
mod ort;

use phase_core::{Arm, ArtefactForm, Phase, Shape};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// How far a claim that a path compiles is proven, from nothing to a measured effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "a gate must know every rung")]
pub enum Level {
    /// A label or a setting says so. Nothing here makes this: it is what lies below all evidence.
    Declared,
    /// The runtime accepted it and ran, but its records show no transformation.
    Configured,
    /// Its records show what was built: a transformed graph, compiled kernels, a captured graph.
    Placed,
    /// Its records show that what was built ran in this run.
    Executed,
    /// And paired times of the same path show an effect beyond the tie region. Never stored: it is worked out from the
    /// cells of the same policy each time.
    Effective,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Declared => "declared",
            Self::Configured => "configured",
            Self::Placed => "placed",
            Self::Executed => "executed",
            Self::Effective => "effective",
        })
    }
}

/// Share of an arm's time on another executor than its main one from which the arm is not where it says. Ours: shape
/// arithmetic that ONNX Runtime leaves on the host by design stays far below.
pub const MAX_ELSEWHERE_SHARE: f64 = 0.05;

/// Share of operations that may run unfused before a fusing path does not count as fused. Ours.
pub const MAX_UNFUSED_SHARE: f64 = 0.5;

/// Share of tunings that may end without a comparison. Ours.
pub const MAX_SHORT_CIRCUIT_SHARE: f64 = 0.5;

/// A raw record out of a sealed run: bytes of which the seal states the digest.
#[derive(Clone, Debug)]
pub struct Sealed<'b> {
    form: ArtefactForm,
    during: Vec<(Phase, Shape)>,
    bytes: &'b [u8],
    digest: String,
}

impl<'b> Sealed<'b> {
    /// `bytes`, of which the run's seal states the BLAKE3 digest `stated` in hexadecimal, recorded during the calls `during`
    /// (empty where the record itself tells).
    ///
    /// # Errors
    /// [`EvidenceError::Digest`] for other bytes than those that were sealed.
    pub fn new(form: ArtefactForm, during: &[(Phase, Shape)], bytes: &'b [u8], stated: &str) -> Result<Self, EvidenceError> {
        let digest = blake3::hash(bytes).to_hex().to_string();
        if digest != stated {
            return Err(EvidenceError::Digest { form, stated: stated.to_owned(), actual: digest });
        }
        Ok(Self { form, during: during.to_vec(), bytes, digest })
    }
}

/// Calls that a record speaks of: every length where `tokens` is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cover {
    pub(crate) phase: Phase,
    pub(crate) batch: usize,
    pub(crate) tokens: Option<usize>,
}

impl Cover {
    fn of((phase, shape): &(Phase, Shape)) -> Self {
        Self { phase: *phase, batch: shape.batch, tokens: (*phase != Phase::Decode).then_some(shape.new_tokens) }
    }

    fn holds(&self, phase: Phase, shape: Shape) -> bool {
        self.phase == phase && self.batch == shape.batch && self.tokens.is_none_or(|tokens| tokens == shape.new_tokens)
    }
}

/// What one executor was seen doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Executor {
    /// The executor's own name.
    pub name: String,
    /// Operators that it ran.
    pub nodes: u64,
    /// Their time in microseconds, by the runtime's host clock; 0 where the record tells none.
    pub time_us: u64,
}

/// Something in the records that forbids calling the path compiled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "violation", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Violation {
    /// Kernels were compiled but not run: the record was taken in a dry run.
    DryRun,
    /// Part of the work ran elsewhere than the rest.
    Elsewhere {
        /// The executor.
        executor: String,
        /// Its share of the time, or of the operators where no time is told.
        share: f64,
    },
    /// A captured graph calls the host: a replay is no replay of device work alone.
    HostNodes {
        /// The batch.
        batch: usize,
        /// Such nodes.
        nodes: u64,
    },
    /// Tunings that ended at the first candidate that was good enough, with nothing compared.
    ShortCircuits {
        /// Such tunings.
        tunings: u64,
        /// All of them.
        of: u64,
    },
    /// Operations that ran one by one.
    Unfused {
        /// Such operations.
        operations: u64,
        /// All of them.
        of: u64,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DryRun => f.write_str("recorded in a dry run"),
            Self::Elsewhere { executor, share } => write!(f, "{:.1}% on {executor}", share * 100.0),
            Self::HostNodes { batch, nodes } => write!(f, "{nodes} host nodes in the graph of batch {batch}"),
            Self::ShortCircuits { tunings, of } => write!(f, "{tunings} of {of} tunings compared nothing"),
            Self::Unfused { operations, of } => write!(f, "{operations} of {of} operations ran unfused"),
        }
    }
}

/// What one record says.
#[derive(Debug, Default)]
struct Reading {
    level: Option<Level>,
    executors: BTreeMap<String, (u64, u64)>,
    covers: Vec<Cover>,
    violations: Vec<Violation>,
}

/// What a path's runtime was seen doing in one run: the level it proves, for which calls, and what speaks against it. It
/// can be written but not read: in a policy it lies under the policy's digest, and [`Policy::check_evidence`] reads the raw
/// records again.
///
/// [`Policy::check_evidence`]: crate::Policy::check_evidence
///
/// ```
/// use phase_core::{Arm, ArtefactForm};
/// use phase_policy::{CompileEvidence, Level, Sealed};
/// let raw = br#"{"schema":"phase.cuda-graph/1","phase":"decode","batch":1,"nodes":{"kernel":271},"replays":640}"#;
/// let sealed = Sealed::new(ArtefactForm::CudaGraphs, &[], raw, blake3::hash(raw).to_hex().as_str())?;
/// let arm: Arm = "candle-cuda@compiled".parse()?;
/// let seen = CompileEvidence::read(arm.clone(), "boundary", "run-1", &[sealed])?;
/// assert_eq!(seen.level(), Level::Executed);
/// assert!(Sealed::new(ArtefactForm::CudaGraphs, &[], b"edited", blake3::hash(raw).to_hex().as_str()).is_err());
/// assert!(CompileEvidence::read(arm, "boundary", "run-1", &[]).is_err(), "a label makes none");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CompileEvidence {
    arm: Arm,
    boundary: String,
    run: String,
    level: Level,
    executors: Vec<Executor>,
    covers: Vec<Cover>,
    violations: Vec<Violation>,
    artefacts: Vec<Source>,
}

/// Names a raw record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Source {
    /// What it is.
    pub form: ArtefactForm,
    /// BLAKE3 of its bytes.
    pub blake3: String,
}

/// The same as a policy keeps it, under the policy's digest.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recorded {
    arm: Arm,
    boundary: String,
    run: String,
    level: Level,
    executors: Vec<Executor>,
    covers: Vec<Cover>,
    violations: Vec<Violation>,
    artefacts: Vec<Source>,
}

impl CompileEvidence {
    /// Reads the raw records of `arm` in `run`, taken under the boundary named `boundary`. Together they prove what the best
    /// of them does, and each violation of any of them counts.
    ///
    /// # Errors
    /// [`EvidenceError::Nothing`] without a record; a record that can't be read or that shows nothing.
    pub fn read(arm: Arm, boundary: &str, run: &str, artefacts: &[Sealed<'_>]) -> Result<Self, EvidenceError> {
        if artefacts.is_empty() {
            return Err(EvidenceError::Nothing { arm });
        }
        let mut all = Reading::default();
        for part in artefacts {
            let Reading { level, executors, covers, violations } = read(part, artefacts)?;
            all.level = all.level.max(level);
            for (name, (nodes, time)) in executors {
                let sum = all.executors.entry(name).or_default();
                *sum = (sum.0.saturating_add(nodes), sum.1.saturating_add(time));
            }
            all.covers.extend(covers);
            all.violations.extend(violations);
        }
        all.violations.extend(elsewhere(&arm, &all.executors));
        all.covers.sort_unstable();
        all.covers.dedup();
        let mut sources: Vec<_> = artefacts.iter().map(|a| Source { form: a.form, blake3: a.digest.clone() }).collect();
        sources.sort_unstable();
        Ok(Self {
            arm,
            boundary: boundary.to_owned(),
            run: run.to_owned(),
            level: all.level.unwrap_or(Level::Configured),
            executors: all.executors.into_iter().map(|(name, (nodes, time_us))| Executor { name, nodes, time_us }).collect(),
            covers: all.covers,
            violations: all.violations,
            artefacts: sources,
        })
    }

    /// Whose it is.
    pub fn arm(&self) -> &Arm {
        &self.arm
    }

    /// The boundary it was taken under.
    pub fn boundary(&self) -> &str {
        &self.boundary
    }

    /// The run it was taken in.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// What the records prove by themselves: at most [`Level::Executed`].
    pub fn level(&self) -> Level {
        self.level
    }

    /// Where the work ran.
    pub fn executors(&self) -> &[Executor] {
        &self.executors
    }

    /// What speaks against it.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// The raw records.
    pub fn artefacts(&self) -> &[Source] {
        &self.artefacts
    }

    /// Whether the records speak of such calls.
    pub fn covers(&self, phase: Phase, shape: Shape) -> bool {
        self.covers.iter().any(|cover| cover.holds(phase, shape))
    }

    /// As read back from a policy whose digest holds. Effect is never stored.
    pub(crate) fn recorded(recorded: Recorded) -> Result<Self, String> {
        let Recorded { arm, boundary, run, level, executors, covers, violations, artefacts } = recorded;
        if level == Level::Effective || level == Level::Declared {
            return Err(format!("evidence of {arm} claims to be {level}, which no record shows"));
        }
        if artefacts.is_empty() {
            return Err(format!("evidence of {arm} names no record"));
        }
        Ok(Self { arm, boundary, run, level, executors, covers, violations, artefacts })
    }
}

fn read(part: &Sealed<'_>, all: &[Sealed<'_>]) -> Result<Reading, EvidenceError> {
    let wrong = |why: String| EvidenceError::Record { form: part.form, why };
    let text = || std::str::from_utf8(part.bytes).map_err(|e| wrong(e.to_string()));
    let during = || part.during.iter().map(Cover::of).collect::<Vec<_>>();
    let other = |form| all.iter().find(|a| a.form == form).map(|a| a.bytes);
    match part.form {
        ArtefactForm::BurnFusionLog => fusion::read(text()?, during()),
        ArtefactForm::CubeclCompilations => cubecl::compilations(text()?, during()),
        ArtefactForm::CubeclDecisions => cubecl::decisions(text()?),
        ArtefactForm::CubeclTunings => cubecl::tunings(text()?),
        ArtefactForm::CudaGraphs => graph::read(text()?),
        ArtefactForm::OrtOptimisedModel => ort::optimised(part.bytes, other(ArtefactForm::OrtSourceModel)),
        ArtefactForm::OrtProfile => {
            let models = other(ArtefactForm::OrtSourceModel).zip(other(ArtefactForm::OrtOptimisedModel));
            ort::profile(text()?, models)
        }
        // It is read with the optimised one.
        ArtefactForm::OrtSourceModel => Ok(Reading::default()),
        _ => Err("this version can't read such a record".to_owned()),
    }
    .map_err(wrong)
}

/// Executors on another device than the path's id ends with (`ort-cuda`: CUDA or `TensorRT`; `ort-cpu`: CPU) that do more than
/// [`MAX_ELSEWHERE_SHARE`]; for an id that names no device, those beside the one that does most.
fn elsewhere(arm: &Arm, executors: &BTreeMap<String, (u64, u64)>) -> Vec<Violation> {
    let timed = executors.values().any(|(_, time)| *time > 0);
    let amount = |(nodes, time): &(u64, u64)| crate::stats::real(if timed { *time } else { *nodes });
    let total: f64 = executors.values().map(amount).sum();
    let Some((main, _)) = executors.iter().max_by(|a, b| amount(a.1).total_cmp(&amount(b.1))) else { return Vec::new() };
    let there = |name: &String| {
        let has = |word| name.to_ascii_lowercase().contains(word);
        match arm.backend.as_str().rsplit('-').next() {
            Some("cpu") => has("cpu"),
            Some("cuda") => has("cuda") || has("tensorrt"),
            _ => name == main,
        }
    };
    let others = executors.iter().filter(|(name, _)| !there(name));
    let shares = others.map(|(name, seen)| (name, amount(seen) / total.max(1.0)));
    shares
        .filter(|(_, share)| *share > MAX_ELSEWHERE_SHARE)
        .map(|(name, share)| Violation::Elsewhere { executor: name.clone(), share })
        .collect()
}

/// Records that prove nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// Other bytes than those that were sealed.
    #[error("the record {} has digest {actual}, the run's seal states {stated}", .form.file_name())]
    Digest {
        /// Which record.
        form: ArtefactForm,
        /// What the seal says.
        stated: String,
        /// What its content gives.
        actual: String,
    },
    /// There is no record.
    #[error("no raw record of {arm}: a label is no evidence")]
    Nothing {
        /// Whose.
        arm: Arm,
    },
    /// A record that can't be read, or that shows nothing.
    #[error("the record {}: {why}", .form.file_name())]
    Record {
        /// Which record.
        form: ArtefactForm,
        /// What is wrong.
        why: String,
    },
}
