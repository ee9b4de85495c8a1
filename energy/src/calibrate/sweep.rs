//! Energy over the number of replays: a window of twice as many has to hold twice the energy, and one of none nothing.

use super::{Done, curve::Changes, shots::above_rest};
use crate::{ReadingKind, Sample};
use serde::{Deserialize, Serialize};

/// What a source says of trains of equal replays of different number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SweepTable {
    /// Replays in each train and its energy above rest for a unit of work, joules; in order of their number.
    pub trains: Vec<[f64; 2]>,
    /// Energy of a unit of work, by a line through all trains, joules.
    pub slope_j: f64,
    /// Standard error of it, joules.
    pub slope_error_j: f64,
    /// Energy of no work at all by that line, in replays.
    pub intercept: f64,
    /// Standard error of it.
    pub intercept_error: f64,
}

impl SweepTable {
    /// The greatest difference between trains of one number and the line's slope, as a share of that.
    pub fn bend(&self) -> f64 {
        let groups = self.trains.chunk_by(|a, b| (a[0] - b[0]).abs() < 0.5);
        let off = |group: &[[f64; 2]]| group.iter().map(|t| t[1]).sum::<f64>() / count(group.len()) / self.slope_j - 1.0;
        groups.map(|g| off(g).abs()).fold(0.0, f64::max)
    }

    /// Whether the line goes through nothing, two standard errors allowed: set-up energy, or energy that the edges of a window
    /// lose, would move it.
    pub fn through_nothing(&self) -> bool {
        self.intercept.abs() <= 2.0 * self.intercept_error
    }
}

/// The sweep over `trains`, of equal replays each. `None` with fewer than two numbers of them, or fewer than four trains whose
/// surroundings the readings cover.
pub fn sweep(samples: &[Sample], kind: ReadingKind, trains: &[&Done]) -> Option<SweepTable> {
    let origin = samples.first()?.t_ns;
    let changes = Changes::of(samples, origin);
    // Of each: replays, work, energy above rest.
    let found = |d: &&Done| {
        let (first, last) = (d.busy.first()?, d.busy.last()?);
        let (joules, _) = above_rest(&changes, kind, [first.start, last.end], origin)?;
        #[expect(clippy::cast_precision_loss, reason = "a count of pieces of work")]
        let work: f64 = d.busy.iter().map(|b| b.work as f64).sum();
        (work > 0.0).then_some([f64::from(d.step.count), work, joules])
    };
    let mut all: Vec<[f64; 3]> = trains.iter().filter_map(found).collect();
    all.sort_by(|a, b| a[0].total_cmp(&b[0]));
    let n = count(all.len());
    if all.len() < 4 || (all[0][0] - all[all.len() - 1][0]).abs() < 0.5 {
        return None;
    }
    let mean = |of: usize| all.iter().map(|t| t[of]).sum::<f64>() / n;
    let (work, joules) = (mean(1), mean(2));
    let spread: f64 = all.iter().map(|t| (t[1] - work).powi(2)).sum();
    let slope_j = all.iter().map(|t| (t[1] - work) * (t[2] - joules)).sum::<f64>() / spread;
    let intercept_j = joules - slope_j * work;
    let off: f64 = all.iter().map(|t| (t[2] - intercept_j - slope_j * t[1]).powi(2)).sum();
    let variance = off / (n - 2.0);
    let replay_j = slope_j * work / mean(0);
    (slope_j > 0.0).then(|| SweepTable {
        trains: all.iter().map(|t| [t[0], t[2] / t[1]]).collect(),
        slope_j,
        slope_error_j: (variance / spread).sqrt(),
        intercept: intercept_j / replay_j,
        intercept_error: (variance * (1.0 / n + work * work / spread)).sqrt() / replay_j,
    })
}

#[expect(clippy::cast_precision_loss, reason = "a count of trains")]
fn count(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        SensorKind,
        calibrate::{Busy, Step, Test},
        fake::{FakeGpu, FakeSensor, PowerCurve},
    };
    use phase_core::Timestamp;

    const IDLE_W: f64 = 120.0;
    const BUSY_W: f64 = 620.0;

    /// Trains of 16, 32 and 64 replays of 50 ms, twice, each with `after_j` of energy at once behind it.
    fn trains(after_j: f64) -> Option<SweepTable> {
        let (mut script, mut now, mut done) = (vec![(2.0, IDLE_W)], 2.0, Vec::new());
        let at = |s: f64| Timestamp::from_nanos(u64::try_from(std::time::Duration::from_secs_f64(s).as_nanos()).unwrap());
        for count in [32, 16, 64, 32, 16, 64] {
            script.push((1.0, IDLE_W));
            now += 1.0;
            let mut busy = Vec::new();
            for _ in 0..count {
                script.extend([(0.05, BUSY_W), (0.005, IDLE_W)]);
                busy.push(Busy { start: at(now), end: at(now + 0.05), work: 200 });
                now += 0.055;
            }
            script.push((0.1, IDLE_W + after_j / 0.1));
            now += 0.1;
            let step = Step { test: Test::Sweep, rest_s: 1.0, period_s: 0.055, busy_s: 0.05, count, level: 1.0, phase: None };
            done.push(Done::new(step, busy));
        }
        script.push((2.0, IDLE_W));
        let sensor = FakeSensor {
            reading: ReadingKind::Counter,
            kind: SensorKind::Integrating,
            update_s: 0.02,
            window_s: 0.02,
            lag_s: 0.0,
            jitter_s: 0.0,
            phase_s: 0.0037,
        };
        let gpu = FakeGpu::new(PowerCurve::new(script).unwrap(), sensor, now + 2.0, 1);
        sweep(&gpu.samples(0.0, now + 2.0, 0.005), ReadingKind::Counter, &done.iter().collect::<Vec<_>>())
    }

    #[test]
    fn energy_that_does_not_go_with_the_number_is_found() {
        let replay_j = 0.05 * (BUSY_W - IDLE_W);
        let table = trains(0.0).unwrap();
        assert_eq!(table.trains.iter().map(|t| t[0]).collect::<Vec<_>>(), [16.0, 16.0, 32.0, 32.0, 64.0, 64.0]);
        assert!((table.slope_j * 200.0 / replay_j - 1.0).abs() < 0.01 && table.bend() < 0.01, "{table:?}");
        assert!(table.intercept.abs() < 0.2, "{table:?}");
        // The energy of three replays more, whatever their number: no line through nothing, and a bend at few.
        let table = trains(3.0 * replay_j).unwrap();
        assert!((table.intercept - 3.0).abs() < 0.3 && !table.through_nothing() && table.bend() > 0.1, "{table:?}");
        assert!((table.slope_j * 200.0 / replay_j - 1.0).abs() < 0.01, "{table:?}");
    }

    #[test]
    fn too_few_trains_are_no_sweep() {
        assert_eq!(sweep(&[], ReadingKind::Counter, &[]), None);
        let sample = |t_ns| Sample { t_ns, value: 1.0 };
        assert_eq!(sweep(&[sample(0), sample(1_000_000_000)], ReadingKind::Counter, &[]), None);
    }
}
