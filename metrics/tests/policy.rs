//! What a policy, its validity, decisions and costs look like.

use phase_core::{BackendId, Layer, ManualClock, MeasurementBoundary, Phase, Shape, StackInfo};
use phase_metrics::{Exporter, TextFormat};
use phase_policy::{
    Changes, Observation, Policy, PolicyOptions, Router, ScenarioMatrix, Slo, Workload,
    cost::{Bounded, EnergyPrice, WorkerCost},
};

fn boundary(kernel: &str, library: &str) -> MeasurementBoundary {
    MeasurementBoundary::call(StackInfo::new().with(Layer::Machine, "kernel", kernel).with(Layer::Runtime, "library", library))
}

/// `a` is default-safe, `b` twice as fast at everything.
fn policy() -> Policy {
    let mut seen = Vec::new();
    for block in 0..5 {
        for (backend, ns) in [("a", 2_000_000), ("b", 1_000_000)] {
            let call =
                |phase, shape, ns| Observation::new(BackendId::new(backend), phase, shape, ns).with_boundary(backend).with_block(block);
            for i in 0..4 {
                seen.push(call(Phase::Prefill, Shape { batch: 1, new_tokens: 16, context: 0 }, ns + i + u64::from(block)));
                seen.push(call(
                    Phase::Decode,
                    Shape { batch: 1, new_tokens: 1, context: 16 + usize::try_from(i).expect("it is there in a test") },
                    ns + i,
                ));
            }
        }
    }
    let boundaries = [("a".to_owned(), boundary("6.1", "x 1")), ("b".to_owned(), boundary("6.1", "y 1"))].into();
    let matrix = ScenarioMatrix::build(&seen, &boundaries).expect("it is there in a test");
    Policy::compile(&matrix, &PolicyOptions::new(BackendId::new("a"), 1_760_000_000)).expect("it is there in a test")
}

fn text(exporter: &Exporter) -> String {
    exporter.render(TextFormat::Prometheus)
}

fn has(text: &str, line: &str) {
    assert!(text.lines().any(|l| l == line), "no line {line} in\n{text}");
}

#[test]
fn a_policy_is_valid_only_once_it_was_checked() {
    let exporter = Exporter::new(ManualClock::default());
    let policy = policy();
    exporter.set_policy(&policy);
    exporter.set_cells(policy.cells());
    let unchecked = text(&exporter);
    has(
        &unchecked,
        &format!(r#"phase_policy_info{{digest="{}",schema="{}",default_safe="a"}} 1.0"#, policy.digest(), phase_policy::SCHEMA),
    );
    has(&unchecked, "phase_policy_created_timestamp_seconds 1760000000.0");
    assert!(!unchecked.contains("phase_policy_valid"), "nobody checked");
    assert!(
        unchecked.contains(
            r#"phase_cell_duration_seconds{backend="b",mode="default",phase="prefill",regime="steady",batch="1",new_tokens="16","#
        )
    );

    let live = |kernel: &str| [(BackendId::new("a"), boundary(kernel, "x 1")), (BackendId::new("c"), boundary(kernel, "z"))];
    exporter.set_validity(&policy.validity(&live("6.1")));
    let same = text(&exporter);
    has(&same, "phase_policy_valid 1.0");
    has(&same, r#"phase_policy_backend_state{backend="a",state="valid"} 1.0"#);
    has(&same, r#"phase_policy_backend_state{backend="b",state="not_live"} 1.0"#);
    has(&same, r#"phase_policy_backend_state{backend="b",state="valid"} 0.0"#);

    exporter.set_validity(&policy.validity(&live("6.2")));
    let changed = text(&exporter);
    has(&changed, "phase_policy_valid 0.0");
    has(&changed, r#"phase_policy_backend_state{backend="a",state="changed"} 1.0"#);
    has(&changed, r#"phase_policy_changed_fields{backend="a",severity="recheck"} 1.0"#);

    // Another policy has not been checked, whatever was said of the one before.
    exporter.set_policy(&policy);
    assert!(!text(&exporter).contains("phase_policy_valid"));
}

#[test]
fn changes_found_without_a_model_say_the_same() {
    let exporter = Exporter::new(ManualClock::default());
    let policy = policy();
    exporter.set_policy(&policy);
    let machine = StackInfo::new().with(Layer::Machine, "kernel", "6.1");
    let probe = |library: &str| StackInfo::new().with(Layer::Runtime, "library", library);
    let probes = |b: &str| [(BackendId::new("a"), probe("x 1")), (BackendId::new("b"), probe(b))];
    exporter.set_changes(&policy, &Changes::of_probes(&policy, &machine, &probes("y 1")));
    has(&text(&exporter), "phase_policy_valid 1.0");
    exporter.set_changes(&policy, &Changes::of_probes(&policy, &machine, &probes("y 2")));
    let changed = text(&exporter);
    has(&changed, "phase_policy_valid 0.0");
    has(&changed, r#"phase_policy_backend_state{backend="b",state="changed"} 1.0"#);
    has(&changed, r#"phase_policy_changed_fields{backend="b",severity="invalid"} 1.0"#);
    exporter.set_changes(&policy, &Changes::of_probes(&policy, &machine, &probes("y 1")[1..]));
    has(&text(&exporter), "phase_policy_valid 0.0");
}

#[test]
fn decisions_are_counted_by_backend_class_reason_and_limits() {
    let exporter = Exporter::new(ManualClock::default());
    let router = Router::new(policy()).with_slo("ttft=1ms,p50".parse::<Slo>().unwrap());
    for workload in [Workload::new(1, 16, 4), Workload::new(1, 16, 4), Workload::new(7, 16, 4)] {
        exporter.record_decision(&router.decide(&workload));
    }
    let text = text(&exporter);
    let counted = |what: &str| text.lines().filter(|l| l.starts_with("phase_decisions_total") && l.contains(what)).collect::<Vec<_>>();
    assert!(counted(r#"backend="b""#)[0].ends_with(" 2.0"), "{text}");
    assert!(counted(r#"reason="outside_envelope""#)[0].starts_with(r#"phase_decisions_total{backend="a","#));
    let limits: Vec<_> = text.lines().filter(|l| l.starts_with("phase_decision_limits_total{")).collect();
    assert_eq!(limits.len(), 5, "all of them, so that the first missed one is an increase: {limits:?}");
    has(&text, r#"phase_decision_limits_total{limits="not_known"} 1.0"#);
    has(&text, r#"phase_decision_limits_total{limits="missed"} 2.0"#);
}

#[test]
fn a_cost_that_is_not_known_is_absent() {
    let exporter = Exporter::new(ManualClock::default());
    let worker = WorkerCost::new(Bounded::new(1000.0, 500.0, 2000.0).unwrap(), Bounded::exact(3.6).unwrap());
    exporter.set_cost("a", &worker.per_million().unwrap());
    let bare = text(&exporter);
    has(&bare, r#"phase_cost_usd_per_million_tokens{backend="a",part="all",bound="value"} 1.0"#);
    has(&bare, r#"phase_cost_usd_per_million_tokens{backend="a",part="infra",bound="high"} 2.0"#);
    assert!(!bare.contains(r#"part="energy""#));
    let powered = worker.with_energy(Bounded::exact(100.0).unwrap(), EnergyPrice::new(Some(0.3), None));
    exporter.set_cost("a", &powered.per_million().unwrap());
    assert!(text(&exporter).contains(r#"part="energy",bound="low"} "#));
}
