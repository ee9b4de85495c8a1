//! Change control: what a changed field does, and what must be measured again.

mod common;

use common::{BULK, FAST, SAFE, boundary, boundary_of, policy, router};
use phase_core::{BackendId, Layer, MeasurementBoundary, StackInfo};
use phase_policy::{Changes, Drift, DriftVerdict, Reason, Severity, Validity, Workload, capacity::Mix};

fn machine(kernel: &str) -> StackInfo {
    StackInfo::new().with(Layer::Machine, "cpu", "x").with(Layer::Machine, "kernel", kernel).with(Layer::Model, "digest", "m")
}

fn live(fast: MeasurementBoundary) -> [(BackendId, MeasurementBoundary); 3] {
    [(SAFE, boundary(&SAFE)), (FAST, fast), (BULK, boundary(&BULK))]
}

fn validity(fast: MeasurementBoundary) -> Validity {
    policy().validity(&live(fast))
}

#[test]
fn a_changed_runtime_names_the_field_and_the_least_to_measure_again() {
    let changes = Changes::of(&policy(), &validity(boundary_of("fast 2")));
    assert_eq!((changes.severity(), changes.changes.len()), (Some(Severity::Invalid), 1));
    assert!(changes.rerun.iter().all(|id| id.starts_with("fast/") || id.starts_with("safe/")), "bulk is as it was");
    assert!(changes.rerun.contains(&"fast/default/decode/b1/n1/c128/steady".to_owned()));
    assert!(changes.rerun.contains(&"safe/default/decode/b1/n1/c128/steady".to_owned()), "its partner in the same blocks");
    let words = changes.to_string();
    assert!(words.contains("invalid: fast: runtime.library was fast, is fast 2") && words.contains("measure again:"), "{words}");
    let all = Changes::of(&policy(), &policy().validity(&[(SAFE, boundary_of("safe 2")), (FAST, boundary(&FAST))]));
    assert!(all.rerun.iter().any(|id| id.starts_with("bulk/")), "everything was held against the default");
    assert_eq!(all.missing, [BULK]);
    let without_default = Changes::of(&policy(), &policy().validity(&[(FAST, boundary(&FAST))]));
    assert_eq!((without_default.default_missing, without_default.severity()), (true, Some(Severity::Invalid)));
}

#[test]
fn nothing_changed_is_said_and_measures_nothing() {
    let changes = Changes::of(&policy(), &validity(boundary(&FAST)));
    assert_eq!((changes.severity(), changes.rerun.len()), (None, 0));
    assert!(changes.to_string().starts_with("the policy holds"));
}

#[test]
fn where_a_library_lies_voids_nothing() {
    let with_file = |file: &str| {
        let stack = boundary(&FAST).stack.with(Layer::Runtime, "library_file", file);
        MeasurementBoundary::call(stack)
    };
    // The policy has no such fact, this process has: a difference, and one that moves no number.
    let validity = validity(with_file("/opt/libfast.so"));
    assert!(validity.is_valid());
    let router = router().with_live(&live(with_file("/opt/libfast.so")));
    assert_eq!(router.decide(&Workload::new(1, 128, 64)).route.backend, &FAST);
    let recheck = router.with_live(&live(MeasurementBoundary::call(boundary(&FAST).stack.with(Layer::Machine, "kernel", "7"))));
    assert_eq!(recheck.decide(&Workload::new(1, 128, 64)).route.reason, Reason::BoundaryChanged, "times must be re-checked first");
}

#[test]
fn without_a_model_the_machine_and_what_runtimes_tell_are_checked() {
    let probe = |library: &str| StackInfo::new().with(Layer::Runtime, "library", library);
    let probes = |fast: &str| [(SAFE, probe("safe")), (FAST, probe(fast))];
    let here = StackInfo::new().with(Layer::Machine, "cpu", "x");
    let same = Changes::of_probes(&policy(), &here, &probes("fast"));
    assert_eq!((same.severity(), same.missing), (None, vec![BULK]));
    let newer = Changes::of_probes(&policy(), &here, &probes("fast 2"));
    assert_eq!(newer.changes.iter().map(|c| c.field.as_str()).collect::<Vec<_>>(), ["runtime.library"]);
    let other = Changes::of_probes(&policy(), &machine("6.1"), &probes("fast"));
    assert_eq!(other.severity(), Some(Severity::Recheck));
    let unread = StackInfo::new().with_unknown(Layer::Machine, "cpu", "no access");
    assert_eq!(Changes::of_probes(&policy(), &unread, &probes("fast")).severity(), Some(Severity::Invalid));
}

#[test]
fn severities_are_ordered_and_only_the_small_ones_hold() {
    let all = [Severity::Info, Severity::Reweight, Severity::Recheck, Severity::EnergyInvalid, Severity::Invalid];
    assert!(all.is_sorted());
    assert_eq!(all.map(Severity::holds), [true, true, false, false, false]);
}

#[test]
fn requests_outside_of_what_was_measured_ask_for_a_measurement() {
    let router = router();
    let mut drift = Drift::new(&Mix::parse("128x64").unwrap());
    for i in 0..1000 {
        drift.note_routed(&router, &Workload::new(1, if i % 50 == 0 { 9000 } else { 128 }, 64));
    }
    assert_eq!(drift.verdict(), DriftVerdict::Rerun { outside: 0.02 });
}

#[test]
fn the_policy_keeps_the_mix_it_was_weighted_with_and_drift_asks_for_reweighting() {
    let mix = Mix::parse("128x64:70,512x8:30").unwrap();
    let options = phase_policy::PolicyOptions::new(SAFE, 1_760_000_000).with_mix(mix.clone());
    let compiled = phase_policy::Policy::compile(&common::matrix(&[SAFE, FAST, BULK]), &options).unwrap();
    let policy = phase_policy::Policy::from_json(&compiled.to_json()).unwrap();
    assert_eq!((policy.mix(), &policy), (Some(&mix), &compiled));
    assert!(Drift::of(&common::policy()).is_none(), "a policy without a mix has nothing to drift from");
    let mut drift = Drift::of(&policy).unwrap();
    (0..1000).for_each(|i| drift.note(&if i % 10 < 7 { Workload::new(1, 128, 64) } else { Workload::new(1, 512, 8) }));
    let same = Changes::default().with_drift(&policy, drift.verdict());
    assert_eq!((same.severity(), same.rerun.len()), (None, 0));
    (0..1000).for_each(|_| drift.note(&Workload::new(1, 512, 8)));
    let moved = Changes::default().with_drift(&policy, drift.verdict());
    assert_eq!((moved.severity(), moved.rerun.len()), (Some(Severity::Reweight), 0), "numbers hold, nothing is measured again");
    let outside = Changes::default().with_drift(&policy, DriftVerdict::Rerun { outside: 0.02 });
    assert_eq!(outside.severity(), Some(Severity::Recheck));
    assert!(!outside.rerun.is_empty());
}

#[test]
fn a_policy_grows_old() {
    let policy = policy();
    let day = 24 * 3600;
    let at = |days: u64| Changes::default().with_age(&policy, policy.created_unix_s() + days * day);
    assert_eq!(at(30).severity(), None);
    let old = at(31);
    assert_eq!((old.severity(), old.changes[0].field.as_str()), (Some(Severity::Recheck), "policy.age"));
    assert!(old.to_string().contains("31 days old"), "{old}");
    assert_eq!(Changes::default().with_age(&policy, 0).severity(), None, "a clock that runs behind makes nothing old");
}

#[test]
fn each_field_has_the_severity_of_the_specification() {
    for (field, wanted) in [
        ("machine.cpu", Severity::Invalid),
        ("machine.gpu", Severity::Invalid),
        ("machine.driver", Severity::Invalid),
        ("model.digest", Severity::Invalid),
        ("model.dtype", Severity::Invalid),
        ("runtime.library", Severity::Invalid),
        ("runtime.library_blake3", Severity::Invalid),
        ("runtime.kernel_path", Severity::Invalid),
        ("anything.unknown", Severity::Invalid),
        ("cadence", Severity::EnergyInvalid),
        ("machine.gpu_uuid", Severity::EnergyInvalid),
        ("runtime.gpu_uuid", Severity::EnergyInvalid),
        ("machine.sensor_calibration", Severity::EnergyInvalid),
        ("machine.power_limit_mw", Severity::Recheck),
        ("machine.clocks_locked", Severity::Recheck),
        ("machine.ecc", Severity::Recheck),
        ("machine.persistence", Severity::Recheck),
        ("machine.governor", Severity::Recheck),
        ("machine.kernel", Severity::Recheck),
        ("machine.pcie_width", Severity::Recheck),
        ("machine.container_limits", Severity::Recheck),
        ("machine.numa_nodes", Severity::Recheck),
        ("machine.thermal_band", Severity::Recheck),
        ("machine.turbo", Severity::Recheck),
        ("machine.workload_profile", Severity::Recheck),
        ("policy.age", Severity::Recheck),
        ("arrivals", Severity::Reweight),
        ("pue", Severity::Reweight),
        ("mix", Severity::Reweight),
        ("prices.date", Severity::Reweight),
        ("machine.hostname", Severity::Info),
    ] {
        assert_eq!(phase_policy::severity(field), wanted, "{field}");
    }
}
