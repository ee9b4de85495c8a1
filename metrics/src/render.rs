//! From counters to text, metric by metric.

use crate::{
    TextFormat,
    exporter::Inner,
    series::{CLASSES, KINDS, PHASES, REGIMES, STATUSES, STEADY, Series, parts},
    state::{BACKEND_STATES, State},
    table,
    text::Writer,
};
use phase_core::{Energy, NoData};
use phase_policy::{Cell, LedgerEntry, LedgerSnapshot, Reason, SCHEMA, cost::Bounded};
use std::sync::{Arc, atomic::Ordering::Relaxed};

/// OpenTelemetry's operation for prompts in and tokens out.
const OPERATION: &str = "text_completion";
/// OpenTelemetry's provider: who instruments.
const PROVIDER: &str = "phase";

pub(crate) fn render(inner: &Inner, model: &str, format: TextFormat) -> String {
    let mut w = Writer::new(format);
    let backends = inner.backends();
    requests(&mut w, &backends, model);
    calls(&mut w, &backends);
    life(&mut w, &backends, inner.now_ns());
    let state = inner.state();
    evidence(&mut w, &state);
    energy(&mut w, &backends);
    costs(&mut w, &state);
    decisions(&mut w, &backends, inner);
    policy(&mut w, &state);
    for (backend, boundary) in &state.boundaries {
        w.sample(&table::BOUNDARY_INFO, &[backend, boundary], 1.0);
    }
    cells(&mut w, &state.cells);
    if let Some(snapshot) = &state.ledger {
        ledger(&mut w, snapshot);
    }
    drop(state);
    for s in backends.iter().filter(|s| s.unmatched.load(Relaxed) > 0) {
        w.sample(&table::REQUESTS_UNMATCHED, &[&s.name], real(s.unmatched.load(Relaxed)));
    }
    w.sample(&table::EVENTS_UNLISTED, &[], real(inner.unlisted_count()));
    w.finish()
}

fn requests(w: &mut Writer, backends: &[Arc<Series>], model: &str) {
    let histograms = [
        (&table::TIME_TO_FIRST_TOKEN, (|s| &s.ttft) as fn(&Series) -> &crate::histogram::Histogram),
        (&table::TIME_PER_OUTPUT_TOKEN, |s| &s.tpot),
        (&table::REQUEST_DURATION, |s| &s.request),
    ];
    for (metric, of) in histograms {
        for s in backends {
            w.histogram(metric, &[OPERATION, PROVIDER, model, &s.name], &of(s).read());
        }
    }
    for s in backends {
        for (kind, tokens) in [("input", &s.input_tokens), ("output", &s.output_tokens)] {
            w.histogram(&table::TOKEN_USAGE, &[OPERATION, PROVIDER, model, &s.name, kind], &tokens.read());
        }
    }
}

/// Every backend, phase of calls and regime.
fn each_call<'a>(backends: &'a [Arc<Series>]) -> impl Iterator<Item = (&'a Series, usize, usize)> {
    backends.iter().flat_map(|s| (0..2).flat_map(move |phase| (0..REGIMES.len()).map(move |regime| (&**s, phase, regime))))
}

fn calls(w: &mut Writer, backends: &[Arc<Series>]) {
    let labels = |s: &'_ Series, phase: usize, regime: usize| (s.name.clone(), PHASES[phase].as_str(), REGIMES[regime]);
    for (s, phase, regime) in each_call(backends) {
        let (name, phase_name, regime_name) = labels(s, phase, regime);
        w.histogram(&table::CALL_DURATION, &[&name, phase_name, regime_name], &s.calls[phase][regime].duration.read());
    }
    for (s, phase, regime) in each_call(backends) {
        let tokens = s.calls[phase][regime].tokens.load(Relaxed);
        if tokens > 0 {
            let (name, phase_name, regime_name) = labels(s, phase, regime);
            w.sample(&table::TOKENS, &[&name, phase_name, regime_name], real(tokens));
        }
    }
    let steady = |s: &Series, phase: usize| s.calls[phase][STEADY].duration.read().sum;
    for s in backends {
        for (phase, name) in PHASES.iter().enumerate().take(2) {
            let seconds = steady(s, phase);
            if seconds > 0.0 {
                let tokens = real(s.calls[phase][STEADY].tokens.load(Relaxed));
                w.sample(&table::TOKENS_PER_SECOND, &[&s.name, name.as_str()], tokens / seconds);
            }
        }
    }
    for s in backends {
        let (prefill, decode) = (steady(s, 0), steady(s, 1));
        if prefill + decode > 0.0 {
            w.sample(&table::DECODE_FRACTION, &[&s.name], decode / (prefill + decode));
        }
    }
    // These two are present from the start: a series that begins with 1 is no increase, and the first failure would alert nobody.
    for s in backends {
        for (phase, name) in PHASES.iter().enumerate().take(2) {
            w.sample(&table::COLD_CALLS, &[&s.name, name.as_str()], real(s.calls[phase][0].duration.read().count()));
        }
    }
    for s in backends {
        for (phase, name) in PHASES.iter().enumerate() {
            for (kind, count) in KINDS.iter().zip(&s.failed[phase]) {
                w.sample(&table::FAILED_CALLS, &[&s.name, name.as_str(), kind.as_str()], real(count.load(Relaxed)));
            }
        }
    }
    for s in backends.iter().filter(|s| s.cancelled.load(Relaxed) > 0) {
        w.sample(&table::CANCELLED_REQUESTS, &[&s.name], real(s.cancelled.load(Relaxed)));
    }
}

fn life(w: &mut Writer, backends: &[Arc<Series>], now_ns: u64) {
    let loaded = || backends.iter().filter(|s| s.loads.load(Relaxed) > 0);
    for s in loaded() {
        w.sample(&table::MODEL_LOADS, &[&s.name], real(s.loads.load(Relaxed)));
    }
    for s in loaded() {
        w.sample(&table::MODEL_LOAD_SECONDS, &[&s.name], real(s.load_ns.load(Relaxed)) / 1e9);
    }
    for s in backends {
        if let Some(end) = s.last_end.load(Relaxed).checked_sub(1) {
            w.sample(&table::IDLE_AGE, &[&s.name], real(now_ns.saturating_sub(end)) / 1e9);
        }
    }
}

fn evidence(w: &mut Writer, state: &State) {
    for (backend, seen) in &state.evidence {
        for (executor, operators) in &seen.operators {
            w.sample(&table::EVIDENCE_OPERATORS, &[backend, executor], real(*operators));
        }
    }
    for (backend, seen) in &state.evidence {
        w.sample(&table::EVIDENCE_KERNELS, &[backend], real(seen.kernels as u64));
    }
    for (backend, seen) in &state.evidence {
        for (form, bytes) in &seen.records {
            w.sample(&table::EVIDENCE_BYTES, &[backend, form], real(*bytes as u64));
        }
    }
}

fn energy(w: &mut Writer, backends: &[Arc<Series>]) {
    let each = || backends.iter().flat_map(|s| PHASES.iter().zip(&s.energy).map(move |(phase, energy)| (s, phase.as_str(), energy)));
    for (s, phase, energy) in each() {
        let asked = energy.by_status.iter().any(|(count, _)| count.load(Relaxed) > 0);
        // All statuses once one is there: a share of no_data is a quotient of them.
        for (status, (count, _)) in STATUSES.iter().zip(&energy.by_status).filter(|_| asked) {
            w.sample(&table::ENERGY_EVENTS, &[&s.name, phase, status], real(count.load(Relaxed)));
        }
    }
    for (metric, part) in [(&table::ENERGY_JOULES, 0), (&table::ENERGY_LOW_JOULES, 1), (&table::ENERGY_HIGH_JOULES, 2)] {
        for (s, phase, energy) in each() {
            let known = STATUSES.iter().zip(&energy.by_status).take(3).filter(|(_, (count, _))| count.load(Relaxed) > 0);
            for (status, (_, sums)) in known {
                w.sample(metric, &[&s.name, phase, status], sums[part].get());
            }
        }
    }
    for (s, phase, energy) in each() {
        for (reason, count) in NoData::ALL.iter().zip(&energy.no_data).filter(|(_, c)| c.load(Relaxed) > 0) {
            w.sample(&table::ENERGY_NO_DATA, &[&s.name, phase, reason.as_str()], real(count.load(Relaxed)));
        }
    }
}

fn costs(w: &mut Writer, state: &State) {
    for (backend, cost) in &state.costs {
        let parts: [(&str, Option<Bounded>); 3] =
            [("all", Some(cost.usd_per_1m)), ("energy", cost.energy_usd_per_1m), ("infra", Some(cost.infra_usd_per_1m))];
        for (part, usd) in parts.into_iter().filter_map(|(part, usd)| Some((part, usd?))) {
            for (bound, value) in [("low", usd.low()), ("value", usd.value()), ("high", usd.high())] {
                w.sample(&table::COST, &[backend, part, bound], value);
            }
        }
    }
}

fn decisions(w: &mut Writer, backends: &[Arc<Series>], inner: &Inner) {
    for s in backends {
        for (class, by_reason) in CLASSES.iter().zip(&s.decisions) {
            for (reason, count) in Reason::NAMES.iter().zip(by_reason).filter(|(_, c)| c.load(Relaxed) > 0) {
                w.sample(&table::DECISIONS, &[&s.name, class, reason], real(count.load(Relaxed)));
            }
        }
    }
    let decided = inner.limits().any(|(_, count)| count > 0);
    for (limits, count) in inner.limits().filter(|_| decided) {
        w.sample(&table::DECISION_LIMITS, &[limits], real(count));
    }
}

fn policy(w: &mut Writer, state: &State) {
    if let Some(policy) = &state.policy {
        w.sample(&table::POLICY_INFO, &[&policy.digest, SCHEMA, &policy.default_safe], 1.0);
        w.sample(&table::POLICY_CREATED, &[], real(policy.created_unix_s));
    }
    let Some(standing) = &state.standing else { return };
    w.sample(&table::POLICY_VALID, &[], f64::from(u8::from(standing.valid)));
    for (backend, is) in &standing.backends {
        for name in BACKEND_STATES {
            w.sample(&table::POLICY_BACKEND_STATE, &[backend, name], f64::from(u8::from(*is == name)));
        }
    }
    for ((backend, severity), fields) in &standing.changed {
        w.sample(&table::POLICY_CHANGED_FIELDS, &[backend, &severity.to_string()], real(*fields));
    }
}

fn ledger(w: &mut Writer, LedgerSnapshot { policy_digest: _, entries, regret, unpredicted, unusable }: &LedgerSnapshot) {
    type Sum = fn(&LedgerEntry) -> f64;
    type Split = fn(&LedgerEntry) -> [u64; 2];
    let counters: [(&table::Metric, Sum); 3] = [
        (&table::LEDGER_REQUESTS, |e| real(e.requests)),
        (&table::LEDGER_PREDICTED, |e| e.predicted_seconds),
        (&table::LEDGER_ACTUAL, |e| e.actual_seconds),
    ];
    for (metric, of) in counters {
        entries.iter().for_each(|e| w.sample(metric, &[e.backend.as_str(), e.part.as_str()], of(e)));
    }
    let split: [(&table::Metric, [&str; 2], Split); 3] = [
        (&table::LEDGER_INTERVAL, ["inside", "outside"], |e| [e.inside_interval, e.with_interval - e.inside_interval]),
        (&table::LEDGER_P95, ["below", "above"], |e| [e.below_p95, e.with_p95 - e.below_p95]),
        (&table::LEDGER_WINDOWS, ["good", "bad"], |e| [e.windows - e.bad_windows, e.bad_windows]),
    ];
    for (metric, names, of) in split {
        for e in entries {
            for (name, count) in names.iter().zip(of(e)) {
                w.sample(metric, &[e.backend.as_str(), e.part.as_str(), name], real(count));
            }
        }
    }
    for e in entries {
        let window = e.last_window.iter().flat_map(|w| [("low", w.low), ("median", w.ratio), ("high", w.high)]);
        window.for_each(|(stat, value)| w.sample(&table::LEDGER_RATIO, &[e.backend.as_str(), e.part.as_str(), stat], value));
    }
    for e in entries {
        w.sample(&table::LEDGER_REMEASURE, &[e.backend.as_str(), e.part.as_str()], f64::from(u8::from(e.remeasure)));
    }
    w.sample(&table::LEDGER_REGRET, &[], regret.regret_seconds);
    w.sample(&table::LEDGER_SAVED, &[], regret.saved_seconds);
    for (why, count) in [("unpredicted", unpredicted), ("unusable", unusable)] {
        w.sample(&table::LEDGER_APART, &[why], real(*count));
    }
}

fn cells(w: &mut Writer, cells: &[Cell]) {
    let labels: Vec<[String; 8]> = cells
        .iter()
        .map(|cell| {
            let key = &cell.key;
            [
                key.backend.to_string(),
                key.mode.clone(),
                key.phase.to_string(),
                key.regime.as_str().to_owned(),
                key.shape.batch.to_string(),
                key.shape.new_tokens.to_string(),
                key.shape.context.to_string(),
                cell.boundary.clone(),
            ]
        })
        .collect();
    let with = |labels: &'_ [String; 8], more: &[&'_ str], f: &mut dyn FnMut(&[&str])| {
        let all: Vec<&str> = labels.iter().map(String::as_str).chain(more.iter().copied()).collect();
        f(&all);
    };
    for (cell, labels) in cells.iter().zip(&labels) {
        let Some(time) = cell.time else { continue };
        let interval = time.interval;
        let stats =
            [("median", Some(time.median_ns)), ("low", interval.map(|i| i.low)), ("high", interval.map(|i| i.high)), ("p95", time.p95_ns)];
        for (stat, ns) in stats.into_iter().filter_map(|(stat, ns)| Some((stat, ns?))) {
            with(labels, &[stat], &mut |all| w.sample(&table::CELL_DURATION, all, ns / 1e9));
        }
    }
    for (cell, labels) in cells.iter().zip(&labels) {
        with(labels, &[], &mut |all| w.sample(&table::CELL_CALLS, all, real(cell.n)));
    }
    for (cell, labels) in cells.iter().zip(&labels) {
        let Some([value, low, high]) = parts(&cell.energy) else { continue };
        for (bound, joules) in [("value", value), ("low", low), ("high", high)] {
            with(labels, &[cell.energy.status(), bound], &mut |all| w.sample(&table::CELL_ENERGY, all, joules));
        }
    }
    for (cell, labels) in cells.iter().zip(&labels) {
        let reason = cell.energy.reason().map_or("", NoData::as_str);
        with(labels, &[Energy::status(&cell.energy), reason], &mut |all| w.sample(&table::CELL_ENERGY_INFO, all, 1.0));
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts and times beyond 2^53 lose less than anyone sees")]
fn real(n: u64) -> f64 {
    n as f64
}
