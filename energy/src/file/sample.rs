use super::{FileError, lines, text};
use crate::{ReadingKind, Sample};
use serde::{Deserialize, Serialize};
use std::{io, path::Path};

/// The schema that the header of a samples file names.
pub const SAMPLES_SCHEMA: &str = "phase.samples/1";

/// The first line of a samples file: `{"schema":"phase.samples/1","kind":"counter","unit":"mJ","device":"..."}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SampleHeader {
    /// [`SAMPLES_SCHEMA`].
    pub schema: String,
    /// What the readings are.
    pub kind: ReadingKind,
    /// `mJ` for a counter, `mW` for power.
    pub unit: String,
    /// The device: a GPU's UUID, `package-0`.
    pub device: String,
    /// The driver and its version, where it was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// The sensor's name, where it was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The longest time between two reads that was planned, nanoseconds, where it is longer than the sensor's period: a longer
    /// silence is a gap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poll_ns: Option<u64>,
}

impl SampleHeader {
    /// The header for readings of `kind` from `device`.
    pub fn new(kind: ReadingKind, device: impl Into<String>) -> Self {
        Self {
            schema: SAMPLES_SCHEMA.to_owned(),
            kind,
            unit: unit(kind).to_owned(),
            device: device.into(),
            driver: None,
            field: None,
            poll_ns: None,
        }
    }

    /// The header with what else is known of the sensor.
    #[must_use]
    pub fn with_sensor(mut self, driver: impl Into<String>, field: impl Into<String>) -> Self {
        self.driver = Some(driver.into());
        self.field = Some(field.into());
        self
    }

    /// The header with how often the sensor was read, nanoseconds; 0 where nobody knows.
    #[must_use]
    pub const fn with_poll_ns(mut self, poll_ns: u64) -> Self {
        self.poll_ns = if poll_ns == 0 { None } else { Some(poll_ns) };
        self
    }
}

const fn unit(kind: ReadingKind) -> &'static str {
    match kind {
        ReadingKind::Counter => "mJ",
        ReadingKind::Power => "mW",
    }
}

/// A samples file: its header, and readings in order of time.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a file is its header and its lines")]
pub struct SampleFile {
    /// The first line.
    pub header: SampleHeader,
    /// The others.
    pub samples: Vec<Sample>,
}

/// Reads samples: a header, then `{"t_ns":N,"value":V}` a line. Repeated values are repeated polls.
///
/// # Errors
/// [`FileError`] names the first line that is of another schema, kind or unit, no reading, not in order of time, negative
/// or not a number.
pub fn read_samples(path: &Path) -> Result<SampleFile, FileError> {
    parse(&path.display().to_string(), &text(path)?)
}

/// Writes samples as [`read_samples`] reads them.
///
/// # Errors
/// The writer's.
pub fn write_samples(out: &mut impl io::Write, header: &SampleHeader, samples: &[Sample]) -> io::Result<()> {
    serde_json::to_writer(&mut *out, header)?;
    out.write_all(b"\n")?;
    for sample in samples {
        serde_json::to_writer(&mut *out, sample)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// Without the polls that say nothing: of polls that repeat a value the first, the last, and one every 50 ms in between stay.
pub fn without_repeats(samples: &[Sample]) -> Vec<Sample> {
    const KEEP_NS: u64 = 50_000_000;
    let mut kept: Vec<Sample> = Vec::new();
    for (k, sample) in samples.iter().enumerate() {
        let same = |other: Option<&Sample>| other.is_some_and(|o| o.value.to_bits() == sample.value.to_bits());
        let inside = same(kept.last()) && same(samples.get(k + 1));
        if !inside || kept.last().is_none_or(|last| sample.t_ns - last.t_ns >= KEEP_NS) {
            kept.push(*sample);
        }
    }
    kept
}

fn parse(name: &str, text: &str) -> Result<SampleFile, FileError> {
    let mut lines = lines(text);
    let (number, first) =
        lines.next().ok_or_else(|| FileError::whole(name, format!("empty: a header with schema {SAMPLES_SCHEMA} is missing")))?;
    let header = header(name, number, first)?;
    let mut samples: Vec<Sample> = Vec::new();
    for (number, line) in lines {
        let sample: Sample = serde_json::from_str(line).map_err(|e| FileError::json(name, number, &e))?;
        if !(sample.value.is_finite() && sample.value >= 0.0) {
            return Err(FileError::at(name, number, format!("a value of {}: readings are finite and not negative", sample.value)));
        }
        if let Some(before) = samples.last().filter(|s| s.t_ns > sample.t_ns) {
            return Err(FileError::at(
                name,
                number,
                format!("taken at {} ns, before the reading above it at {} ns", sample.t_ns, before.t_ns),
            ));
        }
        samples.push(sample);
    }
    Ok(SampleFile { header, samples })
}

fn header(name: &str, number: usize, line: &str) -> Result<SampleHeader, FileError> {
    // The schema first: a file of another one may have no kind at all.
    #[derive(Deserialize)]
    struct Schema {
        schema: String,
    }
    let Schema { schema } = serde_json::from_str(line).map_err(|e| FileError::json(name, number, &e))?;
    if schema != SAMPLES_SCHEMA {
        return Err(FileError::at(name, number, format!("schema `{schema}`: this version reads `{SAMPLES_SCHEMA}`")));
    }
    let header: SampleHeader = serde_json::from_str(line).map_err(|e| FileError::json(name, number, &e))?;
    if header.unit != unit(header.kind) {
        return Err(FileError::at(name, number, format!("unit `{}`: a {} is read in {}", header.unit, header.kind, unit(header.kind))));
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = r#"{"schema":"phase.samples/1","kind":"counter","unit":"mJ","device":"GPU-0"}"#;

    #[test]
    fn what_is_written_is_read_back() {
        let header = SampleHeader::new(ReadingKind::Power, "GPU-1").with_sensor("nvidia 580.1", "power_instant");
        let samples = vec![Sample { t_ns: 1_795_489_838_873_113_000, value: 72_141.0 }, Sample { t_ns: u64::MAX, value: 0.5 }];
        let mut bytes = Vec::new();
        write_samples(&mut bytes, &header, &samples).unwrap();
        assert_eq!(parse("s", std::str::from_utf8(&bytes).unwrap()).unwrap(), SampleFile { header, samples });
        assert!(parse("s", HEADER).unwrap().samples.is_empty());
    }

    #[test]
    fn bad_headers_say_what_would_be_right() {
        for (bad, said) in [
            ("", "empty"),
            (r#"{"schema":"phase.samples/2","what":1}"#, "s.jsonl:1: schema `phase.samples/2`: this version reads `phase.samples/1`"),
            (r#"{"t_ns":1,"value":2}"#, "s.jsonl:1: missing field `schema`"),
            (r#"{"schema":"phase.samples/1","kind":"gauge","unit":"mJ","device":"d"}"#, "unknown variant `gauge`"),
            (r#"{"schema":"phase.samples/1","kind":"counter","unit":"J","device":"d"}"#, "unit `J`: a counter is read in mJ"),
            (r#"{"schema":"phase.samples/1","kind":"power","unit":"mJ","device":"d"}"#, "unit `mJ`: a power is read in mW"),
            (r#"{"schema":"phase.samples/1","kind":"cou"#, "cut short"),
        ] {
            let error = parse("s.jsonl", bad).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn bad_readings_are_named_by_their_line() {
        let good = r#"{"t_ns":10,"value":5}"#;
        for (bad, said) in [
            (r#"{"t_ns":9,"value":5}"#, "taken at 9 ns, before the reading above it at 10 ns"),
            (r#"{"t_ns":11,"value":-1}"#, "a value of -1"),
            (r#"{"t_ns":11,"value":NaN}"#, "expected"),
            (r#"{"t_ns":11,"value":null}"#, "invalid type"),
            (r#"{"t_ns":11,"value":1e999}"#, "number out of range"),
            (r#"{"t_ns":-11,"value":1}"#, "invalid value"),
            (r#"{"t_ns":11}"#, "missing field `value`"),
            (r#"{"t_ns":11,"val"#, "cut short"),
            (HEADER, "missing field `t_ns`"),
        ] {
            let error = parse("s.jsonl", &format!("{HEADER}\n{good}\n{bad}\n")).unwrap_err();
            assert_eq!(error.line(), Some(3), "{error}");
            assert!(error.to_string().contains(said), "{error}");
        }
    }
}
