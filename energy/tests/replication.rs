//! Replays and guarded shots on a GPU whose energy is known.

use phase_core::{Energy, MacroMethod, NoData, Timestamp};
use phase_energy::{
    Baseline, BaselineKind, Gate, GuardedWindow, MacroPlan, PowerBounds, ReadingKind, ReplayWindow, SensorKind, Series,
    fake::{FakeGpu, FakeSensor, PowerCurve, Random},
    guarded_shot, verdict,
};

const IDLE_W: f64 = 120.0;

fn power() -> PowerBounds {
    PowerBounds::new(100.0, 750.0).expect("bounds of a device")
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "times of a recording that begins at 0")]
fn at(seconds: f64) -> Timestamp {
    Timestamp::from_nanos((seconds * 1e9) as u64)
}

fn sensor(kind: SensorKind, window_s: f64) -> FakeSensor {
    let reading = if kind == SensorKind::PartTime { ReadingKind::Power } else { ReadingKind::Counter };
    FakeSensor { reading, kind, update_s: 0.1, window_s, lag_s: 0.0, jitter_s: 0.0, phase_s: 0.0137 }
}

/// Pieces of a curve, with the time and the energy so far.
#[derive(Default)]
struct Script {
    pieces: Vec<(f64, f64)>,
    now: f64,
}

impl Script {
    fn add(&mut self, seconds: f64, watts: f64) {
        self.pieces.push((seconds, watts));
        self.now += seconds;
    }

    /// An event like a short prefill: 20 ms near the limit, the rest at a lower power. Gives when it began.
    fn event(&mut self, seconds: f64) -> f64 {
        let start = self.now;
        self.add(0.02, 650.0);
        self.add(seconds - 0.02, 300.0);
        start
    }

    fn series(&self, sensor: FakeSensor) -> (FakeGpu, Series) {
        let curve = PowerCurve::new(self.pieces.clone()).expect("a curve");
        let gpu = FakeGpu::new(curve, sensor, self.now, 1);
        let model = gpu.model(power()).expect("a sensor that can be");
        let series = Series::new(sensor.reading, &gpu.samples(0.0, self.now, 0.005), model, Gate::default()).expect("in order");
        (gpu, series)
    }
}

const EVENT_S: f64 = 0.1;

/// Energy of one event above nothing.
const EVENT_J: f64 = 0.02 * 650.0 + 0.08 * 300.0;

/// Windows of replays of a 100 ms event, as the plan for `kind` says, with or without its dither.
fn windows(kind: SensorKind, window_s: f64, dither: bool) -> (Vec<ReplayWindow>, Series, Baseline) {
    let (mut script, mut random) = (Script::default(), Random::new(4));
    script.add(3.0, IDLE_W);
    let s = sensor(kind, window_s);
    let (_, probe) = script.series(s);
    let plan = MacroPlan::new(probe.model(), EVENT_S, 400.0, 0.02, 0.1, 0.5).expect("a plan");
    let mut found = Vec::new();
    for _ in 0..plan.windows {
        script.add(1.0 + random.within(0.0, 0.05), IDLE_W);
        let (mut starts, mut idle) = (Vec::new(), 0.0);
        for _ in 0..plan.replays {
            let wait = if dither { random.within(0.0, plan.dither_s) } else { 0.0 };
            script.add(wait, IDLE_W);
            idle += wait;
            starts.push(script.event(EVENT_S));
        }
        found.push((starts, idle, script.now));
    }
    script.add(3.0, IDLE_W);
    let (_, series) = script.series(s);
    let rest = Baseline::of(BaselineKind::ModelResident, &series, at(0.5), at(2.5), "here").expect("a quiet time");
    let window = |(starts_s, idle_s, end): (Vec<f64>, f64, f64)| {
        let (a, b) = (at(starts_s[0]), at(end));
        ReplayWindow {
            attribution: series.attribute(a, b),
            seen: series.seen(a, b).expect("whole windows"),
            seconds: end - starts_s[0],
            starts_s,
            idle_s,
            celsius: Some([60.0, 61.0]),
            clock_mhz: Some([1700.0, 1695.0]),
            slowed: false,
        }
    };
    (found.into_iter().map(window).collect(), series.clone(), rest)
}

fn assert_contains(found: &Energy, truth: f64, within: f64) {
    let Energy::MacroWindow { joules, low, high, .. } = found else { panic!("{found}") };
    assert!(low.0 <= truth && truth <= high.0, "{found} against {truth}");
    assert!((joules.0 / truth - 1.0).abs() <= within && (high.0 - low.0) / truth < 4.0 * within, "{found} against {truth}");
}

#[test]
fn replays_give_the_mean_where_one_event_gives_nothing() {
    let (windows, series, rest) = windows(SensorKind::Integrating, 0.1, true);
    let one = windows[0].starts_s[7];
    assert_eq!(series.attribute(at(one), at(one + EVENT_S)).energy.status(), "no_data");
    let found = verdict(&windows, series.model(), Some(&rest), MacroMethod::Replay);
    assert_contains(&found, EVENT_J, 0.03);
}

#[test]
fn a_part_time_sensor_needs_dither_and_says_so() {
    let (windows_with, series, rest) = windows(SensorKind::PartTime, 0.025, true);
    let found = verdict(&windows_with, series.model(), Some(&rest), MacroMethod::Replay);
    assert_contains(&found, EVENT_J, 0.10);
    // In step with the sensor only one part of the event is ever seen.
    let (windows_without, series, rest) = windows(SensorKind::PartTime, 0.025, false);
    let found = verdict(&windows_without, series.model(), Some(&rest), MacroMethod::Replay);
    assert_eq!(found, Energy::NoData { reason: NoData::SensorLocked });
}

#[test]
fn what_spoils_a_window_spoils_the_verdict() {
    let (windows, series, rest) = windows(SensorKind::Integrating, 0.1, true);
    let judged = |change: &dyn Fn(&mut Vec<ReplayWindow>)| {
        let mut changed = windows.clone();
        change(&mut changed);
        verdict(&changed, series.model(), Some(&rest), MacroMethod::Replay).reason()
    };
    assert_eq!(judged(&|_| ()), None);
    assert_eq!(judged(&|w| w[1].celsius = Some([60.0, 64.0])), Some(NoData::ThermalDrift));
    assert_eq!(judged(&|w| w[1].clock_mhz = Some([1700.0, 1600.0])), Some(NoData::ThermalDrift));
    assert_eq!(judged(&|w| w[1].slowed = true), Some(NoData::ThermalDrift));
    assert_eq!(judged(&|w| w.truncate(4)), Some(NoData::TooFewUpdates));
    assert_eq!(judged(&|w| w[2].starts_s.truncate(1)), Some(NoData::TooFewUpdates));
    assert_eq!(judged(&|w| w[3].attribution.energy = Energy::NoData { reason: NoData::CounterReset }), Some(NoData::CounterReset));
    assert_eq!(judged(&|w| w[0].seen.joules *= 20.0), Some(NoData::TooUncertain));
}

/// Shots of `event_s` in quiet guards on either side, with the sensor at another place every time.
fn shots(event_s: f64, guard_s: f64) -> (Vec<GuardedWindow>, Series, Baseline) {
    let mut script = Script::default();
    let mut random = Random::new(8);
    script.add(3.0, IDLE_W);
    let mut events = Vec::new();
    for _ in 0..8 {
        script.add(2.0 + random.within(0.0, 0.1), IDLE_W);
        let start = script.event(event_s);
        events.push((start, script.now));
    }
    script.add(3.0, IDLE_W);
    let (_, series) = script.series(sensor(SensorKind::Integrating, 0.1));
    let rest = Baseline::of(BaselineKind::ModelResident, &series, at(0.5), at(2.5), "here").expect("a quiet time");
    let shot = |(start, end): (f64, f64)| {
        let (a, b) = (at(start - guard_s), at(end + guard_s));
        GuardedWindow { attribution: series.attribute(a, b), seen: series.seen(a, b).expect("whole windows"), guards_s: [guard_s; 2] }
    };
    (events.into_iter().map(shot).collect(), series.clone(), rest)
}

#[test]
fn a_guarded_shot_knows_a_50_ms_event() {
    let (shots, series, rest) = shots(0.05, 0.5);
    let truth = 0.02 * 650.0 + 0.03 * 300.0 - 0.05 * IDLE_W;
    assert_contains(&guarded_shot(&shots, series.model(), &rest), truth, 0.05);
}

#[test]
fn a_shot_without_guards_or_repeats_is_refused() {
    let (found, series, rest) = shots(0.05, 0.2);
    assert_eq!(guarded_shot(&found, series.model(), &rest).reason(), Some(NoData::NotBracketed));
    let (found, series, rest) = shots(0.05, 0.5);
    assert_eq!(guarded_shot(&found[..4], series.model(), &rest).reason(), Some(NoData::TooFewUpdates));
    let part_time = sensor(SensorKind::PartTime, 0.025);
    let other = FakeGpu::new(PowerCurve::new([(1.0, IDLE_W)]).expect("a curve"), part_time, 1.0, 1).model(power()).expect("a sensor");
    assert_eq!(guarded_shot(&found, &other, &rest).reason(), Some(NoData::Unsupported));
    assert_eq!(series.kind(), ReadingKind::Counter);
}
