//! The files of attribution: events, samples and calibrations in, one line per event out. JSON lines, so that recordings
//! of other tools are brought into this form by a few lines of script.

mod error;
mod event;
mod output;
mod sample;

pub use error::FileError;
pub use event::{EventLine, read_events};
pub use output::{AttributedLine, attribute_lines, write_lines};
pub use sample::{SAMPLES_SCHEMA, SampleFile, SampleHeader, read_samples, without_repeats, write_samples};

use crate::{CalibratedClock, SensorCalibration};
use std::{fs, path::Path};

/// Reads a calibration: one JSON object, of which `kind`, `update_ns`, `window_ns`, `lag_ns`, `min_w` and `max_w` must be
/// there.
///
/// # Errors
/// [`FileError`] where the file can't be read, is no such object, or describes a sensor that can't be.
pub fn read_calibration(path: &Path) -> Result<SensorCalibration, FileError> {
    parse_calibration(&path.display().to_string(), &text(path)?)
}

fn parse_calibration(name: &str, text: &str) -> Result<SensorCalibration, FileError> {
    let calibration: SensorCalibration = serde_json::from_str(text).map_err(|e| FileError::json(name, e.line(), &e))?;
    calibration.model().map_err(|e| FileError::whole(name, e.to_string()))?;
    let shares = [calibration.residual, calibration.jitter_ns, calibration.time_error_ns];
    if let Some(wrong) = shares.into_iter().flatten().find(|x| !(x.is_finite() && *x >= 0.0)) {
        return Err(FileError::whole(name, format!("{wrong} is no residual, jitter or time error: these are not negative")));
    }
    if let Some(clock) = calibration.clock {
        let CalibratedClock { period_ns, period_error_ns, error_ns } = clock;
        let near = (period_ns / calibration.update_ns - 1.0).abs() <= 0.1;
        // A clock that is off by a third of its period tells no update from its neighbour.
        let errors = [period_error_ns, error_ns].iter().all(|e| (0.0..=0.3 * period_ns).contains(e));
        if !(near && errors) {
            return Err(FileError::whole(name, format!("a clock of {period_ns} ns is none of updates every {} ns", calibration.update_ns)));
        }
    }
    Ok(calibration)
}

fn text(path: &Path) -> Result<String, FileError> {
    fs::read_to_string(path).map_err(|e| FileError::unreadable(&path.display().to_string(), &e))
}

/// The lines that carry something, with their numbers from 1.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(i, line)| (i + 1, line.trim())).filter(|(_, line)| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calibration_that_contradicts_itself_is_refused() {
        let with = |kind: &str, window: &str, min: &str| {
            let text = format!(r#"{{"kind":"{kind}","update_ns":100000000,"window_ns":{window},"lag_ns":0,"min_w":{min},"max_w":700}}"#);
            parse_calibration("cal.json", &text)
        };
        assert!(with("boxcar", "100000000", "60").is_ok());
        for (kind, window, min, said) in [
            ("boxcar", "25000000", "60", "does not belong to this kind"),
            ("part_time", "100000000", "60", "does not belong to this kind"),
            ("trailing_mean", "100000000", "60", "does not belong to this kind"),
            ("sampling", "100000000", "60", "unknown variant `sampling`"),
            ("boxcar", "100000000", "800", "power bounds of 800 W to 700 W"),
            ("boxcar", "100000000", "-1", "power bounds of -1 W"),
            ("boxcar", "NaN", "60", "cal.json:1"),
        ] {
            let error = with(kind, window, min).unwrap_err().to_string();
            assert!(error.starts_with("cal.json") && error.contains(said), "{error}");
        }
        assert!(parse_calibration("cal.json", "{}").unwrap_err().to_string().contains("missing field `kind`"));
        assert!(parse_calibration("cal.json", "").unwrap_err().to_string().contains("EOF"));
    }
}
