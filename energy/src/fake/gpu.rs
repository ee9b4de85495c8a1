//! A power curve seen through a sensor.

use super::{PowerCurve, Random};
use crate::{PowerBounds, ReadError, Reading, ReadingKind, Sample, SensorKind, SensorModel, Source, SourceId, Stamped};
use phase_core::{Clock, Timestamp};
use std::{fmt, sync::Arc, time::Duration};

/// How the fake's sensor works. Times in seconds.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a description for tests, written out in full")]
pub struct FakeSensor {
    /// Counter or power.
    pub reading: ReadingKind,
    /// How it sees.
    pub kind: SensorKind,
    /// Update period.
    pub update_s: f64,
    /// Time an update speaks about.
    pub window_s: f64,
    /// Time from the end of the window to the update.
    pub lag_s: f64,
    /// Largest deviation of an update from the period's grid.
    pub jitter_s: f64,
    /// Time of the first update.
    pub phase_s: f64,
}

/// What can go wrong, in seconds of the fake's time.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// The clock of the readings goes forward by `by_s` at `at_s`: readings after it carry times that are too late.
    ClockJump {
        /// When.
        at_s: f64,
        /// How far.
        by_s: f64,
    },
    /// Nothing can be read.
    Gap {
        /// From.
        from_s: f64,
        /// To.
        to_s: f64,
    },
    /// The counter begins anew: the driver was reloaded.
    Reset {
        /// When.
        at_s: f64,
    },
    /// The sensor repeats its last value.
    Stuck {
        /// From.
        from_s: f64,
        /// To.
        to_s: f64,
    },
    /// The driver says zero.
    Zero {
        /// From.
        from_s: f64,
        /// To.
        to_s: f64,
    },
}

#[derive(Clone, Copy, Debug)]
struct Update {
    at_s: f64,
    reading: Reading,
}

/// A device that draws a known power and shows it through one sensor.
#[derive(Clone, Debug)]
pub struct FakeGpu {
    id: SourceId,
    curve: PowerCurve,
    sensor: FakeSensor,
    updates: Vec<Update>,
    faults: Vec<Fault>,
}

impl FakeGpu {
    /// A device that draws `curve` for `seconds` behind `sensor`, whose updates jitter by `seed`.
    pub fn new(curve: PowerCurve, sensor: FakeSensor, seconds: f64, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut updates = Vec::new();
        let (mut before, mut counted, mut k) = (sensor.phase_s - sensor.update_s, 0.0, 0.0);
        while sensor.phase_s + k * sensor.update_s < seconds {
            let at_s = sensor.phase_s + k * sensor.update_s + random.within(-1.0, 1.0) * sensor.jitter_s;
            let (from, to) = match sensor.kind {
                SensorKind::Boxcar | SensorKind::Integrating => (before - sensor.lag_s, at_s - sensor.lag_s),
                _ => (at_s - sensor.lag_s - sensor.window_s, at_s - sensor.lag_s),
            };
            let mean_w = curve.joules(from, to) / (to - from);
            let elapsed = if sensor.kind == SensorKind::PartTime { sensor.update_s } else { to - from };
            counted += mean_w * elapsed;
            let reading = match sensor.reading {
                ReadingKind::Counter => Reading::Counter { microjoules: whole(counted * 1e3) * 1000 },
                ReadingKind::Power => Reading::Power { milliwatts: whole(mean_w * 1e3) },
            };
            updates.push(Update { at_s, reading });
            before = at_s;
            k += 1.0;
        }
        let id = SourceId::new("FAKE-0", "fake", sensor.reading.as_str(), crate::Perimeter::GpuBoard);
        Self { id, curve, sensor, updates, faults: Vec::new() }
    }

    /// The device with one fault more.
    #[must_use]
    pub fn with_fault(mut self, fault: Fault) -> Self {
        self.faults.push(fault);
        self
    }

    /// What the device really draws.
    pub const fn curve(&self) -> &PowerCurve {
        &self.curve
    }

    /// The sensor's true description.
    ///
    /// # Errors
    /// As [`SensorModel::new`].
    pub fn model(&self, power: PowerBounds) -> Result<SensorModel, crate::AttributionError> {
        let FakeSensor { kind, update_s, window_s, lag_s, .. } = self.sensor;
        SensorModel::new(kind, update_s, window_s, lag_s, power)
    }

    /// What the driver answers at `at_s`.
    ///
    /// # Errors
    /// [`ReadError::Refused`] in a gap and before the first update.
    pub fn reading(&self, at_s: f64) -> Result<Reading, ReadError> {
        let mut seen_s = at_s;
        let mut since_j = None;
        for fault in &self.faults {
            match *fault {
                Fault::Gap { from_s, to_s } if (from_s..to_s).contains(&at_s) => return Err(ReadError::Refused),
                Fault::Stuck { from_s, to_s } if (from_s..to_s).contains(&at_s) => seen_s = seen_s.min(from_s),
                Fault::Reset { at_s: reset_s } if at_s >= reset_s => since_j = self.latest(reset_s),
                Fault::Zero { from_s, to_s } if (from_s..to_s).contains(&at_s) => {
                    return Ok(match self.sensor.reading {
                        ReadingKind::Counter => Reading::Counter { microjoules: 0 },
                        ReadingKind::Power => Reading::Power { milliwatts: 0 },
                    });
                }
                _ => {}
            }
        }
        match (self.latest(seen_s), since_j) {
            (Some(Reading::Counter { microjoules }), Some(Reading::Counter { microjoules: origin })) => {
                Ok(Reading::Counter { microjoules: microjoules.saturating_sub(origin) })
            }
            (Some(reading), _) => Ok(reading),
            (None, _) => Err(ReadError::Refused),
        }
    }

    /// What a poller sees from `from_s` to `to_s`, asking every `step_s`.
    pub fn samples(&self, from_s: f64, to_s: f64, step_s: f64) -> Vec<Sample> {
        let mut found = Vec::new();
        let mut k = 0.0;
        while from_s + k * step_s < to_s {
            let at_s = from_s + k * step_s;
            if let Ok(reading) = self.reading(at_s) {
                found.push(Sample { t_ns: whole(self.shown_s(at_s) * 1e9), value: reading.value() });
            }
            k += 1.0;
        }
        found
    }

    /// The device as a [`Source`] that answers by `clock`'s time.
    pub fn source(self, clock: Arc<dyn Clock>) -> impl Source + use<> {
        FakeSource { gpu: self, clock }
    }

    /// The time the readings' clock shows at `at_s`.
    pub fn shown_s(&self, at_s: f64) -> f64 {
        let jumps = self.faults.iter().filter_map(|f| match f {
            Fault::ClockJump { at_s: jump_s, by_s } if at_s >= *jump_s => Some(*by_s),
            _ => None,
        });
        at_s + jumps.sum::<f64>()
    }

    fn latest(&self, at_s: f64) -> Option<Reading> {
        let after = self.updates.partition_point(|u| u.at_s <= at_s);
        after.checked_sub(1).map(|i| self.updates[i].reading)
    }
}

struct FakeSource {
    gpu: FakeGpu,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for FakeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeSource").field("gpu", &self.gpu).finish_non_exhaustive()
    }
}

impl Source for FakeSource {
    fn id(&self) -> &SourceId {
        &self.gpu.id
    }

    fn kind(&self) -> ReadingKind {
        self.gpu.sensor.reading
    }

    fn refresh(&self) -> Option<Duration> {
        Some(Duration::from_secs_f64(self.gpu.sensor.update_s))
    }

    fn read(&mut self, out: &mut dyn FnMut(Stamped)) -> Result<(), ReadError> {
        out(self.gpu.reading(seconds(self.clock.now()))?.into());
        Ok(())
    }
}

fn seconds(at: Timestamp) -> f64 {
    crate::attribution::seconds(at.as_nanos(), 0)
}

/// The whole part of a number that is not negative.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped; a fake draws less than 2^64 of anything")]
fn whole(value: f64) -> u64 {
    value.max(0.0) as u64
}
