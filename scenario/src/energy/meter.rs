//! What a runner reads energy with. The runner knows no driver: whoever starts it hands it one of these.

use phase_core::Clock;
use phase_energy::{Condition, ReadingKind, Recording, Sampler, SamplerError, SamplerPlan, Source, SourceId};
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc, time::Duration};

/// What a device is doing besides drawing power.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "what a meter hands over, written out in full")]
pub struct DeviceState {
    /// Temperature, degrees Celsius.
    pub celsius: f64,
    /// Clock of the processors, MHz.
    pub clock_mhz: f64,
    /// Heat or hardware holds the clock down.
    pub slowed: bool,
}

/// Why a meter has nothing to give.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeterError {
    /// A sensor that was there at the start can't be read any more.
    #[error("{got} of {want} sensors can be read")]
    Sensors {
        /// Sensors that can be read.
        got: usize,
        /// Sensors that were there.
        want: usize,
    },
    /// The sampler failed.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// It was stopped without being started.
    #[error("the meter was not running")]
    NotRunning,
}

/// Samples a fixed set of sensors between [`start`](Self::start) and [`stop`](Self::stop).
pub trait Meter: fmt::Debug {
    /// The sensors, in the order of the recordings.
    fn sensors(&self) -> Vec<(SourceId, ReadingKind)>;

    /// Starts sampling on `clock`, the one that the phases are timed with.
    ///
    /// # Errors
    /// [`MeterError`].
    fn start(&mut self, clock: &Arc<dyn Clock>, plan: SamplerPlan) -> Result<(), MeterError>;

    /// Ends sampling and gives one recording for each sensor.
    ///
    /// # Errors
    /// [`MeterError`].
    fn stop(&mut self) -> Result<Vec<Recording>, MeterError>;

    /// Lets `time` pass without work.
    fn rest(&mut self, time: Duration);

    /// Why a device that is sampled is not known to be unused now, this process's own use included; `None` where it is.
    fn used(&mut self) -> Option<String> {
        None
    }

    /// The state of `device` now; `None` where it does not tell.
    fn state(&mut self, device: &str) -> Option<DeviceState>;
}

/// Opens every source anew, in a fixed order.
type Open<'a> = Box<dyn FnMut(&Arc<dyn Clock>) -> Vec<Box<dyn Source>> + 'a>;
/// Makes what is asked about once a second.
type Watch<'a> = Box<dyn FnMut() -> Vec<Box<dyn Condition>> + 'a>;
/// Says why a device is not known to be unused.
type Used<'a> = Box<dyn FnMut() -> Option<String> + 'a>;
/// Asks a device for its state.
type Ask<'a> = Box<dyn FnMut(&str) -> Option<DeviceState> + 'a>;

/// A meter with a sampling thread.
pub struct SampledMeter<'a> {
    sensors: Vec<(SourceId, ReadingKind)>,
    open: Open<'a>,
    watch: Watch<'a>,
    used: Used<'a>,
    ask: Ask<'a>,
    sampler: Option<Sampler>,
}

impl fmt::Debug for SampledMeter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SampledMeter").field("sensors", &self.sensors).finish_non_exhaustive()
    }
}

impl<'a> SampledMeter<'a> {
    /// A meter of `sensors`; `open` opens their sources, in that order, each time that it is started.
    pub fn new(sensors: Vec<(SourceId, ReadingKind)>, open: impl FnMut(&Arc<dyn Clock>) -> Vec<Box<dyn Source>> + 'a) -> Self {
        Self { sensors, open: Box::new(open), watch: Box::new(Vec::new), used: Box::new(|| None), ask: Box::new(|_| None), sampler: None }
    }

    /// The meter with conditions under which readings are void.
    #[must_use]
    pub fn with_conditions(mut self, watch: impl FnMut() -> Vec<Box<dyn Condition>> + 'a) -> Self {
        self.watch = Box::new(watch);
        self
    }

    /// The meter with a way to find out whether somebody uses a device, this process included.
    #[must_use]
    pub fn with_users(mut self, used: impl FnMut() -> Option<String> + 'a) -> Self {
        self.used = Box::new(used);
        self
    }

    /// The meter with a way to ask a device for its state.
    #[must_use]
    pub fn with_states(mut self, ask: impl FnMut(&str) -> Option<DeviceState> + 'a) -> Self {
        self.ask = Box::new(ask);
        self
    }
}

impl Meter for SampledMeter<'_> {
    fn sensors(&self) -> Vec<(SourceId, ReadingKind)> {
        self.sensors.clone()
    }

    fn start(&mut self, clock: &Arc<dyn Clock>, plan: SamplerPlan) -> Result<(), MeterError> {
        let sources = (self.open)(clock);
        if sources.len() != self.sensors.len() || sources.iter().zip(&self.sensors).any(|(s, (id, _))| s.id() != id) {
            return Err(MeterError::Sensors { got: sources.len(), want: self.sensors.len() });
        }
        self.sampler = Some(Sampler::start(Arc::clone(clock), sources, (self.watch)(), plan)?);
        Ok(())
    }

    fn stop(&mut self) -> Result<Vec<Recording>, MeterError> {
        Ok(self.sampler.take().ok_or(MeterError::NotRunning)?.stop()?)
    }

    fn rest(&mut self, time: Duration) {
        std::thread::sleep(time);
    }

    fn used(&mut self) -> Option<String> {
        (self.used)()
    }

    fn state(&mut self, device: &str) -> Option<DeviceState> {
        (self.ask)(device)
    }
}
