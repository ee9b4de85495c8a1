//! "Compile prefill only, and only with compiler-real evidence and stable shapes; keep decode eager unless a measured
//! decode win exists." No kind of evidence exists in this version, so nothing compiles: compiled cells are kept and
//! reported but never routed.

use crate::DEFAULT_MODE;
use phase_core::Mode;
use serde::Serialize;
use std::fmt;

/// Whether to compile each phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CompileAdvice {
    /// Whether to compile prefill.
    pub prefill: bool,
    /// Whether to compile decode.
    pub decode: bool,
    /// Why.
    pub reason: CompileReason,
}

/// Why (not) to compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CompileReason {
    /// Nobody proved that anything was compiled.
    NoEvidence,
}

impl fmt::Display for CompileReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NoEvidence => "no compiler evidence was recorded, and a label is none; decode stays eager",
        })
    }
}

pub(crate) const fn advice() -> CompileAdvice {
    CompileAdvice { prefill: false, decode: false, reason: CompileReason::NoEvidence }
}

/// Whether cells of `mode` may take a route: the one way a path has, or the eager one of several.
pub(crate) fn may_route(mode: &str) -> bool {
    [DEFAULT_MODE, Mode::Eager.as_str()].contains(&mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_compiles_nothing() {
        let CompileAdvice { prefill, decode, reason } = advice();
        assert!(!prefill && !decode);
        assert!(reason.to_string().contains("eager"));
        assert!(may_route("default") && !may_route("compiled"));
        assert!(may_route("eager") && !may_route("fast"));
    }
}
