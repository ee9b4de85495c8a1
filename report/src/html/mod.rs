//! Pages: one template each, filled from the model, with style, script and plots inside.

mod filter;
mod plot;
mod plots;

use crate::{Comparison, History, Report, ReportError};
use minijinja::{Environment, Value, context};

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
    let plots = plots::of(report)?;
    let answers: Vec<_> = report.answers.iter().map(|a| context! { sentence => a.sentence(), standing => a.standing() }).collect();
    // Tails and rates of a bucket's places, by phase, bucket and competitor.
    let steady = |row: &&crate::CellRow| row.regime == phase_policy::RegimeClass::Steady;
    let rows = report.cells.iter().filter(steady).map(|row| {
        let key = format!("{}|{}|{}", row.phase, row.bucket, row.arm);
        (key, context! { p95 => Value::from_serialize(&row.p95), rate => Value::from_serialize(&row.rate), failures => row.failures })
    });
    let index: Value = rows.collect();
    let open_questions = report.card.decisions.iter().filter(|d| d.route.standing == crate::Standing::Undecided).count();
    let other_cells: Vec<_> = report.cells.iter().filter(|row| !steady(row)).map(Value::from_serialize).collect();
    let energy_tables =
        report.energy.measured.as_ref().map(|(plan, summary)| crate::markdown::energy::tables(plan, summary)).unwrap_or_default();
    let energy_tables = Value::from_serialize(&energy_tables);
    page(
        "report.html",
        context! { energy_tables, r => Value::from_serialize(report), plots, answers, arms => report.arms.clone(), index, other_cells, open_questions },
    )
}

pub(crate) fn comparison(comparison: &Comparison) -> Result<String, ReportError> {
    let mut arms: Vec<_> = comparison.rows.iter().map(|r| phase_scenario::arm_of(&r.key.backend, &r.key.mode).to_string()).collect();
    arms.sort();
    arms.dedup();
    let rows: Vec<_> = comparison
        .rows
        .iter()
        .map(|row| {
            context! {
                id => row.key.id(),
                arm => phase_scenario::arm_of(&row.key.backend, &row.key.mode).to_string(),
                regime => row.key.regime,
                a => row.a_ms.map(crate::figure::digits),
                b => row.b_ms.map(crate::figure::digits),
                n => row.n,
                boundaries => row.boundaries,
                outcome => Value::from_serialize(&row.outcome),
            }
        })
        .collect();
    let counts: Vec<_> = [
        ("slower", phase_policy::stats::Verdict::Slower),
        ("faster", phase_policy::stats::Verdict::Faster),
        ("equivalent", phase_policy::stats::Verdict::Equivalent),
        ("ambiguous", phase_policy::stats::Verdict::Ambiguous),
    ]
    .into_iter()
    .map(|(name, verdict)| context! { name, n => comparison.count(verdict) })
    .collect();
    page(
        "comparison.html",
        context! { c => Value::from_serialize(comparison), rows, counts, summary => comparison.summary(), refused => comparison.refused(), arms },
    )
}

pub(crate) fn history(history: &History) -> Result<String, ReportError> {
    let plot = plots::history(history)?;
    let arms = vec![history.cell.split('/').next().unwrap_or_default().to_owned()];
    page("history.html", context! { h => Value::from_serialize(history), plot, arms })
}
