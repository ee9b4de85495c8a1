//! Energies of cells: what they rest on, when they decide, and when they stop to hold.

mod common;

use common::{FAST, SAFE, matrix};
use phase_core::{BackendId, Energy, Joules, MacroMethod, NoData};
use phase_policy::{
    ActiveJoules, Cell, Changes, EnergyBasis, EnergySensor, LiveSensor, MatrixError, Objective, Policy, PolicyOptions, Reason, Router,
    Severity, Workload,
};

const NOW: u64 = 1_760_000_000;

fn sensor(perimeter: &str) -> EnergySensor {
    EnergySensor {
        device: "GPU-a".to_owned(),
        driver: "nvidia 1".to_owned(),
        field: "total_energy".to_owned(),
        perimeter: perimeter.to_owned(),
        calibration: "c0".to_owned(),
        calibrated_unix_s: Some(NOW - 86_400),
        expires_unix_s: Some(NOW + 86_400),
    }
}

fn live(driver: &str) -> Vec<LiveSensor> {
    let EnergySensor { device, field, perimeter, .. } = sensor("gpu_board");
    vec![LiveSensor { device, driver: driver.to_owned(), field, perimeter }]
}

fn mean(joules: f64, share: f64, method: MacroMethod) -> Energy {
    let [joules, low, high] = [joules, joules * (1.0 - share), joules * (1.0 + share)].map(Joules);
    Energy::MacroWindow { joules, low, high, replays: 100, windows: 5, method }
}

fn basis(window: &Energy, perimeter: &str) -> EnergyBasis {
    EnergyBasis {
        single: Energy::NoData { reason: NoData::TooFewUpdates },
        window: window.clone(),
        active: None,
        sensors: vec![sensor(perimeter)],
    }
}

/// A policy whose cells of `safe` and `fast` took these energies under these perimeters.
fn policy(energies: [(BackendId, Energy, &str); 2]) -> Policy {
    let mut cells = matrix(&[SAFE, FAST]);
    let keys: Vec<_> = cells.cells().iter().map(|c| c.key.clone()).collect();
    for key in keys {
        let (_, energy, perimeter) = energies.iter().find(|(id, ..)| *id == key.backend).expect("one of the two");
        cells.set_energy_with(&key, energy.clone(), basis(energy, perimeter)).expect("an energy");
    }
    let policy = Policy::compile(&cells, &PolicyOptions::new(SAFE, 0)).expect("a policy");
    let read = Policy::from_json(&policy.to_json()).expect("it reads back");
    assert_eq!(read, policy);
    policy
}

fn hungry_and_frugal(share: f64) -> Policy {
    let replayed = |j| mean(j, share, MacroMethod::Replay);
    policy([(SAFE, replayed(2.0), "gpu_board"), (FAST, replayed(1.7), "gpu_board")])
}

fn by_energy(policy: Policy) -> Router {
    Router::new(policy).with_objective(&Objective::Energy).expect("no prices needed")
}

const CHAT: Workload = Workload::new(1, 128, 8);

#[test]
fn means_over_windows_decide_where_their_intervals_do_not_overlap() {
    let router = by_energy(hungry_and_frugal(0.03));
    let decision = router.decide(&CHAT);
    assert_eq!(decision.route.backend, &FAST);
    let Energy::MacroWindow { joules, low, high, .. } = decision.energy() else { panic!("{}", decision.energy()) };
    assert!((joules.0 - 8.0 * 1.7).abs() < 1e-9 && low < joules && joules < high, "a prefill and seven steps of 1.7 J");
    let overlapping = by_energy(hungry_and_frugal(0.10));
    assert!(matches!(overlapping.decide(&CHAT).route.reason, Reason::Ambiguous { .. }), "2.0 +- 0.2 against 1.7 +- 0.17");
    assert_eq!(overlapping.decide(&CHAT).route.backend, &SAFE);
}

#[test]
fn what_can_not_be_compared_decides_nothing() {
    let replayed = mean(1.0, 0.02, MacroMethod::Replay);
    let shot = mean(0.5, 0.02, MacroMethod::GuardedShot);
    let reason = |fast: Energy, perimeter| {
        let router = by_energy(policy([(SAFE, replayed.clone(), "gpu_board"), (FAST, fast, perimeter)]));
        let decision = router.decide(&CHAT);
        (decision.route.backend.clone(), decision.route.reason)
    };
    assert_eq!(reason(mean(0.5, 0.02, MacroMethod::Replay), "gpu_board").0, FAST);
    assert_eq!(reason(mean(0.5, 0.02, MacroMethod::Replay), "cpu_package"), (SAFE, Reason::NoEnergy), "a package is no board");
    assert_eq!(reason(shot, "gpu_board"), (SAFE, Reason::NoEnergy), "an isolated call is no busy device");
}

#[test]
fn another_driver_or_device_or_an_old_calibration_makes_energy_invalid_and_leaves_times() {
    let policy = hungry_and_frugal(0.03);
    let changes = |live: &[LiveSensor], now| Changes::default().with_sensors(&policy, live, now);
    assert_eq!(changes(&live("nvidia 1"), NOW).severity(), None);
    for (found, now, field) in [
        (live("nvidia 2"), NOW, "sensor.driver"),
        (Vec::new(), NOW, "sensor.device"),
        (live("nvidia 1"), NOW + 2 * 86_400, "sensor.calibration"),
    ] {
        let changed = changes(&found, now);
        assert_eq!(changed.severity(), Some(Severity::EnergyInvalid), "{field}");
        assert!(changed.changes.iter().all(|c| c.field == field) && changed.changes.len() == 2, "{changed}");
        assert!(!changed.rerun.is_empty());
        let router = by_energy(policy.clone()).with_sensors(&found, now);
        assert_eq!(router.decide(&CHAT).route.reason, Reason::NoEnergy);
        let reason = if field == "sensor.calibration" { NoData::Uncalibrated } else { NoData::BoundaryChanged };
        assert_eq!(router.decide(&CHAT).energy(), Energy::NoData { reason });
        let by_time = Router::new(policy.clone()).with_sensors(&found, now);
        assert_eq!(by_time.decide(&CHAT).route.backend, &FAST, "times don't depend on it");
    }
    let holds = by_energy(policy.clone()).with_sensors(&live("nvidia 1"), NOW);
    assert_eq!(holds.decide(&CHAT).route.backend, &FAST);
}

#[test]
fn a_policy_without_energies_asks_for_no_sensor() {
    assert_eq!(Changes::default().with_sensors(&common::policy(), &[], NOW).severity(), None);
}

#[test]
fn nonsense_in_a_basis_is_refused_and_a_row_says_all_of_it() {
    let mut cells = matrix(&[SAFE]);
    let key = cells.cells()[0].key.clone();
    let energy = mean(2.0, 0.05, MacroMethod::Replay);
    let with = |active: ActiveJoules, window: Energy| EnergyBasis { active: Some(active), window, ..basis(&energy, "gpu_board") };
    let active = |low: f64| ActiveJoules { above: "model_resident".to_owned(), joules: 1.5, low, high: 1.8 };
    let upside_down = mean(2.0, -0.5, MacroMethod::Replay);
    for wrong in [with(active(1.6), energy.clone()), with(active(f64::NAN), energy.clone()), with(active(1.0), upside_down.clone())] {
        assert!(matches!(cells.set_energy_with(&key, energy.clone(), wrong), Err(MatrixError::Inconsistent { .. })));
    }
    assert!(matches!(cells.set_energy(&key, upside_down), Err(MatrixError::Inconsistent { .. })));
    cells.set_energy_with(&key, energy.clone(), with(active(-0.5), energy.clone())).expect("active energy may be below nothing");
    let row = cells.cells()[0].csv_row();
    let field = |name: &str| row[Cell::CSV_COLUMNS.iter().position(|c| *c == name).expect("a column")].as_str();
    assert_eq!((field("energy_status"), field("energy_j"), field("energy_windows")), ("macro_window", "2", "5"));
    assert_eq!((field("energy_single_status"), field("energy_active_low_j")), ("no_data", "-0.5"));
    assert_eq!(field("energy_no_data_reason"), "");
}
