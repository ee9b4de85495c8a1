//! From a run or a policy to a [`Report`].

use crate::{
    ReportError,
    answer::{answers, leaders},
    boundary,
    card::Card,
    cold::{self, ColdSection},
    cost::{self, CostSection},
    energy,
    events::Digest,
    evidence,
    figure::count,
    flow, fraction, gate, matrix, parts, rank,
    report::{REPORT_SCHEMA, Report, ReportOptions, Source},
    roofline,
};
use phase_core::{Arm, Fact, Layer, MeasurementBoundary, Phase};
use phase_policy::{Cell, Policy, PolicyOptions, RegimeClass, Router, Workload, constants::Constants};
use phase_scenario::{Ceilings, ModelEntry, Residency, SealedRun, WorkloadKind, arm_of};
use std::collections::{BTreeMap, BTreeSet};

/// New tokens for which a policy is asked about each prompt it has: it holds no requests.
const POLICY_NEW_TOKENS: [usize; 3] = [1, 32, 128];

/// What both kinds of report are made of.
struct Ground<'a> {
    cells: &'a [Cell],
    boundaries: &'a BTreeMap<String, MeasurementBoundary>,
    router: Result<Router, String>,
    requests: Vec<Workload>,
    /// Calls, failed calls and blocks; `None` for a policy.
    calls: Option<[u64; 3]>,
    models: BTreeMap<String, ModelEntry>,
    /// The run's own; those of the options take their place.
    ceilings: &'a [Ceilings],
}

pub(crate) fn of_run(run: &SealedRun, options: &ReportOptions, watch: &mut dyn FnMut(u64, u64, &str)) -> Result<Report, ReportError> {
    let digest = Digest::of(run, watch)?;
    let manifest = run.manifest();
    let plan = &manifest.plan;
    let steady = plan.cells.iter().filter(|c| c.workload.kind == WorkloadKind::Steady).map(|c| &c.workload);
    let mut requests: Vec<_> = steady.map(|w| Workload::new(w.batch, w.prompt_tokens, w.new_tokens())).collect();
    requests.sort_unstable_by_key(|w| (w.batch, w.prompt_tokens, w.new_tokens));
    requests.dedup();
    let none = BTreeMap::new();
    let ground = Ground {
        cells: run.matrix().map_or(&[], |m| m.cells()),
        boundaries: run.matrix().map_or(&none, |m| m.boundaries()),
        router: router(run, options),
        requests,
        calls: Some([digest.calls, digest.failed, run.blocks().len() as u64]),
        models: manifest.backends.iter().filter_map(|b| Some((b.backend.to_string(), b.model.clone()?))).collect(),
        ceilings: run.ceilings(),
    };
    let mut report = common(ground, options, Source::Run);
    run.run_id().clone_into(&mut report.id);
    report.created.clone_from(&manifest.created);
    report.arms = plan.backends.iter().map(ToString::to_string).collect();
    report.manifest = about(run);
    let mut gates = gate::of_run(run);
    gates.append(&mut report.gates);
    gates.extend(gate::of_records(run));
    report.gates = gates;
    report.fractions = fraction::rows(run, &digest);
    report.cold.loads = cold::loads(run);
    report.cold.curves = cold::curves(&digest);
    report.parts = parts::rows(run, &digest);
    report.energy.sources = energy::section(&[], &manifest.energy_sources).sources;
    report.energy.measured = manifest.energy.clone().zip(run.energy().cloned());
    report.agreement = evidence::agreement(run);
    report.artefacts = evidence::artefacts(run, options.base.as_deref());
    report.evidence = evidence::evidence(run, &report.artefacts);
    report.failures = evidence::failures(&digest.failures);
    report.limits = limits(run);
    Ok(report)
}

pub(crate) fn of_policy(policy: &Policy, options: &ReportOptions) -> Report {
    let keys = policy.cells().iter().map(|c| &c.key);
    let prompts: BTreeSet<_> = keys
        .filter(|k| k.phase == Phase::Prefill && k.regime == RegimeClass::Steady)
        .map(|k| (k.shape.batch, k.shape.new_tokens))
        .collect();
    let requests = prompts.into_iter().flat_map(|(batch, prompt)| POLICY_NEW_TOKENS.map(|new| Workload::new(batch, prompt, new)));
    let ground = Ground {
        cells: policy.cells(),
        boundaries: policy.boundaries(),
        router: Ok(Router::new(policy.clone())),
        requests: requests.collect(),
        calls: None,
        models: BTreeMap::new(),
        ceilings: &[],
    };
    let mut report = common(ground, options, Source::Policy);
    policy.digest().clone_into(&mut report.id);
    report.created = policy.created_unix_s().to_string();
    report.arms = policy.backends().map(ToString::to_string).collect();
    report.manifest = vec![["default-safe".to_owned(), policy.default_safe().to_string()], ["runs".to_owned(), policy.runs().join(", ")]];
    report.limits = vec![
        "A policy holds cells, not events: fractions, curves, parts, agreement and raw files are in the reports of its runs.".to_owned(),
        format!("It holds no requests either: each measured prompt is asked about with {POLICY_NEW_TOKENS:?} new tokens."),
    ];
    report
}

fn common(ground: Ground<'_>, options: &ReportOptions, source: Source) -> Report {
    let Ground { cells, boundaries, router, requests, calls, models, ceilings } = ground;
    let constants = router.as_ref().map_or_else(|_| Constants::default(), |r| *r.policy().constants());
    let ranks = rank::ranks(cells, &constants);
    let (card, answers, cost) = match &router {
        Ok(router) => (Card::of(router, &requests), answers(router), cost::section(router, &requests, options.prices.as_ref())),
        Err(why) => (Card::without(why.clone()), leaders(&ranks.buckets), CostSection::default()),
    };
    let energy = energy::section(cells, &[]);
    let model = |cell: &Cell| models.get(&arm_of(&cell.key.backend, &cell.key.mode).to_string()).cloned();
    let given = !options.ceilings.is_empty();
    let roofline = roofline::section(cells, boundaries, model, if given { &options.ceilings } else { ceilings }, given);
    let identities = boundary::identities(cells, boundaries);
    let facts = boundary::facts(&identities, boundaries);
    let first_calls = cold::first_calls(cells, &constants);
    let void = roofline.above.iter().map(|row| format!("faster than the machine can be: {row}")).collect();
    Report {
        schema: REPORT_SCHEMA,
        source,
        id: String::new(),
        created: String::new(),
        subject: subject(boundaries),
        manifest: Vec::new(),
        void,
        answers,
        flow: flow::steps(&card, &requests, &first_calls, calls, cells.len()),
        card,
        gates: gate::of_cells(cells, &energy, &roofline),
        triggers: boundary::triggers(&facts),
        arms: Vec::new(),
        cells: matrix::rows(cells),
        buckets: ranks.buckets,
        duels: ranks.duels,
        inversions: ranks.inversions,
        fractions: Vec::new(),
        cold: ColdSection { first_calls, warm_pool_ratio: constants.warm_pool_ratio, ..ColdSection::default() },
        roofline,
        parts: Vec::new(),
        energy,
        cost,
        agreement: Vec::new(),
        evidence: Vec::new(),
        failures: Vec::new(),
        artefacts: Vec::new(),
        boundaries: identities,
        facts,
        limits: Vec::new(),
        change_control: change_control(),
    }
}

fn router(run: &SealedRun, options: &ReportOptions) -> Result<Router, String> {
    let passed = |id: &&Arm| run.parity().passed(id);
    let cells = run.matrix().map_or(&[][..], |m| m.cells());
    let routed = |c: &Cell| matches!(c.key.mode.as_str(), phase_policy::DEFAULT_MODE | "eager");
    if !cells.is_empty() && !cells.iter().any(routed) {
        return Err(
            "it has compiled calls only, and a policy routes by eager ones first: measure both (`--modes eager,compiled`)".to_owned()
        );
    }
    let safe = options.default_safe.as_ref().or_else(|| run.manifest().plan.backends.iter().find(passed));
    let safe = safe.ok_or("no backend passed the agreement check")?;
    let matrix = run.policy_matrix().ok_or("no backend that passed the agreement check made a call")?;
    let settings = PolicyOptions::new(safe.backend.clone(), run.manifest().created_unix_seconds).with_runs([run.run_id()]);
    Policy::compile(&matrix, &settings).map(Router::new).map_err(|e| e.to_string())
}

/// Model and machine in one line, from facts that all boundaries share.
fn subject(boundaries: &BTreeMap<String, MeasurementBoundary>) -> String {
    let fact = |layer, keys: &[&str]| {
        let all = boundaries.values().flat_map(|b| keys.iter().filter_map(|key| b.stack.fact(layer, key)));
        all.filter_map(|f| if let Fact::Known(v) = f { Some(v.clone()) } else { None }).next()
    };
    let parts = [
        fact(Layer::Model, &["name", "architecture"]),
        fact(Layer::Model, &["dtype", "weights"]),
        fact(Layer::Runtime, &["gpu"]),
        fact(Layer::Machine, &["cpu"]),
        fact(Layer::Machine, &["cores", "logical_cores"]).map(|n| format!("{n} cores")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" \u{b7} ")
}

fn about(run: &SealedRun) -> Vec<[String; 2]> {
    let manifest = run.manifest();
    let plan = &manifest.plan;
    let mut sets: Vec<_> = plan.cells.iter().map(|c| c.scenario.to_uppercase()).collect();
    sets.dedup();
    let residency = match plan.residency {
        Residency::One => "one model at a time, loaded afresh in each block",
        _ => "all models in one process",
    };
    [
        ("run", run.run_id().to_owned()),
        ("started", manifest.created.clone()),
        ("program", manifest.program.clone()),
        ("sets", format!("{}, {} scale, {} effort", sets.join(", "), plan.scale, plan.effort)),
        ("order", format!("seed {}, {} blocks, {}", plan.seed, plan.blocks.len(), residency)),
        ("processes", manifest.segments.len().to_string()),
        ("events", count(run.events())),
        ("seal", run.seal().to_owned()),
    ]
    .map(|(name, value)| [name.to_owned(), value])
    .into()
}

fn limits(run: &SealedRun) -> Vec<String> {
    let plan = &run.manifest().plan;
    let process = match plan.residency {
        Residency::One => "Each backend was loaded afresh in every block; one model was in memory at a time.",
        _ => {
            "All blocks of one backend share one load in one process: variation between processes is not in the intervals \
             (`residency = one` and repeated runs show it). All models were in memory at once."
        }
    };
    let mut limits = vec![process.to_owned()];
    if run.manifest().segments.len() > 1 {
        limits.push(format!("The run was resumed: {} processes worked on it.", run.manifest().segments.len()));
    }
    let spec = &run.parity().spec;
    limits.extend([
        "Numbers hold for the boundary they name and for no other. Tokenizing, sampling and queueing are not in them.".to_owned(),
        "Decode steps are fed with drawn tokens, the same for every backend, so that all do the same work.".to_owned(),
        format!(
            "Agreement was checked on {} rows of {} prompt tokens and {} decode steps, with another backend, not with the truth: an error \
             that all share does not show.",
            spec.batch, spec.prompt_tokens, spec.decode_steps
        ),
        "Intervals are per comparison: nothing corrects for looking at many cells at once.".to_owned(),
        "The sets' names come from the source document, which does not define them; their definitions are this project's own.".to_owned(),
        "Files were held against the seal. That the cells follow from the events is proved by `phase validate`, not here.".to_owned(),
    ]);
    limits
}

fn change_control() -> Vec<String> {
    [
        "These decisions hold for the boundaries listed here and for the measured batches and lengths, up to the policy's envelope. Outside \
         of them the answer is default-safe.",
        "A route changes only by a new sealed run under a stated boundary and a policy compiled from it. No label, setting or single number \
         changes one.",
        "A change of a field marked invalid voids the decisions at once; of one marked recheck, until times were re-checked in paired blocks. \
         `phase check` names the field and the cells to measure again.",
        "Ties and doubts go to the default-safe backend. They are results, not gaps.",
    ]
    .map(str::to_owned)
    .into()
}
