//! "Compile prefill only, and only with compiler-real evidence and stable shapes; keep decode eager unless a measured
//! decode win exists, without shifting tail latency." What passes goes into routes with its compiled times; all else is eager.

use crate::{
    CompileEvidence, DEFAULT_MODE, Level,
    constants::Constants,
    matrix::{Cell, CellKey, RegimeClass, TimeSummary},
    rules::Standing,
    stats::{Edges, Verdict},
};
use phase_core::{BackendId, MeasurementBoundary, Mode, Phase, Shape};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// Whether to compile each phase on the routed backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CompileAdvice {
    /// Whether to compile prefill.
    pub prefill: bool,
    /// Whether to compile decode.
    pub decode: bool,
    /// Why, for prefill.
    pub reason: CompileReason,
    /// Why, for decode.
    pub decode_reason: CompileReason,
}

impl CompileAdvice {
    pub(crate) fn of(prefill: CompileReason, decode: CompileReason) -> Self {
        Self { prefill: prefill.allows(), decode: decode.allows(), reason: prefill, decode_reason: decode }
    }
}

/// Why (not) to compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CompileReason {
    /// Proven, and measured to be faster than the same path eager, in the very shapes that were proven. In decode also
    /// without a longer tail.
    Effective,
    /// The records prove less than that it ran.
    EvidenceBelow {
        /// What they prove.
        have: Level,
    },
    /// Nobody proved that anything was compiled.
    NoEvidence,
    /// Paired times show no effect beyond the tie region.
    NoEffect,
    /// Compiled and eager were not both measured here, in enough blocks and in steady states.
    NotMeasured,
    /// No record speaks of such calls, or the request's shape is not one of those that were measured.
    ShapeOutside,
    /// Compiled and eager were measured under boundaries that differ in more than the mode.
    OtherBoundary,
    /// Faster at the median, slower at the tail.
    TailLonger,
    /// Too few calls for a bound of the tail, which decode needs: 459 each.
    TailUnknown,
    /// The records contradict it: work elsewhere, unfused, not replayed.
    Violated,
}

impl CompileReason {
    /// Whether it allows compilation.
    pub const fn allows(self) -> bool {
        matches!(self, Self::Effective)
    }
}

impl fmt::Display for CompileReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Effective => "proven by the runtime's records and measured to be faster",
            Self::EvidenceBelow { have } => return write!(f, "the runtime's records prove no more than `{have}`"),
            Self::NoEffect => "no measured effect beyond the tie region",
            Self::NoEvidence => "no compiler evidence was recorded, and a label is none",
            Self::NotMeasured => "compiled and eager were not both measured here",
            Self::OtherBoundary => "compiled and eager were measured under boundaries that differ in more than the mode",
            Self::ShapeOutside => "this shape is not among those that were proven and measured",
            Self::TailLonger => "faster at the median, but with a longer tail",
            Self::TailUnknown => "too few calls for a bound of the tail",
            Self::Violated => "the runtime's records contradict it",
        })
    }
}

/// What is known of compiling one path in one bucket.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CompileVerdict {
    /// The path.
    pub backend: BackendId,
    /// The phase.
    pub phase: Phase,
    /// The bucket.
    pub shape: Shape,
    /// What is proven: [`Level::Effective`] with an effect beyond the tie region, [`Level::Declared`] without evidence.
    pub level: Level,
    /// Compiled time over eager time.
    pub standing: Standing,
    /// Whether to compile here, and why.
    pub reason: CompileReason,
    /// Ids of the compiled and the eager cell.
    pub cells: [String; 2],
}

/// One verdict for each steady compiled cell with an eager one beside it.
pub(crate) fn verdicts(
    (cells, boundaries): (&[Cell], &BTreeMap<String, MeasurementBoundary>),
    evidence: &[CompileEvidence],
    constants: &Constants,
    standing: impl Fn(&Cell, &Cell) -> Option<Standing>,
    correct: impl FnOnce(&mut [&mut Standing]),
) -> Vec<CompileVerdict> {
    let bases = Bases::of(cells);
    let compiled = cells.iter().filter(|c| c.key.mode == Mode::Compiled.as_str() && steady_call(&c.key));
    let mut pairs: Vec<_> = compiled
        .filter_map(|ours| {
            let wanted = CellKey { mode: bases.mode(&ours.key.backend).to_owned(), ..ours.key.clone() };
            let theirs = &cells[cells.binary_search_by(|c| c.key.cmp(&wanted)).ok()?];
            Some((ours, theirs, standing(ours, theirs)?))
        })
        .collect();
    correct(&mut pairs.iter_mut().map(|(.., standing)| standing).collect::<Vec<_>>());
    let judged = pairs.into_iter().map(|(ours, theirs, standing)| {
        let (level, reason) = judge(ours, theirs, &standing, evidence, constants);
        let alike = boundaries.get(&ours.boundary).zip(boundaries.get(&theirs.boundary)).is_some_and(|(a, b)| only_mode_differs(a, b));
        let reason = if reason.allows() && !alike { CompileReason::OtherBoundary } else { reason };
        let CellKey { backend, phase, shape, .. } = ours.key.clone();
        CompileVerdict { backend, phase, shape, level, standing, reason, cells: [ours.key.id(), theirs.key.id()] }
    });
    judged.collect()
}

fn only_mode_differs(a: &MeasurementBoundary, b: &MeasurementBoundary) -> bool {
    a.same(b).err().is_none_or(|mismatch| mismatch.fields.iter().all(|d| d.field == "runtime.mode"))
}

fn judge(ours: &Cell, theirs: &Cell, standing: &Standing, evidence: &[CompileEvidence], constants: &Constants) -> (Level, CompileReason) {
    let key = &ours.key;
    let of_arm = |e: &&CompileEvidence| e.arm().backend == key.backend && e.arm().mode == Mode::Compiled && e.boundary() == ours.boundary;
    let all: Vec<_> = evidence.iter().filter(of_arm).collect();
    let Some(level) = all.iter().map(|e| e.level()).max() else { return (Level::Declared, CompileReason::NoEvidence) };
    if all.iter().any(|e| !e.violations().is_empty()) {
        return (level, CompileReason::Violated);
    }
    if level < Level::Executed {
        return (level, CompileReason::EvidenceBelow { have: level });
    }
    if !all.iter().any(|e| e.level() >= Level::Executed && e.covers(key.phase, key.shape)) {
        return (level, CompileReason::ShapeOutside);
    }
    match standing.verdict(Edges::of(constants.rope)) {
        Some(Verdict::Faster) => {}
        Some(_) => return (level, CompileReason::NoEffect),
        None => return (level, CompileReason::NotMeasured),
    }
    let tail = |time: Option<TimeSummary>| time.and_then(|t| t.p99_upper_ns);
    match (key.phase, tail(ours.time), tail(theirs.time)) {
        (Phase::Prefill, ..) => (Level::Effective, CompileReason::Effective),
        (_, Some(a), Some(b)) if a <= b * (1.0 + constants.rope) => (Level::Effective, CompileReason::Effective),
        (_, Some(_), Some(_)) => (Level::Effective, CompileReason::TailLonger),
        _ => (Level::Effective, CompileReason::TailUnknown),
    }
}

fn steady_call(key: &CellKey) -> bool {
    key.regime == RegimeClass::Steady && key.phase != Phase::Request
}

/// Whether cells of `mode` may take a route: the one way a path has, or the eager one of several.
pub(crate) fn may_route(mode: &str) -> bool {
    [DEFAULT_MODE, Mode::Eager.as_str()].contains(&mode)
}

/// The mode in which each backend takes routes, so that a path with several modes and one with a single one meet in the same
/// comparison: eager where it was measured, else the default.
#[derive(Debug)]
pub(crate) struct Bases<'c>(BTreeSet<&'c BackendId>);

impl<'c> Bases<'c> {
    pub(crate) fn of(cells: &'c [Cell]) -> Self {
        let eager = cells.iter().map(|c| &c.key).filter(|k| k.mode == Mode::Eager.as_str() && k.phase != Phase::Request);
        Self(eager.map(|k| &k.backend).collect())
    }

    pub(crate) fn mode(&self, backend: &BackendId) -> &'static str {
        if self.0.contains(backend) { Mode::Eager.as_str() } else { DEFAULT_MODE }
    }

    /// Whether a cell may take a route.
    pub(crate) fn holds(&self, key: &CellKey) -> bool {
        key.phase != Phase::Request && key.mode == self.mode(&key.backend)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{A, B, cells, seen};

    #[test]
    fn a_backend_routes_in_one_mode() {
        assert!(may_route("default") && !may_route("compiled"));
        assert!(may_route("eager") && !may_route("fast"));
        let of = |backend, mode: &str| seen(backend, Phase::Prefill, 1, 32, 100).with_mode(mode);
        let matrix = cells(&[of(&A, "default"), of(&A, "compiled"), of(&B, "default"), of(&B, "eager")]);
        let bases = Bases::of(matrix.cells());
        let routing: Vec<_> = matrix.cells().iter().filter(|c| bases.holds(&c.key)).map(|c| c.key.id()).collect();
        assert_eq!(routing, ["a/default/prefill/b1/n32/c0/steady", "b/eager/prefill/b1/n32/c0/steady"]);
    }
}
