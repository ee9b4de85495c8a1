//! What opening and reading a checkpoint costs: `cargo run --release -p phase-model --example load -- PATH [f32|f16|bf16]`.

use std::{error::Error, path::PathBuf};

use half::{bf16, f16};
use phase_core::{Clock, DType, MonotonicClock};
use phase_model::{Checkpoint, Element};

#[expect(clippy::print_stdout, reason = "an example reports on standard output")]
fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let path = PathBuf::from(arguments.next().ok_or("usage: load PATH [f32|f16|bf16]")?);
    let dtype: DType = arguments.next().and_then(|text| text.into_string().ok()).as_deref().unwrap_or("f32").parse()?;
    let clock = MonotonicClock::default();
    let mut last = clock.now();
    let mut lap = |what: &str| {
        let now = clock.now();
        println!("{what:<10} {:>9.3} ms", now.since(last).as_secs_f64() * 1e3);
        last = now;
    };
    let checkpoint = Checkpoint::open(&path)?;
    lap("open");
    let elements = match dtype {
        DType::F16 => read_all::<f16>(&checkpoint)?,
        DType::Bf16 => read_all::<bf16>(&checkpoint)?,
        _ => read_all::<f32>(&checkpoint)?,
    };
    lap("read");
    let digest = checkpoint.digest()?;
    lap("digest");
    let tokenizer = checkpoint.tokenizer();
    lap("tokenizer");
    println!("{elements} elements as {dtype}, digest {digest}, tokenizer: {}", tokenizer.is_ok());
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for line in status.lines().filter(|line| line.starts_with("VmHWM") || line.starts_with("VmRSS")) {
        println!("{line}");
    }
    Ok(())
}

fn read_all<T: Element>(checkpoint: &Checkpoint) -> Result<usize, Box<dyn Error>> {
    let weights = checkpoint.weights();
    let tensors = weights.roles().map(|role| weights.to_vec::<T>(role)).collect::<Result<Vec<_>, _>>()?;
    Ok(tensors.iter().map(Vec::len).sum())
}
