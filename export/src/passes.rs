//! The passes of a run: what one sample of one planned cell did, as tools that think in requests see it.

use phase_core::{Arm, Outcome, Phase, Regime};
use phase_scenario::{PhaseRecord, Record, Role, Run};
use std::collections::BTreeMap;

/// A pass of prefill and decode calls on one cache: the unit that other tools call a repetition or a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Pass {
    pub(crate) block: u32,
    /// Prefill calls, then decode calls: context before the call, tokens of each row, nanoseconds.
    pub(crate) prefill: Vec<Call>,
    pub(crate) decode: Vec<Call>,
    /// End of the last prefill call and of the last call, nanoseconds since the start of the first.
    pub(crate) first_token_ns: u64,
    pub(crate) last_token_ns: u64,
    /// Calls that did not go well.
    pub(crate) failed: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Call {
    pub(crate) context: usize,
    pub(crate) tokens: usize,
    pub(crate) ns: u64,
}

/// Who did which planned cell, under which boundary.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PassKey {
    pub(crate) arm: Arm,
    pub(crate) cell: String,
    pub(crate) batch: usize,
    pub(crate) boundary: String,
}

/// The steady passes of `run` by who did what, each with its passes in order. Warm-up, settling and cold calls are not among them.
pub(crate) fn passes(run: &Run) -> BTreeMap<PassKey, Vec<Pass>> {
    // By block, segment and sample, with the first call's position.
    type Ordered = BTreeMap<(u32, u32, u32), (u64, Pass)>;
    let mut all: BTreeMap<PassKey, Ordered> = BTreeMap::new();
    for call in run.records().iter().filter_map(|r| if let Record::Phase(call) = r { Some(call) } else { None }) {
        if call.role != Role::Sample || call.seen.regime != Regime::Steady {
            continue;
        }
        let key = PassKey { arm: arm(call), cell: call.cell.clone(), batch: call.seen.shape.batch, boundary: call.seen.boundary.clone() };
        let (start, pass) = all
            .entry(key)
            .or_default()
            .entry((call.segment, call.seen.block, call.sample))
            .or_insert_with(|| (call.start_ns, Pass { block: call.seen.block, ..Pass::default() }));
        if call.seen.outcome != Outcome::Ok {
            pass.failed += 1;
            continue;
        }
        let made = Call { context: call.seen.shape.context, tokens: call.seen.shape.new_tokens, ns: call.seen.duration_ns };
        let end = call.end_ns.saturating_sub(*start);
        match call.seen.phase {
            Phase::Prefill => {
                pass.prefill.push(made);
                pass.first_token_ns = end;
            }
            Phase::Decode => pass.decode.push(made),
            _ => continue,
        }
        pass.last_token_ns = end;
    }
    all.into_iter().map(|(key, passes)| (key, passes.into_values().map(|(_, pass)| pass).collect())).collect()
}

/// The competitor that made a call.
pub(crate) fn arm(call: &PhaseRecord) -> Arm {
    let text = format!("{}@{}", call.seen.backend, call.seen.mode);
    text.parse().unwrap_or_else(|_| Arm::from(phase_core::BackendId::from(text)))
}
