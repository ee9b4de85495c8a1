//! What was seen while a model ran. A label or a setting is not evidence and has no constructor here.

use crate::{Phase, Shape};

/// Observations of one loaded model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Evidence {
    /// Where the runtime says that operators ran, by executor.
    pub placement: Vec<Placement>,
    /// Kernels seen running, by name, in a fixed order.
    pub kernels: Vec<String>,
    /// Where the observation comes from: a profile, a dispatch table.
    pub source: String,
    /// The runtime's own records that the above was read from, where they are kept. Not serialised: whoever keeps evidence
    /// keeps these as files beside it.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub artefacts: Vec<Artefact>,
}

/// A runtime's own record, byte for byte as it wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Artefact {
    /// What it is, and so how it is read.
    pub form: ArtefactForm,
    /// The calls that were made while it was recorded; empty where the record itself says.
    pub during: Vec<(Phase, Shape)>,
    /// Its content.
    pub bytes: Vec<u8>,
}

impl Artefact {
    /// A record whose content says what was called.
    pub fn new(form: ArtefactForm, bytes: impl Into<Vec<u8>>) -> Self {
        Self { form, during: Vec::new(), bytes: bytes.into() }
    }

    /// Captured CUDA graphs of decode steps that serve every length: batch, nodes by kind as the driver lists them, replays.
    /// `None` without a graph.
    ///
    /// ```
    /// use phase_core::Artefact;
    /// let seen = Artefact::cuda_graphs([(2, &[("kernel", 271), ("memset", 1)][..], 640)]).ok_or("no graph")?;
    /// let line = br#"{"schema":"phase.cuda-graph/1","phase":"decode","batch":2,"nodes":{"kernel":271,"memset":1},"replays":640}"#;
    /// assert_eq!(seen.bytes.trim_ascii_end(), line);
    /// # Ok::<(), &str>(())
    /// ```
    pub fn cuda_graphs<'g>(graphs: impl IntoIterator<Item = (usize, &'g [(&'g str, u64)], u64)>) -> Option<Self> {
        let line = |(batch, nodes, replays): (usize, &[(&str, u64)], u64)| {
            let nodes: Vec<_> = nodes.iter().map(|(kind, count)| format!(r#""{kind}":{count}"#)).collect();
            let nodes = nodes.join(",");
            format!(r#"{{"schema":"phase.cuda-graph/1","phase":"decode","batch":{batch},"nodes":{{{nodes}}},"replays":{replays}}}"#) + "\n"
        };
        let text: String = graphs.into_iter().map(line).collect();
        (!text.is_empty()).then(|| Self::new(ArtefactForm::CudaGraphs, text))
    }

    /// Recorded during a call.
    #[must_use]
    pub fn with_call(mut self, phase: Phase, shape: Shape) -> Self {
        self.during.push((phase, shape));
        self
    }
}

/// Forms of raw records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum ArtefactForm {
    /// burn's fusion log (`BURN_FUSION_LOG=full`), one message after the other.
    BurnFusionLog,
    /// CubeCL's compilation records, one JSON object a line.
    CubeclCompilations,
    /// CubeCL's autotune decisions (`[autotune] decisions`), one JSON object a line.
    CubeclDecisions,
    /// CubeCL's tune records, one JSON object a line.
    CubeclTunings,
    /// Captured CUDA graphs, one JSON object a line: `{"schema": "phase.cuda-graph/1", "phase": "decode", "batch": 1,
    /// "nodes": {"kernel": 271}, "replays": 640}`, nodes as the driver lists them.
    CudaGraphs,
    /// An ONNX model as ONNX Runtime optimised it.
    OrtOptimisedModel,
    /// A profile of ONNX Runtime.
    OrtProfile,
    /// The ONNX model that ONNX Runtime was given.
    OrtSourceModel,
}

impl ArtefactForm {
    /// Every form, in order.
    pub const ALL: [Self; 8] = [
        Self::BurnFusionLog,
        Self::CubeclCompilations,
        Self::CubeclDecisions,
        Self::CubeclTunings,
        Self::CudaGraphs,
        Self::OrtOptimisedModel,
        Self::OrtProfile,
        Self::OrtSourceModel,
    ];

    /// Its name, with the ending that such a file has.
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::BurnFusionLog => "burn-fusion.log",
            Self::CubeclCompilations => "cubecl-compilations.jsonl",
            Self::CubeclDecisions => "cubecl-decisions.jsonl",
            Self::CubeclTunings => "cubecl-tunings.jsonl",
            Self::CudaGraphs => "cuda-graphs.jsonl",
            Self::OrtOptimisedModel => "ort-optimised.onnx",
            Self::OrtProfile => "ort-profile.json",
            Self::OrtSourceModel => "ort-source.onnx",
        }
    }
}

impl Evidence {
    /// Observations from `source`.
    pub fn new(source: impl Into<String>) -> Self {
        Self { source: source.into(), ..Self::default() }
    }

    /// Adds `nodes` operators seen on `executor`.
    #[must_use]
    pub fn with_placement(mut self, executor: impl Into<String>, nodes: u64) -> Self {
        self.placement.push(Placement { executor: executor.into(), nodes });
        self
    }

    /// Keeps a raw record.
    #[must_use]
    pub fn with_artefact(mut self, artefact: Artefact) -> Self {
        self.artefacts.push(artefact);
        self
    }

    /// Adds a kernel that was seen.
    #[must_use]
    pub fn with_kernel(mut self, kernel: impl Into<String>) -> Self {
        self.kernels.push(kernel.into());
        self
    }
}

/// Operators seen on one executor.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Placement {
    /// The executor's own name, for example `CPUExecutionProvider`.
    pub executor: String,
    /// Operators it ran.
    pub nodes: u64,
}
