//! What ran: launches counted where they are made, and graphs as the driver describes them.

use phase_core::{Artefact, Evidence, Mode};

use super::Decoder;

impl Decoder {
    pub(crate) fn evidence(&self) -> Evidence {
        let mut launches = self.engine.kernels.launches();
        for work in self.steps.values() {
            let seen = work.seen.borrow();
            for (name, count) in &seen.launches {
                // What was captured did not run then, and runs in every replay.
                let all = launches.entry(name.clone()).or_default();
                *all = (*all + seen.replays * count).saturating_sub(seen.graphs * count);
            }
        }
        let total: u64 = launches.values().sum();
        let mut evidence = Evidence::new("launches counted where they are made, graph nodes listed by the CUDA driver");
        if total > 0 {
            evidence = evidence.with_placement(format!("CubeCL kernels on {}", self.engine.gpu.label), total);
        }
        for (name, count) in launches.into_iter().filter(|(_, count)| *count > 0) {
            evidence = evidence.with_kernel(format!("cubecl {name}: {count} launches"));
        }
        for work in self.steps.values() {
            let seen = work.seen.borrow();
            if seen.graphs > 0 {
                let nodes: Vec<_> = seen.nodes.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
                let (batch, nodes, graphs, replays) = (work.batch, nodes.join(" + "), seen.graphs, seen.replays);
                evidence = evidence.with_kernel(format!(
                    "graph of a decode step, batch {batch}: {nodes} nodes, captured for {graphs} caches, {replays} replays"
                ));
            }
        }
        let seen: Vec<_> = self.steps.values().map(|work| (work.batch, work.seen.borrow())).collect();
        let graphs = seen.iter().filter(|(_, seen)| seen.graphs > 0).map(|(batch, seen)| (*batch, seen.nodes.as_slice(), seen.replays));
        if let Some(record) = Artefact::cuda_graphs(graphs) {
            evidence = evidence.with_artefact(record);
        }
        evidence = evidence.with_kernel(format!("kernels compiled: {}", self.engine.kernels.count()));
        let captured = self.steps.values().any(|work| work.seen.borrow().graphs > 0);
        evidence.with_kernel(format!("mode {}", if captured { Mode::Compiled } else { Mode::Eager }))
    }
}
