//! ONNX Runtime: its profile says which executor ran which operator for how long; the optimised model against the source
//! says what it transformed.

use super::{Cover, Level, Reading, onnx};
use phase_core::Phase;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Reads a profile. Node times are the host's, launches included, unless the library was built to ask the device.
pub(super) fn profile(text: &str, models: Option<(&[u8], &[u8])>) -> Result<Reading, String> {
    let events: Vec<Value> = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let mut reading = Reading::default();
    let (mut nodes, mut operators) = (BTreeMap::<&str, BTreeSet<&str>>::new(), BTreeSet::new());
    for event in &events {
        let name = event["name"].as_str().unwrap_or_default();
        let args = &event["args"];
        let text = |key: &str| args[key].as_str().filter(|s| !s.is_empty());
        let ran = event["cat"] == "Node" && name.ends_with("_kernel_time");
        let (true, Some(provider), Some(operator)) = (ran, text("provider"), text("op_name")) else { continue };
        nodes.entry(provider).or_default().insert(name);
        operators.insert(operator);
        let sum = reading.executors.entry(provider.to_owned()).or_default();
        sum.1 = sum.1.saturating_add(event["dur"].as_u64().unwrap_or(0));
        reading.covers.extend(tokens(operator, &args["input_type_shape"]));
    }
    if nodes.is_empty() {
        return Err("it shows no operator on an execution provider".to_owned());
    }
    for (provider, names) in nodes {
        if let Some(sum) = reading.executors.get_mut(provider) {
            sum.0 = names.len() as u64;
        }
    }
    reading.level = Some(match models {
        Some((source, optimised)) if fused(source, optimised)?.iter().any(|op| operators.contains(op.as_str())) => Level::Executed,
        _ => Level::Configured,
    });
    Ok(reading)
}

/// Reads the optimised model against its source.
pub(super) fn optimised(optimised: &[u8], source: Option<&[u8]>) -> Result<Reading, String> {
    let source = source.ok_or("the source model is not beside it, so nothing shows what was transformed")?;
    let level = if fused(source, optimised)?.is_empty() { Level::Configured } else { Level::Placed };
    Ok(Reading { level: Some(level), ..Reading::default() })
}

/// What ONNX Runtime puts in to bring values to another device or into another type: that is no optimisation.
const PLUMBING: [&str; 3] = ["Cast", "MemcpyFromHost", "MemcpyToHost"];

/// Operators that the optimiser put in.
fn fused(source: &[u8], optimised: &[u8]) -> Result<BTreeSet<String>, String> {
    let (before, after) = (onnx::operators(source)?, onnx::operators(optimised)?);
    let new = after.into_keys().filter(|key| !before.contains_key(key) && !PLUMBING.contains(&key.0.as_str()));
    Ok(new.map(|(operator, _)| operator).collect())
}

/// The look-up of token ids has integers of batch by tokens as an input: the call's shape.
fn tokens(operator: &str, shapes: &Value) -> Option<Cover> {
    if operator != "Gather" && operator != "EmbedLayerNormalization" {
        return None;
    }
    let ids = shapes.as_array()?.iter().find_map(|input| input.get("int64").or_else(|| input.get("int32")))?.as_array()?;
    let [batch, tokens] = ids.as_slice() else { return None };
    let [batch, tokens] = [batch, tokens].map(|n| n.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0));
    let (batch, tokens) = batch.zip(tokens)?;
    Some(match tokens {
        1 => Cover { phase: Phase::Decode, batch, tokens: None },
        _ => Cover { phase: Phase::Prefill, batch, tokens: Some(tokens) },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model of these operators, as protobuf.
    fn model(operators: &[&str]) -> Vec<u8> {
        let field = |tag: u8, value: &[u8]| [&[tag << 3 | 2, u8::try_from(value.len()).unwrap()], value].concat();
        let nodes: Vec<u8> = operators.iter().flat_map(|name| field(1, &field(4, name.as_bytes()))).collect();
        field(7, &nodes)
    }

    #[test]
    fn copies_between_devices_and_casts_are_no_optimisation() {
        let before = model(&["MatMul", "Add"]);
        let plumbing = model(&["MemcpyFromHost", "MatMul", "Cast", "Add", "MemcpyToHost"]);
        assert_eq!(fused(&before, &plumbing), Ok(BTreeSet::new()));
        assert_eq!(optimised(&plumbing, Some(&before)).unwrap().level, Some(Level::Configured));
        assert_eq!(fused(&before, &model(&["FusedGemm", "Cast"])), Ok(["FusedGemm".to_owned()].into()));
    }
}
