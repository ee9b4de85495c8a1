//! `phase ceilings`: what a device can do at most.

use crate::{
    argument::{self, Device},
    exit::{Failure, note, say},
    progress::watched,
    setting::Setting,
};
use phase_core::{BackendId, DType, Fact, Layer, MonotonicClock, StackInfo};
use phase_kernels::{MultiplyAdd, Operand, Team, read_memory};
use phase_scenario::{CeilingKind, CeilingLoad, CeilingMeter, CeilingRate, Ceilings, Plan, ScenarioError, rfc3339, write_atomically};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    num::NonZeroUsize,
    path::PathBuf,
    rc::Rc,
    sync::Arc,
};

/// Working sets that are read, in MiB: from cores' caches to what no cache holds; none is more than twice the one before, so
/// that no row is held against a much faster memory than its own.
const READ_MIB: [usize; 8] = [4, 8, 16, 32, 64, 128, 256, 512];
/// The largest of them is so many times what the last cache holds, where that is known: more would be memory that the models
/// could have.
const OVER_CACHE: usize = 4;
/// Read in one part: some tenths of a millisecond, of which others rarely take anything.
const PART_MIB: usize = 16;
/// A set is read so often in one block: the first time it is in no cache.
const PASSES: u32 = 2;
/// Steps of the arithmetic in one pass, about half a millisecond, and passes in one block.
const ROUNDS: usize = 300_000;
const PRODUCT_PASSES: u32 = 8;
/// Blocks within `bench` of a device that is measured before the first load.
const BENCH_BLOCKS: u32 = 5;

pub(crate) fn run(setting: &Setting, arguments: &argument::Ceilings) -> Result<(), Failure> {
    let ceilings = watched(|watch| of_device(setting, setting.device, arguments.repetitions, watch))?;
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

/// The ceilings of a plan's devices.
pub(super) struct OfPlan {
    /// Of GPUs, whose memory the models need: measured now.
    pub(super) now: Vec<Ceilings>,
    /// Of the processor, whose speed others change from second to second: to be measured beside the run.
    pub(super) beside: Option<CeilingMeter<'static>>,
}

/// The ceilings of every device of the plan. A run is worth having without: its roofline then says that there are none.
pub(super) fn of_plan(setting: &Setting, plan: &Plan) -> OfPlan {
    let device = |path: &BackendId| match setting.device {
        cuda @ Device::Cuda(_) if path.as_str().ends_with("-cuda") => cuda,
        Device::Cpu if path.as_str().ends_with("-cuda") => Device::Cuda(0),
        _ => Device::Cpu,
    };
    let devices: BTreeSet<_> = plan.backends.iter().map(|arm| device(&arm.backend)).collect();
    let missing = |why: Failure| note(&format!("ceilings not measured: {why}"));
    let beside = devices.contains(&Device::Cpu).then(|| cpu_meter(setting.threads)).and_then(|of| of.map_err(missing).ok());
    let gpus: Vec<_> = devices.into_iter().filter(|device| *device != Device::Cpu).collect();
    let all = gpus.iter().map(|device| watched(|watch| of_device(setting, *device, BENCH_BLOCKS, watch)));
    OfPlan { now: all.filter_map(|of| of.map_err(missing).ok()).collect(), beside }
}

/// Reads a file of ceilings.
pub(super) fn read(file: &PathBuf) -> Result<Ceilings, Failure> {
    let text = std::fs::read_to_string(file).map_err(|e| Failure::Usage(format!("{}: {e}", file.display())))?;
    Ceilings::from_json(&text).map_err(|e| Failure::Usage(format!("{}: {e}", file.display())))
}

/// Who is told how much is done, of how much, and what is next.
type Watch<'a> = &'a mut dyn FnMut(u64, u64, &str);

fn of_device(setting: &Setting, device: Device, blocks: u32, watch: Watch<'_>) -> Result<Ceilings, Failure> {
    match device {
        Device::Cpu => measure(cpu_meter(setting.threads)?, blocks, watch),
        Device::Cuda(number) => of_cuda(setting, number, blocks, watch),
    }
}

fn measure(mut meter: CeilingMeter<'_>, blocks: u32, watch: Watch<'_>) -> Result<Ceilings, Failure> {
    let clock = MonotonicClock::new();
    let mut block = |number: u32, meter: &mut CeilingMeter<'_>| {
        let mut at = |done: u64, loads: u64, what: &str| {
            let before = u64::from(number) * loads;
            watch(before + done, u64::from(blocks) * loads, &format!("block {} of {blocks}, {what}", number + 1));
        };
        meter.block_with(&clock, &mut at)
    };
    let done = meter.warm_up().and_then(|()| (0..blocks).try_for_each(|number| block(number, &mut meter)));
    done.and_then(|()| meter.ceilings()).map_err(|e| Failure::work(&e))
}

fn cpu_meter(threads: Option<usize>) -> Result<CeilingMeter<'static>, Failure> {
    let threads = threads.and_then(NonZeroUsize::new).or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
    let team = Arc::new(Team::new(threads).map_err(|e| Failure::work(&e))?);
    let sets = working_sets(last_cache_bytes());
    let memory = Memory { sets_mib: sets.iter().copied().max().unwrap_or_default(), held: Rc::default() };
    let mut loads = Vec::new();
    for mib in sets {
        loads.push(reading::<2>(&team, &memory, mib));
        loads.push(reading::<8>(&team, &memory, mib));
    }
    loads.extend(MultiplyAdd::available().into_iter().map(|peak| multiplying(&team, peak)));
    let machine = phase_core::machine();
    let on = format!("{threads} threads");
    let describe = move |rates| Ok(document(&machine, Layer::Machine, "cpu", &on, rates)?.with_threads(threads.get()));
    Ok(CeilingMeter::new(loads, describe).between_blocks(move || memory.give_back()))
}

/// What is read; held within a block only, because the models of a run need the memory.
#[derive(Clone)]
struct Memory {
    sets_mib: usize,
    held: Rc<RefCell<Vec<f32>>>,
}

impl Memory {
    fn take(&self) {
        // Written, so that the pages are there.
        self.held.borrow_mut().resize(floats(self.sets_mib), 1.0);
    }

    fn give_back(&self) {
        self.held.take();
    }
}

/// The sets worth reading: up to [`OVER_CACHE`] times the last cache, all where that is not known.
fn working_sets(cache_bytes: Option<usize>) -> Vec<usize> {
    let enough = |mib: &usize| cache_bytes.is_some_and(|bytes| mib << 20 >= OVER_CACHE * bytes);
    let last = READ_MIB.iter().position(enough).unwrap_or(READ_MIB.len() - 1);
    READ_MIB[..=last].to_vec()
}

/// What the processor's caches of the third level hold together; `None` where the kernel tells of none.
fn last_cache_bytes() -> Option<usize> {
    let mut caches = BTreeMap::new();
    for cpu in std::fs::read_dir("/sys/devices/system/cpu").ok()?.flatten() {
        let read = |name: &str| std::fs::read_to_string(cpu.path().join("cache/index3").join(name)).ok();
        if let Some((shared, size)) = read("shared_cpu_list").zip(read("size")) {
            caches.insert(shared, size.trim().strip_suffix('K')?.parse::<usize>().ok()? << 10);
        }
    }
    (!caches.is_empty()).then(|| caches.values().sum())
}

/// Reads a set from end to end, part by part, so that a part of a large one was last read long ago; a small one is a part.
fn reading<const STREAMS: usize>(team: &Arc<Team>, memory: &Memory, mib: usize) -> CeilingLoad<'static> {
    let (reader, held, memory) = (team.clone(), memory.held.clone(), memory.clone());
    let mut gather = gathering(team);
    let (part, parts) = (mib.min(PART_MIB), mib.div_ceil(PART_MIB));
    let rounds = PART_MIB / part;
    let of = CeilingKind::Read { working_set_bytes: (mib << 20) as u64 };
    CeilingLoad::new(format!("read {mib} MiB, {STREAMS} streams a thread"), of, real((part << 20) * parts * rounds), move |n| {
        read_memory::<STREAMS>(&reader, &held.borrow()[floats(part) * n..][..floats(part)], rounds);
        Ok(())
    })
    .in_parts(parts, PASSES)
    .after(move || {
        memory.take();
        gather();
    })
}

fn multiplying(team: &Arc<Team>, peak: MultiplyAdd) -> CeilingLoad<'static> {
    let multiplier = team.clone();
    let dtype = if peak.operand() == Operand::Bf16 { DType::Bf16 } else { DType::F32 };
    let work = real(peak.run(team, 1)) * real(ROUNDS);
    let of = CeilingKind::Product { dtype };
    CeilingLoad::new(format!("{} in registers", peak.name()), of, work, move |_| {
        peak.run(&multiplier, ROUNDS);
        Ok(())
    })
    .in_parts(1, PRODUCT_PASSES)
    .after(gathering(team))
}

/// On a busy machine a thread that waits for its turn would leave all work to the others.
fn gathering(team: &Arc<Team>) -> impl FnMut() + use<> {
    let team = team.clone();
    move || _ = team.gather()
}

const fn floats(mib: usize) -> usize {
    mib << 18
}

#[cfg(all(feature = "cuda", feature = "candle"))]
fn of_cuda(setting: &Setting, number: u32, blocks: u32, watch: Watch<'_>) -> Result<Ceilings, Failure> {
    use phase_backend_candle::{CandleError, CudaPeak};
    /// Products and reads of one block: some milliseconds, against which a launch is nothing.
    const TIMES: usize = 5;
    let stack = setting.backend("candle-cuda@eager")?.probe_dyn().map_err(|e| Failure::of(&e))?;
    let peak = CudaPeak::open(number as usize).map_err(|e: CandleError| Failure::of(&e))?;
    let bytes = peak.read(1).map_err(|e| Failure::of(&e))?;
    let of = CeilingKind::Read { working_set_bytes: bytes as u64 };
    let read = |_| peak.read(TIMES).map(drop).map_err(Into::into);
    let mut loads = vec![CeilingLoad::new(format!("read {} MiB", bytes >> 20), of, real(bytes * TIMES), read)];
    for dtype in CudaPeak::DTYPES {
        for shape @ [rows, k, n] in CudaPeak::SHAPES {
            let what = format!("cuBLAS {dtype} {rows} x {k} x {n}");
            let (peak, work) = (&peak, real(2 * rows * k * n * TIMES));
            let multiply = move |_| peak.multiply(dtype, shape, TIMES).map(drop).map_err(Into::into);
            loads.push(CeilingLoad::new(what, CeilingKind::Product { dtype }, work, multiply));
        }
    }
    let on = "candle's stream and cuBLAS handle";
    measure(CeilingMeter::new(loads, |rates| document(&stack, Layer::Runtime, "gpu", on, rates)), blocks, watch)
}

#[cfg(not(all(feature = "cuda", feature = "candle")))]
fn of_cuda(_: &Setting, _: u32, _: u32, _: Watch<'_>) -> Result<Ceilings, Failure> {
    Err(Failure::Environment("this program was built without candle on CUDA, which measures a GPU: `cargo xtask gpu build`".to_owned()))
}

fn document(stack: &StackInfo, layer: Layer, device: &str, on: &str, rates: Vec<CeilingRate>) -> Result<Ceilings, ScenarioError> {
    let known: Vec<_> = stack
        .iter()
        .filter_map(|(of, key, fact)| match fact {
            Fact::Known(value) if of == layer => Some((key.to_owned(), value.clone())),
            _ => None,
        })
        .collect();
    let name = known.iter().find(|(key, _)| key == device).map(|(_, value)| value.clone());
    let passes = rates.iter().map(|rate| rate.blocks).min().unwrap_or_default();
    let date = rfc3339(super::bench::unix_seconds());
    let source = format!("fastest of {passes} or more passes on {on}, until {date}, phase {}", env!("CARGO_PKG_VERSION"));
    Ok(Ceilings::new(source, name, rates)?.with_facts(known))
}

fn table(ceilings: &Ceilings) -> String {
    let mut text = format!("{}: {}\n\n", ceilings.device.as_deref().unwrap_or("unknown device"), ceilings.source);
    let _ = writeln!(text, "{:<38} {:>10} {:>10} {:>10}", "", "slowest", "median", "fastest");
    for rate in &ceilings.rates {
        let unit = if matches!(rate.of, CeilingKind::Read { .. }) { "GB/s" } else { "GFLOP/s" };
        let [low, median, high] = [rate.low, rate.median, rate.high].map(|r| r / 1e9);
        let _ = writeln!(text, "{:<38} {low:>10.1} {median:>10.1} {high:>10.1} {unit}", rate.what);
    }
    text
}

#[expect(clippy::cast_precision_loss, reason = "amounts of work, far below 2^52")]
fn real<N: TryInto<u64>>(amount: N) -> f64 {
    amount.try_into().map_or(f64::INFINITY, |n| n as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_reach_beyond_the_last_cache_and_no_further_than_need_be() {
        assert_eq!(working_sets(Some(32 << 20)), [4, 8, 16, 32, 64, 128]);
        assert_eq!(working_sets(Some(33 << 20)).last(), Some(&256));
        assert_eq!(working_sets(Some(1 << 30)), READ_MIB);
        assert_eq!(working_sets(None), READ_MIB);
    }
}
