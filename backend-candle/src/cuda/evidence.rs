//! What ran: launches counted where they are made, and graphs as the driver describes them.

use std::collections::BTreeMap;

use phase_core::{Artefact, Evidence, Mode};

use super::{Decoder, lt::Lt};

impl Decoder {
    pub(crate) fn evidence(&self) -> Evidence {
        let mut launches: BTreeMap<&str, u64> = self.engine.kernels.launches().filter(|(_, count)| *count > 0).collect();
        let mut products = self.engine.products.get();
        let graphs = || self.steps.iter().filter_map(|(batch, work)| Some((batch, work.graph.as_ref()?)));
        for (_, graph) in graphs() {
            for (name, count) in &graph.launches {
                // What was captured did not run then, and runs in every replay.
                let all = launches.entry(name).or_default();
                *all = (*all + graph.replays * count).saturating_sub(*count);
            }
            products = (products + graph.replays * graph.products).saturating_sub(graph.products);
        }
        let total: u64 = launches.values().sum();
        let mut evidence = Evidence::new("launches counted where they are made, graph nodes listed by the CUDA driver");
        for (executor, nodes) in [("phase-kernels", total), ("candle cuBLAS", products)] {
            if nodes > 0 {
                evidence = evidence.with_placement(format!("{executor} on {}", self.engine.gpu.label), nodes);
            }
        }
        for (name, count) in launches.into_iter().filter(|(_, count)| *count > 0) {
            evidence = evidence.with_kernel(format!("phase-kernels {name}: {count} launches"));
        }
        if products > 0 {
            let format = self.engine.kernels.format().as_str();
            let lt = self.engine.gpu.lt.as_ref();
            let call = if lt.is_some() { "cublasLtMatmul" } else { "cublasGemmEx" };
            evidence = evidence.with_kernel(format!("{call} {format}: {products} calls"));
            for choice in lt.into_iter().flat_map(Lt::choices) {
                evidence = evidence.with_kernel(choice);
            }
        }
        for (batch, graph) in graphs() {
            let nodes: Vec<_> = graph.nodes.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
            evidence = evidence.with_kernel(format!(
                "graph of a decode step, batch {batch}: {} nodes, {} replays",
                nodes.join(" + "),
                graph.replays
            ));
        }
        if let Some(record) = Artefact::cuda_graphs(graphs().map(|(batch, graph)| (*batch, graph.nodes.as_slice(), graph.replays))) {
            evidence = evidence.with_artefact(record);
        }
        evidence.with_kernel(format!("mode {}", if graphs().next().is_some() { Mode::Compiled } else { Mode::Eager }))
    }
}
