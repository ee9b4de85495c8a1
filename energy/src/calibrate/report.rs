//! What the measurements say about each sensor.

mod text;

use super::{
    Busy, Measurements, Period, Perturbation, ShotTable, StepResponse, Test, analysis,
    curve::Changes,
    run::{Done, Part, periods},
    shots::shots,
    sweep::{SweepTable, sweep},
};
use crate::{Estimate, METHOD_VERSION, ReadingKind, Recording, SensorCalibration, SensorKind, SourceId};
use serde::{Deserialize, Serialize};

/// T4 of one source at one period of the load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PhaseTable {
    /// Period of the square wave, seconds.
    pub period_s: f64,
    /// Shifts against a grid of the period, from 0 up, as shares of it.
    pub shifts: Vec<f64>,
    /// Mean power at each, watts.
    pub means_w: Vec<f64>,
    /// Greatest less least over the mean.
    pub spread: f64,
    /// Standard deviation of one train at one shift, as a share of the mean; absent where no shift was repeated.
    pub noise: Option<f64>,
}

/// Everything found out about one source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SourceReport {
    /// The sensor.
    pub source: SourceId,
    /// What its readings are.
    pub reading: ReadingKind,
    /// T1.
    pub period: Option<Period>,
    /// T2.
    pub step: Option<StepResponse>,
    /// T3: level and mean power, watts.
    pub levels_w: Vec<[f64; 2]>,
    /// T4, one for each period of the load.
    pub phases: Vec<PhaseTable>,
    /// T5: mean power, watts.
    pub slow_w: Option<f64>,
    /// T8, one for each length of pulse.
    pub shots: Vec<ShotTable>,
    /// Energy over the number of replays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sweep: Option<SweepTable>,
    /// T6: shortest window within 1%, seconds.
    pub within_1_percent_s: Option<f64>,
    /// T6: shortest window within 10%, seconds.
    pub within_10_percent_s: Option<f64>,
    /// Failed reads.
    pub failed: u64,
    /// Mean time of a read, seconds, where it was recorded: what the sampler's processor pays.
    pub read_s: Option<f64>,
    /// What to attribute with; absent where the tests do not settle what the sensor is.
    pub calibration: Option<SensorCalibration>,
    /// Why the calibration is what it is, or absent.
    pub verdict: String,
}

/// A calibration of all sources of one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CalibrationReport {
    /// What the load was.
    pub load: String,
    /// Power limit that was enforced, watts.
    pub limit_w: Option<f64>,
    /// When it was done, seconds of Unix time.
    pub taken_unix_s: u64,
    /// One a source.
    pub sources: Vec<SourceReport>,
    /// T7, with every source read at every poll.
    pub perturbation: Option<Perturbation>,
    /// T7, at the default pace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paced: Option<Perturbation>,
}

/// A spread up to this is none: repeats of one shift differ by as much.
const NO_SPREAD: f64 = 0.02;
/// Up to this the sensor sees all time, and is off by half of the spread on loads that keep step with it. A sensor that
/// looks for a quarter of the time has a spread of 80% and more.
const RESIDUAL_SPREAD: f64 = 0.20;

/// A sensor that sees all time never shows less than this of an isolated pulse.
const SEEN: f64 = 0.75;

/// Judges `measurements` of a device with an enforced power limit of `limit_w`, taken at `taken_unix_s`.
pub fn analyse(measurements: &Measurements, limit_w: Option<f64>, taken_unix_s: u64) -> CalibrationReport {
    let Measurements { load, parts, perturbation } = measurements;
    let sources = match parts.as_slice() {
        [first, .., rest] => {
            let periods = periods(first);
            let recordings = first.recordings.iter().zip(&rest.recordings).zip(periods);
            let extremes = extremes(parts, limit_w);
            recordings.map(|((_, recording), period)| source(recording, period, &rest.steps, extremes, taken_unix_s)).collect()
        }
        _ => Vec::new(),
    };
    let of = |test: Test| -> Vec<&Done> { perturbation.iter().filter(|d| d.step.test == test).collect() };
    let counter = sources.iter().find(|s: &&SourceReport| s.reading == ReadingKind::Counter);
    let rest_w = counter.and_then(|s| s.step).map(|s| s.levels_w[0]);
    let over = |arm| analysis::perturbation(&of(arm), &of(Test::Unpolled), rest_w);
    let (perturbation, paced) = (over(Test::Polled), over(Test::Paced));
    CalibrationReport { load: load.clone(), limit_w, taken_unix_s, sources, perturbation, paced }
}

fn source(recording: &Recording, period: Option<Period>, steps: &[Done], extremes: Option<[f64; 2]>, taken_unix_s: u64) -> SourceReport {
    let (samples, kind) = (&recording.samples, recording.kind);
    let of = |test: Test| steps.iter().filter(move |d| d.step.test == test);
    let busy: Vec<Busy> = of(Test::Step).flat_map(|d| d.busy.clone()).collect();
    let mean = |b: &Busy, skip_s: u64| analysis::mean_w(samples, kind, b.start.as_nanos() + skip_s * 1_000_000_000, b.end.as_nanos());
    let levels_w = of(Test::Level).filter_map(|d| Some([d.step.level, mean(d.busy.first()?, 2)?])).collect();
    let slow_w = of(Test::Slow).next().and_then(|d| analysis::phase_means(samples, kind, &[&d.busy])[0]);
    let shortest = |share| {
        let b = of(Test::Steady).next()?.busy.first()?;
        analysis::shortest_window(samples, kind, b.start.as_nanos() + 2_000_000_000, b.end.as_nanos(), share)
    };
    let mut report = SourceReport {
        source: recording.id.clone(),
        reading: kind,
        period,
        step: analysis::step_response(samples, kind, &busy),
        levels_w,
        phases: phases(recording, steps),
        slow_w,
        shots: of(Test::Shot).filter_map(|d| shots(samples, kind, d)).collect(),
        sweep: sweep(samples, kind, &of(Test::Sweep).collect::<Vec<_>>()),
        within_1_percent_s: shortest(0.01),
        within_10_percent_s: shortest(0.10),
        failed: recording.failed,
        read_s: mean_read_s(recording),
        calibration: None,
        verdict: String::new(),
    };
    match judge(&report) {
        Ok((model, why)) => {
            report.calibration = extremes.map(|[min_w, max_w]| {
                let mut made = calibration(&report, model, [min_w, max_w], taken_unix_s);
                made.clock = analysis::clock(recording, model.update_s).map(Into::into);
                made
            });
            report.verdict = if extremes.is_some() { why } else { "no power was ever read".to_owned() };
        }
        Err(why) => report.verdict = why,
    }
    report
}

fn phases(recording: &Recording, steps: &[Done]) -> Vec<PhaseTable> {
    let mut periods: Vec<f64> = Vec::new();
    for d in steps.iter().filter(|d| d.step.test == Test::Phase) {
        if periods.iter().all(|p| (p / d.step.period_s - 1.0).abs() > 1e-6) {
            periods.push(d.step.period_s);
        }
    }
    let table = |&period_s: &f64| {
        let mut done: Vec<&Done> =
            steps.iter().filter(|d| d.step.test == Test::Phase && (d.step.period_s / period_s - 1.0).abs() <= 1e-6).collect();
        done.sort_by(|a, b| a.step.phase.unwrap_or(0.0).total_cmp(&b.step.phase.unwrap_or(0.0)));
        let trains: Vec<&[Busy]> = done.iter().map(|d| d.busy.as_slice()).collect();
        let means: Option<Vec<f64>> = analysis::phase_means(&recording.samples, recording.kind, &trains).into_iter().collect();
        // Part of the shifts says nothing about the rest.
        let shifted: Vec<(f64, f64)> = done.iter().map(|d| d.step.phase.unwrap_or(0.0)).zip(means?).collect();
        let same: Vec<&[(f64, f64)]> = shifted.chunk_by(|a, b| (a.0 - b.0).abs() < 1e-9).collect();
        let of_one = |repeats: &&[(f64, f64)]| repeats.iter().map(|r| r.1).collect::<Vec<_>>();
        let average = |w: Vec<f64>| w.iter().sum::<f64>() / count(w.len());
        let means_w: Vec<f64> = same.iter().map(|r| average(of_one(r))).collect();
        let variances: Vec<f64> = same.iter().filter_map(|r| Some(analysis::moments(&of_one(r))?.1)).collect();
        let noise = (!variances.is_empty()).then(|| average(variances).sqrt() / average(means_w.clone()));
        let shifts = same.iter().map(|r| r[0].0).collect();
        Some(PhaseTable { period_s, shifts, spread: analysis::spread(&means_w)?, means_w, noise })
    };
    periods.iter().filter_map(table).collect()
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of reading and numbers of reads")]
fn mean_read_s(recording: &Recording) -> Option<f64> {
    (recording.reads > 0).then(|| recording.read_ns as f64 * 1e-9 / recording.reads as f64)
}

#[expect(clippy::cast_precision_loss, reason = "a count of trains")]
fn count(n: usize) -> f64 {
    n as f64
}

/// What a sensor is, by its tests.
#[derive(Clone, Copy, Debug)]
struct Model {
    kind: SensorKind,
    update_s: f64,
    window_s: f64,
    lag_s: f64,
    spread: Option<f64>,
}

fn judge(report: &SourceReport) -> Result<(Model, String), String> {
    let period = report.period.ok_or("T1 saw fewer than ten updates")?;
    let step = report.step.ok_or("T2 could not tell load from rest")?;
    let update_s = period.mean_s;
    let counter = report.reading == ReadingKind::Counter;
    if !counter && step.window_s() > 1.5 * update_s.max(0.05) {
        let model =
            Model { kind: SensorKind::TrailingMean, update_s, window_s: step.window_s(), lag_s: step.lag_s(step.window_s()), spread: None };
        return Ok((
            model,
            format!("a step takes {:.0} ms to arrive, {:.1} update periods: a trailing mean", step.rise_s * 1e3, step.rise_s / update_s),
        ));
    }
    if !report.phases.iter().any(|t| (t.period_s / update_s - 1.0).abs() <= 0.2) {
        return Err("T4 has no square wave in step with this sensor, so its coverage is not known".to_owned());
    }
    // Being in step with an update is one way to be missed; any period may be another.
    let spread = report.phases.iter().map(|t| t.spread).fold(0.0, f64::max);
    let least = report.shots.iter().map(|t| t.extremes[0]).fold(f64::INFINITY, f64::min);
    let percent = 100.0 * spread;
    let shots = if least.is_finite() {
        format!(", an isolated pulse counts for {:.0}% of its energy at least", 100.0 * least)
    } else {
        String::new()
    };
    let said = |what: &str| format!("energy depends on the shift of a load in step by {percent:.1}%{shots}: {what}");
    let whole = if counter { SensorKind::Integrating } else { SensorKind::Boxcar };
    let model = |kind, window_s: f64| Model { kind, update_s, window_s, lag_s: step.lag_s(window_s), spread: Some(spread) };
    let missed = spread > RESIDUAL_SPREAD || least < SEEN;
    Ok(if missed {
        let window_s = step.window_s().clamp(0.01 * update_s, 0.9 * update_s);
        (model(SensorKind::PartTime, window_s), said("it looks part of the time"))
    } else if spread <= NO_SPREAD {
        (model(whole, update_s), said("it sees all time"))
    } else {
        (model(whole, update_s), said("it sees all time but for a residual of half of that"))
    })
}

fn calibration(report: &SourceReport, model: Model, [min_w, max_w]: [f64; 2], taken_unix_s: u64) -> SensorCalibration {
    let Model { kind, update_s, window_s, lag_s, spread } = model;
    let ns = |s: f64| (s * 1e9).round();
    let residual = spread.filter(|s| kind != SensorKind::PartTime && *s > NO_SPREAD).map(|s| 0.5 * s);
    SensorCalibration {
        jitter_ns: report.period.map(|p| ns(p.jitter_s)),
        residual,
        rise_ns: report.step.map(|s| ns(s.rise_s)),
        quantum: report.period.map(|p| p.quantum),
        phase_spread: spread,
        gain: None::<Estimate>,
        reading: Some(report.reading),
        source: Some(report.source.clone()),
        method_version: Some(METHOD_VERSION),
        taken_unix_s: Some(taken_unix_s),
        ..SensorCalibration::described(kind, ns(update_s), ns(window_s), ns(lag_s), min_w, max_w)
    }
}

/// Least and greatest power the device can draw: nine tenths of the least that was seen, and the greater of the limit with
/// a tenth on top and the greatest that was seen.
fn extremes(parts: &[Part], limit_w: Option<f64>) -> Option<[f64; 2]> {
    let (mut least, mut most) = (f64::INFINITY, limit_w.map_or(0.0, |l| 1.1 * l));
    for recording in parts.iter().flat_map(|p| &p.recordings) {
        let origin = recording.samples.first().map_or(0, |s| s.t_ns);
        let changes = Changes::of(&recording.samples, origin);
        let powers: Vec<f64> = match recording.kind {
            ReadingKind::Power => changes.at.iter().map(|c| c.1).collect(),
            // Over four updates the time of a change is known well enough.
            ReadingKind::Counter => changes.at.windows(5).map(|w| (w[4].1 - w[0].1) / (w[4].0 - w[0].0)).collect(),
        };
        for w in powers.into_iter().filter(|w| *w > 0.0) {
            (least, most) = (least.min(w), most.max(w));
        }
    }
    (least.is_finite() && most > least).then_some([0.9 * least, most])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Lateness,
        calibrate::{Extent, Plan, Step},
        fake::{FakeGpu, FakeSensor, PowerCurve, Random},
    };
    use phase_core::Timestamp;

    const IDLE_W: f64 = 120.0;
    const FULL_W: f64 = 650.0;

    /// The device does `steps`, and every sensor shows it, polled every 5 ms.
    fn simulate(steps: &[Step], sensors: &[FakeSensor]) -> Part {
        let (mut pieces, mut done, mut now) = (Vec::new(), Vec::new(), 2.0);
        let mut random = Random::new(9);
        // A real device is never still: a hundredth of its power is noise.
        let mut draw = |pieces: &mut Vec<(f64, f64)>, mut seconds: f64, watts: f64| {
            while seconds > 0.0 {
                pieces.push((seconds.min(0.02), watts * random.within(0.99, 1.01)));
                seconds -= 0.02;
            }
        };
        draw(&mut pieces, 2.0, IDLE_W);
        let at = |s: f64| Timestamp::from_nanos(u64::try_from(std::time::Duration::from_secs_f64(s).as_nanos()).unwrap());
        for step in steps {
            let mut begin: f64 = now + step.rest_s;
            if let Some(phase) = step.phase {
                begin = (begin / step.period_s).ceil() * step.period_s + phase * step.period_s;
            }
            let mut busy = Vec::new();
            for k in 0..step.count {
                let start = begin + f64::from(k) * step.period_s;
                draw(&mut pieces, start - now, IDLE_W);
                let slices = (step.busy_s / 0.01).ceil();
                let mut slice = 0.0;
                while slice < slices {
                    let length = step.busy_s / slices;
                    draw(&mut pieces, length * step.level, FULL_W);
                    draw(&mut pieces, length * (1.0 - step.level), IDLE_W);
                    slice += 1.0;
                }
                now = start + step.busy_s;
                busy.push(Busy { start: at(start), end: at(now), work: 1000 });
            }
            done.push(Done::new(*step, busy));
        }
        draw(&mut pieces, 3.0, IDLE_W);
        let seconds = now + 3.0;
        let recording = |s: &FakeSensor| {
            let gpu = FakeGpu::new(PowerCurve::new(pieces.clone()).unwrap(), *s, seconds, 1);
            Recording {
                id: SourceId::new("FAKE-0", "fake", s.reading.as_str(), crate::Perimeter::GpuBoard),
                kind: s.reading,
                samples: gpu.samples(0.5, seconds, 0.005),
                errors: Vec::new(),
                failed: 0,
                dropped: 0,
                slow: 0,
                time_error_ns: 0,
                pace_ns: 0,
                reads: 0,
                read_ns: 0,
                lateness: Lateness::default(),
                voids: Vec::new(),
            }
        };
        Part::new(sensors.iter().map(recording).collect(), done)
    }

    fn sensor(reading: ReadingKind, kind: SensorKind, window_s: f64, lag_s: f64) -> FakeSensor {
        FakeSensor { reading, kind, update_s: 0.1, window_s, lag_s, jitter_s: 0.002, phase_s: 0.0137 }
    }

    fn report(sensors: &[FakeSensor]) -> CalibrationReport {
        let first = simulate(&Plan::first().steps, sensors);
        let rest = simulate(&Plan::rest(&[0.1], Extent::Full).steps, sensors);
        let perturbation = simulate(&Plan::perturbation().steps, &[]).steps;
        let measurements = Measurements { load: "simulated".to_owned(), parts: vec![first, rest], perturbation };
        analyse(&measurements, Some(700.0), 1_795_000_000)
    }

    #[test]
    fn every_kind_of_sensor_is_found_out() {
        let sensors = [
            sensor(ReadingKind::Counter, SensorKind::Integrating, 0.1, 0.0),
            sensor(ReadingKind::Counter, SensorKind::PartTime, 0.025, 0.0),
            sensor(ReadingKind::Power, SensorKind::Boxcar, 0.1, 0.05),
            sensor(ReadingKind::Power, SensorKind::PartTime, 0.025, 0.0),
            sensor(ReadingKind::Power, SensorKind::TrailingMean, 1.0, 0.0),
        ];
        let found = report(&sensors);
        println!("{found}");
        for (sensor, report) in sensors.iter().zip(&found.sources) {
            let calibration = report.calibration.as_ref().unwrap_or_else(|| panic!("{sensor:?}: {}", report.verdict));
            assert_eq!(calibration.kind, sensor.kind, "{}", report.verdict);
            assert!((calibration.update_ns / 1e8 - 1.0).abs() < 0.02, "{calibration:?}");
            assert!((calibration.window_ns * 1e-9 / sensor.window_s - 1.0).abs() < 0.35, "{sensor:?} {calibration:?}");
            assert!((calibration.lag_ns * 1e-9 - sensor.lag_s).abs() < 0.02, "{sensor:?} {calibration:?}");
            assert!(calibration.min_w < IDLE_W && calibration.max_w >= 770.0 - 1e-9);
            assert!(calibration.model().is_ok() && calibration.holds_for(&report.source, report.reading));
        }
        let counter = &found.sources[0];
        assert!(counter.calibration.as_ref().unwrap().residual.is_none_or(|r| r < 0.02));
        assert!(counter.within_1_percent_s.unwrap() > counter.within_10_percent_s.unwrap());
        assert_eq!(counter.levels_w.len(), 3);
        let shots = &counter.shots[0];
        assert!(shots.error < 0.05 && (shots.mean_j / (0.05 * (FULL_W - IDLE_W)) - 1.0).abs() < 0.03, "{shots:?}");
        let sweep = counter.sweep.as_ref().unwrap();
        assert!(sweep.trains.len() == 9 && sweep.bend() < 0.02 && sweep.through_nothing(), "{sweep:?}");
        // 1000 pieces a pulse.
        assert!((sweep.slope_j / (0.05e-3 * (FULL_W - IDLE_W)) - 1.0).abs() < 0.02, "{sweep:?}");
        // A sensor that looks for a quarter of the time misses pulses.
        assert!(found.sources[1].shots[0].extremes[0] < 0.5);
        for [level, w] in &counter.levels_w {
            assert!((w / (IDLE_W + level * (FULL_W - IDLE_W)) - 1.0).abs() < 0.02, "{level}: {w}");
        }
        assert!((counter.slow_w.unwrap() / 385.0 - 1.0).abs() < 0.03);
        for arm in [found.perturbation, found.paced] {
            assert!(arm.unwrap().work.share.abs() < 1e-6 && arm.unwrap().core.is_none());
        }
    }

    #[test]
    fn a_sensor_that_was_not_tested_in_step_is_not_judged() {
        let sensors = [sensor(ReadingKind::Counter, SensorKind::Integrating, 0.1, 0.0)];
        let parts = vec![simulate(&Plan::first().steps, &sensors), simulate(&Plan::rest(&[], Extent::Short).steps, &sensors)];
        let found = analyse(&Measurements { load: String::new(), parts, perturbation: Vec::new() }, None, 0);
        assert!(found.sources[0].calibration.is_none() && found.sources[0].verdict.contains("T4"));
        assert_eq!(found.perturbation, None);
    }
}
