use super::SamplerCost;
use crate::{
    AttributionError, Gate, Perimeter, ReadError, ReadingKind, Sample, SensorCalibration, Series, SourceId,
    file::{SampleFile, SampleHeader},
};
use phase_core::{NoData, Timestamp};
use serde::{Deserialize, Serialize};

/// How late polls were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Lateness {
    /// Polls.
    pub polls: u64,
    /// Sum over all polls, nanoseconds.
    pub total_ns: u64,
    /// Greatest, nanoseconds.
    pub worst_ns: u64,
    /// Deadlines that had passed before they could be served.
    pub missed: u64,
    /// Time spent in reads, nanoseconds, whether the processor worked or waited.
    pub busy_ns: u64,
    /// What the sampling thread took of a core; absent without a thread of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<SamplerCost>,
}

impl Lateness {
    /// Mean lateness in nanoseconds; zero without a poll.
    pub const fn mean_ns(&self) -> u64 {
        match self.total_ns.checked_div(self.polls) {
            Some(mean) => mean,
            None => 0,
        }
    }
}

/// A stretch of time that is void.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Void {
    pub(crate) from_ns: u64,
    pub(crate) to_ns: u64,
    pub(crate) reason: NoData,
}

/// What one source said, and everything a reader of it must know. Its serialised form leaves the readings out: they are a
/// samples file of their own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Recording {
    /// The sensor.
    pub id: SourceId,
    /// What the readings are.
    pub kind: ReadingKind,
    /// The readings, in order of time.
    #[serde(skip)]
    pub samples: Vec<Sample>,
    /// Failed reads, with their times: the first of them.
    pub errors: Vec<(Timestamp, ReadError)>,
    /// Failed reads, all of them.
    pub failed: u64,
    /// Readings that no room was left for.
    pub dropped: u64,
    /// Reads that took longer than a period, so that nobody knows when the value was taken; their values are left out.
    pub slow: u64,
    /// How far a reading's time may be off, nanoseconds: half of the longest read.
    pub time_error_ns: u64,
    /// The longest time between two reads that was planned, nanoseconds: less often read, a gap is none before it is longer.
    #[serde(default)]
    pub pace_ns: u64,
    /// Reads of this source.
    pub reads: u64,
    /// Time spent in them, nanoseconds.
    pub read_ns: u64,
    /// How late polls were.
    pub lateness: Lateness,
    pub(crate) voids: Vec<Void>,
}

/// What there is to know of a recording besides its readings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RecordingFacts {
    /// The sensor.
    pub source: SourceId,
    /// What the readings are.
    pub reading: ReadingKind,
    /// Readings kept.
    pub kept: usize,
    /// Reads.
    pub reads: u64,
    /// Time spent in them, nanoseconds.
    pub read_ns: u64,
    /// Reads that failed.
    pub failed: u64,
    /// Readings that no room was left for.
    pub dropped: u64,
    /// Reads that took longer than a period.
    pub slow: u64,
    /// How far a reading's time may be off, nanoseconds.
    pub time_error_ns: u64,
    /// How late polls were.
    pub lateness: Lateness,
}

impl Recording {
    /// Everything but the readings.
    pub fn facts(&self) -> RecordingFacts {
        let Self { id, kind, samples, failed, dropped, slow, time_error_ns, reads, read_ns, lateness, .. } = self;
        RecordingFacts {
            source: id.clone(),
            reading: *kind,
            kept: samples.len(),
            reads: *reads,
            read_ns: *read_ns,
            failed: *failed,
            dropped: *dropped,
            slow: *slow,
            time_error_ns: *time_error_ns,
            lateness: *lateness,
        }
    }

    /// The recording prepared for attribution. A calibration of another sensor makes all of it `uncalibrated`.
    ///
    /// # Errors
    /// [`AttributionError`] where the calibration contradicts itself.
    pub fn series(&self, calibration: &SensorCalibration, gate: Gate) -> Result<Series, AttributionError> {
        let model = calibration.model()?;
        #[expect(clippy::cast_precision_loss, reason = "half a read is far below 2^53 ns")]
        let model = model.with_time_error(model.time_error_s().max(self.time_error_ns as f64 * 1e-9)).with_pace(self.pace_ns as f64 * 1e-9);
        let mut series = Series::new(self.kind, &self.samples, model, gate)?;
        if !calibration.holds_for(&self.id, self.kind) {
            series = series.void(NoData::Uncalibrated);
        }
        for void in &self.voids {
            series = series.with_void(Timestamp::from_nanos(void.from_ns), Timestamp::from_nanos(void.to_ns), void.reason);
        }
        Ok(series)
    }

    /// The recording with its readings, after it was read back without them.
    #[must_use]
    pub fn with_samples(mut self, samples: Vec<Sample>) -> Self {
        self.samples = samples;
        self
    }

    /// The readings as a samples file.
    pub fn to_file(&self) -> SampleFile {
        let SourceId { device, driver, field, .. } = &self.id;
        let header = SampleHeader::new(self.kind, device).with_sensor(driver, field).with_poll_ns(self.pace_ns);
        SampleFile { header, samples: self.samples.clone() }
    }

    /// A recording of which only the readings are known, from a samples file of a sensor of `perimeter`.
    pub fn from_file(file: SampleFile, perimeter: Perimeter) -> Self {
        let SampleFile { header, samples } = file;
        let (kind, poll_ns) = (header.kind, header.poll_ns);
        let id = SourceId::new(header.device, header.driver.unwrap_or_default(), header.field.unwrap_or_default(), perimeter);
        Self {
            id,
            kind,
            samples,
            errors: Vec::new(),
            failed: 0,
            dropped: 0,
            slow: 0,
            time_error_ns: 0,
            pace_ns: poll_ns.unwrap_or(0),
            reads: 0,
            read_ns: 0,
            lateness: Lateness::default(),
            voids: Vec::new(),
        }
    }

    /// The recording with what was known of it when it was made.
    #[must_use]
    pub fn with_facts(self, facts: &RecordingFacts) -> Self {
        let RecordingFacts { reads, read_ns, failed, dropped, slow, time_error_ns, lateness, .. } = *facts;
        Self { reads, read_ns, failed, dropped, slow, time_error_ns, lateness, ..self }
    }

    /// Void stretches: from, to, why.
    pub fn voids(&self) -> impl Iterator<Item = (Timestamp, Timestamp, NoData)> {
        self.voids.iter().map(|v| (Timestamp::from_nanos(v.from_ns), Timestamp::from_nanos(v.to_ns), v.reason))
    }
}
