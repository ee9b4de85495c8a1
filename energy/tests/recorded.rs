//! What was recorded on an H100 and an H200: the calibrations, and energies of phases of which it is known when they ran.

use phase_core::{Energy, NoData, Timestamp};
use phase_energy::{
    Baseline, BaselineKind, Gate, GuardedWindow, Perimeter, Recording, SensorCalibration, SensorKind, Series,
    calibrate::{CalibrationReport, Done, Part, ShotTable, Test, shots, shots_svg},
    file, guarded_shot,
};
use std::{fs, path::PathBuf};

const GPUS: [&str; 2] = ["h100-580.159.04", "h200-580.159.04"];

struct Recorded {
    folder: PathBuf,
    report: CalibrationReport,
    steps: Vec<Done>,
}

impl Recorded {
    fn open(gpu: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data").join(gpu);
        let text = |name: &str| fs::read_to_string(folder.join(name)).expect("a committed recording");
        let report = serde_json::from_str(&text("report.json")).expect("a committed recording");
        Self { report, steps: serde_json::from_str(&text("steps-1.json")).expect("a committed recording"), folder }
    }

    fn recording(&self, field: &str) -> Recording {
        let samples = file::read_samples(&self.folder.join(format!("samples-1-{field}.jsonl"))).expect("a committed recording");
        Recording::from_file(samples, Perimeter::GpuBoard)
    }

    fn calibration(&self, field: &str) -> SensorCalibration {
        file::read_calibration(&self.folder.join(format!("calibration-{field}.json"))).expect("a committed recording")
    }

    /// The counter, prepared for attribution, half a read of time uncertain.
    fn counter(&self) -> Series {
        let mut calibration = self.calibration("total_energy");
        calibration.time_error_ns = Some(2_500_000.0);
        self.recording("total_energy").series(&calibration, Gate::default()).expect("a committed recording")
    }

    fn steps(&self, test: Test) -> impl Iterator<Item = &Done> {
        self.steps.iter().filter(move |d| d.step.test == test)
    }

    fn pulses(&self, busy_s: f64) -> &Done {
        self.steps(Test::Shot).find(|d| (d.step.busy_s - busy_s).abs() < 1e-9).expect("a committed recording")
    }
}

fn table(recorded: &Recorded, field: &str, busy_s: f64) -> ShotTable {
    let recording = recorded.recording(field);
    shots(&recording.samples, recording.kind, recorded.pulses(busy_s)).expect("a committed recording")
}

fn seconds(t: Timestamp, by: f64) -> Timestamp {
    let ns = i64::try_from(std::time::Duration::from_secs_f64(by.abs()).as_nanos()).expect("a committed recording");
    Timestamp::from_nanos(t.as_nanos().saturating_add_signed(if by < 0.0 { -ns } else { ns }))
}

#[test]
fn the_counter_misses_no_isolated_pulse_and_the_instant_power_does() {
    for gpu in GPUS {
        let recorded = Recorded::open(gpu);
        let (counter, instant) = (table(&recorded, "total_energy", 0.05), table(&recorded, "power_instant", 0.05));
        assert_eq!((counter.shots.len(), instant.shots.len()), (16, 16));
        // Wherever between two updates a pulse began.
        assert!(counter.shots.iter().any(|s| s.after_update < 0.15) && counter.shots.iter().any(|s| s.after_update > 0.85));
        assert!(counter.extremes[0] > 0.9 && counter.extremes[1] < 1.12 && counter.error < 0.05, "{gpu}: {counter:?}");
        assert!(instant.extremes[0] < 0.1 && instant.extremes[1] > 3.0, "{gpu}: {instant:?}");
        assert!(table(&recorded, "total_energy", 0.2).error < 0.023);
    }
}

#[test]
fn the_committed_tables_come_from_the_committed_readings() {
    for gpu in GPUS {
        let recorded = Recorded::open(gpu);
        for source in recorded.report.sources.iter().filter(|s| s.source.field != "power_average") {
            for committed in &source.shots {
                let again = table(&recorded, &source.source.field, committed.busy_s);
                assert_eq!(again.shots.len(), committed.shots.len());
                assert!((again.error / committed.error - 1.0).abs() < 0.1, "{gpu} {}: {} {}", source.source, again.error, committed.error);
            }
        }
    }
}

#[test]
fn the_calibrations_say_what_the_sensors_are() {
    for gpu in GPUS {
        let recorded = Recorded::open(gpu);
        let kinds = ["total_energy", "power_instant", "power_samples", "power_average"].map(|f| recorded.calibration(f).kind);
        assert_eq!(kinds, [SensorKind::Integrating, SensorKind::PartTime, SensorKind::PartTime, SensorKind::TrailingMean], "{gpu}");
        let counter = recorded.calibration("total_energy");
        assert!((counter.update_ns / 1e8 - 1.0).abs() < 1e-3 && counter.residual.unwrap() < 0.05);
    }
}

#[test]
fn the_whole_recording_gives_the_counter_its_calibration_again() {
    for gpu in GPUS {
        let recorded = Recorded::open(gpu);
        let first = file::read_samples(&recorded.folder.join("samples-0-total_energy.jsonl")).unwrap();
        let steps = serde_json::from_str(&fs::read_to_string(recorded.folder.join("steps-0.json")).unwrap()).unwrap();
        let parts = vec![
            Part::new(vec![Recording::from_file(first, Perimeter::GpuBoard)], steps),
            Part::new(vec![recorded.recording("total_energy")], recorded.steps.clone()),
        ];
        let measured = phase_energy::calibrate::Measurements::new(recorded.report.load.clone(), parts, Vec::new());
        let again = phase_energy::calibrate::analyse(&measured, recorded.report.limit_w, recorded.report.taken_unix_s);
        let (again, committed) = (&again.sources[0], &recorded.report.sources[0]);
        assert_eq!(again.verdict, committed.verdict);
        for (a, b) in again.phases.iter().zip(&committed.phases) {
            assert!((a.spread - b.spread).abs() < 1e-9, "{gpu}: {a:?} {b:?}");
        }
    }
}

#[test]
fn one_prefill_of_50_ms_has_no_energy_of_its_own() {
    for gpu in GPUS {
        let recorded = Recorded::open(gpu);
        let counter = recorded.counter();
        for pulse in &recorded.pulses(0.05).busy {
            let found = counter.attribute(pulse.start, pulse.end);
            assert_eq!(found.energy, Energy::NoData { reason: NoData::TooFewUpdates }, "{gpu}");
        }
        // From a sensor that looks a part of the time not even ten seconds have one.
        let instant = recorded.recording("power_instant").series(&recorded.calibration("power_instant"), Gate::default()).unwrap();
        let (first, last) = (recorded.pulses(0.05).busy[0], recorded.pulses(0.05).busy[12]);
        assert!(instant.attribute(first.start, last.end).energy.reason().is_some());
    }
}

#[test]
fn sixteen_guarded_ones_have() {
    for gpu in GPUS {
        let recorded = Recorded::open(gpu);
        let counter = recorded.counter();
        let done = recorded.pulses(0.05);
        // Between the pulses the device is quiet for 0.96 s; the way back to rest takes a part of it.
        let window = |b: &phase_energy::calibrate::Busy| {
            let (from, to) = (seconds(b.start, -0.31), seconds(b.end, 0.42));
            GuardedWindow { attribution: counter.attribute(from, to), seen: counter.seen(from, to).unwrap(), guards_s: [0.31, 0.42] }
        };
        let shots: Vec<GuardedWindow> = done.busy.iter().map(window).collect();
        let quiet: Vec<_> = done.busy.iter().map(|b| (seconds(b.start, -0.54), b.start)).collect();
        let rest = Baseline::over(BaselineKind::ContextResident, &counter, &quiet, gpu).unwrap();
        let model = recorded.calibration("total_energy").model().unwrap();
        let found = guarded_shot(&shots, &model, &rest);
        let Energy::MacroWindow { joules, low, high, replays: 1, .. } = found else { panic!("{gpu}: {found:?}") };
        let plain = table(&recorded, "total_energy", 0.05).mean_j;
        println!("{gpu}: {} [{}, {}] J, plainly {plain} J", joules.0, low.0, high.0);
        assert!(low.0 < plain && plain < high.0 && (high.0 - low.0) / joules.0 < 0.4);
    }
}

#[test]
fn long_phases_are_measured() {
    for gpu in GPUS {
        let recorded = Recorded::open(gpu);
        let counter = recorded.counter();
        let steady = recorded.steps(Test::Steady).next().unwrap().busy[0];
        let whole = counter.attribute(steady.start, steady.end);
        assert!(matches!(whole.energy, Energy::Measured { .. }), "{gpu}: {whole:?}");
        // The shortest stretch of the steady load of which most are measured.
        let span_s = steady.end.since(steady.start).as_secs_f64();
        let shares: Vec<(f64, usize, f64)> = [0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0]
            .iter()
            .map(|&length_s| {
                let found = (0..40).map(|k| {
                    let from = seconds(steady.start, 0.5 + (span_s - length_s - 1.0) * f64::from(k) / 40.0);
                    counter.attribute(from, seconds(from, length_s))
                });
                let found: Vec<_> = found.collect();
                let measured = found.iter().filter(|a| matches!(a.energy, Energy::Measured { .. })).count();
                let width = found.iter().filter_map(|a| a.bracket).map(|b| b.energy.relative()).fold(0.0, f64::max);
                (length_s, measured, width)
            })
            .collect();
        println!("{gpu}: length, measured of 40, widest half-width: {shares:?}");
        assert!(shares[0].1 <= 1, "{gpu}: 200 ms can hardly be measured: {shares:?}");
        assert_eq!(shares[6].1, 40, "{gpu}: five seconds can: {shares:?}");
    }
}

#[test]
fn the_pictures_in_the_docs_are_of_the_committed_data() {
    for gpu in GPUS {
        let svg = shots_svg(&Recorded::open(gpu).report, 0.05).unwrap();
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../docs/energy-{}.svg", &gpu[..4]));
        let new = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("energy-{}.svg", &gpu[..4]));
        fs::write(&new, &svg).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), svg, "{} is not {}", path.display(), new.display());
    }
}

#[test]
fn every_update_of_the_counters_came_on_a_clock_and_none_was_left_out() {
    for gpu in GPUS {
        let recorded = Recorded::open(gpu);
        let calibration = recorded.calibration("total_energy");
        let clock = calibration.clock.expect("a clock");
        assert!(
            (clock.period_ns - 1e8).abs() < 2_000.0 && clock.period_error_ns < 20_000.0 && clock.error_ns < 110_000.0,
            "{gpu}: {clock:?}"
        );
        let samples = recorded.recording("total_energy").samples;
        let changes: Vec<_> = samples.windows(2).filter(|w| w[0].value.to_bits() != w[1].value.to_bits()).collect();
        // From one change to the next there is one period, where polls can tell: no update was dropped.
        let apart = changes.windows(2).filter(|c| c.iter().all(|w| w[1].t_ns - w[0].t_ns < 45_000_000));
        let periods: Vec<f64> = apart.map(|c| (c[1][1].t_ns - c[0][1].t_ns) as f64 / clock.period_ns).collect();
        assert!(periods.len() > 100 && periods.iter().all(|n| (n - 1.0).abs() < 0.5), "{gpu}: {} of {}", periods.len(), changes.len());
        // What the clock does for the recording as it is.
        let error = |s: &Series| s.windows().iter().map(|w| w.hi_error_s).sum::<f64>() / s.windows().len() as f64;
        let mut without = calibration.clone();
        without.clock = None;
        let series = |c: &SensorCalibration| recorded.recording("total_energy").series(c, Gate::default()).expect("a committed recording");
        let (fine, coarse) = (error(&series(&calibration)), error(&series(&without)));
        println!("{gpu}: {} updates, {:.2} ms without the clock, {:.2} ms with it", changes.len(), coarse * 1e3, fine * 1e3);
        assert!(fine < 0.003 && fine < 0.25 * coarse, "{gpu}: {fine} s, {coarse} s");
    }
}
