//! The sampling loop on a clock that stands still until it is told to move.

use phase_core::{Clock, Energy, ManualClock, NoData, Timestamp};
use phase_energy::{
    Condition, Gate, Perimeter, Poller, ReadError, Reading, ReadingKind, Sampler, SamplerPlan, Scripted, SensorCalibration, SensorKind,
    Source, SourceId, Stamped, Wall,
    fake::{FakeGpu, FakeSensor, PowerCurve},
};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting.
struct Counting;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Unix time that runs with the clock, moved by hand.
struct Hand(Arc<ManualClock>, AtomicI64);

impl Wall for Hand {
    fn unix_ns(&self) -> u64 {
        (1_795_000_000_000_000_000 + self.0.now().as_nanos()).saturating_add_signed(self.1.load(Ordering::Relaxed))
    }
}

/// A source that takes its time.
#[derive(Debug)]
struct Slow(Scripted, Arc<Ticker>);

#[derive(Debug)]
struct Ticker(ManualClock, Vec<u64>, std::sync::atomic::AtomicUsize);

impl Source for Slow {
    fn id(&self) -> &SourceId {
        self.0.id()
    }

    fn kind(&self) -> ReadingKind {
        self.0.kind()
    }

    fn refresh(&self) -> Option<Duration> {
        None
    }

    fn read(&mut self, out: &mut dyn FnMut(Stamped)) -> Result<(), ReadError> {
        let turn = self.1.2.fetch_add(1, Ordering::Relaxed);
        self.1.0.advance(Duration::from_millis(self.1.1[turn]));
        self.0.read(out)
    }
}

impl Clock for Ticker {
    fn now(&self) -> Timestamp {
        self.0.now()
    }
}

fn id() -> SourceId {
    SourceId::new("GPU-0", "none", "script", Perimeter::GpuBoard)
}

fn watts(w: u64) -> Result<Vec<Stamped>, ReadError> {
    Ok(vec![Reading::Power { milliwatts: w * 1000 }.into()])
}

const MS: u64 = 1_000_000;

#[test]
fn a_late_read_does_not_move_the_grid() {
    let clock = Arc::new(Ticker(ManualClock::default(), vec![1, 33, 1, 9, 12], std::sync::atomic::AtomicUsize::new(0)));
    let script = Scripted::new(id(), ReadingKind::Power, vec![watts(1), watts(2), watts(3), Err(ReadError::Zero), watts(5)]);
    let wall = Arc::new(Hand(Arc::new(ManualClock::default()), AtomicI64::new(0)));
    let source: Box<dyn Source> = Box::new(Slow(script, Arc::clone(&clock)));
    let plan = SamplerPlan::default().with_period(Duration::from_millis(10)).with_capacity(10).attentive();
    let mut poller = Poller::new(Arc::<Ticker>::clone(&clock), wall, vec![source], vec![], plan);
    let mut deadlines = Vec::new();
    for _ in 0..5 {
        deadlines.push(poller.deadline().as_nanos() / MS);
        let wait = poller.deadline().since(clock.now());
        clock.0.advance(wait + Duration::from_millis(2));
        poller.poll();
    }
    // The second read ended at 45 ms: 20, 30 and 40 have passed, 50 has not.
    assert_eq!(deadlines, [0, 10, 50, 60, 80]);
    let recording = poller.finish().remove(0);
    // A read longer than the period says nothing about when its value was taken.
    assert_eq!(recording.samples.iter().map(|s| s.value).collect::<Vec<_>>(), [1000.0, 3000.0]);
    assert_eq!(recording.samples[0].t_ns, 2 * MS + MS / 2);
    assert_eq!((recording.slow, recording.failed, recording.time_error_ns), (2, 1, MS / 2));
    assert_eq!(recording.errors, [(Timestamp::from_nanos(71 * MS), ReadError::Zero)]);
    assert_eq!((recording.lateness.polls, recording.lateness.worst_ns, recording.lateness.missed), (5, 2 * MS, 5));
    assert_eq!((recording.lateness.mean_ns(), recording.lateness.busy_ns), (2 * MS, 56 * MS));
}

#[test]
fn nothing_is_allocated_after_the_start_and_what_has_no_room_is_counted() {
    let clock = Arc::new(ManualClock::default());
    let sensor = FakeSensor {
        reading: ReadingKind::Counter,
        kind: SensorKind::Integrating,
        update_s: 0.1,
        window_s: 0.1,
        lag_s: 0.0,
        jitter_s: 0.0,
        phase_s: 0.0,
    };
    let gpu = FakeGpu::new(PowerCurve::requests(20.0, 60.0, 700.0, 1), sensor, 20.0, 1);
    let source: Box<dyn Source> = Box::new(gpu.source(Arc::<ManualClock>::clone(&clock)));
    let wall = Arc::new(Hand(Arc::clone(&clock), AtomicI64::new(0)));
    let plan = SamplerPlan::default().with_period(Duration::from_millis(10)).with_capacity(900);
    let condition: Box<dyn Condition> = Box::new(Says(Arc::clone(&clock), vec![]));
    let mut poller = Poller::new(Arc::<ManualClock>::clone(&clock), wall, vec![source], vec![condition], plan);
    let before = ALLOCATIONS.with(Cell::get);
    for _ in 0..1000 {
        poller.poll();
        clock.advance(Duration::from_millis(10));
    }
    assert_eq!(ALLOCATIONS.with(Cell::get), before);
    let recording = poller.finish().remove(0);
    assert_eq!((recording.samples.len(), recording.dropped, recording.failed), (900, 100, 0));
    let calibration = SensorCalibration::described(SensorKind::Integrating, 1e8, 1e8, 0.0, 60.0, 700.0);
    let series = recording.series(&calibration, Gate::default()).unwrap();
    let at = |ms: u64| Timestamp::from_nanos(ms * MS);
    assert_eq!(series.attribute(at(2000), at(4000)).energy.status(), "measured");
    assert_eq!(series.attribute(at(8000), at(9500)).energy, Energy::NoData { reason: NoData::NotBracketed });
}

#[test]
fn who_forgets_readings_runs_out_of_no_room() {
    let clock = Arc::new(ManualClock::default());
    let script = Scripted::new(id(), ReadingKind::Power, (1..=100).map(watts).collect());
    let wall = Arc::new(Hand(Arc::clone(&clock), AtomicI64::new(0)));
    let plan = SamplerPlan::default().with_capacity(10).attentive();
    let mut poller = Poller::new(Arc::<ManualClock>::clone(&clock), wall, vec![Box::new(script)], vec![], plan);
    for _ in 0..20 {
        (0..5).for_each(|_| {
            poller.poll();
            clock.advance(Duration::from_millis(10));
        });
        poller.forget();
    }
    let recording = poller.finish().remove(0);
    assert_eq!((recording.dropped, recording.reads), (0, 100));
    assert_eq!(recording.samples.iter().map(|s| s.value).collect::<Vec<_>>(), [100_000.0]);
}

/// A condition that holds in given seconds of the clock.
#[derive(Debug)]
struct Says(Arc<ManualClock>, Vec<(u64, NoData)>);

impl Condition for Says {
    fn check(&mut self) -> Option<NoData> {
        let second = self.0.now().as_nanos() / (1000 * MS);
        self.1.iter().find(|(s, _)| *s == second).map(|(_, reason)| *reason)
    }
}

#[test]
fn a_foreign_process_voids_the_time_around_the_look_that_saw_it() {
    let clock = Arc::new(ManualClock::default());
    let steps: Vec<_> = (0..1000).map(|i| Ok(vec![Reading::Counter { microjoules: i * 4_000_000 }.into()])).collect();
    let source: Box<dyn Source> = Box::new(Scripted::new(id(), ReadingKind::Counter, steps));
    let wall = Arc::new(Hand(Arc::clone(&clock), AtomicI64::new(0)));
    let condition: Box<dyn Condition> = Box::new(Says(Arc::clone(&clock), vec![(5, NoData::DeviceShared)]));
    let mut poller = Poller::new(Arc::<ManualClock>::clone(&clock), wall, vec![source], vec![condition], SamplerPlan::default());
    for _ in 0..1000 {
        poller.poll();
        clock.advance(Duration::from_millis(10));
    }
    let recording = poller.finish().remove(0);
    let second = |s: u64| Timestamp::from_nanos(s * 1000 * MS);
    assert_eq!(recording.voids().collect::<Vec<_>>(), [(second(4), second(6), NoData::DeviceShared)]);
    let calibration = SensorCalibration::described(SensorKind::Integrating, 1e7, 1e7, 0.0, 60.0, 700.0);
    let series = recording.series(&calibration, Gate::default()).unwrap();
    assert_eq!(series.attribute(second(1), second(3)).energy.status(), "measured");
    assert_eq!(series.attribute(second(3), second(5)).energy, Energy::NoData { reason: NoData::DeviceShared });
    let mut other = calibration;
    other.source = Some(SourceId::new("GPU-1", "none", "script", Perimeter::GpuBoard));
    let series = recording.series(&other, Gate::default()).unwrap();
    assert_eq!(series.attribute(second(1), second(3)).energy, Energy::NoData { reason: NoData::Uncalibrated });
}

#[test]
fn readings_with_unix_times_land_on_the_clock_and_a_set_clock_voids_them() {
    let clock = Arc::new(ManualClock::default());
    clock.advance(Duration::from_secs(7));
    let wall = Arc::new(Hand(Arc::clone(&clock), AtomicI64::new(0)));
    let unix = |ms: u64| 1_795_000_000_000_000_000 + ms * MS;
    let ring = |from: u64| Ok((0..3).map(|k| Stamped::at(Reading::Power { milliwatts: 100_000 + k }, unix(from + 20 * k))).collect());
    let source: Box<dyn Source> = Box::new(Scripted::new(id(), ReadingKind::Power, vec![ring(6_900), ring(7_900), ring(8_900)]));
    let plan = SamplerPlan::default().with_period(Duration::from_secs(1));
    let mut poller = Poller::new(Arc::<ManualClock>::clone(&clock), Arc::<Hand>::clone(&wall), vec![source], vec![], plan);
    poller.poll();
    clock.advance(Duration::from_secs(1));
    poller.poll();
    clock.advance(Duration::from_secs(1));
    wall.1.store(40_000_000, Ordering::Relaxed);
    poller.poll();
    let recording = poller.finish().remove(0);
    assert_eq!(recording.samples[..2].iter().map(|s| s.t_ns / MS).collect::<Vec<_>>(), [6_900, 6_920]);
    assert_eq!(recording.voids().map(|(.., reason)| reason).collect::<Vec<_>>(), [NoData::ClockJump]);
}

#[test]
fn the_thread_samples_and_stops() {
    let clock: Arc<dyn Clock> = Arc::new(phase_core::MonotonicClock::new());
    let source: Box<dyn Source> = Box::new(Scripted::new(id(), ReadingKind::Power, vec![watts(1)]));
    let plan = SamplerPlan::default().with_period(Duration::from_millis(1));
    let sampler = Sampler::start(clock, vec![source], vec![], plan).unwrap();
    // After its script the source is gone, which the recording says.
    let recordings = sampler.stop().unwrap();
    assert_eq!(recordings.len(), 1);
    assert!(recordings[0].samples.len() <= 1);
    let cost = recordings[0].lateness.cost.unwrap();
    assert!(cost.wall_ns > 0 && cost.cpu_ns <= cost.wall_ns, "{cost:?}");
}
