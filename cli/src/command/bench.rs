//! `phase bench`: measure and write a run directory.

mod energy;

use super::ceilings;
use crate::{
    argument::{self, Device},
    exit::{Failure, note, say},
    progress::{Bar, watched},
    setting::Setting,
};
use phase_core::{MonotonicClock, TokenId};
use phase_model::Checkpoint;
use phase_scenario::{BenchCells, Calls, CommandLauncher, Effort, Finish, Plan, PlanSpec, Rates, Run, Runner, ScenarioSet};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

/// What every model reads: ordinary text, so that tokens are ordinary. Repeated or cut to the length a cell needs.
const TEXT: &str = include_str!("../../../LICENSE-MIT");

pub(crate) fn run(setting: &Setting, arguments: &argument::Bench) -> Result<(), Failure> {
    if let (true, Some(dir)) = (arguments.resume, &arguments.out) {
        let runner = Runner::resume(&setting.registry, clock(), dir).map_err(|e| Failure::work(&e))?;
        return measure(setting, arguments, runner, false, dir);
    }
    let plan = plan(setting, arguments)?;
    if arguments.dry_run {
        let text =
            format!("{}\nestimated time: {:.0} min", phase_report::plan_text(&plan), plan.estimate(&Rates::default()).as_secs_f64() / 60.0);
        let energy = energy::dry(&plan, &arguments.energy)?;
        return say(&energy.map_or_else(|| text.clone(), |energy| format!("{text}\n\n{energy}")));
    }
    let given = ceilings::given(&arguments.ceilings)?;
    let missing = given.is_none();
    let given = given.unwrap_or_default();
    let spec = setting.load_spec(&arguments.checkpoint.model, arguments.checkpoint.dtype).with_max_batch(plan.max_batch().max(1));
    match &arguments.out {
        Some(dir) => {
            let runner = Runner::create(&setting.registry, plan, spec, clock(), dir).map_err(|e| Failure::work(&e))?;
            measure(setting, arguments, runner.with_ceilings(given), missing, dir)
        }
        // Cells of one's own may be looked at without keeping them.
        None => {
            let dir = tempfile::tempdir().map_err(|e| Failure::work(&e))?;
            let place = dir.path().join("run");
            let runner = Runner::create(&setting.registry, plan, spec, clock(), &place).map_err(|e| Failure::work(&e))?;
            measure(setting, arguments, runner.with_ceilings(given), missing, &place)
        }
    }
}

fn clock() -> Arc<MonotonicClock> {
    Arc::new(MonotonicClock::new())
}

fn plan(setting: &Setting, arguments: &argument::Bench) -> Result<Plan, Failure> {
    let usage = |e: phase_scenario::ScenarioError| Failure::Usage(e.to_string());
    let checkpoint = Checkpoint::open(&arguments.checkpoint.model).map_err(|e| Failure::of(&e))?;
    let own = !arguments.prompt_tokens.is_empty() || !arguments.new_tokens.is_empty();
    let names: Vec<&str> = if arguments.scenarios.is_empty() && !own {
        vec!["S0", "S1", "S2", "S3"]
    } else {
        arguments.scenarios.iter().map(String::as_str).collect()
    };
    let mut sets = names.iter().map(|name| ScenarioSet::built_in(&name.to_lowercase())).collect::<Result<Vec<_>, _>>().map_err(usage)?;
    if own {
        check_cells(arguments, checkpoint.config().max_context)?;
        let cells = BenchCells {
            prompt_tokens: arguments.prompt_tokens.clone(),
            decode_steps: arguments.new_tokens.clone(),
            batches: arguments.batch.clone(),
            depths: arguments.depth.clone(),
            repetitions: arguments.repetitions.unwrap_or(5),
        };
        sets.push(ScenarioSet::bench(&cells).map_err(usage)?);
    }
    let backends = arguments.backends.iter().map(|name| setting.arms(name, &arguments.modes)).collect::<Result<Vec<_>, _>>()?;
    let mut spec = PlanSpec::new(sets, backends.into_iter().flatten());
    let device_scale = if setting.device == Device::Cpu { "cpu" } else { "gpu" };
    spec.scale = arguments.scale.clone().unwrap_or_else(|| device_scale.to_owned());
    // Scores of a large vocabulary would cross the bus at every step.
    spec.calls = if setting.device == Device::Cpu { Calls::Scores } else { Calls::Greedy };
    spec.effort = arguments.effort.parse::<Effort>().map_err(|e| Failure::Usage(e.to_string()))?;
    spec.seed = arguments.seed;
    spec.blocks = arguments.repetitions;
    spec.prompt = prompt(&checkpoint);
    Plan::new(&spec).map_err(usage)
}

/// Refuses cells of one's own that are none, or longer than the model's context.
fn check_cells(arguments: &argument::Bench, limit: usize) -> Result<(), Failure> {
    let argument::Bench { prompt_tokens, new_tokens, depth, .. } = arguments;
    if prompt_tokens.iter().chain(new_tokens).all(|n| *n == 0) {
        return Err(Failure::Usage("-p and -n name no cell: one of them must be 1 or more".to_owned()));
    }
    if let Some(long) = prompt_tokens.iter().find(|n| **n > limit) {
        return Err(Failure::Usage(format!("-p {long} is longer than the model's context of {limit}")));
    }
    let decodes = new_tokens.iter().filter(|n| **n > 0).flat_map(|n| depth.iter().map(move |d| (*n, *d)));
    match decodes.into_iter().find(|(n, d)| n.saturating_add((*d).max(1)) > limit) {
        Some((n, d)) => Err(Failure::Usage(format!("-n {n} after -d {d} goes beyond the model's context of {limit}"))),
        None => Ok(()),
    }
}

/// Text tokens when the checkpoint can make them; none otherwise, and the plan makes its own.
fn prompt(checkpoint: &Checkpoint) -> Vec<TokenId> {
    checkpoint.tokenizer().ok().and_then(|t| t.encode(TEXT).ok()).unwrap_or_default()
}

fn measure(setting: &Setting, arguments: &argument::Bench, runner: Runner<'_>, ceilings_missing: bool, dir: &Path) -> Result<(), Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        // The second time somebody means it.
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        note("\nstopping after this sample; once more to stop at once");
    })
    .map_err(|e| Failure::work(&e))?;
    let program = std::env::current_exe().map_err(|e| Failure::work(&e))?;
    let mut launch = vec!["--cache".to_owned(), setting.cache.display().to_string(), "--device".to_owned(), setting.device.to_string()];
    if let Some(library) = &setting.ort_library {
        launch.extend(["--ort-library".to_owned(), library.display().to_string()]);
    }
    launch.push("cold".to_owned());
    let mut runner = runner
        .with_program(concat!("phase ", env!("CARGO_PKG_VERSION")))
        .with_created(unix_seconds())
        .with_cold_launcher(Box::new(CommandLauncher::new(program, launch)));
    runner = energy::with_energy(runner, arguments)?;
    if ceilings_missing {
        // After the sensors were opened and the rest was taken, which must find nobody on the device, not even us.
        runner.deep_idle();
        let ceilings::OfPlan { now, beside } = ceilings::of_plan(setting, runner.plan());
        runner = runner.with_ceilings(now);
        if let Some(meter) = beside {
            runner = runner.with_ceiling_meter(meter);
        }
    }
    let mut bar = if arguments.watch { Bar::watching(runner.plan()) } else { Bar::new() };
    let finish = runner.run(&mut bar, &stop).map_err(|e| Failure::work(&e))?;
    drop(bar);
    match finish {
        Finish::Complete { failures, .. } => {
            let run = watched(|watch| Run::open_with(dir, watch)).map_err(|e| Failure::work(&e))?;
            if arguments.json {
                say(&cells(&run)?)?;
            } else if arguments.out.is_some() {
                note(&format!("complete: {}", dir.display()));
            } else {
                super::report::print(dir)?;
            }
            match failures {
                0 => Ok(()),
                n => Err(Failure::Check(format!("{n} samples failed; the report names them"))),
            }
        }
        Finish::Stopped { blocks_done, blocks_total } => Err(Failure::Check(format!(
            "stopped after {blocks_done} of {blocks_total} blocks; go on with `phase bench --resume --out {}`{}",
            dir.display(),
            if arguments.energy.energy { " and the same options for energy" } else { "" }
        ))),
        other => Err(Failure::Check(format!("{other:?}"))),
    }
}

fn cells(run: &Run) -> Result<String, Failure> {
    serde_json::to_string(&run.matrix()).map_err(|e| Failure::work(&e))
}

#[expect(clippy::disallowed_methods, reason = "the run's date comes from here")]
pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
