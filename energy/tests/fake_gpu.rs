//! The measuring code against a GPU whose energy is known: bias, coverage, and a reason for every refusal.

use phase_core::{Energy, NoData, Timestamp};
use phase_energy::{
    Attribution, Cursor, Gate, PowerBounds, ReadingKind, SensorKind, SensorModel, Series,
    fake::{FakeGpu, FakeSensor, Fault, PowerCurve, Random},
};

const MIN_W: f64 = 60.0;
const MAX_W: f64 = 700.0;
const RECORDING_S: f64 = 600.0;
const EVENTS: u32 = 10_000;

fn power() -> PowerBounds {
    PowerBounds::new(MIN_W, MAX_W).expect("bounds of a device")
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "times of a recording that begins at 0")]
fn at(seconds: f64) -> Timestamp {
    Timestamp::from_nanos((seconds * 1e9) as u64)
}

fn sensor(reading: ReadingKind, kind: SensorKind, update_s: f64, window_s: f64) -> FakeSensor {
    FakeSensor { reading, kind, update_s, window_s, lag_s: 0.0, jitter_s: 0.0, phase_s: 0.0137 }
}

/// The readings of `gpu` from `from_s` to `to_s`, under its own model.
fn series(gpu: &FakeGpu, reading: ReadingKind, from_s: f64, to_s: f64, poll_s: f64) -> Series {
    let model = gpu.model(power()).expect("a sensor that can be");
    Series::new(reading, &gpu.samples(from_s, to_s, poll_s), model, Gate::default()).expect("readings in order")
}

/// What became of the events of one sensor.
#[derive(Debug, Default)]
struct Tally {
    bounded: u32,
    covered: u32,
    measured: u32,
    interpolated: u32,
    worst_measured: f64,
    error_j: f64,
    energy_j: f64,
}

/// Attributes random events of 10 ms to 10 s (uniform in the logarithm) to the sensor and compares with the truth.
fn tally(sensor: FakeSensor, poll_s: f64, seed: u64) -> Tally {
    let gpu = FakeGpu::new(PowerCurve::requests(RECORDING_S, MIN_W, MAX_W, seed), sensor, RECORDING_S, seed);
    let series = series(&gpu, sensor.reading, 0.5, RECORDING_S, poll_s);
    assert_eq!(series.voids().count(), 0, "{sensor:?}: a sound recording has no void, {:?}", series.voids().next());
    let (mut random, mut cursor, mut tally) = (Random::new(seed + 1), Cursor::default(), Tally::default());
    for _ in 0..EVENTS {
        let seconds = 10.0_f64.powf(random.within(-2.0, 1.0));
        let start = random.within(2.0, RECORDING_S - 14.0);
        let (a, b) = (at(start), at(start + seconds));
        let found = series.attribute_from(&mut cursor, a, b);
        let truth = gpu.curve().joules(start, start + seconds);
        let Some(bracket) = found.bracket else {
            assert_eq!(found.energy, Energy::NoData { reason: NoData::Unsupported });
            continue;
        };
        tally.bounded += 1;
        tally.covered += u32::from(bracket.energy.widened(1e-6).contains(truth));
        match found.energy {
            Energy::Measured { joules, .. } => {
                tally.measured += 1;
                tally.worst_measured = tally.worst_measured.max((joules.0 / truth - 1.0).abs());
                tally.error_j += joules.0 - truth;
                tally.energy_j += truth;
            }
            Energy::Interpolated { .. } => tally.interpolated += 1,
            _ => {}
        }
    }
    tally
}

/// At least 99% of the intervals hold the truth, and nothing called measured is further off than it says.
fn assert_sound(tally: &Tally, what: &str) {
    assert!(f64::from(tally.covered) >= 0.99 * f64::from(tally.bounded), "{what}: {tally:?}");
    assert!(tally.worst_measured <= 0.10, "{what}: {tally:?}");
}

#[test]
fn counters_that_miss_nothing_are_covered_always_and_unbiased() {
    for (update_s, poll_s, lag_s, jitter_s) in
        [(0.1, 0.01, 0.0, 0.0), (0.1, 0.025, 0.03, 0.004), (0.02, 0.005, 0.0, 0.001), (0.1, 0.23, 0.0, 0.0)]
    {
        let s = FakeSensor { lag_s, jitter_s, ..sensor(ReadingKind::Counter, SensorKind::Integrating, update_s, update_s) };
        let t = tally(s, poll_s, 11);
        assert_sound(&t, "integrating");
        assert_eq!(t.covered, t.bounded, "a counter's interval is a guarantee: {t:?}");
        assert!(t.measured > EVENTS / 20, "{t:?}");
        assert!((t.error_j / t.energy_j).abs() < 0.01, "bias: {t:?}");
    }
}

#[test]
fn boxcars_are_covered_and_unbiased() {
    for (reading, update_s, poll_s, lag_s, jitter_s) in [
        (ReadingKind::Power, 0.1, 0.01, 0.0, 0.0),
        (ReadingKind::Power, 0.1, 0.025, 0.05, 0.004),
        (ReadingKind::Power, 0.02, 0.005, 0.0, 0.0005),
        (ReadingKind::Counter, 0.1, 0.01, 0.0, 0.002),
    ] {
        let s = FakeSensor { lag_s, jitter_s, ..sensor(reading, SensorKind::Boxcar, update_s, update_s) };
        let t = tally(s, poll_s, 12);
        assert_sound(&t, "boxcar");
        assert!(t.measured > EVENTS / 10, "{t:?}");
        assert!((t.error_j / t.energy_j).abs() < 0.01, "bias: {t:?}");
    }
}

#[test]
fn a_sensor_that_looks_for_a_quarter_of_the_time_never_measures() {
    for (reading, jitter_s) in [(ReadingKind::Power, 0.0), (ReadingKind::Power, 0.003), (ReadingKind::Counter, 0.0)] {
        let s = FakeSensor { jitter_s, ..sensor(reading, SensorKind::PartTime, 0.1, 0.025) };
        let t = tally(s, 0.01, 13);
        assert_sound(&t, "part time");
        assert_eq!(t.measured, 0, "{t:?}");
    }
}

#[test]
fn a_trailing_mean_serves_events_of_ten_windows_and_no_others() {
    let t = tally(sensor(ReadingKind::Power, SensorKind::TrailingMean, 0.1, 0.4), 0.02, 14);
    assert_sound(&t, "trailing mean");
    assert!(t.bounded > 1000 && t.bounded < EVENTS / 2, "events of 4 s to 10 s only: {t:?}");
    assert!(t.measured + t.interpolated == t.bounded, "{t:?}");
    let t = tally(sensor(ReadingKind::Power, SensorKind::TrailingMean, 0.1, 1.0), 0.02, 14);
    assert_eq!(t.bounded, 0);
}

/// Every 20 seconds a fault, from 10 s on.
fn often(fault: &dyn Fn(f64) -> Fault) -> Vec<Fault> {
    (0..29).map(|k| fault(10.0 + 20.0 * f64::from(k))).collect()
}

/// 10,000 random events on a device with `faults`: the truth is in at least 99% of the intervals that are given, what is
/// refused for the fault says `reason`, and what lies a second clear of every fault is judged as without it.
fn assert_sound_with(sensor: FakeSensor, faults: &[Fault], reason: NoData) {
    let curve = PowerCurve::requests(RECORDING_S, MIN_W, MAX_W, 21);
    let sound = FakeGpu::new(curve, sensor, RECORDING_S, 21);
    let gpu = faults.iter().fold(sound.clone(), |gpu, fault| gpu.with_fault(*fault));
    let of = |gpu: &FakeGpu| series(gpu, sensor.reading, 0.5, RECORDING_S, 0.01);
    let (with, without) = (of(&gpu), of(&sound));
    let (mut random, mut a, mut b) = (Random::new(22), Cursor::default(), Cursor::default());
    let (mut given, mut covered, mut named, mut clear) = (0_u32, 0_u32, 0_u32, 0_u32);
    for _ in 0..EVENTS {
        let seconds = 10.0_f64.powf(random.within(-2.0, 1.0));
        let start = random.within(2.0, RECORDING_S - 14.0);
        let (from, to) = (at(start), at(start + seconds));
        let (found, sound) = (with.attribute_from(&mut a, from, to), without.attribute_from(&mut b, from, to));
        let touched = faults.iter().any(|fault| match *fault {
            Fault::Gap { from_s, to_s } | Fault::Stuck { from_s, to_s } | Fault::Zero { from_s, to_s } => {
                start < to_s + 1.0 && from_s - 1.0 < start + seconds
            }
            Fault::Reset { at_s } => start < at_s + 1.0 && at_s - 1.0 < start + seconds,
            // Nobody knows what the clock of the readings is worth afterwards.
            Fault::ClockJump { at_s, .. } => at_s - 1.0 < start + seconds,
            _ => true,
        });
        if let Some(bracket) = found.bracket {
            given += 1;
            covered += u32::from(bracket.energy.widened(1e-6).contains(gpu.curve().joules(start, start + seconds)));
        }
        named += u32::from(found.energy.reason() == Some(reason));
        if !touched {
            clear += 1;
            // Of overlapping means every other one counts, and after a gap it may be the other ones.
            let judged = |of: &Attribution| (of.bracket.is_some(), (sensor.kind != SensorKind::TrailingMean).then(|| of.energy.status()));
            assert_eq!(judged(&found), judged(&sound), "{sensor:?} {:?}: {start} s, {seconds} s", faults[0]);
        }
    }
    let what = format!("{sensor:?} {:?}: {covered} of {given} hold the truth, {named} named, {clear} clear", faults[0]);
    assert!(f64::from(covered) >= 0.99 * f64::from(given), "{what}");
    // A fault a tenth of a recording is in the way of many events, and of few that are clear of it.
    assert!(named > EVENTS / 50 && clear > EVENTS / 50 && given > EVENTS / 10, "{what}");
}

#[test]
fn every_kind_of_sensor_holds_the_truth_under_every_fault() {
    let counters = [(SensorKind::Integrating, 0.1), (SensorKind::Boxcar, 0.1), (SensorKind::PartTime, 0.025)];
    let powers = [(SensorKind::Boxcar, 0.1), (SensorKind::PartTime, 0.025), (SensorKind::TrailingMean, 0.2)];
    let gap = |s| Fault::Gap { from_s: s, to_s: s + 1.0 };
    let zero = |s| Fault::Zero { from_s: s, to_s: s + 0.3 };
    let jump = [Fault::ClockJump { at_s: 300.0, by_s: 5.0 }];
    for (kind, window_s) in counters {
        let sensor = sensor(ReadingKind::Counter, kind, 0.1, window_s);
        assert_sound_with(sensor, &often(&gap), NoData::SampleGap);
        assert_sound_with(sensor, &often(&zero), NoData::CounterReset);
        assert_sound_with(sensor, &often(&|s| Fault::Stuck { from_s: s, to_s: s + 1.0 }), NoData::CounterStuck);
        assert_sound_with(sensor, &often(&|at_s| Fault::Reset { at_s }), NoData::CounterReset);
        assert_sound_with(sensor, &jump, NoData::ClockJump);
    }
    for (kind, window_s) in powers {
        // A power that does not change may be a power that does not change: only a second sensor knows a stuck one, and only
        // the sampler, which watches both clocks, knows a jump from a gap.
        let sensor = sensor(ReadingKind::Power, kind, 0.1, window_s);
        assert_sound_with(sensor, &often(&gap), NoData::SampleGap);
        assert_sound_with(sensor, &often(&zero), NoData::ImplausiblePower);
    }
}

/// A sound device but for `faults`, and the status of the event from 10 s to 12 s.
fn with(kind: SensorKind, reading: ReadingKind, faults: &[Fault]) -> Energy {
    let s = sensor(reading, kind, 0.1, 0.1);
    let gpu = faults.iter().fold(FakeGpu::new(PowerCurve::requests(30.0, MIN_W, MAX_W, 5), s, 30.0, 5), |gpu, f| gpu.with_fault(*f));
    let series = series(&gpu, reading, 0.0, 30.0, 0.01);
    // An event well clear of the fault is measured, so the refusal is about the fault.
    assert_eq!(series.attribute(at(4.0), at(6.0)).energy.status(), "measured");
    series.attribute(at(10.0), at(12.0)).energy
}

#[test]
fn every_fault_has_its_own_reason() {
    let refused = |reason| Energy::NoData { reason };
    let counter = |faults: &[Fault]| with(SensorKind::Integrating, ReadingKind::Counter, faults);
    let boxcar = |faults: &[Fault]| with(SensorKind::Boxcar, ReadingKind::Power, faults);
    assert_eq!(counter(&[]).status(), "measured");
    assert_eq!(boxcar(&[]).status(), "measured");
    assert_eq!(counter(&[Fault::Stuck { from_s: 10.5, to_s: 11.5 }]), refused(NoData::CounterStuck));
    assert_eq!(counter(&[Fault::Stuck { from_s: 9.0, to_s: 30.0 }]), refused(NoData::CounterStuck));
    assert_eq!(counter(&[Fault::Reset { at_s: 11.0 }]), refused(NoData::CounterReset));
    assert_eq!(counter(&[Fault::Gap { from_s: 10.5, to_s: 11.0 }]), refused(NoData::SampleGap));
    assert_eq!(boxcar(&[Fault::Gap { from_s: 10.5, to_s: 11.0 }]), refused(NoData::SampleGap));
    assert_eq!(boxcar(&[Fault::Zero { from_s: 10.5, to_s: 10.6 }]), refused(NoData::ImplausiblePower));
    assert_eq!(counter(&[Fault::Zero { from_s: 10.5, to_s: 10.6 }]), refused(NoData::CounterReset));
    // An event before the jump is untouched; from the jump on the readings' clock is 5 s ahead.
    assert_eq!(counter(&[Fault::ClockJump { at_s: 11.0, by_s: 5.0 }]), refused(NoData::ClockJump));
    // A gap that bounds can fill is filled, and says so by its width.
    assert_eq!(counter(&[Fault::Gap { from_s: 10.5, to_s: 10.7 }]).status(), "measured");
}

#[test]
fn a_catch_up_after_a_reset_is_no_energy_of_the_universe() {
    let s = sensor(ReadingKind::Counter, SensorKind::Integrating, 0.1, 0.1);
    let gpu = FakeGpu::new(PowerCurve::requests(30.0, MIN_W, MAX_W, 5), s, 30.0, 5).with_fault(Fault::Reset { at_s: 11.0 });
    let series = series(&gpu, ReadingKind::Counter, 0.0, 30.0, 0.01);
    let after = series.attribute(at(12.0), at(14.0)).energy;
    let Energy::Measured { joules, .. } = after else { panic!("{after:?}") };
    assert!((joules.0 / gpu.curve().joules(12.0, 14.0) - 1.0).abs() < 0.1);
}

#[test]
fn sharing_and_partitions_void_what_they_touch() {
    let s = sensor(ReadingKind::Counter, SensorKind::Integrating, 0.1, 0.1);
    let gpu = FakeGpu::new(PowerCurve::requests(30.0, MIN_W, MAX_W, 5), s, 30.0, 5);
    let series = series(&gpu, ReadingKind::Counter, 0.0, 30.0, 0.01);
    let shared = series.clone().with_void(at(11.0), at(13.0), NoData::DeviceShared);
    assert_eq!(shared.attribute(at(10.0), at(12.0)).energy, Energy::NoData { reason: NoData::DeviceShared });
    assert_eq!(shared.attribute(at(14.0), at(16.0)).energy.status(), "measured");
    assert_eq!(series.void(NoData::Mig).attribute(at(14.0), at(16.0)).energy, Energy::NoData { reason: NoData::Mig });
}

#[test]
fn events_outside_the_recording_and_short_ones_are_refused() {
    let s = sensor(ReadingKind::Counter, SensorKind::Integrating, 0.1, 0.1);
    let gpu = FakeGpu::new(PowerCurve::requests(30.0, MIN_W, MAX_W, 5), s, 30.0, 5);
    let series = series(&gpu, ReadingKind::Counter, 1.0, 29.0, 0.01);
    let of = |a, b| series.attribute(at(a), at(b)).energy;
    let refused = |reason| Energy::NoData { reason };
    assert_eq!(of(0.5, 3.0), refused(NoData::NotBracketed));
    assert_eq!(of(28.0, 29.5), refused(NoData::NotBracketed));
    assert_eq!(of(10.0, 10.05), refused(NoData::TooFewUpdates));
    assert_eq!(of(10.0, 10.0), refused(NoData::TooFewUpdates));
    let empty = Series::new(ReadingKind::Counter, &[], gpu.model(power()).unwrap(), Gate::default()).unwrap();
    assert_eq!(empty.attribute(at(1.0), at(2.0)).energy, refused(NoData::NotBracketed));
}

#[test]
fn a_calibration_of_another_sensor_is_noticed() {
    let s = sensor(ReadingKind::Counter, SensorKind::Integrating, 0.02, 0.02);
    let gpu = FakeGpu::new(PowerCurve::requests(30.0, MIN_W, MAX_W, 5), s, 30.0, 5);
    let slow = SensorModel::new(SensorKind::Integrating, 0.1, 0.1, 0.0, power()).unwrap();
    let series = Series::new(ReadingKind::Counter, &gpu.samples(0.0, 30.0, 0.005), slow, Gate::default()).unwrap();
    assert_eq!(series.attribute(at(4.0), at(6.0)).energy, Energy::NoData { reason: NoData::Uncalibrated });
}

#[test]
fn bounds_that_a_reading_breaks_are_void_and_not_clipped() {
    // The curve draws up to 700 W; whoever says 300 W is wrong.
    let s = sensor(ReadingKind::Power, SensorKind::Boxcar, 0.1, 0.1);
    let gpu = FakeGpu::new(PowerCurve::requests(30.0, MIN_W, MAX_W, 5), s, 30.0, 5);
    let low = gpu.model(PowerBounds::new(MIN_W, 300.0).unwrap()).unwrap();
    let series = Series::new(ReadingKind::Power, &gpu.samples(0.0, 30.0, 0.01), low, Gate::default()).unwrap();
    assert_eq!(series.attribute(at(4.0), at(9.0)).energy, Energy::NoData { reason: NoData::ImplausiblePower });
}
