use super::{keep, make_folder};
use crate::{
    argument,
    exit::{Failure, note, say},
};
use phase_core::{Clock, MonotonicClock};
use phase_energy::{
    BoardField, CostMeter, NvmlLibrary, Poller, Rapl, ReadingKind, Recording, Sample, SamplerCost, SamplerPlan, Source, SystemWall,
};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

pub(super) fn run(arguments: &argument::Watch) -> Result<(), Failure> {
    let sources = sources()?;
    if let Some(folder) = &arguments.out {
        make_folder(folder)?;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    ctrlc::set_handler(move || stopped.store(true, Ordering::Relaxed)).map_err(|e| Failure::work(&e))?;
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
    let plan = SamplerPlan::default().with_period(Duration::from_millis(arguments.period_ms));
    let cost = CostMeter::start(&*clock);
    let mut poller = Poller::new(Arc::clone(&clock), Arc::new(SystemWall), sources, Vec::new(), plan);
    let mut seen = vec![0; poller.recordings().count()];
    let mut second = 1;
    while !stop.load(Ordering::Relaxed) && arguments.seconds.is_none_or(|n| second <= n) {
        std::thread::sleep(poller.deadline().since(clock.now()));
        poller.poll();
        if clock.now().as_nanos() >= second * 1_000_000_000 {
            for (recording, seen) in poller.recordings().zip(&mut seen) {
                // From the last reading of the second before, so that every change falls into a second.
                let new = &recording.samples[*seen..];
                *seen = recording.samples.len().saturating_sub(1);
                say(&line(recording, new, second, arguments.json))?;
            }
            if arguments.out.is_none() {
                poller.forget();
                seen.fill(0);
            }
            second += 1;
        }
    }
    let cost = cost.stop(&*clock);
    let recordings = poller.finish();
    say(&share(cost, arguments.json))?;
    let Some(folder) = &arguments.out else { return Ok(()) };
    for recording in &recordings {
        if recording.dropped > 0 {
            note(&format!("{}: no room was left for the last {} readings", recording.id, recording.dropped));
        }
        keep(folder, &format!("samples-{}-{}.jsonl", name(&recording.id.device), recording.id.field), recording)?;
    }
    Ok(())
}

/// Every source there is. What can't be read is said; that nothing can be read is a failure.
fn sources() -> Result<Vec<Box<dyn Source>>, Failure> {
    let mut sources: Vec<Box<dyn Source>> = Vec::new();
    match NvmlLibrary::load().and_then(|l| l.boards()) {
        Ok(boards) => {
            for board in &boards {
                for field in BoardField::ALL {
                    match board.source(field) {
                        Ok(source) => sources.push(source),
                        Err(e) => note(&format!("{field} of {}: {e}", board.uuid())),
                    }
                }
            }
        }
        Err(e) => note(&e.to_string()),
    }
    match Rapl::packages(Path::new("/sys")) {
        Ok(packages) => sources.extend(packages.into_iter().map(|p| Box::new(p) as Box<dyn Source>)),
        Err(e) => note(&e.to_string()),
    }
    if sources.is_empty() { Err(Failure::Environment("no energy source can be read here".to_owned())) } else { Ok(sources) }
}

/// What watching took of a core: reading, and printing a line a source and second.
fn share(cost: SamplerCost, json: bool) -> String {
    let seconds = Duration::from_nanos(cost.wall_ns).as_secs_f64();
    if json {
        return serde_json::json!({ "seconds": seconds, "core_share": cost.share() }).to_string();
    }
    format!("{:.2} % of a core over {seconds:.0} s", 100.0 * cost.share())
}

/// One second of one source.
fn line(recording: &Recording, new: &[Sample], second: u64, json: bool) -> String {
    let Recording { id, kind, failed, .. } = recording;
    let changes: Vec<_> = new.windows(2).filter(|w| (w[0].value - w[1].value).abs() > 0.0).map(|w| w[1]).collect();
    let gap_ms = changes.windows(2).map(|w| (w[1].t_ns - w[0].t_ns) / 1_000_000).max();
    let watts = mean_w(*kind, &changes, new);
    if json {
        return serde_json::json!({
            "second": second, "device": id.device, "field": id.field, "perimeter": id.perimeter, "watts": watts,
            "updates": changes.len(), "longest_gap_ms": gap_ms, "polls": new.len().saturating_sub(1), "failed": failed,
        })
        .to_string();
    }
    let watts = watts.map_or_else(|| "no_data".to_owned(), |w| format!("{w:.1} W"));
    let gap = gap_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
    let polls = new.len().saturating_sub(1);
    format!(
        "{second:>5} s  {:<16} {:<14} {watts:>10}  {:>3} updates in {polls} polls, longest gap {gap}, {failed} failed",
        id.device,
        id.field,
        changes.len()
    )
}

/// What a counter gained between two changes, or the mean of the powers.
fn mean_w(kind: ReadingKind, changes: &[Sample], new: &[Sample]) -> Option<f64> {
    match kind {
        ReadingKind::Counter => {
            // A counter that is read once a second has one change in it: then from the reading before.
            let first = if changes.len() > 1 { changes.first()? } else { new.first()? };
            let last = changes.last()?;
            let seconds = Duration::from_nanos(last.t_ns - first.t_ns).as_secs_f64();
            (seconds > 0.0 && last.value >= first.value).then(|| (last.value - first.value) / 1e3 / seconds)
        }
        ReadingKind::Power => {
            let values: Vec<f64> = new.iter().map(|s| s.value / 1e3).collect();
            #[expect(clippy::cast_precision_loss, reason = "polls of one second")]
            let n = values.len() as f64;
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / n)
        }
    }
}

/// A device's name as part of a file's name.
fn name(device: &str) -> String {
    device.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}
