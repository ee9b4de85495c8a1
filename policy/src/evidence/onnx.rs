//! As much of an ONNX file as says which operators are in it: `ModelProto.graph` (7), `GraphProto.node` (1),
//! `NodeProto.op_type` (4) and `domain` (7).

use std::collections::BTreeMap;

/// How often each operator occurs, by name and domain.
pub(super) fn operators(model: &[u8]) -> Result<BTreeMap<(String, String), u64>, String> {
    let mut all = BTreeMap::new();
    for graph in parts(model, 7)? {
        for node in parts(graph, 1)? {
            let text = |field| -> Result<String, String> {
                let last = parts(node, field)?.into_iter().next_back().unwrap_or_default();
                String::from_utf8(last.to_vec()).map_err(|_| "an operator's name is no text".to_owned())
            };
            *all.entry((text(4)?, text(7)?)).or_default() += 1;
        }
    }
    if all.is_empty() { Err("the model has no operator".to_owned()) } else { Ok(all) }
}

/// The length-delimited values of one field.
fn parts(message: &[u8], wanted: u64) -> Result<Vec<&[u8]>, String> {
    let mut rest = message;
    let mut found = Vec::new();
    let cut = || "the model is cut off".to_owned();
    while !rest.is_empty() {
        let key = varint(&mut rest).ok_or_else(cut)?;
        match key & 7 {
            0 => drop(varint(&mut rest).ok_or_else(cut)?),
            1 => rest = rest.get(8..).ok_or_else(cut)?,
            2 => {
                let length = varint(&mut rest).and_then(|n| usize::try_from(n).ok()).ok_or_else(cut)?;
                let (value, after) = rest.split_at_checked(length).ok_or_else(cut)?;
                rest = after;
                if key >> 3 == wanted {
                    found.push(value);
                }
            }
            5 => rest = rest.get(4..).ok_or_else(cut)?,
            other => return Err(format!("wire type {other} is none of a model")),
        }
    }
    Ok(found)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
