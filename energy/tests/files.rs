//! From files to answers, as the program does it.

use phase_core::NoData;
use phase_energy::{
    Gate, ReadingKind, Sample, SensorCalibration, SensorKind, SourceId,
    fake::{FakeGpu, FakeSensor, PowerCurve},
    file::{
        AttributedLine, EventLine, SampleFile, SampleHeader, attribute_lines, read_calibration, read_events, read_samples, write_lines,
        write_samples,
    },
};
use std::{fs, path::Path};

fn gpu() -> FakeGpu {
    let sensor = FakeSensor {
        reading: ReadingKind::Counter,
        kind: SensorKind::Integrating,
        update_s: 0.1,
        window_s: 0.1,
        lag_s: 0.0,
        jitter_s: 0.0,
        phase_s: 0.02,
    };
    FakeGpu::new(PowerCurve::requests(20.0, 60.0, 700.0, 3), sensor, 20.0, 3)
}

fn event(name: &str, start_ms: u64, end_ms: u64) -> EventLine {
    EventLine { event: name.to_owned(), phase: "prefill".to_owned(), start_ns: start_ms * 1_000_000, end_ns: end_ms * 1_000_000 }
}

fn calibration() -> SensorCalibration {
    SensorCalibration::described(SensorKind::Integrating, 1e8, 1e8, 0.0, 60.0, 700.0)
}

#[test]
fn files_give_what_memory_gives() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (header, samples) = (SampleHeader::new(ReadingKind::Counter, "GPU-0"), gpu().samples(0.0, 20.0, 0.01));
    write_samples(&mut fs::File::create(at("samples.jsonl")).unwrap(), &header, &samples).unwrap();
    fs::write(
        at("events.jsonl"),
        concat!(
            r#"{"event":"long","phase":"decode","start_ns":5000000000,"end_ns":8000000000}"#,
            "\n",
            r#"{"event":"short","phase":"prefill","start_ns":5000000000,"end_ns":5050000000}"#
        ),
    )
    .unwrap();
    fs::write(at("cal.json"), r#"{"kind":"integrating","update_ns":100000000,"window_ns":100000000,"lag_ns":0,"min_w":60,"max_w":700}"#)
        .unwrap();

    let (events, samples) = (read_events(&at("events.jsonl")).unwrap(), read_samples(&at("samples.jsonl")).unwrap());
    let lines = attribute_lines(&events, &samples, &read_calibration(&at("cal.json")).unwrap(), Gate::default()).unwrap();
    let truth = gpu().curve().joules(5.0, 8.0);
    assert_eq!((lines[0].status.as_str(), lines[0].updates), ("measured", Some(30)));
    assert!(lines[0].low_j.unwrap() <= truth && truth <= lines[0].high_j.unwrap());

    let mut bytes = Vec::new();
    write_lines(&mut bytes, &lines).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    assert_eq!(text.lines().nth(1).unwrap(), r#"{"event":"short","status":"no_data","reason":"too_few_updates"}"#);
    assert_eq!(serde_json::from_str::<AttributedLine>(text.lines().next().unwrap()).unwrap(), lines[0]);
}

#[test]
fn a_missing_file_is_named() {
    let nowhere = Path::new("nowhere/at-all.jsonl");
    for error in [read_events(nowhere).unwrap_err(), read_samples(nowhere).unwrap_err(), read_calibration(nowhere).unwrap_err()] {
        assert!(error.to_string().starts_with("nowhere/at-all.jsonl: ") && error.is_unreadable(), "{error}");
    }
}

#[test]
fn a_calibration_of_another_sensor_gives_no_number() {
    let id: SourceId =
        serde_json::from_str(r#"{"device":"GPU-0","driver":"nvidia 580","field":"total_energy","perimeter":"gpu_board"}"#).unwrap();
    let samples = |header: SampleHeader| SampleFile { header, samples: gpu().samples(0.0, 20.0, 0.01) };
    let status = |samples: &SampleFile, calibration: &SensorCalibration| {
        let line = attribute_lines(&[event("e", 5000, 8000)], samples, calibration, Gate::default()).unwrap().remove(0);
        (line.status, line.reason)
    };
    let mut cal = calibration();
    cal.source = Some(id);
    cal.reading = Some(ReadingKind::Counter);
    let header = |device: &str| SampleHeader::new(ReadingKind::Counter, device);
    let refused = ("no_data".to_owned(), Some(NoData::Uncalibrated));
    assert_eq!(status(&samples(header("GPU-0")), &cal).0, "measured");
    assert_eq!(status(&samples(header("GPU-0").with_sensor("nvidia 580", "total_energy")), &cal).0, "measured");
    assert_eq!(status(&samples(header("GPU-1")), &cal), refused);
    assert_eq!(status(&samples(header("GPU-0").with_sensor("nvidia 535", "total_energy")), &cal), refused);
    cal.reading = Some(ReadingKind::Power);
    assert_eq!(status(&samples(header("GPU-0")), &cal), refused);
}

#[test]
fn a_counter_is_no_trailing_mean() {
    let cal = SensorCalibration::described(SensorKind::TrailingMean, 1e8, 1e9, 0.0, 60.0, 700.0);
    let samples = SampleFile { header: SampleHeader::new(ReadingKind::Counter, "d"), samples: gpu().samples(0.0, 20.0, 0.01) };
    let line = attribute_lines(&[event("e", 1000, 18000)], &samples, &cal, Gate::default()).unwrap().remove(0);
    assert_eq!(line.reason, Some(NoData::Unsupported));
}

#[test]
fn unknown_energy_has_no_number_in_a_file() {
    let samples = SampleFile { header: SampleHeader::new(ReadingKind::Counter, "d"), samples: vec![Sample { t_ns: 0, value: 1.0 }] };
    for line in attribute_lines(&[event("a", 0, 1), event("b", 5, 5)], &samples, &calibration(), Gate::default()).unwrap() {
        let value = serde_json::to_value(&line).unwrap();
        assert!(value.as_object().unwrap().values().all(serde_json::Value::is_string), "{value}");
    }
    for &reason in NoData::ALL {
        let value = serde_json::to_value(phase_core::Energy::NoData { reason }).unwrap();
        assert!(value.as_object().unwrap().values().all(serde_json::Value::is_string), "{value}");
        assert_eq!(value["reason"], reason.as_str());
    }
}
