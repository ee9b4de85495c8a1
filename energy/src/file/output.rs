use super::{EventLine, SampleFile};
use crate::{Attribution, Cursor, Gate, SensorCalibration, Series, attribution::AttributionError};
use phase_core::{Energy, NoData, Timestamp};
use serde::{Deserialize, Serialize};
use std::io;

/// The answer for one event. Under `no_data` there is no number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AttributedLine {
    /// The event's name.
    pub event: String,
    /// `measured`, `interpolated` or `no_data`.
    pub status: String,
    /// Middle of the interval, joules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joules: Option<f64>,
    /// Lower bound, joules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low_j: Option<f64>,
    /// Upper bound, joules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high_j: Option<f64>,
    /// Distinct sensor updates inside the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updates: Option<u32>,
    /// Why there is no number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<NoData>,
}

impl AttributedLine {
    fn new(event: &EventLine, attribution: &Attribution) -> Self {
        let Attribution { energy, bracket } = attribution;
        let status = energy.status().to_owned();
        let none =
            Self { event: event.event.clone(), status, joules: None, low_j: None, high_j: None, updates: None, reason: energy.reason() };
        match energy {
            Energy::Measured { joules, low, high } | Energy::Interpolated { joules, low, high } => {
                Self { joules: Some(joules.0), low_j: Some(low.0), high_j: Some(high.0), updates: bracket.map(|b| b.updates), ..none }
            }
            _ => none,
        }
    }
}

/// Attributes `samples` to `events` under `calibration`: one answer an event, in their order. Where the calibration is of
/// another sensor, every answer is `no_data` with `uncalibrated`.
///
/// # Errors
/// [`AttributionError`] for samples and calibrations that no reader of this crate has let through.
pub fn attribute_lines(
    events: &[EventLine],
    samples: &SampleFile,
    calibration: &SensorCalibration,
    gate: Gate,
) -> Result<Vec<AttributedLine>, AttributionError> {
    let SampleFile { header, samples } = samples;
    #[expect(clippy::cast_precision_loss, reason = "a time between polls is far below 2^53 ns")]
    let model = calibration.model()?.with_pace(header.poll_ns.unwrap_or(0) as f64 * 1e-9);
    let series = Series::new(header.kind, samples, model, gate)?;
    let known = |recorded: &Option<String>, calibrated: &str| recorded.as_deref().is_none_or(|r| r == calibrated);
    let same_sensor = calibration
        .source
        .as_ref()
        .is_none_or(|s| s.device == header.device && known(&header.driver, &s.driver) && known(&header.field, &s.field));
    let same_kind = calibration.reading.is_none_or(|r| r == header.kind);
    let series = if same_sensor && same_kind { series } else { series.void(NoData::Uncalibrated) };
    let mut cursor = Cursor::default();
    let line = |e: &EventLine| {
        let found = series.attribute_from(&mut cursor, Timestamp::from_nanos(e.start_ns), Timestamp::from_nanos(e.end_ns));
        AttributedLine::new(e, &found)
    };
    Ok(events.iter().map(line).collect())
}

/// Writes answers, one JSON object a line.
///
/// # Errors
/// The writer's.
pub fn write_lines(out: &mut impl io::Write, lines: &[AttributedLine]) -> io::Result<()> {
    for line in lines {
        serde_json::to_writer(&mut *out, line)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}
