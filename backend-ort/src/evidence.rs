//! What ran where, from ONNX Runtime's own profile of the graph.
//!
//! The profile is taken on a second session of the same file with the same settings, made for the purpose and dropped: a
//! profiled session is slower, so the one that is measured is never profiled. It needs memory for the weights once more
//! while it lasts.

use crate::{
    error::OrtError,
    model::{OrtModel, Program},
};
use phase_core::{Decode, Evidence, Logits, Model, Prefill, PromptBatch, TokenId};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Runs one prefill and one decode step under the profiler.
pub(crate) fn observe(model: &OrtModel) -> Result<Evidence, OrtError> {
    let folder = tempfile::tempdir().map_err(OrtError::store("create a folder in", std::env::temp_dir()))?;
    let mut profiled = model.profiled(&folder.path().join("profile"))?;
    let mut cache = profiled.allocate(phase_core::CacheSpec { batch: 1, capacity: profiled.capabilities.max_context.min(8) })?;
    let mut out = Logits::new();
    let prompt = [TokenId(0); 2];
    profiled.prefill(&mut cache, PromptBatch::single(&prompt)?, &mut out)?;
    profiled.decode(&mut cache, &prompt[..1], &mut out)?;
    let file = profiled.session.end_profiling().map_err(OrtError::runtime("ending the profile"))?;
    let text = std::fs::read_to_string(&file).map_err(OrtError::store("read", file))?;
    let source = match profiled.program {
        Program::Own { .. } => "ONNX Runtime profile of a prefill and a decode step of the derived graph",
        Program::Export(_) => "ONNX Runtime profile of a prefill and a decode step of the export",
    };
    parse(&text, source)
}

/// Reads a profile: nodes by execution provider, operators by name.
fn parse(text: &str, source: &str) -> Result<Evidence, OrtError> {
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

    #[test]
    fn a_profile_without_providers_is_no_evidence() {
        assert!(matches!(parse("[]", "test"), Err(OrtError::Profile(_))));
        assert!(matches!(parse("[", "test"), Err(OrtError::Profile(_))));
    }
}
