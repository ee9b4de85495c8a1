//! Parquet and CSV, read back by DuckDB.

mod common;

use phase_export::{Format, csv, export, export_with, tables};
use phase_scenario::Record;
use std::fs;

#[test]
fn duckdb_reads_what_was_written() {
    let (folder, dir, run) = common::run();
    let (parquet, csv) = (folder.path().join("parquet"), folder.path().join("csv"));
    let written = export(&dir, Format::Parquet, &parquet).unwrap();
    export(&dir, Format::Csv, &csv).unwrap();
    assert_eq!(written.files.len(), 5, "{written:?}: events, loads, cells, boundaries, evidence");
    let program = r#"
import duckdb, sys
p, c = sys.argv[1], sys.argv[2]
one = lambda q: duckdb.sql(q).fetchall()
for t in ("events", "loads", "cells", "boundaries", "evidence"):
    # Every value through both formats: what is NULL in one is empty in the other.
    a = one(f"SELECT COLUMNS(*)::VARCHAR FROM '{p}/{t}.parquet'")
    b = one(f"SELECT * FROM read_csv('{c}/{t}.csv', all_varchar=true, header=true, nullstr='')")
    same = lambda x, y: x == y or (x is not None and y is not None and x.replace('.', '').isdigit() and float(x) == float(y))
    assert len(a) == len(b) and all(same(x, y) for r, s in zip(a, b) for x, y in zip(r, s)), (t, a[:2], b[:2])
types = dict(one(f"SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM '{p}/events.parquet')"))
assert types["duration_ns"] == "UBIGINT" and types["backend"] == "VARCHAR", types
assert one(f"SELECT count(*) FROM '{p}/events.parquet' WHERE duration_ns != end_ns - start_ns") == [(0,)]
assert one(f"SELECT count(*) FROM '{p}/events.parquet' e ANTI JOIN '{p}/boundaries.parquet' b USING (boundary)") == [(0,)]
# The median of a cell follows from the events: over blocks, of each block's median.
medians = one(f"""
  WITH block AS (SELECT backend, batch, new_tokens, block, median(duration_ns) m FROM '{p}/events.parquet'
                 WHERE phase = 'prefill' AND regime = 'steady' AND role != 'settle' GROUP BY ALL)
  SELECT count(*) FROM (SELECT backend, batch, new_tokens, median(m) m FROM block GROUP BY ALL)
  JOIN '{p}/cells.parquet' c USING (backend, batch, new_tokens) WHERE c.phase = 'prefill' AND c.regime = 'steady' AND abs(m - median_ns) > 1e-9""")
assert medians == [(0,)], medians
assert one(f"SELECT DISTINCT energy_status, energy_j FROM '{p}/cells.parquet'") == [("no_data", None)]
keys = dict((k.decode(), v.decode()) for k, v in one(f"SELECT key, value FROM parquet_kv_metadata('{p}/events.parquet')"))
assert keys["phase.schema"] == "phase.event/1", keys
print(one(f"SELECT count(*) FROM '{p}/events.parquet'")[0][0])
"#;
    let Some(rows) = common::python(program, &[&parquet, &csv]) else { return };
    let calls = run.records().iter().filter(|r| matches!(r, Record::Phase(_))).count();
    assert_eq!(rows.trim(), calls.to_string());
}

#[test]
fn samples_of_sensors_are_a_table_and_a_file_name_gets_the_events_alone() {
    let (folder, dir, _) = common::run();
    let file = folder.path().join("events.parquet");
    assert_eq!(export(&dir, Format::Parquet, &file).unwrap().files, [file]);
    let recording = folder.path().join("gpu.jsonl");
    let lines = [
        r#"{"schema":"phase.samples/1","kind":"counter","unit":"mJ","device":"GPU-1","driver":"580","field":"total_energy"}"#,
        r#"{"t_ns":10,"value":1000}"#,
        r#"{"t_ns":20,"value":1500.5}"#,
    ];
    fs::write(&recording, lines.join("\n")).unwrap();
    fs::write(folder.path().join("other.jsonl"), "{\"schema\":\"x\"}\n").unwrap();
    let found = tables::samples_files(folder.path()).unwrap();
    assert_eq!(found, [recording]);
    let table = tables::samples(&found).unwrap().unwrap();
    let text = String::from_utf8(csv(&table).unwrap()).unwrap();
    assert_eq!(
        text,
        "device,driver,field,kind,t_ns,value,unit\nGPU-1,580,total_energy,counter,10,1000,mJ\nGPU-1,580,total_energy,counter,20,1500.5,mJ\n"
    );
    assert_eq!(tables::samples(&[]).unwrap(), None);
}

#[test]
fn who_watches_an_export_sees_the_whole_of_it_done() {
    let (folder, dir, _) = common::run();
    for format in [Format::Parquet, Format::LlamaBench] {
        let mut steps: Vec<(u64, u64)> = Vec::new();
        export_with(&dir, format, &folder.path().join(format.as_str()), &mut |done, total, _| steps.push((done, total))).unwrap();
        let total = steps[0].1;
        assert!(steps.iter().all(|s| s.1 == total) && steps.windows(2).all(|w| w[0].0 <= w[1].0), "{steps:?}");
        assert!(total > 0 && steps.last().unwrap().0 == total, "{steps:?}");
    }
}

#[test]
fn a_damaged_run_is_not_exported() {
    let (folder, dir, _) = common::run();
    let events = dir.join("events.jsonl");
    let text = fs::read_to_string(&events).unwrap().replacen("\"duration_ns\":1000", "\"duration_ns\":1001", 1);
    fs::write(&events, text).unwrap();
    let out = folder.path().join("out");
    let error = export(&dir, Format::Parquet, &out).unwrap_err();
    assert!(error.to_string().contains("events.jsonl"), "{error}");
    assert!(!out.exists());
}
