//! Every metric that this crate gives out: name, kind, unit, labels, what it means. Nothing is rendered that is not here, and the
//! dashboards and alert rules are tested against it.
//!
//! Names follow OpenTelemetry's conventions for generative AI where one exists (`OTel name` below; status *Development*), written
//! as Prometheus does: dots become underscores, the unit becomes a suffix. Everything else begins with `phase_`.

/// What kind of series a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the kinds that both text formats share")]
pub enum Kind {
    /// Only grows, except at a restart. Its name ends in `_total`.
    Counter,
    /// A value of now.
    Gauge,
    /// Counts below edges, their sum and number: `_bucket`, `_sum`, `_count`.
    Histogram,
}

impl Kind {
    /// The word of the text formats.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Metric {
    /// The name that queries use; a histogram's without its suffixes.
    pub name: &'static str,
    /// The kind.
    pub kind: Kind,
    /// The unit, which is also in the name: `seconds`, `joules`; empty for counts and shares.
    pub unit: &'static str,
    /// Names of its labels, in the order of the text; `le` of a histogram is not among them.
    pub labels: &'static [&'static str],
    /// Upper edges of a histogram's buckets in its unit, without the infinite one; else empty.
    pub edges: &'static [f64],
    /// OpenTelemetry's name of the same thing, where there is one.
    pub otel: Option<&'static str>,
    /// What it says, for people.
    pub help: &'static str,
}

impl Metric {
    /// The name of the family in OpenMetrics, where a counter's family has no `_total`.
    pub fn family(&self) -> &'static str {
        self.name.strip_suffix("_total").unwrap_or(self.name)
    }
}

/// Edges of [`CALL_DURATION`], seconds. 1-2-5 steps: an SLO is a round number, and a quantile is exact where an edge equals it;
/// elsewhere it is off by at most a factor of 2.5. From 50 µs (a decode step of a small model on a GPU takes some hundred) to 50 s
/// (a cold start from disk).
pub const CALL_EDGES: &[f64] =
    &[0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0];
/// Edges that OpenTelemetry advises for `gen_ai.server.time_to_first_token`, so that series of other servers can be added up.
pub const TTFT_EDGES: &[f64] = &[0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// Edges that OpenTelemetry advises for `gen_ai.server.time_per_output_token`.
pub const TPOT_EDGES: &[f64] = &[0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];
/// Edges that OpenTelemetry advises for `gen_ai.server.request.duration`.
pub const REQUEST_EDGES: &[f64] = &[0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
/// Edges that OpenTelemetry advises for `gen_ai.client.token.usage`, in tokens.
pub const TOKEN_EDGES: &[f64] =
    &[1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0, 67_108_864.0];

const GEN_AI: &[&str] = &["gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "backend"];
const OF_CELL: &[&str] = &["backend", "mode", "phase", "regime", "batch", "new_tokens", "context", "boundary"];
const OF_CELL_STAT: &[&str] = &["backend", "mode", "phase", "regime", "batch", "new_tokens", "context", "boundary", "stat"];
const OF_CELL_ENERGY: &[&str] = &["backend", "mode", "phase", "regime", "batch", "new_tokens", "context", "boundary", "status", "bound"];
const OF_CELL_STATUS: &[&str] = &["backend", "mode", "phase", "regime", "batch", "new_tokens", "context", "boundary", "status", "reason"];

macro_rules! table {
    ($($constant:ident = $kind:ident $name:literal, $unit:literal, $labels:expr, $edges:expr, $otel:expr, $help:literal;)+) => {
        $(#[doc = $help]
        pub const $constant: Metric =
            Metric { name: $name, kind: Kind::$kind, unit: $unit, labels: $labels, edges: $edges, otel: $otel, help: $help };)+

        /// All of them, in the order of the text.
        pub const METRICS: &[Metric] = &[$($constant,)+];
    };
}

table! {
    TIME_TO_FIRST_TOKEN = Histogram "gen_ai_server_time_to_first_token_seconds", "seconds", GEN_AI, TTFT_EDGES, Some("gen_ai.server.time_to_first_token"),
        "From the start of a request to the end of its last prefill call. Queueing, tokenizing and sampling outside the request are not in it.";
    TIME_PER_OUTPUT_TOKEN = Histogram "gen_ai_server_time_per_output_token_seconds", "seconds", GEN_AI, TPOT_EDGES, Some("gen_ai.server.time_per_output_token"),
        "(End of the last token - end of the first) / (tokens - 1) of a request; requests of fewer than two tokens have none.";
    REQUEST_DURATION = Histogram "gen_ai_server_request_duration_seconds", "seconds", GEN_AI, REQUEST_EDGES, Some("gen_ai.server.request.duration"),
        "Wall time of requests that went well. Failed and cancelled ones are counted elsewhere and in no statistic.";
    TOKEN_USAGE = Histogram "gen_ai_client_token_usage", "",
        &["gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "backend", "gen_ai_token_type"], TOKEN_EDGES, Some("gen_ai.client.token.usage"),
        "Tokens of requests that went well: input (earlier turns included) and output.";
    CALL_DURATION = Histogram "phase_call_duration_seconds", "seconds", &["backend", "phase", "regime"], CALL_EDGES, None,
        "Wall time of phase calls that went well, cold, warm-up and steady apart.";
    TOKENS = Counter "phase_tokens_total", "", &["backend", "phase", "regime"], &[], None,
        "Tokens of phase calls that went well: prompt tokens in prefill, generated ones in decode, over all sequences.";
    TOKENS_PER_SECOND = Gauge "phase_busy_tokens_per_second", "", &["backend", "phase"], &[], None,
        "Tokens over busy time of all steady calls so far; idle time is not in it.";
    DECODE_FRACTION = Gauge "phase_decode_fraction", "", &["backend"], &[], None,
        "Share of decode in the phase time of all steady calls so far.";
    COLD_CALLS = Counter "phase_cold_calls_total", "", &["backend", "phase"], &[], None,
        "First calls of a phase after loading.";
    FAILED_CALLS = Counter "phase_failed_calls_total", "", &["backend", "phase", "kind"], &[], None,
        "Calls and requests that failed, by the kind of the error.";
    CANCELLED_REQUESTS = Counter "phase_cancelled_requests_total", "", &["backend"], &[], None,
        "Requests that the caller gave up.";
    MODEL_LOADS = Counter "phase_model_loads_total", "", &["backend"], &[], None,
        "Models loaded.";
    MODEL_LOAD_SECONDS = Counter "phase_model_load_seconds_total", "seconds", &["backend"], &[], None,
        "Time that loading models took.";
    IDLE_AGE = Gauge "phase_idle_age_seconds", "seconds", &["backend"], &[], None,
        "Time since the end of the last call, on the clock of the calls.";
    EVIDENCE_OPERATORS = Gauge "phase_evidence_operators", "", &["backend", "executor"], &[], None,
        "Operators seen on each executor.";
    EVIDENCE_KERNELS = Gauge "phase_evidence_kernels", "", &["backend"], &[], None,
        "Kernels seen running; 0 is the absence of evidence, not evidence of absence.";
    EVIDENCE_BYTES = Gauge "phase_evidence_record_bytes", "bytes", &["backend", "form"], &[], None,
        "Raw records of what the runtime compiled, captured or ran, by form; a label or a setting is none.";
    ENERGY_EVENTS = Counter "phase_energy_events_total", "", &["backend", "phase", "status"], &[], None,
        "Events whose energy was asked for, by the status of the answer: measured, interpolated, macro_window, no_data.";
    ENERGY_JOULES = Counter "phase_energy_joules_total", "joules", &["backend", "phase", "status"], &[], None,
        "Best estimate of the energy of the events that have one; no_data adds nothing, and is not zero.";
    ENERGY_LOW_JOULES = Counter "phase_energy_low_joules_total", "joules", &["backend", "phase", "status"], &[], None,
        "Lower bounds of the same.";
    ENERGY_HIGH_JOULES = Counter "phase_energy_high_joules_total", "joules", &["backend", "phase", "status"], &[], None,
        "Upper bounds of the same.";
    ENERGY_NO_DATA = Counter "phase_energy_no_data_total", "", &["backend", "phase", "reason"], &[], None,
        "Events without a number, by the reason.";
    COST = Gauge "phase_cost_usd_per_million_tokens", "", &["backend", "part", "bound"], &[], None,
        "Dollars a million tokens: part infra, energy or all; bound low, value or high. What is not known is absent.";
    DECISIONS = Counter "phase_decisions_total", "", &["backend", "class", "reason"], &[], None,
        "Decisions of the router, by the backend routed to and why.";
    DECISION_LIMITS = Counter "phase_decision_limits_total", "", &["limits"], &[], None,
        "Decisions of the router, by whether the route keeps the limits: kept, missed, not_known, unset.";
    POLICY_INFO = Gauge "phase_policy_info", "", &["digest", "schema", "default_safe"], &[], None,
        "1: the policy in use.";
    POLICY_CREATED = Gauge "phase_policy_created_timestamp_seconds", "seconds", &[], &[], None,
        "When the policy was compiled, in seconds since 1970.";
    POLICY_VALID = Gauge "phase_policy_valid", "", &[], &[], None,
        "1: the policy holds under the boundaries of this process; 0: something changed. Absent until it was checked.";
    POLICY_BACKEND_STATE = Gauge "phase_policy_backend_state", "", &["backend", "state"], &[], None,
        "1 for the state that each backend of the policy is in: valid, changed, not_live.";
    POLICY_CHANGED_FIELDS = Gauge "phase_policy_changed_fields", "", &["backend", "severity"], &[], None,
        "Fields of the boundary that changed since the policy was measured, by what the change does.";
    BOUNDARY_INFO = Gauge "phase_boundary_info", "", &["backend", "boundary"], &[], None,
        "1: the measurement boundary of the backend's numbers.";
    CELL_DURATION = Gauge "phase_cell_duration_seconds", "seconds", OF_CELL_STAT, &[], None,
        "A measured cell: stat median, low and high (interval of the median), p95.";
    CELL_CALLS = Gauge "phase_cell_calls", "", OF_CELL, &[], None,
        "Calls that went well in a measured cell.";
    CELL_ENERGY = Gauge "phase_cell_energy_joules", "joules", OF_CELL_ENERGY, &[], None,
        "Energy of one call in a measured cell, with its status; cells without a number are in phase_cell_energy_info.";
    CELL_ENERGY_INFO = Gauge "phase_cell_energy_info", "", OF_CELL_STATUS, &[], None,
        "1: the status of the energy of a measured cell, and the reason where there is no number.";
    LEDGER_REQUESTS = Counter "phase_ledger_requests_total", "", &["backend", "part"], &[], None,
        "Requests whose prediction was held against what they took, by part of the request.";
    LEDGER_PREDICTED = Counter "phase_ledger_predicted_seconds_total", "seconds", &["backend", "part"], &[], None,
        "Sum of the predictions of those requests.";
    LEDGER_ACTUAL = Counter "phase_ledger_actual_seconds_total", "seconds", &["backend", "part"], &[], None,
        "Sum of what they took.";
    LEDGER_INTERVAL = Counter "phase_ledger_interval_requests_total", "", &["backend", "part", "where"], &[], None,
        "Requests by where they lay: inside or outside of the predicted interval of the median. Single requests may well lie outside.";
    LEDGER_P95 = Counter "phase_ledger_p95_requests_total", "", &["backend", "part", "where"], &[], None,
        "Requests by where they lay: below or above the upper bound of the 95th percentile.";
    LEDGER_WINDOWS = Counter "phase_ledger_windows_total", "", &["backend", "part", "verdict"], &[], None,
        "Full windows of requests: verdict good or bad.";
    LEDGER_RATIO = Gauge "phase_ledger_window_ratio", "", &["backend", "part", "stat"], &[], None,
        "Actual over predicted in the last full window: stat median, and low and high of where that median lies.";
    LEDGER_REMEASURE = Gauge "phase_ledger_remeasure", "", &["backend", "part"], &[], None,
        "1: three bad windows in a row, a measurement is due.";
    LEDGER_REGRET = Counter "phase_ledger_regret_seconds_total", "seconds", &[], &[], None,
        "By how much requests took longer than the best other route was predicted to.";
    LEDGER_SAVED = Counter "phase_ledger_saved_seconds_total", "seconds", &[], &[], None,
        "By how much the others were faster than that.";
    LEDGER_APART = Counter "phase_ledger_apart_requests_total", "", &["why"], &[], None,
        "Requests that were not held against anything: why unpredicted, or unusable (of another policy, or without times).";
    REQUESTS_UNMATCHED = Counter "phase_requests_unmatched_total", "", &["backend"], &[], None,
        "Requests whose calls were no longer known at their end (more than 64 conversations at once): they have no TTFT and no TPOT.";
    EVENTS_UNLISTED = Counter "phase_events_unlisted_total", "", &[], &[], None,
        "Events of backends beyond the first 32, which are counted nowhere else.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_follow_the_conventions() {
        let mut seen = BTreeSet::new();
        for m in METRICS {
            assert!(seen.insert(m.name), "{} twice", m.name);
            assert!(m.name.starts_with("phase_") || m.otel.is_some(), "{}: a name of ours begins with phase_", m.name);
            assert_eq!(m.name.ends_with("_total"), m.kind == Kind::Counter, "{}", m.name);
            assert_eq!(m.edges.is_empty(), m.kind != Kind::Histogram, "{}", m.name);
            assert!(m.edges.windows(2).all(|e| e[0] < e[1]), "{}: edges rise", m.name);
            // OpenMetrics: the unit is the family's suffix.
            assert!(m.unit.is_empty() || m.family().ends_with(&format!("_{}", m.unit)), "{}: unit {}", m.name, m.unit);
            if let Some(otel) = m.otel {
                assert!(m.name.starts_with(&otel.replace('.', "_")), "{}", m.name);
            }
            assert!(m.help.ends_with('.') && !m.help.contains('\n'), "{}", m.name);
        }
    }
}
