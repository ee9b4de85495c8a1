//! A plan for people, before anything is measured.

use crate::table::Table;
use phase_scenario::{Plan, Rates, WorkloadKind};

/// The plan as text: who competes, what is run, about how long.
pub fn plan_text(plan: &Plan) -> String {
    let mut table = Table::new(&["cell", "kind", "batch", "prompt", "new", "samples", "blocks"]);
    for (at, cell) in plan.cells.iter().enumerate() {
        let blocks = plan.blocks.iter().filter(|b| b.tasks.iter().any(|t| t.cell == at)).count();
        let w = &cell.workload;
        let kind = if w.kind == WorkloadKind::Cold { "cold" } else { "steady" };
        table.row([
            cell.id(),
            kind.to_owned(),
            w.batch.to_string(),
            w.prompt_tokens.to_string(),
            w.new_tokens().to_string(),
            w.samples.to_string(),
            blocks.to_string(),
        ]);
    }
    let backends: Vec<_> = plan.backends.iter().map(ToString::to_string).collect();
    let tasks: usize = plan.blocks.iter().map(|b| b.tasks.len()).sum();
    let minutes = plan.estimate(&Rates::default()).as_secs_f64() / 60.0;
    format!(
        "Backends: {} (reference: {})\nScale {}, effort {}, seed {}: {} blocks, {tasks} visits, about {minutes:.1} min\n\n{table}",
        backends.join(", "),
        backends.first().map_or("none", String::as_str),
        plan.scale,
        plan.effort,
        plan.seed,
        plan.blocks.len(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use phase_core::BackendId;
    use phase_scenario::{PlanSpec, ScenarioSet};

    #[test]
    fn a_plan_names_every_cell() {
        let spec = PlanSpec::new(vec![ScenarioSet::built_in("s0").unwrap()], [BackendId::new("a"), BackendId::new("b")]);
        let text = plan_text(&Plan::new(&spec).unwrap());
        assert!(text.starts_with("Backends: a, b (reference: a)") && text.contains("| s0/b1-p8-d4"), "{text}");
    }
}
