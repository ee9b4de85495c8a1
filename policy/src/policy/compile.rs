//! From matrix to policy.

use super::{Policy, PolicyError, PolicyOptions, SCHEMA, document};
use crate::{
    CompileEvidence, CompileVerdict, ScenarioMatrix, Violation,
    constants::{Constants, Correction},
    matrix::{Cell, CellKey, RegimeClass},
    rules::{Bases, Standing, compile_verdicts, warmups},
    stats::{Edges, Steadiness, Verdict, common_blocks, holm, paired_ratio, real, real_size},
};
use phase_core::{BackendId, Mode, Phase, Shape};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};

/// Contexts of two decode cells may differ by this factor before the difference could pass for one between backends.
const CONTEXT_TOLERANCE: f64 = 1.05;

/// One challenger against the default-safe backend, in one bucket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Comparison {
    /// The phase.
    pub phase: Phase,
    /// The bucket.
    pub shape: Shape,
    /// Who is compared with the default-safe backend.
    pub challenger: BackendId,
    /// Its time over the default's, or why there is no such number.
    pub standing: Standing,
    /// What the interval says of the challenger; `None` without an interval.
    pub verdict: Option<Verdict>,
    /// Ids of the challenger's and the default's cell: the evidence.
    pub cells: [String; 2],
}

impl Comparison {
    pub(super) fn verdict_of(standing: &Standing, constants: &Constants) -> Option<Verdict> {
        standing.verdict(Edges::of(constants.rope))
    }
}

pub(super) fn compile(matrix: &ScenarioMatrix, options: &PolicyOptions) -> Result<Policy, PolicyError> {
    let PolicyOptions { default_safe, created_unix_s, runs, constants, idle_curves, mix, evidence } = options.clone();
    constants.check().map_err(PolicyError::Constants)?;
    check_evidence(&evidence, &runs, matrix.cells())?;
    require_measured(matrix.cells(), &default_safe)?;
    let mut policy = Policy {
        schema: SCHEMA.to_owned(),
        digest: String::new(),
        created_unix_s,
        comparisons: comparisons(matrix.cells(), &default_safe, &constants, &evidence),
        warmups: warmups(matrix.cells(), &constants),
        default_safe,
        runs,
        constants,
        boundaries: matrix.boundaries().clone(),
        cells: matrix.cells().to_vec(),
        idle_curves,
        upgraded: None,
        mix,
        evidence,
    };
    if let Some(curve) = policy.idle_curves.iter().find(|c| !policy.boundaries.contains_key(&c.boundary)) {
        return Err(PolicyError::Inconsistent(format!("the boundary `{}` of an idle curve is not the matrix's", curve.boundary)));
    }
    policy.digest = document::digest(&policy);
    Ok(policy)
}

/// Evidence belongs to the runs and boundaries that the policy rests on.
pub(super) fn check_evidence(evidence: &[CompileEvidence], runs: &[String], cells: &[Cell]) -> Result<(), PolicyError> {
    for seen in evidence {
        let of_arm =
            |c: &&Cell| c.key.backend == seen.arm().backend && c.key.mode == seen.arm().mode.as_str() && c.boundary == seen.boundary();
        let (run, arm) = (seen.run(), seen.arm());
        if !runs.iter().any(|r| r == run) {
            return Err(PolicyError::Inconsistent(format!("evidence of {arm} is of run {run}, on which the policy does not rest")));
        }
        if !cells.iter().any(|c| of_arm(&c)) {
            return Err(PolicyError::Inconsistent(format!(
                "evidence of {arm} is of boundary {}, under which no cell was measured",
                seen.boundary()
            )));
        }
    }
    Ok(())
}

/// What is known of compiling each path, worked out from cells and evidence each time: it is never read.
pub(super) fn compiles(policy: &Policy) -> Vec<CompileVerdict> {
    let constants = &policy.constants;
    let pair = |ours: &Cell, theirs: &Cell| standing(ours, theirs, constants);
    compile_verdicts((&policy.cells, &policy.boundaries), &policy.evidence, constants, pair, |family| {
        correct(family.iter_mut().map(|s| &mut **s), constants);
    })
}

/// Every comparison in the modes that routes are decided in: compiled where that passes its gate, else as compiled into the
/// policy. Worked out anew as [`compiles`] is; `None` where nothing passes.
pub(super) fn routed(policy: &Policy, verdicts: &[CompileVerdict]) -> Option<Vec<Comparison>> {
    let constants = &policy.constants;
    let passing: BTreeSet<_> = verdicts.iter().filter(|v| v.reason.allows()).map(|v| (&v.backend, v.phase, v.shape)).collect();
    if passing.is_empty() {
        return None;
    }
    let by_id: HashMap<_, _> = policy.cells.iter().map(|c| (c.key.id(), c)).collect();
    let passes = |backend: &BackendId, phase, shape| passing.contains(&(backend, phase, shape));
    let find = |id: &str, backend: &BackendId, phase, shape| {
        let base = || by_id.get(id).copied();
        if passes(backend, phase, shape) { compiled_cell(policy, backend, phase, shape).map(|(_, cell)| cell) } else { base() }
    };
    let mut all = policy.comparisons.clone();
    for comparison in &mut all {
        let Comparison { phase, shape, challenger, cells: [ours, theirs], .. } = &*comparison;
        let (ours, theirs) = (find(ours, challenger, *phase, *shape), find(theirs, &policy.default_safe, *phase, *shape));
        let Some((ours, theirs)) = ours.zip(theirs) else { continue };
        if let Some(standing) = stands(ours, theirs, constants, &policy.evidence) {
            comparison.cells = [ours.key.id(), theirs.key.id()];
            comparison.standing = standing;
        }
    }
    finish(&mut all, constants);
    Some(all)
}

/// The steady compiled cell of a bucket, and its place.
pub(super) fn compiled_cell<'p>(policy: &'p Policy, backend: &BackendId, phase: Phase, shape: Shape) -> Option<(usize, &'p Cell)> {
    let mode = Mode::Compiled.as_str().to_owned();
    let wanted = CellKey { backend: backend.clone(), mode, phase, shape, regime: RegimeClass::Steady };
    let place = policy.cells.binary_search_by(|c| c.key.cmp(&wanted)).ok()?;
    Some((place, &policy.cells[place]))
}

/// Corrects the intervals of one family of comparisons.
fn correct<'s>(family: impl Iterator<Item = &'s mut Standing>, constants: &Constants) {
    let measured = family.filter_map(|s| if let Standing::Measured(ratio) = s { Some(ratio) } else { None });
    match constants.correction {
        Correction::None => {}
        Correction::Holm => holm(&mut measured.collect::<Vec<_>>(), constants.rope, constants.confidence),
    }
}

pub(super) fn require_measured(cells: &[Cell], default_safe: &BackendId) -> Result<(), PolicyError> {
    let bases = Bases::of(cells);
    let mut measured: Vec<_> = cells.iter().filter(|c| routable(c, &bases) && c.time.is_some()).map(|c| c.key.backend.clone()).collect();
    measured.dedup();
    if measured.contains(default_safe) {
        return Ok(());
    }
    Err(PolicyError::DefaultSafeNotMeasured { backend: default_safe.clone(), measured })
}

/// Steady phase calls of a mode that may take a route.
fn routable(cell: &Cell, bases: &Bases<'_>) -> bool {
    cell.key.regime == RegimeClass::Steady && bases.holds(&cell.key)
}

fn comparisons(cells: &[Cell], default_safe: &BackendId, constants: &Constants, evidence: &[CompileEvidence]) -> Vec<Comparison> {
    let bases = Bases::of(cells);
    let challengers = cells.iter().filter(|c| routable(c, &bases) && c.key.backend != *default_safe);
    let mut all: Vec<Comparison> = challengers
        .filter_map(|ours| {
            let wanted = CellKey { backend: default_safe.clone(), mode: bases.mode(default_safe).to_owned(), ..ours.key.clone() };
            let theirs = &cells[cells.binary_search_by(|c| c.key.cmp(&wanted)).ok()?];
            let standing = stands(ours, theirs, constants, evidence)?;
            Some(Comparison {
                phase: ours.key.phase,
                shape: ours.key.shape,
                challenger: ours.key.backend.clone(),
                verdict: None,
                standing,
                cells: [ours.key.id(), theirs.key.id()],
            })
        })
        .collect();
    finish(&mut all, constants);
    all
}

/// Corrects the whole family, and gives each its verdict.
fn finish(all: &mut [Comparison], constants: &Constants) {
    correct(all.iter_mut().map(|c| &mut c.standing), constants);
    for comparison in all {
        comparison.verdict = Comparison::verdict_of(&comparison.standing, constants);
    }
}

fn stands(ours: &Cell, theirs: &Cell, constants: &Constants, evidence: &[CompileEvidence]) -> Option<Standing> {
    match misplaced(ours, evidence).or_else(|| misplaced(theirs, evidence)) {
        Some(share) => Some(Standing::Misplaced { share }),
        None => standing(ours, theirs, constants),
    }
}

/// The share of a path's work that was seen on another device than its name says, where that is too much.
fn misplaced(cell: &Cell, evidence: &[CompileEvidence]) -> Option<f64> {
    let of_cell = |e: &&CompileEvidence| {
        e.arm().backend == cell.key.backend && e.arm().mode.as_str() == cell.key.mode && e.boundary() == cell.boundary
    };
    let shares = evidence.iter().filter(of_cell).flat_map(CompileEvidence::violations).filter_map(|v| match v {
        Violation::Elsewhere { share, .. } => Some(*share),
        _ => None,
    });
    shares.max_by(f64::total_cmp)
}

/// `None` when the default-safe backend has no time to compare with.
fn standing(ours: &Cell, theirs: &Cell, constants: &Constants) -> Option<Standing> {
    let theirs_contexts = theirs.contexts?;
    let calls = ours.n + ours.failures;
    if calls > 0 && real(ours.failures) / real(calls) > constants.max_failure_share {
        return Some(Standing::Failures { failed: ours.failures, calls });
    }
    let unsteady = [ours, theirs].into_iter().filter_map(|c| c.steady).filter(Steadiness::is_unsteady);
    if let Some(worst) = unsteady.max_by_key(Steadiness::unsteady) {
        return Some(Standing::NotSteady { unsteady: worst.unsteady(), judged: worst.judged() });
    }
    let contexts = ours.contexts?;
    let (a, b) = (real_size(contexts.median + 1), real_size(theirs_contexts.median + 1));
    if a.max(b) / a.min(b) > CONTEXT_TOLERANCE {
        return Some(Standing::ContextsDiffer { ours: contexts.median, theirs: theirs_contexts.median });
    }
    let blocks = common_blocks(&ours.blocks, &theirs.blocks).count();
    let ratio = if blocks < constants.min_blocks { None } else { paired_ratio(&ours.blocks, &theirs.blocks, constants.confidence) };
    Some(ratio.map_or(Standing::TooFewBlocks { blocks }, Standing::Measured))
}
