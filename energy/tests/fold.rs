//! Folded requests on a GPU whose energy is known: bias, coverage, and when it is refused.

use phase_core::{Energy, MacroMethod, NoData, Timestamp};
use phase_energy::{
    Baseline, BaselineKind, FoldWindow, Gate, PowerBounds, ReadingKind, SensorKind, Series,
    fake::{FakeGpu, FakeSensor, PowerCurve, Random},
    folded,
};

const IDLE_W: f64 = 75.0;
const UPDATE_S: f64 = 0.1;
const POLL_S: f64 = 0.001;

/// A request: two fifths of it a prefill near the limit, the rest decode steps of 12 ms whose power goes up and down.
fn request(script: &mut Vec<(f64, f64)>, seconds: f64, scale: f64) -> [f64; 2] {
    let prefill_s = 0.4 * seconds;
    script.push((prefill_s, 620.0 * scale));
    let (mut left_s, mut high) = (seconds - prefill_s, true);
    let mut decode_j = 0.0;
    while left_s > 1e-9 {
        let (piece_s, watts) = (left_s.min(0.006), if high { 410.0 } else { 250.0 } * scale);
        script.push((piece_s, watts));
        decode_j += piece_s * watts;
        (left_s, high) = (left_s - piece_s, !high);
    }
    [prefill_s * 620.0 * scale, decode_j]
}

struct Replayed {
    windows: Vec<FoldWindow>,
    series: Series,
    rest: Baseline,
    /// Mean energy of a prefill and of the decode after it.
    truth: [f64; 2],
}

/// Five windows of `replays` requests, `dither_s` at most apart, each of another power by 3%.
fn replayed(kind: SensorKind, window_s: f64, seconds: f64, replays: u32, dither_s: f64, seed: u64) -> Replayed {
    let mut random = Random::new(seed);
    let (mut script, mut now, mut truth) = (vec![(3.0, IDLE_W)], 3.0, [0.0; 2]);
    let mut stretches = Vec::new();
    for _ in 0..5 {
        let quiet_s = 1.0 + random.within(0.0, 0.1);
        script.push((quiet_s, IDLE_W));
        now += quiet_s;
        let mut starts_s = Vec::new();
        for _ in 0..replays {
            let wait_s = if dither_s > 0.0 { random.within(0.0, dither_s) } else { 0.0 };
            script.push((wait_s, IDLE_W));
            now += wait_s;
            starts_s.push(now);
            let found = request(&mut script, seconds, 1.0 + 0.03 * random.within(-1.7, 1.7));
            now += seconds;
            (0..2).for_each(|part| truth[part] += found[part] / (5.0 * f64::from(replays)));
        }
        stretches.push(starts_s);
    }
    script.push((3.0, IDLE_W));
    let reading = if kind == SensorKind::PartTime { ReadingKind::Power } else { ReadingKind::Counter };
    let phase_s = random.within(0.03, 0.09);
    let sensor = FakeSensor { reading, kind, update_s: UPDATE_S, window_s, lag_s: 0.0, jitter_s: 0.0, phase_s };
    let gpu = FakeGpu::new(PowerCurve::new(script).expect("a curve"), sensor, now + 3.0, 1);
    let model = gpu.model(PowerBounds::new(60.0, 700.0).expect("bounds")).expect("a sensor");
    let series = Series::new(reading, &gpu.samples(0.0, now + 3.0, POLL_S), model, Gate::default()).expect("in order");
    let at = |s: f64| Timestamp::from_nanos(u64::try_from(std::time::Duration::from_secs_f64(s).as_nanos()).expect("a time"));
    let rest = Baseline::of(BaselineKind::ModelResident, &series, at(0.5), at(2.9), "here").expect("a quiet time");
    let origin = series.seconds(at(0.0));
    let window =
        |starts_s: Vec<f64>| FoldWindow { starts_s: starts_s.into_iter().map(|s| s + origin).collect(), seen: series.windows().to_vec() };
    Replayed { windows: stretches.into_iter().map(window).collect(), rest, truth, series: series.clone() }
}

fn fold(r: &Replayed, seconds: f64) -> Result<phase_energy::Folded, NoData> {
    folded(&r.windows, r.series.model(), &[0.4 * seconds, seconds], &r.rest)
}

#[test]
fn parts_of_a_dithered_request_are_found_without_bias_and_within_their_intervals() {
    const TRIALS: u32 = 60;
    for seconds in [0.06, 0.1, 0.15] {
        let (mut inside, mut error, mut worst) = ([0_u32; 3], [0.0_f64; 3], [0.0_f64; 3]);
        for seed in 0..TRIALS {
            let r = replayed(SensorKind::PartTime, 0.025, seconds, 128, 0.025, 100 + u64::from(seed));
            let found = fold(&r, seconds).unwrap_or_else(|e| panic!("{seconds} s, seed {seed}: {e}"));
            let [prefill, decode] = r.truth;
            for (k, (energy, truth)) in
                [&found.parts[0], &found.parts[1], &found.whole].into_iter().zip([prefill, decode, prefill + decode]).enumerate()
            {
                let Energy::MacroWindow { joules, low, high, method, windows, replays } = energy else { panic!("{energy}") };
                assert_eq!((*method, *windows, *replays), (MacroMethod::Folded, 5, 128));
                inside[k] += u32::from(low.0 <= truth && truth <= high.0);
                error[k] += (joules.0 / truth - 1.0) / f64::from(TRIALS);
                worst[k] = worst[k].max((joules.0 / truth - 1.0).abs());
            }
        }
        let condition = fold(&replayed(SensorKind::PartTime, 0.025, seconds, 128, 0.025, 1), seconds).map(|f| f.condition);
        println!("{seconds} s: {condition:?} inside {inside:?} of {TRIALS}, bias {error:.4?}, worst {worst:.4?}");
        assert!(inside.iter().all(|n| *n * 100 >= 97 * TRIALS), "{seconds} s: {inside:?} of {TRIALS}, bias {error:?}");
        assert!(error.iter().all(|e| e.abs() < 0.01) && worst.iter().all(|e| *e < 0.08), "{seconds} s: bias {error:?}, worst {worst:?}");
    }
}

#[test]
fn in_step_with_the_sensor_it_is_refused() {
    let r = replayed(SensorKind::PartTime, 0.025, UPDATE_S, 128, 0.0, 7);
    assert_eq!(fold(&r, UPDATE_S), Err(NoData::SensorLocked));
    // Starts at every place of the period, and looks at half of the request all the same: only the condition tells.
    let mut r = replayed(SensorKind::PartTime, 0.025, UPDATE_S, 128, 0.025, 7);
    for window in &mut r.windows {
        let first = |look: f64| window.starts_s.iter().any(|s| (s - 1e-9..s + 0.05).contains(&look));
        let seen = window.seen.iter().filter(|w| first(w.hi_s)).copied().collect();
        window.seen = seen;
    }
    assert_eq!(fold(&r, UPDATE_S), Err(NoData::SensorLocked));
}

#[test]
fn what_it_is_not_for_is_refused() {
    let counter = replayed(SensorKind::Integrating, UPDATE_S, 0.06, 64, 0.025, 3);
    assert_eq!(fold(&counter, 0.06), Err(NoData::Unsupported), "a sensor that sees all of the time");
    let mut r = replayed(SensorKind::PartTime, 0.025, 0.06, 64, 0.025, 3);
    for ends in [&[][..], &[0.03, 0.03], &[0.06, 0.03], &[f64::NAN]] {
        assert_eq!(folded(&r.windows, r.series.model(), ends, &r.rest), Err(NoData::Unsupported), "{ends:?}");
    }
    r.windows.truncate(4);
    assert_eq!(fold(&r, 0.06), Err(NoData::TooFewUpdates));
}
