//! What ran where, from ONNX Runtime's own profile of the graph.
//!
//! The profile is taken on a session of the same file with the same settings, opened for the purpose in place of the one
//! that was measured: a recording session is slower. With the recording ended it is the model's session from then on.

use crate::{
    error::OrtError,
    model::{OrtModel, Program},
};
use phase_core::{Artefact, ArtefactForm, Decode, Evidence, Logits, Model, Prefill, PromptBatch, TokenId};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Runs one prefill and one decode step under the profiler.
pub(crate) fn observe(model: &mut OrtModel) -> Result<Evidence, OrtError> {
    let folder = tempfile::tempdir().map_err(OrtError::store("create a folder in", std::env::temp_dir()))?;
    model.start_profiling(&folder.path().join("profile"))?;
    let mut cache = model.allocate(phase_core::CacheSpec { batch: 1, capacity: model.capabilities.max_context.min(8) })?;
    let mut out = Logits::new();
    let prompt = [TokenId(0); 2];
    model.prefill(&mut cache, PromptBatch::single(&prompt)?, &mut out)?;
    model.decode(&mut cache, &prompt[..1], &mut out)?;
    let file = model.end_profiling()?;
    let text = std::fs::read_to_string(&file).map_err(OrtError::store("read", file))?;
    let source = match model.program {
        Program::Own { .. } => "ONNX Runtime profile of a prefill and a decode step of the derived graph",
        Program::Export(_) => "ONNX Runtime profile of a prefill and a decode step of the export",
    };
    Ok(parse(&text, source)?.with_artefact(Artefact::new(ArtefactForm::OrtProfile, text)))
}

/// Reads a profile: nodes by execution provider, operators by name.
pub(crate) fn parse(text: &str, source: &str) -> Result<Evidence, OrtError> {
    let events: Vec<Value> = serde_json::from_str(text).map_err(|e| OrtError::Profile(e.to_string()))?;
    let mut nodes: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut operators: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for event in &events {
        let field = |key: &str| event["args"][key].as_str().filter(|s| !s.is_empty());
        let (Some(provider), Some(operator), Some(name)) = (field("provider"), field("op_name"), event["name"].as_str()) else { continue };
        nodes.entry(provider).or_default().insert(name);
        operators.entry(operator).or_default().insert(name);
    }
    if nodes.is_empty() {
        return Err(OrtError::Profile("it names no execution provider".to_owned()));
    }
    let evidence = nodes.iter().fold(Evidence::new(source), |e, (provider, names)| e.with_placement(*provider, names.len() as u64));
    Ok(operators.iter().fold(evidence, |e, (operator, names)| e.with_kernel(format!("{operator} x{}", names.len()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_counted_once_however_often_they_ran() {
        let node = |name: &str, op: &str| {
            format!(r#"{{"cat":"Node","name":"{name}_kernel_time","args":{{"op_name":"{op}","provider":"CPUExecutionProvider"}}}}"#)
        };
        let text = format!(
            r#"[{{"cat":"Session","name":"model_run","args":{{}}}},{},{},{}]"#,
            node("a", "MatMul"),
            node("b", "MatMul"),
            node("a", "MatMul")
        );
        let evidence = parse(&text, "test").unwrap();
        assert_eq!((evidence.placement[0].executor.as_str(), evidence.placement[0].nodes), ("CPUExecutionProvider", 2));
        assert_eq!(evidence.kernels, ["MatMul x2"]);
    }

    /// ONNX Runtime 1.31 calls both directions' nodes `Memcpy`, and runs them on the provider that has the device.
    #[test]
    fn a_copy_between_providers_is_seen() {
        let node = |name: &str, op: &str, provider: &str| {
            format!(
                r#"{{"cat":"Node","pid":1,"tid":1,"dur":9,"ts":3,"ph":"X","name":"{name}_kernel_time","args":{{"op_name":"{op}","provider":"{provider}","node_index":"0","input_type_shape":[{{"bfloat16":[1,2]}}],"thread_scheduling_stats":{{}}}}}}"#
            )
        };
        let cuda = "CUDAExecutionProvider";
        let text = [
            r#"{"cat":"Session","pid":1,"tid":1,"dur":4879,"ts":4,"ph":"X","name":"model_loading_array","args":{}}"#.to_owned(),
            node("layers.0.qkv/FusedMatMul", "FusedMatMul", cuda),
            node("Memcpy", "MemcpyToHost", cuda),
            node("layers.0.mask/Where", "Where", "CPUExecutionProvider"),
        ];
        let evidence = parse(&format!("[{}]", text.join(",")), "test").unwrap();
        let executors: Vec<_> = evidence.placement.iter().map(|p| (p.executor.as_str(), p.nodes)).collect();
        assert_eq!(executors, [("CPUExecutionProvider", 1), (cuda, 2)]);
        assert!(evidence.kernels.contains(&"MemcpyToHost x1".to_owned()), "{:?}", evidence.kernels);
    }

    #[test]
    fn a_profile_without_providers_is_no_evidence() {
        assert!(matches!(parse("[]", "test"), Err(OrtError::Profile(_))));
        assert!(matches!(parse("[", "test"), Err(OrtError::Profile(_))));
    }
}
