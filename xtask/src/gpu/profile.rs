//! Where a call's time goes: Nsight Compute's log of its kernels, beside the times of calls that nothing watched.

use crate::run::{Result, read, write};
use std::{
    collections::BTreeMap,
    fmt::Write,
    path::{Path, PathBuf},
};

/// What ncu measures of each kernel: few enough for one pass, so that no kernel runs twice.
pub const METRICS: &str = "gpu__time_duration.sum,dram__bytes_read.sum";

/// The empty kernel before each cell's own, followed by the cell's number: what `benches/cuda_profile.rs` calls it.
const MARKER: &str = "phase_cell_";

/// The longest name of a kernel in a table.
const NAME: usize = 64;

/// What to make a table of.
pub struct Tables {
    /// The log of `ncu --csv --print-units base`.
    pub kernels: PathBuf,
    /// What `cuda_profile` printed without it.
    pub times: PathBuf,
    pub cells: Vec<String>,
    pub title: String,
    /// The Markdown file to write.
    pub out: PathBuf,
}

impl Tables {
    /// Writes the tables; gives each cell's sum of kernels.
    pub fn make(&self) -> Result<String> {
        let calls = calls(&read(&self.kernels)?).map_err(|e| format!("{}: {e}", self.kernels.display()))?;
        if calls.len() != self.cells.len() {
            return Err(format!("{}: {} of {} calls", self.kernels.display(), calls.len(), self.cells.len()));
        }
        let times = read(&self.times)?;
        let mut text = format!("# {}\n", self.title);
        let mut sums = Vec::new();
        for (cell, launches) in self.cells.iter().zip(&calls) {
            let sum: f64 = launches.iter().map(|launch| launch.ns).sum::<f64>() / 1e3;
            let _ = write!(text, "\n## {cell}\n\n{}\n{}", table(launches), unwatched(&times, cell, sum, &self.times)?);
            sums.push(format!("{cell} {sum:.0} us"));
        }
        write(&self.out, text)?;
        Ok(sums.join("; "))
    }
}

/// One kernel as it ran.
#[derive(Debug, Default, PartialEq)]
struct Launch {
    kernel: String,
    grid: String,
    ns: f64,
    /// Bytes read from device memory, where ncu could tell.
    read: Option<f64>,
}

/// The launches of each bracketed call, in order.
fn calls(log: &str) -> Result<Vec<Vec<Launch>>> {
    // Before the table come ncu's messages.
    let mut lines = log.lines().skip_while(|line| !line.starts_with("\"ID\","));
    let header = fields(lines.next().ok_or_else(|| complaint(log))?);
    let column = |name: &str| header.iter().position(|field| field == name).ok_or_else(|| format!("no column `{name}`"));
    let [id, kernel, grid] = [column("ID")?, column("Kernel Name")?, column("Grid Size")?];
    let [metric, unit, value] = [column("Metric Name")?, column("Metric Unit")?, column("Metric Value")?];
    let mut calls: Vec<Vec<Launch>> = Vec::new();
    let mut last = None;
    for line in lines.filter(|line| line.starts_with('"')) {
        let row = fields(line);
        if row.len() != header.len() {
            return Err(format!("{} fields, the header has {}: {line}", row.len(), header.len()));
        }
        if last.as_ref() != Some(&row[id]) {
            last = Some(row[id].clone());
            if let Some(number) = row[kernel].strip_prefix(MARKER) {
                let number = number.split('(').next().unwrap_or(number);
                if number != calls.len().to_string() {
                    return Err(format!("call {number} where {} was due", calls.len()));
                }
                calls.push(Vec::new());
            }
            let launch = Launch { kernel: short(&row[kernel]), grid: row[grid].replace(' ', ""), ..Launch::default() };
            calls.last_mut().ok_or_else(|| format!("a kernel before the first call: {}", row[kernel]))?.push(launch);
        }
        let launch = calls.last_mut().and_then(|call| call.last_mut()).ok_or("no kernel")?;
        let number = row[value].replace(',', "").parse::<f64>().ok().zip(base(&row[unit])).map(|(number, base)| number * base);
        match row[metric].as_str() {
            "gpu__time_duration.sum" => launch.ns = number.ok_or_else(|| format!("no time: {line}"))?,
            "dram__bytes_read.sum" => launch.read = number,
            _ => {}
        }
    }
    for call in &mut calls {
        // The marker.
        call.remove(0);
    }
    if calls.iter().any(Vec::is_empty) || calls.is_empty() { Err(complaint(log)) } else { Ok(calls) }
}

/// Why there is no kernel, in ncu's own words where it has some.
fn complaint(log: &str) -> String {
    let said = log.lines().find(|line| line.starts_with("==ERROR==") || line.starts_with("==WARNING=="));
    format!("no kernels: {}", said.unwrap_or("ncu says nothing of it"))
}

/// A line of CSV, every field in quotes or none.
fn fields(line: &str) -> Vec<String> {
    let (mut fields, mut quoted) = (vec![String::new()], false);
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                fields.last_mut().expect("there is one").push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            other => fields.last_mut().expect("there is one").push(other),
        }
    }
    fields
}

/// What one of `unit` is in nanoseconds or bytes. Releases of ncu spell units differently.
fn base(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" | "nsecond" | "byte" => 1.0,
        "us" | "usecond" | "Kbyte" => 1e3,
        "ms" | "msecond" | "Mbyte" => 1e6,
        "s" | "second" | "Gbyte" => 1e9,
        _ => return None,
    })
}

/// A kernel's name without its type, its parameters and what only compilers want to know.
fn short(name: &str) -> String {
    let mut name = name.strip_prefix("void ").unwrap_or(name).to_owned();
    for noise in ["(anonymous namespace)::", "<unnamed>::", "(int)", "(unsigned int)", "(bool)", "at::native::", "onnxruntime::", "cuda::"]
    {
        name = name.replace(noise, "");
    }
    let mut depth = 0_u32;
    let end = name.find(|c| {
        match c {
            '<' => depth += 1,
            '>' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == '(' && depth == 0
    });
    name[..end.unwrap_or(name.len())].to_owned()
}

/// Kernels by name and grid, the longest sum first.
fn table(launches: &[Launch]) -> String {
    #[derive(Default)]
    struct Sum {
        launches: usize,
        ns: f64,
        read: Option<f64>,
    }
    let add = |sum: &mut Sum, launch: &Launch| {
        sum.read = if sum.launches == 0 { launch.read } else { sum.read.zip(launch.read).map(|(a, b)| a + b) };
        sum.launches += 1;
        sum.ns += launch.ns;
    };
    let mut kernels: BTreeMap<(&str, &str), Sum> = BTreeMap::new();
    let mut all = Sum::default();
    for launch in launches {
        add(kernels.entry((&launch.kernel, &launch.grid)).or_default(), launch);
        add(&mut all, launch);
    }
    let mut rows: Vec<_> = kernels.into_iter().collect();
    rows.sort_by(|(_, a), (_, b)| b.ns.total_cmp(&a.ns));
    let row = |name: &str, grid: &str, sum: &Sum| {
        let name = if name.chars().count() > NAME { name.chars().take(NAME).chain(['…']).collect() } else { name.to_owned() };
        // Bytes a nanosecond are GB a second.
        let rate = sum.read.map_or_else(|| "unknown".to_owned(), |bytes| format!("{:.0}", bytes / sum.ns));
        let share = 100.0 * sum.ns / all.ns;
        format!("| {} | {grid} | {} | {:.1} | {share:.1} | {rate} |\n", name.replace('|', "/"), sum.launches, sum.ns / 1e3)
    };
    let mut text = "| kernel | grid | launches | us | % | GB/s read |\n|---|---|---|---|---|---|\n".to_owned();
    for ((name, grid), sum) in &rows {
        text.push_str(&row(&format!("`{name}`"), grid, sum));
    }
    text + &row("all", "", &all)
}

/// The sum of kernels beside the times of whole calls.
fn unwatched(times: &str, cell: &str, sum: f64, file: &Path) -> Result<String> {
    let mut text = format!(
        "Kernels one by one, by ncu: {sum:.1} us. Medians of calls without it:\n\n| arm | call, us | on the device, us |\n|---|---|---|\n"
    );
    let mut found = 0;
    for line in times.lines().filter(|line| value(line, "cell") == Some(cell)) {
        let parts = [value(line, "arm"), value(line, "wall_us"), value(line, "device_us")];
        let [Some(arm), Some(wall), Some(device)] = parts else { return Err(format!("{}: {line}", file.display())) };
        let _ = writeln!(text, "| {arm} | {wall} | {} |", device.replace("null", "unknown"));
        found += 1;
    }
    if found == 0 { Err(format!("{}: no times of {cell}", file.display())) } else { Ok(text) }
}

/// What a line of JSON says of `key`, without quotes. No value in it has a comma or a quote.
fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(&format!("\"{key}\":"))?;
    Some(rest.split([',', '}']).next()?.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"==PROF== Connected to process 71 (/w/tree/bin/cuda_profile)
==PROF== Profiling "phase_cell_0": 0%....50%....100% - 1 pass
"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size","Device","CC","Section Name","Metric Name","Metric Unit","Metric Value"
"0","71","cuda_profile","127.0.0.1","phase_cell_0()","1","7","(1, 1, 1)","(1, 1, 1)","0","9.0","Command line profiler metrics","dram__bytes_read.sum","byte","0"
"0","71","cuda_profile","127.0.0.1","phase_cell_0()","1","7","(1, 1, 1)","(1, 1, 1)","0","9.0","Command line profiler metrics","gpu__time_duration.sum","ns","1,024"
"1","71","cuda_profile","127.0.0.1","void product<(int)8, float>(const float *, ""x"", int)","1","13","(256, 1, 1)","(528, 1, 1)","0","9.0","Command line profiler metrics","dram__bytes_read.sum","byte","12,000,000"
"1","71","cuda_profile","127.0.0.1","void product<(int)8, float>(const float *, ""x"", int)","1","13","(256, 1, 1)","(528, 1, 1)","0","9.0","Command line profiler metrics","gpu__time_duration.sum","ns","6,000"
"2","71","cuda_profile","127.0.0.1","attention(int)","1","13","(256, 1, 1)","(64, 1, 1)","0","9.0","Command line profiler metrics","dram__bytes_read.sum","byte","n/a"
"2","71","cuda_profile","127.0.0.1","attention(int)","1","13","(256, 1, 1)","(64, 1, 1)","0","9.0","Command line profiler metrics","gpu__time_duration.sum","ns","2,000"
"3","71","cuda_profile","127.0.0.1","void product<(int)8, float>(const float *, ""x"", int)","1","13","(256, 1, 1)","(528, 1, 1)","0","9.0","Command line profiler metrics","dram__bytes_read.sum","Mbyte","6.00"
"3","71","cuda_profile","127.0.0.1","void product<(int)8, float>(const float *, ""x"", int)","1","13","(256, 1, 1)","(528, 1, 1)","0","9.0","Command line profiler metrics","gpu__time_duration.sum","usecond","4.00"
"4","71","cuda_profile","127.0.0.1","phase_cell_1","1","7","(1, 1, 1)","(1, 1, 1)","0","9.0","Command line profiler metrics","gpu__time_duration.sum","ns","992"
"5","71","cuda_profile","127.0.0.1","attention(int)","1","13","(256, 1, 1)","(64, 1, 1)","0","9.0","Command line profiler metrics","gpu__time_duration.sum","ns","2,500"
==PROF== Disconnected from process 71
"#;

    const TIMES: &str = r#"{"arm":"candle-cuda@eager","cell":"decode:1@512","load_s":1.10,"wall_us":15.50,"device_us":13.20}
{"arm":"candle-cuda@eager","cell":"decode:8@512","load_s":1.10,"wall_us":3.00,"device_us":null}
{"arm":"candle-cuda@compiled","cell":"decode:1@512","load_s":1.10,"wall_us":13.00,"device_us":12.10}
"#;

    #[test]
    fn a_table_has_a_row_for_each_kernel_and_grid() {
        let place = std::env::temp_dir().join(format!("phase-profile-{}", std::process::id()));
        crate::run::folder(&place).unwrap();
        let file = |name: &str, text: &str| {
            write(&place.join(name), text).unwrap();
            place.join(name)
        };
        let cells = ["decode:1@512", "decode:8@512"].map(str::to_owned).to_vec();
        let tables = |cells: &[String]| Tables {
            kernels: file("kernels.csv", LOG),
            times: file("times.jsonl", TIMES),
            cells: cells.to_vec(),
            title: "candle".to_owned(),
            out: place.join("tables.md"),
        };
        assert_eq!(tables(&cells).make().unwrap(), "decode:1@512 12 us; decode:8@512 2 us");
        let text = read(&place.join("tables.md")).unwrap();
        assert!(text.contains(
            "| `product<8, float>` | (528,1,1) | 2 | 10.0 | 83.3 | 1800 |\n| `attention` | (64,1,1) | 1 | 2.0 | 16.7 | unknown |\n"
        ));
        assert!(text.contains("| all |  | 3 | 12.0 | 100.0 | unknown |\n"), "{text}");
        assert!(text.contains("12.0 us. Medians") && text.contains("| candle-cuda@compiled | 13.00 | 12.10 |"), "{text}");
        assert!(text.contains("| candle-cuda@eager | 3.00 | unknown |"), "{text}");
        assert!(tables(&cells[..1]).make().unwrap_err().contains("2 of 1 calls"));
        std::fs::remove_dir_all(&place).unwrap();
    }

    #[test]
    fn what_ncu_did_not_see_is_an_error() {
        assert!(calls("==ERROR== ERR_NVGPUCTRPERM: no permission\n").unwrap_err().contains("ERR_NVGPUCTRPERM"));
        assert!(calls(&LOG.replace("phase_cell_0", "product")).unwrap_err().contains("before the first call"));
        assert!(calls(&LOG.replace("phase_cell_1", "phase_cell_2")).unwrap_err().contains("call 2 where 1"));
        assert!(calls(&LOG.replace("\"usecond\"", "\"cycle\"")).unwrap_err().contains("no time"));
        let only_markers: Vec<_> = LOG.lines().filter(|line| !line.contains("attention") && !line.contains("product")).collect();
        assert!(calls(&only_markers.join("\n")).unwrap_err().contains("no kernels"));
    }

    #[test]
    fn names_lose_what_only_compilers_want() {
        assert_eq!(short("void (anonymous namespace)::gemm<(int)8, f<(bool)1>>(T1::Params)"), "gemm<8, f<1>>");
        assert_eq!(short("sm90_xmma_gemm_bf16bf16"), "sm90_xmma_gemm_bf16bf16");
    }
}
