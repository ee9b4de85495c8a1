//! Pages: one template each, filled from the model, with style, script and plots inside.

mod axis;
mod energy;
mod filter;
mod origin;
mod plot;
mod plots;

use crate::{Comparison, History, Report, ReportError, RowOutcome, figure::plural};
use minijinja::{Environment, Value, context};
use origin::Origin;
use phase_policy::{RegimeClass, stats::Verdict};

const PARTS: [(&str, &str); 8] = [
    ("base.html", include_str!("base.html")),
    ("report.html", include_str!("report.html")),
    ("sections.html", include_str!("sections.html")),
    ("tables.html", include_str!("tables.html")),
    ("comparison.html", include_str!("comparison.html")),
    ("history.html", include_str!("history.html")),
    ("style.css", include_str!("style.css")),
    ("script.js", include_str!("script.js")),
];

fn page(name: &str, context: Value) -> Result<String, ReportError> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    for (name, text) in PARTS {
        environment.add_template(name, text)?;
    }
    filter::register(&mut environment);
    Ok(environment.get_template(name)?.render(context)?)
}

pub(crate) fn report(report: &Report) -> Result<String, ReportError> {
    let origin = Origin::of(report);
    let plots = plots::of(report, &origin)?;
    let answers: Vec<_> = report.answers.iter().map(|a| answer(a, &origin)).collect();
    // Tails and rates of a bucket's places, by phase, bucket and competitor.
    let steady = |row: &&crate::CellRow| row.regime == RegimeClass::Steady;
    let rows = report.cells.iter().filter(steady).map(|row| {
        let key = format!("{}|{}|{}", row.phase, row.bucket, row.arm);
        (key, context! { p95 => Value::from_serialize(&row.p95), p99 => Value::from_serialize(&row.p99), rate => Value::from_serialize(&row.rate), failures => row.failures })
    });
    let index: Value = rows.collect();
    let open_questions = report.card.decisions.iter().filter(|d| d.route.standing == crate::Standing::Undecided).count();
    let other_cells: Vec<_> = report.cells.iter().filter(|row| !steady(row)).map(Value::from_serialize).collect();
    // What requests rest on, by their shape: the cost table has the same ones.
    let requests: Vec<_> = report
        .card
        .decisions
        .iter()
        .map(|d| ([d.batch, d.prompt_tokens, d.new_tokens], origin.of_cells(d.evidence.iter().map(String::as_str))))
        .collect();
    let of = |request: [usize; 3]| requests.iter().find(|(r, _)| *r == request).map(|(_, told)| told.clone()).unwrap_or_default();
    let decided: Vec<_> = requests.iter().map(|(_, told)| told.clone()).collect();
    let priced: Vec<_> = report.cost.rows.iter().map(|row| of(row.request)).collect();
    let arms = report.arms.clone();
    let arm_origin: Value = arms.iter().map(|arm| (arm.clone(), origin.of_arms([arm.as_str()]))).collect();
    page(
        "report.html",
        context! {
            r => Value::from_serialize(report), plots, answers, arms, index, other_cells, open_questions, decided, priced, arm_origin,
            energy => energy::of(report, &origin), duels => duels(report, &origin), all_boundaries => origin.all(),
        },
    )
}

fn answer(answer: &crate::Answer, origin: &Origin<'_>) -> Value {
    let others = answer.exceptions.iter().map(|e| e.choice.backend.as_str());
    let arms = others.chain(answer.against.as_deref()).chain([answer.backend.as_str()]);
    let n = answer.buckets;
    context! {
        sentence => answer.sentence(),
        standing => answer.standing(),
        told => format!("n = {n} {} of {} \u{b7} {}", plural(n, "bucket"), answer.phase, origin.of_arms(arms)),
        exceptions => answer.exceptions.iter().map(|e| {
            let arms = [Some(e.choice.backend.as_str()), e.choice.against.as_deref()];
            origin.of_arms(arms.into_iter().flatten())
        }).collect::<Vec<_>>(),
    }
}

/// What the counts of each pair rest on.
fn duels(report: &Report, origin: &Origin<'_>) -> Vec<String> {
    let told = |d: &crate::Duel| {
        let n = d.faster + d.slower + d.equivalent + d.ambiguous;
        format!("n = {n} {} \u{b7} {}", plural(n, "bucket"), origin.of_arms([d.ours.as_str(), d.theirs.as_str()]))
    };
    report.duels.iter().map(told).collect()
}

pub(crate) fn comparison(comparison: &Comparison) -> Result<String, ReportError> {
    let mut arms: Vec<_> = comparison.rows.iter().map(|r| phase_scenario::arm_of(&r.key.backend, &r.key.mode).to_string()).collect();
    arms.sort();
    arms.dedup();
    let row = |row: &crate::Row| {
        context! {
            id => row.key.id(),
            arm => phase_scenario::arm_of(&row.key.backend, &row.key.mode).to_string(),
            a => row.a_ms.map(crate::figure::digits),
            b => row.b_ms.map(crate::figure::digits),
            n => row.n,
            boundaries => row.boundaries,
            outcome => Value::from_serialize(&row.outcome),
        }
    };
    // What a reader looks for first: what became slower, in steady calls.
    let mut compared: Vec<_> = comparison.rows.iter().filter(|r| matches!(r.outcome, RowOutcome::Compared { .. })).collect();
    let place = |r: &crate::Row| match r.outcome {
        RowOutcome::Compared { verdict: Verdict::Slower, .. } => 0,
        RowOutcome::Compared { verdict: Verdict::Faster, .. } => 1,
        RowOutcome::Compared { verdict: Verdict::Ambiguous, .. } => 2,
        _ => 3,
    };
    compared.sort_by_key(|r| (r.key.regime != RegimeClass::Steady, place(r)));
    let others = comparison.rows.iter().filter(|r| !matches!(r.outcome, RowOutcome::Compared { .. }));
    let counts: Vec<_> =
        [("slower", Verdict::Slower), ("faster", Verdict::Faster), ("ambiguous", Verdict::Ambiguous), ("equivalent", Verdict::Equivalent)]
            .into_iter()
            .map(|(name, verdict)| context! { name, n => comparison.count(verdict) })
            .collect();
    page(
        "comparison.html",
        context! {
            c => Value::from_serialize(comparison), compared => compared.into_iter().map(row).collect::<Vec<_>>(),
            others => others.map(row).collect::<Vec<_>>(), counts, summary => comparison.summary(),
            refused => comparison.refused(), arms,
        },
    )
}

pub(crate) fn history(history: &History) -> Result<String, ReportError> {
    let plot = plots::history(history)?;
    let arms = vec![history.cell.split('/').next().unwrap_or_default().to_owned()];
    page("history.html", context! { h => Value::from_serialize(history), plot, arms })
}
