//! `phase ceilings`: what a device can do at most.

use crate::{
    argument::{self, Device},
    exit::{Failure, note, say},
    progress::during,
    setting::Setting,
};
use phase_core::{BackendId, Fact, Layer, MonotonicClock, StackInfo};
use phase_kernels::{Team, multiply_add, read_memory};
use phase_scenario::{CeilingKind, CeilingLoad, CeilingRate, Ceilings, Plan, measure_ceilings, rfc3339, write_atomically};
use std::{collections::BTreeSet, fmt::Write as _, num::NonZeroUsize, path::PathBuf};

/// Working sets that are read, in MiB: caches, and what no cache holds.
const READ_MIB: [usize; 5] = [4, 16, 64, 256, 512];
/// Read in one block, so that a small set is long enough for the clock.
const BLOCK_MIB: usize = 512;
/// Steps of the arithmetic in one block: some tens of milliseconds.
const ROUNDS: usize = 4_000_000;
/// Blocks within `bench`.
const BENCH_BLOCKS: u32 = 5;

pub(crate) fn run(setting: &Setting, arguments: &argument::Ceilings) -> Result<(), Failure> {
    let ceilings = during("measuring the ceilings", || of_device(setting, setting.device, arguments.repetitions))?;
    if let Some(file) = &arguments.out {
        let text = ceilings.to_json().map_err(|e| Failure::work(&e))?;
        write_atomically(file, text.as_bytes()).map_err(|e| Failure::work(&e))?;
        note(&format!("wrote {}", file.display()));
    }
    say(&if arguments.json { ceilings.to_json().map_err(|e| Failure::work(&e))? } else { table(&ceilings) })
}

/// What `bench --ceilings` names; `None` where they are to be measured.
pub(super) fn given(wanted: &[PathBuf]) -> Result<Option<Vec<Ceilings>>, Failure> {
    match wanted.iter().map(|p| p.to_str()).collect::<Vec<_>>().as_slice() {
        [Some("none")] => Ok(Some(Vec::new())),
        [Some("measure")] => Ok(None),
        _ => wanted.iter().map(read).collect::<Result<_, _>>().map(Some),
    }
}

/// The ceilings of every device of the plan. A run is worth having without: its roofline then says that there are none.
pub(super) fn of_plan(setting: &Setting, plan: &Plan) -> Vec<Ceilings> {
    let device = |path: &BackendId| match setting.device {
        cuda @ Device::Cuda(_) if path.as_str().ends_with("-cuda") => cuda,
        Device::Cpu if path.as_str().ends_with("-cuda") => Device::Cuda(0),
        _ => Device::Cpu,
    };
    let devices: BTreeSet<_> = plan.backends.iter().map(|arm| device(&arm.backend)).collect();
    let all = || devices.into_iter().map(|device| of_device(setting, device, BENCH_BLOCKS)).collect::<Vec<_>>();
    let measured = during("measuring the ceilings", all).into_iter();
    measured.filter_map(|of| of.map_err(|why| note(&format!("ceilings not measured: {why}"))).ok()).collect()
}

/// Reads a file of ceilings.
pub(super) fn read(file: &PathBuf) -> Result<Ceilings, Failure> {
    let text = std::fs::read_to_string(file).map_err(|e| Failure::Usage(format!("{}: {e}", file.display())))?;
    Ceilings::from_json(&text).map_err(|e| Failure::Usage(format!("{}: {e}", file.display())))
}

fn of_device(setting: &Setting, device: Device, blocks: u32) -> Result<Ceilings, Failure> {
    match device {
        Device::Cpu => of_cpu(setting.threads, blocks),
        Device::Cuda(number) => of_cuda(setting, number, blocks),
    }
}

fn of_cpu(threads: Option<usize>, blocks: u32) -> Result<Ceilings, Failure> {
    let threads = threads.and_then(NonZeroUsize::new).or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
    let team = Team::new(threads).map_err(|e| Failure::work(&e))?;
    let memory = vec![1.0_f32; READ_MIB[READ_MIB.len() - 1] << 18];
    let mut loads: Vec<_> = READ_MIB
        .iter()
        .map(|mib| {
            let (set, rounds) = (&memory[..mib << 18], BLOCK_MIB / mib);
            let of = CeilingKind::Read { working_set_bytes: (mib << 20) as u64 };
            let (team, what) = (&team, format!("read {mib} MiB"));
            CeilingLoad::new(what, of, real((mib << 20) * rounds), move || {
                read_memory(team, set, rounds);
                Ok(())
            })
        })
        .collect();
    let of = CeilingKind::Product { dtype: phase_core::DType::F32 };
    let work = real(multiply_add(&team, 1)) * real(ROUNDS);
    loads.push(CeilingLoad::new("multiply and add f32 in registers", of, work, || {
        multiply_add(&team, ROUNDS);
        Ok(())
    }));
    let rates = measure_ceilings(&mut loads, blocks, &MonotonicClock::new()).map_err(|e| Failure::work(&e))?;
    let machine = phase_core::machine();
    let on = format!("{threads} threads");
    Ok(document(&machine, Layer::Machine, "cpu", &on, rates, blocks)?.with_threads(threads.get()))
}

#[cfg(all(feature = "cuda", feature = "candle"))]
fn of_cuda(setting: &Setting, number: u32, blocks: u32) -> Result<Ceilings, Failure> {
    use phase_backend_candle::{CandleError, CudaPeak};
    /// Products and reads of one block: some milliseconds, against which a launch is nothing.
    const TIMES: usize = 5;
    let stack = setting.backend("candle-cuda@eager")?.probe_dyn().map_err(|e| Failure::of(&e))?;
    let peak = CudaPeak::open(number as usize).map_err(|e: CandleError| Failure::of(&e))?;
    let bytes = peak.read(1).map_err(|e| Failure::of(&e))?;
    let of = CeilingKind::Read { working_set_bytes: bytes as u64 };
    let read = || peak.read(TIMES).map(drop).map_err(Into::into);
    let mut loads = vec![CeilingLoad::new(format!("read {} MiB", bytes >> 20), of, real(bytes * TIMES), read)];
    for dtype in CudaPeak::DTYPES {
        for shape @ [rows, k, n] in CudaPeak::SHAPES {
            let what = format!("cuBLAS {dtype} {rows} x {k} x {n}");
            let (peak, work) = (&peak, real(2 * rows * k * n * TIMES));
            let multiply = move || peak.multiply(dtype, shape, TIMES).map(drop).map_err(Into::into);
            loads.push(CeilingLoad::new(what, CeilingKind::Product { dtype }, work, multiply));
        }
    }
    let rates = measure_ceilings(&mut loads, blocks, &MonotonicClock::new()).map_err(|e| Failure::work(&e))?;
    document(&stack, Layer::Runtime, "gpu", "candle's stream and cuBLAS handle", rates, blocks)
}

#[cfg(not(all(feature = "cuda", feature = "candle")))]
fn of_cuda(_: &Setting, _: u32, _: u32) -> Result<Ceilings, Failure> {
    Err(Failure::Environment("this program was built without candle on CUDA, which measures a GPU: `cargo xtask gpu build`".to_owned()))
}

fn document(stack: &StackInfo, layer: Layer, device: &str, on: &str, rates: Vec<CeilingRate>, blocks: u32) -> Result<Ceilings, Failure> {
    let known: Vec<_> = stack
        .iter()
        .filter_map(|(of, key, fact)| match fact {
            Fact::Known(value) if of == layer => Some((key.to_owned(), value.clone())),
            _ => None,
        })
        .collect();
    let name = known.iter().find(|(key, _)| key == device).map(|(_, value)| value.clone());
    let source =
        format!("fastest of {blocks} blocks on {on}, {}, phase {}", rfc3339(super::bench::unix_seconds()), env!("CARGO_PKG_VERSION"));
    Ok(Ceilings::new(source, name, rates).map_err(|e| Failure::work(&e))?.with_facts(known))
}

fn table(ceilings: &Ceilings) -> String {
    let mut text = format!("{}: {}\n\n", ceilings.device.as_deref().unwrap_or("unknown device"), ceilings.source);
    let _ = writeln!(text, "{:<36} {:>10} {:>10} {:>10}", "", "slowest", "median", "fastest");
    for rate in &ceilings.rates {
        let unit = if matches!(rate.of, CeilingKind::Read { .. }) { "GB/s" } else { "GFLOP/s" };
        let [low, median, high] = [rate.low, rate.median, rate.high].map(|r| r / 1e9);
        let _ = writeln!(text, "{:<36} {low:>10.1} {median:>10.1} {high:>10.1} {unit}", rate.what);
    }
    text
}

#[expect(clippy::cast_precision_loss, reason = "amounts of work, far below 2^52")]
fn real<N: TryInto<u64>>(amount: N) -> f64 {
    amount.try_into().map_or(f64::INFINITY, |n| n as f64)
}
