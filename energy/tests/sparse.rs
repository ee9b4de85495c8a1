//! Counters that are read more seldom than they update: what a sampler does with a dear read, and what is made of it.

use phase_core::{Clock, Energy, ManualClock, NoData, Timestamp};
use phase_energy::{
    Cursor, Gate, Poller, PowerBounds, ReadError, ReadingKind, Recording, Sample, SamplerPlan, SensorCalibration, SensorKind, SensorModel,
    Series, Source, SourceId, Stamped, UpdateClock, Wall,
    fake::{FakeGpu, FakeSensor, Fault, PowerCurve, Random},
};
use proptest::prelude::*;
use std::{sync::Arc, time::Duration};

const RECORDING_S: f64 = 600.0;

fn power() -> PowerBounds {
    PowerBounds::new(60.0, 700.0).expect("bounds of a device")
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "times of a recording that begins at 0")]
fn at(seconds: f64) -> Timestamp {
    Timestamp::from_nanos((seconds * 1e9) as u64)
}

fn gpu(update_s: f64, jitter_s: f64, phase_s: f64, seconds: f64, seed: u64) -> FakeGpu {
    let (reading, kind) = (ReadingKind::Counter, SensorKind::Integrating);
    let sensor = FakeSensor { reading, kind, update_s, window_s: update_s, lag_s: 0.0, jitter_s, phase_s };
    FakeGpu::new(PowerCurve::requests(seconds, 60.0, 700.0, seed), sensor, seconds, seed)
}

/// As the sampler reads a dear source: at every poll for three updates once a minute, else every `pace_s`.
fn paced(gpu: &FakeGpu, update_s: f64, poll_s: f64, pace_s: f64, seconds: f64) -> Vec<Sample> {
    let mut samples: Vec<Sample> = Vec::new();
    let mut from = 0.5;
    while from < seconds {
        samples.extend(gpu.samples(from, from + 3.0 * update_s, poll_s));
        let next = (from + 60.0).min(seconds);
        samples.extend(gpu.samples(from + 3.0 * update_s, next, pace_s));
        from = next;
    }
    samples
}

fn model(gpu: &FakeGpu, pace_s: f64) -> SensorModel {
    gpu.model(power()).expect("a sensor that can be").with_pace(pace_s)
}

/// Intervals of random events, how many hold the truth, and how wide they are.
fn tally(gpu: &FakeGpu, series: &Series, seconds: f64, seed: u64) -> (u32, u32, f64) {
    let (mut random, mut cursor) = (Random::new(seed), Cursor::default());
    let (mut bounded, mut covered, mut width) = (0, 0, 0.0);
    for _ in 0..10_000 {
        let length = 10.0_f64.powf(random.within(-2.0, 1.0));
        let start = random.within(2.0, seconds - 14.0);
        let found = series.attribute_from(&mut cursor, at(start), at(start + length));
        let Some(bracket) = found.bracket else { panic!("{:?}", found.energy) };
        bounded += 1;
        covered += u32::from(bracket.energy.widened(1e-3).contains(gpu.curve().joules(start, start + length)));
        width += bracket.energy.half_j() / 1e4;
    }
    (bounded, covered, width)
}

#[test]
fn sparse_polls_are_no_gap_and_hold_the_truth_with_and_without_a_clock() {
    // The clock's period is known to 20 parts in a million.
    for (update_s, jitter_s, poll_s, pace_s) in [(0.1, 0.0, 0.01, 0.92), (0.1, 0.0005, 0.01, 0.5), (0.02, 0.0, 0.002, 0.2)] {
        let gpu = gpu(update_s, jitter_s, 0.0137, RECORDING_S, 7);
        let samples = paced(&gpu, update_s, poll_s, pace_s, RECORDING_S);
        let plain = model(&gpu, pace_s);
        let clock = UpdateClock { period_s: update_s * (1.0 + 1e-5), period_error_s: update_s * 2e-5, error_s: jitter_s + 1e-6 };
        let series = |model| Series::new(ReadingKind::Counter, &samples, model, Gate::default()).unwrap();
        let (coarse, fine) = (series(plain), series(plain.with_clock(clock)));
        assert_eq!((coarse.voids().count(), fine.voids().count()), (0, 0));
        let (bounded, covered, wide) = tally(&gpu, &coarse, RECORDING_S, 8);
        assert_eq!(covered, bounded, "without a clock");
        let (bounded, covered, narrow) = tally(&gpu, &fine, RECORDING_S, 8);
        assert_eq!(covered, bounded, "with one");
        assert!(narrow < wide, "{narrow} J against {wide} J");
        // Only a read as an update came leaves open which of two it showed.
        let error = |s: &Series| s.windows().iter().map(|w| w.hi_error_s).sum::<f64>() / s.windows().len() as f64;
        assert!(error(&fine) < 0.25 * error(&coarse), "{} s against {} s", error(&fine), error(&coarse));
    }
}

#[test]
fn attention_around_an_event_gives_it_the_edges_that_dense_polls_would() {
    let gpu = gpu(0.1, 0.0, 0.0137, 60.0, 9);
    let (start, end) = (20.03, 25.61);
    let mut samples = gpu.samples(0.5, 0.8, 0.01);
    for (from, to, step) in [
        (0.8, start - 0.3, 0.92),
        (start - 0.3, start + 0.3, 0.01),
        (start + 0.3, end - 0.3, 0.92),
        (end - 0.3, end + 0.3, 0.01),
        (end + 0.3, 60.0, 0.92),
    ] {
        samples.extend(gpu.samples(from, to, step));
    }
    let half = |samples: &[Sample], pace_s| {
        let series = Series::new(ReadingKind::Counter, samples, model(&gpu, pace_s), Gate::default()).unwrap();
        let found = series.attribute(at(start), at(end));
        assert_eq!(found.energy.status(), "measured");
        let energy = found.bracket.unwrap().energy;
        assert!(energy.contains(gpu.curve().joules(start, end)));
        energy.half_j()
    };
    let (attentive, dense) = (half(&samples, 0.92), half(&gpu.samples(0.5, 60.0, 0.01), 0.0));
    assert!((attentive / dense - 1.0).abs() < 0.02, "{attentive} J against {dense} J");
}

#[test]
fn faults_have_their_reasons_at_a_slow_pace_too() {
    let with = |fault: Fault| {
        let gpu = gpu(0.1, 0.0, 0.0137, 60.0, 5).with_fault(fault);
        let samples = paced(&gpu, 0.1, 0.01, 0.5, 60.0);
        let clock = UpdateClock { period_s: 0.1, period_error_s: 1e-6, error_s: 1e-4 };
        let series = Series::new(ReadingKind::Counter, &samples, model(&gpu, 0.5).with_clock(clock), Gate::default()).unwrap();
        assert_eq!(series.attribute(at(4.0), at(14.0)).energy.status(), "measured");
        series.attribute(at(20.0), at(30.0)).energy
    };
    let refused = |reason| Energy::NoData { reason };
    assert_eq!(with(Fault::Gap { from_s: 22.0, to_s: 26.0 }), refused(NoData::SampleGap));
    assert_eq!(with(Fault::Stuck { from_s: 22.0, to_s: 26.0 }), refused(NoData::CounterStuck));
    assert_eq!(with(Fault::Reset { at_s: 25.0 }), refused(NoData::CounterReset));
    assert_eq!(with(Fault::ClockJump { at_s: 25.0, by_s: 5.0 }), refused(NoData::ClockJump));
}

#[test]
fn a_clock_that_the_updates_do_not_keep_is_not_used() {
    // Whoever says that they come every 101 ms is wrong, and gets what there is without a clock.
    let gpu = gpu(0.1, 0.0, 0.0137, RECORDING_S, 3);
    let samples = gpu.samples(0.5, RECORDING_S, 0.01);
    let wrong = UpdateClock { period_s: 0.101, period_error_s: 1e-6, error_s: 1e-4 };
    let series = |model| Series::new(ReadingKind::Counter, &samples, model, Gate::default()).unwrap();
    let (bounded, covered, _) = tally(&gpu, &series(model(&gpu, 0.0).with_clock(wrong)), RECORDING_S, 4);
    assert_eq!(bounded, covered);
    assert_eq!(series(model(&gpu, 0.0).with_clock(wrong)).windows(), series(model(&gpu, 0.0)).windows());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    /// E3 at any pace, on any clock: the truth is inside.
    #[test]
    fn the_truth_is_inside_at_any_pace(
        update_ms in 20.0..150.0_f64, jitter in 0.0..0.02_f64, off in -1.0..1.0_f64, poll in 0.05..0.5_f64, pace in 0.3..12.0_f64,
        phase in 0.0..0.1_f64, seed in any::<u64>(), cut in (0.1..0.9_f64, 0.1..0.9_f64),
    ) {
        let (update_s, seconds) = (update_ms * 1e-3, 90.0);
        let gpu = gpu(update_s, jitter * update_s, phase, seconds, seed);
        let samples = paced(&gpu, update_s, poll * update_s, pace * update_s, seconds);
        let clock = UpdateClock { period_s: update_s * (1.0 + 2e-5 * off), period_error_s: update_s * 2e-5, error_s: jitter * update_s + 1e-9 };
        let model = model(&gpu, pace * update_s).with_clock(clock);
        let series = Series::new(ReadingKind::Counter, &samples, model, Gate::default()).unwrap();
        let (a, b) = (cut.0.min(cut.1) * seconds, cut.0.max(cut.1) * seconds);
        let found = series.attribute(at(a), at(b));
        prop_assert!(!matches!(found.energy, Energy::NoData { reason: NoData::ImplausiblePower | NoData::SampleGap | NoData::CounterStuck }), "{:?}", found.energy);
        if let Some(bracket) = found.bracket {
            prop_assert!(bracket.energy.widened(2e-3).contains(gpu.curve().joules(a, b)), "{bracket:?} against {}", gpu.curve().joules(a, b));
        }
    }
}

/// Unix time that keeps step with the clock.
struct InStep(Arc<ManualClock>);

impl Wall for InStep {
    fn unix_ns(&self) -> u64 {
        1_795_000_000_000_000_000 + self.0.now().as_nanos()
    }
}

/// A source whose read takes its time of the clock.
#[derive(Debug)]
struct Dear<S> {
    source: S,
    clock: Arc<ManualClock>,
    cost: Duration,
    memory: Option<Duration>,
}

impl<S: Source> Source for Dear<S> {
    fn id(&self) -> &SourceId {
        self.source.id()
    }

    fn kind(&self) -> ReadingKind {
        self.source.kind()
    }

    fn refresh(&self) -> Option<Duration> {
        self.source.refresh()
    }

    fn memory(&self) -> Option<Duration> {
        self.memory
    }

    fn read(&mut self, out: &mut dyn FnMut(Stamped)) -> Result<(), ReadError> {
        self.clock.advance(self.cost);
        self.source.read(out)
    }
}

/// Ten minutes of a counter whose read takes `cost`, under attention from 100 s to 101 s.
fn sampled(cost: Duration, plan: SamplerPlan, attention: bool) -> Recording {
    let clock = Arc::new(ManualClock::default());
    let source = gpu(0.1, 0.0, 0.0137, 610.0, 1).source(Arc::<ManualClock>::clone(&clock));
    let source: Box<dyn Source> = Box::new(Dear { source, clock: Arc::clone(&clock), cost, memory: None });
    let mut poller = Poller::new(Arc::<ManualClock>::clone(&clock), Arc::new(InStep(Arc::clone(&clock))), vec![source], vec![], plan);
    while clock.now() < at(600.0) {
        poller.attend(attention && (100.0..101.0).contains(&clock.now().since(at(0.0)).as_secs_f64()));
        // The thread is woken when attention begins.
        match poller.deadline().since(clock.now()) {
            Duration::ZERO => poller.poll(),
            left => clock.advance(left.min(Duration::from_millis(5))),
        }
    }
    poller.finish().remove(0)
}

#[test]
fn by_default_a_dear_counter_takes_less_than_a_hundredth_of_a_core_and_a_cheap_one_is_read_at_every_poll() {
    let share = |r: &Recording| Duration::from_nanos(r.read_ns).as_secs_f64() / 600.0;
    let dear = sampled(Duration::from_micros(4600), SamplerPlan::default(), false);
    assert!(share(&dear) < 0.005, "{} of a core", share(&dear));
    assert!((1500..1600).contains(&(dear.pace_ns / 1_000_000)), "{} ns", dear.pace_ns);
    let cheap = sampled(Duration::from_micros(4), SamplerPlan::default(), false);
    assert!(share(&cheap) < 0.001 && cheap.reads > 29_900 && cheap.pace_ns == 20_000_000, "{} reads", cheap.reads);
    let all = sampled(Duration::from_micros(4600), SamplerPlan::default().attentive(), false);
    assert!((0.22..0.24).contains(&share(&all)), "{} of a core", share(&all));
    // What was read so seldom still has an answer, and one that knows when to look has a better one.
    let mut calibration = SensorCalibration::described(SensorKind::Integrating, 1e8, 1e8, 0.0, 60.0, 700.0);
    let at_100 = |r: &Recording, c: &SensorCalibration| {
        let found = r.series(c, Gate::default()).unwrap().attribute(at(100.4), at(104.9));
        found.bracket.unwrap().energy.half_j()
    };
    let coarse = at_100(&dear, &calibration);
    calibration.clock = Some(UpdateClock { period_s: 0.1, period_error_s: 1e-6, error_s: 1e-4 }.into());
    assert!(at_100(&dear, &calibration) < coarse, "{} against {coarse}", at_100(&dear, &calibration));
}

/// All four sensors of a board together for `seconds`, with what their reads took on an H100, an update `phase_s` after the start.
fn board(seconds: f64, phase_s: f64) -> Vec<Recording> {
    let clock = Arc::new(ManualClock::default());
    // The counter has counted before.
    clock.advance(Duration::from_secs(1));
    let costs = [(5100, None), (5, None), (333, Some(Duration::from_secs(2))), (1, None)];
    let sources = costs.map(|(cost, memory)| {
        let source = gpu(0.1, 0.0, phase_s, 70.0, 1).source(Arc::<ManualClock>::clone(&clock));
        Box::new(Dear { source, clock: Arc::clone(&clock), cost: Duration::from_micros(cost), memory }) as Box<dyn Source>
    });
    let wall = Arc::new(InStep(Arc::clone(&clock)));
    let mut poller = Poller::new(Arc::<ManualClock>::clone(&clock), wall, sources.into(), vec![], SamplerPlan::default());
    while clock.now() < at(1.0 + seconds) {
        match poller.deadline().since(clock.now()) {
            Duration::ZERO => poller.poll(),
            left => clock.advance(left),
        }
    }
    poller.finish()
}

#[test]
fn the_sources_of_a_board_share_one_budget() {
    for (seconds, most) in [(6.0, 0.008), (60.0, 0.004)] {
        for phase_s in [0.001, 0.0137, 0.05, 0.099] {
            let recordings = board(seconds, phase_s);
            let share = recordings.iter().map(|r| Duration::from_nanos(r.read_ns).as_secs_f64()).sum::<f64>() / seconds;
            assert!((0.002..most).contains(&share), "{share} of a core over {seconds} s, the opening look included");
            // The cheap ones take what they need, the dear one what is left.
            assert!([1, 3].iter().all(|i| recordings[*i].pace_ns == 20_000_000), "{recordings:?}");
            assert!((1700..2300).contains(&(recordings[0].pace_ns / 1_000_000)), "{} ns", recordings[0].pace_ns);
        }
    }
}

#[test]
fn attention_reads_at_every_poll_from_one_poll_to_the_next() {
    let (without, with) = [false, true].map(|on| sampled(Duration::from_micros(4600), SamplerPlan::default(), on)).into();
    let inside = |r: &Recording| r.samples.iter().filter(|s| (100_000_000_000..101_000_000_000).contains(&s.t_ns)).count();
    assert!(inside(&without) <= 2 && (48..=51).contains(&inside(&with)), "{} and {}", inside(&without), inside(&with));
}
