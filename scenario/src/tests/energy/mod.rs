//! Energy of runs on a device whose joules are known.

mod budget;
mod device;
mod tampering;

use super::*;
use crate::energy::{EnergyOptions, EnergySensorEntry, EnergySetup, EnergySummary};
use device::{Device, FakeMeter, IDLE_W, NAME, Profile, Sensor, joules, seconds};
use phase_core::{Energy, NoData, Phase};
use phase_energy::{ReadingKind, SensorCalibration, SensorKind};
use phase_policy::{Objective, Policy, PolicyOptions, Router, Workload as Asked};

const COUNTER: Sensor = Sensor { reading: ReadingKind::Counter, kind: SensorKind::Integrating, update_s: 0.1, window_s: 0.1 };
const PART_TIME: Sensor = Sensor { reading: ReadingKind::Power, kind: SensorKind::PartTime, update_s: 0.1, window_s: 0.025 };

const REQUEST: &str = r#"
schema = "phase.scenarios/1"
id = "small"
title = "Small"
parity = { prompt_tokens = 4, batch = 2, decode_steps = 2, tolerance = { f32 = 0.01 } }
[scale.cpu.full]
blocks = 4
workloads = [{ id = "a", kind = "steady", batch = 2, prompt_tokens = 4, decode_steps = 3, warmup = 1 }]
"#;

/// A prefill of 60 ms that begins near the limit, and a decode step of 8 ms.
fn hungry() -> [Profile; 2] {
    [vec![(0.02, 650.0), (0.04, 300.0)], vec![(0.008, 350.0)]]
}

/// The same times for two thirds of the energy.
fn frugal() -> [Profile; 2] {
    [vec![(0.02, 433.0), (0.04, 200.0)], vec![(0.008, 233.0)]]
}

struct Lab {
    stage: Stage2,
    device: Arc<Device>,
    a: [Profile; 2],
    b: [Profile; 2],
}

impl Lab {
    fn new(sensor: Sensor, a: [Profile; 2], b: [Profile; 2]) -> Self {
        let (mut stage, device) = (Stage2::new(), Device::new(sensor));
        stage.clock = Arc::clone(&device.clock);
        for (script, [prefill, decode]) in [(&stage.a, &a), (&stage.b, &b)] {
            *script.work.lock().unwrap() = Some((device.work(prefill.clone(), decode.clone()), NAME));
        }
        Self { stage, device, a, b }
    }

    fn calibration(&self) -> SensorCalibration {
        let Sensor { kind, update_s, window_s, reading } = self.device.sensor;
        let mut calibration = SensorCalibration::described(kind, update_s * 1e9, window_s * 1e9, 0.0, 100.0, 750.0);
        calibration.source = Some(self.device.id());
        calibration.reading = Some(reading);
        calibration.taken_unix_s = Some(1_795_000_000);
        calibration
    }

    fn setup(&self, calibration: &SensorCalibration) -> EnergySetup<'static> {
        let meter = FakeMeter(Arc::clone(&self.device));
        let all = meter.sensors();
        let (sensors, notes) = match_calibrations(&all, std::slice::from_ref(calibration), 1_795_492_392);
        EnergySetup::Present { meter: Box::new(meter), sensors, notes }
    }

    fn plan() -> Plan {
        Plan::new(&Stage2::spec(REQUEST)).unwrap()
    }

    fn runner(&self, plan: Plan, dir: &Path) -> Runner<'_> {
        let runner = self.stage.create(plan, dir).unwrap();
        runner.with_energy(self.setup(&self.calibration()), EnergyOptions::default()).unwrap()
    }

    fn run(&self, plan: Plan, dir: &Path) -> Run {
        let finish = self.runner(plan, dir).run(&mut (), &AtomicBool::new(false)).unwrap();
        assert!(matches!(finish, Finish::Complete { failures: 0, .. }), "{finish:?}");
        validate(dir).unwrap();
        Run::open(dir).unwrap()
    }

    /// What the call of a cell really takes.
    fn truth(&self, cell: &EnergyCell) -> (f64, f64) {
        let profiles = if cell.backend == arm("a") { &self.a } else { &self.b };
        let profile = &profiles[usize::from(cell.phase == Phase::Decode)];
        (joules(profile), seconds(profile))
    }
}

fn bounds(energy: &Energy) -> (f64, f64, f64) {
    let [low, high] = energy.bounds().unwrap_or_else(|| panic!("{energy}"));
    let (Energy::Measured { joules, .. } | Energy::Interpolated { joules, .. } | Energy::MacroWindow { joules, .. }) = energy else {
        panic!("{energy}")
    };
    (joules.0, low.0, high.0)
}

fn assert_holds(energy: &Energy, truth: f64, within: f64) {
    let (joules, low, high) = bounds(energy);
    assert!(low <= truth && truth <= high, "{energy} against {truth}");
    assert!((joules / truth - 1.0).abs() <= within, "{energy} against {truth}");
}

#[test]
fn a_run_gives_every_call_the_energy_it_took_within_its_interval() {
    let (lab, dir) = (Lab::new(COUNTER, hungry(), frugal()), tempfile::tempdir().unwrap());
    let run = lab.run(Lab::plan(), dir.path());
    let energy = run.energy().unwrap();
    assert_eq!(energy.cells.len(), 4);
    for cell in &energy.cells {
        let (truth, time) = lab.truth(cell);
        assert_eq!(cell.energy.status(), "macro_window");
        assert_holds(&cell.energy, truth, 0.02);
        // A single call of 60 ms or less is far below what a counter of 100 ms can tell.
        let single = cell.single.as_ref().unwrap();
        assert_eq!((single.measured, &single.energy), (0, &Energy::NoData { reason: NoData::TooFewUpdates }));
        let active = cell.basis.as_ref().unwrap().active.as_ref().unwrap();
        let above = truth - IDLE_W * time;
        assert!(active.low <= above && above <= active.high && active.high < bounds(&cell.energy).2, "{active:?} against {above}");
        assert!((cell.over_blocks.unwrap() - 1.0).abs() < 1e-6 && (cell.call_s.unwrap() / time - 1.0).abs() < 1e-6);
        let tokens = if cell.phase == Phase::Prefill { 8.0 } else { 2.0 };
        let [each, ..] = cell.joules_per_token.unwrap();
        assert!((each * tokens / bounds(&cell.energy).0 - 1.0).abs() < 1e-9);
        assert!((cell.tokens_per_joule.unwrap()[0] * each - 1.0).abs() < 1e-9);
    }
    for request in &energy.requests {
        let [prefill, decode] = if request.backend == arm("a") { hungry() } else { frugal() };
        // Two sequences of a prompt and four new tokens: eight new tokens, three steps.
        assert_eq!(request.new_tokens, 8);
        assert_holds(&request.energy, joules(&prefill) + 3.0 * joules(&decode), 0.02);
    }
    let rests: Vec<_> = energy.rests.iter().map(|r| (r.rest, r.mean_w.unwrap())).collect();
    assert!(rests.iter().all(|(_, w)| (w / IDLE_W - 1.0).abs() < 0.01), "{rests:?}");
    for kind in ["DeepIdle", "ModelResident", "ContextResident"] {
        assert!(rests.iter().any(|(rest, _)| format!("{rest:?}") == kind), "{kind} in {rests:?}");
    }
    let csv = std::fs::read_to_string(dir.path().join("cells.csv")).unwrap();
    assert_eq!(csv.matches("macro_window").count(), 4);
}

#[test]
fn deep_idle_waits_for_a_power_that_stands_still_and_may_be_below_what_the_calibration_knows() {
    let deep = |at_rest: fn(f64) -> f64| {
        let (lab, dir) = (Lab::new(COUNTER, hungry(), frugal()), tempfile::tempdir().unwrap());
        *lab.device.at_rest.lock().unwrap() = at_rest;
        let run = lab.run(Lab::plan(), dir.path());
        let rests = run.energy().unwrap().rests.clone();
        rests.into_iter().find(|r| r.rest == phase_energy::BaselineKind::DeepIdle).unwrap().mean_w
    };
    // Somebody's work has just ended: the clocks stay up for seconds.
    let found = deep(|s| 73.0 + 50.0 * (-s / 2.0).exp()).unwrap();
    assert!((72.5..75.5).contains(&found), "{found} W");
    // A power that goes on falling for as long as anybody looks is that of no rest.
    assert_eq!(deep(|s| (500.0 - 20.0 * s).max(73.0)), None);
}

#[test]
fn a_device_with_a_context_has_no_deep_idle() {
    let (lab, dir) = (Lab::new(COUNTER, hungry(), frugal()), tempfile::tempdir().unwrap());
    lab.device.used.store(true, Ordering::Relaxed);
    let run = lab.run(Lab::plan(), dir.path());
    let energy = run.energy().unwrap();
    let rests = |kind| energy.rests.iter().filter(move |r| r.rest == kind).collect::<Vec<_>>();
    let deep = rests(phase_energy::BaselineKind::DeepIdle);
    assert!(deep.len() == 1 && deep[0].mean_w.is_none(), "{deep:?}");
    assert!(rests(phase_energy::BaselineKind::ModelResident).iter().all(|r| r.mean_w.is_some()));
    let sitting: EnergySitting = serde_json::from_str(&std::fs::read_to_string(dir.path().join("energy/0000.json")).unwrap()).unwrap();
    assert_eq!(sitting.meter_error.as_deref(), Some("processes with a context on it: 1"));
}

#[test]
fn timed_blocks_are_not_sampled_and_replays_enter_no_time() {
    let (lab, dir) = (Lab::new(COUNTER, hungry(), frugal()), tempfile::tempdir().unwrap());
    let run = lab.run(Lab::plan(), dir.path());
    let plain = Lab::new(COUNTER, hungry(), frugal());
    let other = tempfile::tempdir().unwrap();
    let without = plain.stage.complete(Lab::plan(), other.path());
    assert_eq!(outline(&run), outline(&without));
    assert!(without.energy().is_none() && !other.path().join("energy.json").exists());
    let last = run.blocks().last().unwrap().end_ns;
    let sitting: EnergySitting = serde_json::from_str(&std::fs::read_to_string(dir.path().join("energy/0001.json")).unwrap()).unwrap();
    assert!(sitting.windows.iter().flat_map(|w| &w.starts_ns).all(|start| *start > last));
}

#[test]
fn energy_decides_where_intervals_do_not_overlap_and_nowhere_else() {
    let route = |b: [Profile; 2]| {
        let (lab, dir) = (Lab::new(COUNTER, hungry(), b), tempfile::tempdir().unwrap());
        let matrix = lab.run(Lab::plan(), dir.path()).policy_matrix().unwrap().unwrap();
        let mut options = PolicyOptions::new(BackendId::new("a"), 0);
        options.constants.min_blocks = 3;
        let policy = Policy::compile(&matrix, &options).unwrap();
        let router = Router::new(Policy::from_json(&policy.to_json()).unwrap()).with_objective(&Objective::Energy).unwrap();
        let decision = router.decide(&Asked::new(2, 4, 4));
        assert_eq!(decision.energy().status(), "macro_window");
        decision.route.backend.to_string()
    };
    assert_eq!(route(frugal()), "b");
    let [prefill, decode] = hungry();
    let little_less = |p: &Profile| p.iter().map(|(s, w)| (*s, w * 0.99)).collect::<Profile>();
    assert_eq!(route([little_less(&prefill), little_less(&decode)]), "a", "one percent is within the intervals");
}

#[test]
fn bias_and_coverage_over_many_devices() {
    let (mut errors, mut inside, mut n) = (0.0, 0, 0);
    let mut random = random::Random::new(11, "devices");
    let mut within = |low: f64, high: f64| low + (high - low) * random.below(10_000) as f64 / 10_000.0;
    for _ in 0..8 {
        let mut profiles = || {
            let prefill = vec![(within(0.005, 0.05), within(400.0, 700.0)), (within(0.005, 0.1), within(200.0, 400.0))];
            [prefill, vec![(within(0.002, 0.02), within(150.0, 500.0))]]
        };
        let (lab, dir) = (Lab::new(COUNTER, profiles(), profiles()), tempfile::tempdir().unwrap());
        for cell in &lab.run(Lab::plan(), dir.path()).energy().unwrap().cells {
            let (joules, low, high) = bounds(&cell.energy);
            let (truth, _) = lab.truth(cell);
            errors += joules / truth - 1.0;
            inside += usize::from(low <= truth && truth <= high);
            n += 1;
        }
    }
    assert_eq!((inside, n), (32, 32));
    assert!((errors / f64::from(n)).abs() < 0.005, "bias {}", errors / f64::from(n));
}

#[test]
fn a_part_time_sensor_is_dithered_and_a_locked_call_is_still_right() {
    // 100 ms, in step with the sensor: without dither it would see one part of it.
    let locked = || [vec![(0.02, 650.0), (0.08, 300.0)], vec![(0.1, 350.0)]];
    let (lab, dir) = (Lab::new(PART_TIME, locked(), locked()), tempfile::tempdir().unwrap());
    let run = lab.run(Lab::plan(), dir.path());
    for cell in &run.energy().unwrap().cells {
        match cell.energy {
            Energy::NoData { reason } => assert!(matches!(reason, NoData::SensorLocked | NoData::TooUncertain), "{reason}"),
            _ => assert_holds(&cell.energy, lab.truth(cell).0, 0.10),
        }
    }
    let known = run.energy().unwrap().cells.iter().filter(|c| c.energy.bounds().is_some()).count();
    assert!(known >= 3, "{known}");
    let text = std::fs::read_to_string(dir.path().join("energy/0001.json")).unwrap();
    assert!(text.contains(r#""dither_s":0.025"#));
}

#[test]
fn a_long_call_is_reported_by_itself() {
    let long = || [vec![(3.0, 400.0)], vec![(2.5, 300.0)]];
    let (lab, dir) = (Lab::new(COUNTER, long(), long()), tempfile::tempdir().unwrap());
    for cell in &lab.run(Lab::plan(), dir.path()).energy().unwrap().cells {
        assert_eq!((cell.energy.status(), cell.window.status()), ("measured", "macro_window"));
        let single = cell.single.as_ref().unwrap();
        assert_eq!((single.calls, single.reason), (single.measured, None));
        assert_holds(&cell.energy, lab.truth(cell).0, 0.05);
    }
}

#[test]
fn what_voids_readings_is_the_reason_of_every_cell() {
    let reasons = |change: &dyn Fn(&Lab)| {
        let (lab, dir) = (Lab::new(COUNTER, hungry(), frugal()), tempfile::tempdir().unwrap());
        change(&lab);
        let run = lab.run(Lab::plan(), dir.path());
        let mut all: Vec<_> = run.energy().unwrap().cells.iter().map(|c| c.energy.reason()).collect();
        all.dedup();
        assert!(run.matrix().unwrap().cells().iter().all(|c| c.energy.bounds().is_none()));
        all
    };
    assert_eq!(reasons(&|lab| lab.device.shared.store(true, Ordering::Relaxed)), [Some(NoData::DeviceShared)]);
    // One degree a second never settles.
    assert_eq!(reasons(&|lab| lab.device.warming.lock().unwrap().0 = 1.0), [Some(NoData::ThermalDrift)]);
    let elsewhere = |lab: &Lab| {
        for script in [&lab.stage.a, &lab.stage.b] {
            script.work.lock().unwrap().as_mut().unwrap().1 = "GPU-other";
        }
    };
    assert_eq!(reasons(&elsewhere), [Some(NoData::NoSource)], "a board says nothing of what runs on another one");
}

#[test]
fn without_a_source_every_cell_says_why_and_there_is_no_number() {
    let (lab, dir) = (Lab::new(COUNTER, hungry(), frugal()), tempfile::tempdir().unwrap());
    let setup = EnergySetup::Absent { reason: NoData::NoSource, notes: vec!["no driver".to_owned()] };
    let runner = lab.stage.create(Lab::plan(), dir.path()).unwrap();
    runner.with_energy(setup, EnergyOptions::default()).unwrap().run(&mut (), &AtomicBool::new(false)).unwrap();
    let run = Run::open(dir.path()).unwrap();
    let none = Energy::NoData { reason: NoData::NoSource };
    assert!(run.matrix().unwrap().cells().iter().all(|c| c.energy == none));
    let energy = run.energy().unwrap();
    assert!(energy.cells.iter().all(|c| c.energy == none && c.joules_per_token.is_none()));
    assert!(energy.requests.iter().all(|r| r.energy == none && r.tokens_per_joule.is_none()));
}

#[test]
fn a_sitting_that_was_cut_short_is_held_again_and_the_others_are_not() {
    struct StopAt(usize, Arc<AtomicBool>);
    impl Observer for StopAt {
        fn progress(&mut self, progress: &Progress<'_>) {
            if matches!(progress, Progress::Energy { done, .. } if *done == self.0) {
                self.1.store(true, Ordering::Relaxed);
            }
        }
    }
    let (lab, dir) = (Lab::new(COUNTER, hungry(), frugal()), tempfile::tempdir().unwrap());
    let cancel = Arc::new(AtomicBool::new(false));
    let finish = lab.runner(Lab::plan(), dir.path()).run(&mut StopAt(1, Arc::clone(&cancel)), &cancel).unwrap();
    assert_eq!(finish, Finish::Stopped { blocks_done: 4, blocks_total: 4 });
    let kept = std::fs::read(dir.path().join("energy/0001.json")).unwrap();
    let resumed = lab.stage.resume(dir.path()).unwrap();
    let mut other = lab.calibration();
    other.max_w = 800.0;
    let refused = lab.stage.resume(dir.path()).unwrap().with_energy(lab.setup(&other), EnergyOptions::default());
    assert!(refused.unwrap_err().to_string().contains("not those that this run was started with"));
    let mut runner = resumed.with_energy(lab.setup(&lab.calibration()), EnergyOptions::default()).unwrap();
    runner.run(&mut (), &AtomicBool::new(false)).unwrap();
    assert_eq!(std::fs::read(dir.path().join("energy/0001.json")).unwrap(), kept);
    let run = Run::open(dir.path()).unwrap();
    for cell in &run.energy().unwrap().cells {
        assert!(cell.energy.bounds().is_some(), "{cell:?}");
    }
}

#[test]
fn one_resident_model_sits_alone() {
    let (lab, dir) = (Lab::new(COUNTER, hungry(), frugal()), tempfile::tempdir().unwrap());
    let mut spec = Stage2::spec(REQUEST);
    spec.residency = Residency::One;
    let run = lab.run(Plan::new(&spec).unwrap(), dir.path());
    for cell in &run.energy().unwrap().cells {
        assert_holds(&cell.energy, lab.truth(cell).0, 0.02);
    }
}

#[test]
fn a_failing_backend_has_no_energy_and_the_other_one_has() {
    let (lab, dir) = (Lab::new(COUNTER, hungry(), frugal()), tempfile::tempdir().unwrap());
    // Well into the replays: the blocks make fewer than 40 calls.
    lab.stage.b.fails_at.store(60, Ordering::Relaxed);
    let finish = lab.runner(Lab::plan(), dir.path()).run(&mut (), &AtomicBool::new(false)).unwrap();
    assert!(matches!(finish, Finish::Complete { failures: 1.., .. }), "{finish:?}");
    let run = Run::open(dir.path()).unwrap();
    for cell in &run.energy().unwrap().cells {
        if cell.backend == arm("b") {
            assert_eq!(cell.energy, Energy::NoData { reason: NoData::NotRecorded });
            assert!(cell.notes[0].contains("injected failure"), "{:?}", cell.notes);
        } else {
            assert_holds(&cell.energy, lab.truth(cell).0, 0.02);
        }
    }
}

#[test]
fn sensors_that_the_meter_does_not_read_are_refused() {
    let (lab, dir) = (Lab::new(COUNTER, hungry(), frugal()), tempfile::tempdir().unwrap());
    let EnergySetup::Present { meter, .. } = lab.setup(&lab.calibration()) else { panic!("present") };
    let none: Vec<EnergySensorEntry> = Vec::new();
    let setup = EnergySetup::Present { meter, sensors: none, notes: Vec::new() };
    let error = lab.stage.create(Lab::plan(), dir.path()).unwrap().with_energy(setup, EnergyOptions::default()).unwrap_err();
    assert!(error.to_string().contains("not those that the meter reads"), "{error}");
}
