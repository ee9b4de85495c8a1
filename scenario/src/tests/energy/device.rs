//! A device whose true power is known, seen through one sensor, on a clock that moves only when it works or rests.

use super::*;
use crate::energy::{DeviceState, Meter, MeterError};
use phase_core::{NoData, Phase};
use phase_energy::{
    Condition, Perimeter, Poller, ReadError, Reading, ReadingKind, Recording, SamplerPlan, SensorKind, Source, SourceId, Stamped, Wall,
};

pub(super) const IDLE_W: f64 = 120.0;
pub(super) const NAME: &str = "GPU-fake";

/// Pieces of power that one call draws: seconds and watts.
pub(super) type Profile = Vec<(f64, f64)>;

pub(super) fn joules(profile: &Profile) -> f64 {
    profile.iter().map(|(s, w)| s * w).sum()
}

pub(super) fn seconds(profile: &Profile) -> f64 {
    profile.iter().map(|(s, _)| s).sum()
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Sensor {
    pub(super) reading: ReadingKind,
    pub(super) kind: SensorKind,
    pub(super) update_s: f64,
    pub(super) window_s: f64,
}

/// The sensor's side: what it integrated, and what it shows.
struct Seen {
    joules: f64,
    /// Energy at the beginning of the part that a part-time sensor looks at.
    window_from: Option<f64>,
    next_update_ns: u64,
    shown: Option<Reading>,
}

pub(super) struct Device {
    pub(super) clock: Arc<ManualClock>,
    pub(super) sensor: Sensor,
    seen: Mutex<Seen>,
    poller: Mutex<Option<Poller>>,
    /// Somebody else uses it.
    pub(super) shared: Arc<AtomicBool>,
    /// Somebody, or this process, has a context on it.
    pub(super) used: AtomicBool,
    /// What it draws at rest at a time, in seconds.
    pub(super) at_rest: Mutex<fn(f64) -> f64>,
    /// Degrees gained per second of work, and now.
    pub(super) warming: Mutex<(f64, f64)>,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("sensor", &self.sensor).finish_non_exhaustive()
    }
}

fn ns(seconds: f64) -> u64 {
    u64::try_from(Duration::from_secs_f64(seconds).as_nanos()).unwrap()
}

impl Device {
    pub(super) fn new(sensor: Sensor) -> Arc<Self> {
        let seen = Seen { joules: 0.0, window_from: None, next_update_ns: ns(0.0137), shown: None };
        Arc::new(Self {
            clock: Arc::new(ManualClock::default()),
            sensor,
            seen: Mutex::new(seen),
            poller: Mutex::new(None),
            shared: Arc::new(AtomicBool::new(false)),
            used: AtomicBool::new(false),
            at_rest: Mutex::new(|_| IDLE_W),
            warming: Mutex::new((0.0, 40.0)),
        })
    }

    /// Draws `watts` for `seconds`.
    pub(super) fn draw(&self, seconds: f64, watts: f64) {
        let until = self.clock.now().as_nanos() + ns(seconds);
        loop {
            let now = self.clock.now().as_nanos();
            let due = self.poller.lock().unwrap().as_ref().map_or(u64::MAX, |p| p.deadline().as_nanos().max(now));
            let next = self.step(now, until.min(due), watts);
            self.clock.advance(Duration::from_nanos(next - now));
            if next == due {
                let mut poller = self.poller.lock().unwrap().take();
                if let Some(p) = poller.as_mut() {
                    p.poll();
                }
                *self.poller.lock().unwrap() = poller;
            } else if next >= until {
                return;
            }
        }
    }

    /// Integrates until the sensor has something to do, at most until `until`; gives how far that was.
    fn step(&self, now: u64, until: u64, watts: f64) -> u64 {
        let Sensor { reading, kind, update_s, window_s } = self.sensor;
        let mut seen = self.seen.lock().unwrap();
        let looks_ns = seen.next_update_ns.saturating_sub(ns(window_s));
        let opens = kind == SensorKind::PartTime && seen.window_from.is_none() && looks_ns >= now;
        let next = until.min(if opens { looks_ns } else { seen.next_update_ns });
        seen.joules += watts * Duration::from_nanos(next - now).as_secs_f64();
        if opens && next == looks_ns {
            seen.window_from = Some(seen.joules);
        }
        if next == seen.next_update_ns {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a test draws little")]
            let whole = |x: f64| x as u64;
            let looked = seen.window_from.take().map(|from| (seen.joules - from) / window_s);
            seen.shown = match reading {
                ReadingKind::Counter => Some(Reading::Counter { microjoules: whole(seen.joules * 1e3) * 1000 }),
                ReadingKind::Power => looked.map(|w| Reading::Power { milliwatts: whole(w * 1e3) }),
            };
            seen.next_update_ns += ns(update_s);
        }
        next
    }

    /// Work for a backend: `prefill` and `decode` draw their profiles.
    pub(super) fn work(self: &Arc<Self>, prefill: Profile, decode: Profile) -> Work {
        let device = Arc::clone(self);
        Arc::new(move |phase| {
            let profile = if phase == Phase::Prefill { &prefill } else { &decode };
            for (seconds, watts) in profile {
                device.draw(*seconds, *watts);
                let mut warming = device.warming.lock().unwrap();
                warming.1 += warming.0 * seconds;
            }
        })
    }

    pub(super) fn id(&self) -> SourceId {
        SourceId::new(NAME, "fake 1", self.sensor.reading.as_str(), Perimeter::GpuBoard)
    }
}

#[derive(Debug)]
pub(super) struct FakeSource {
    id: SourceId,
    device: Arc<Device>,
}

impl Source for FakeSource {
    fn id(&self) -> &SourceId {
        &self.id
    }

    fn kind(&self) -> ReadingKind {
        self.device.sensor.reading
    }

    fn refresh(&self) -> Option<Duration> {
        None
    }

    fn read(&mut self, out: &mut dyn FnMut(Stamped)) -> Result<(), ReadError> {
        out(self.device.seen.lock().unwrap().shown.ok_or(ReadError::Refused)?.into());
        Ok(())
    }
}

#[derive(Debug)]
struct Others(Arc<AtomicBool>);

impl Condition for Others {
    fn check(&mut self) -> Option<NoData> {
        self.0.load(Ordering::Relaxed).then_some(NoData::DeviceShared)
    }
}

/// Unix time that keeps step with the clock.
struct InStep(Arc<ManualClock>);

impl Wall for InStep {
    fn unix_ns(&self) -> u64 {
        self.0.now().as_nanos() + 1_700_000_000_000_000_000
    }
}

#[derive(Debug)]
pub(super) struct FakeMeter(pub(super) Arc<Device>);

impl Meter for FakeMeter {
    fn sensors(&self) -> Vec<(SourceId, ReadingKind)> {
        vec![(self.0.id(), self.0.sensor.reading)]
    }

    fn start(&mut self, clock: &Arc<dyn Clock>, plan: SamplerPlan) -> Result<(), MeterError> {
        let source: Box<dyn Source> = Box::new(FakeSource { id: self.0.id(), device: Arc::clone(&self.0) });
        let others: Box<dyn Condition> = Box::new(Others(Arc::clone(&self.0.shared)));
        let wall = Arc::new(InStep(Arc::clone(&self.0.clock)));
        *self.0.poller.lock().unwrap() =
            Some(Poller::new(Arc::clone(clock), wall, vec![source], vec![others], plan.with_capacity(100_000)));
        Ok(())
    }

    fn stop(&mut self) -> Result<Vec<Recording>, MeterError> {
        Ok(self.0.poller.lock().unwrap().take().ok_or(MeterError::NotRunning)?.finish())
    }

    fn rest(&mut self, time: Duration) {
        const STEP: Duration = Duration::from_millis(100);
        let (mut left, at_rest) = (time, *self.0.at_rest.lock().unwrap());
        while !left.is_zero() {
            let step = left.min(STEP);
            self.0.draw(step.as_secs_f64(), at_rest(Duration::from_nanos(self.0.clock.now().as_nanos()).as_secs_f64()));
            left -= step;
        }
    }

    fn used(&mut self) -> Option<String> {
        self.0.used.load(Ordering::Relaxed).then(|| "processes with a context on it: 1".to_owned())
    }

    fn state(&mut self, device: &str) -> Option<DeviceState> {
        assert_eq!(device, NAME);
        let celsius = self.0.warming.lock().unwrap().1;
        Some(DeviceState { celsius, clock_mhz: 1700.0, slowed: false })
    }
}
