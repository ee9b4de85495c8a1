//! Headers of safetensors files, single or sharded. No tensor data is touched here.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::{
    ModelError,
    config::read_json,
    file::{RawTensor, TensorFile},
    stored::StoredType,
};

pub(crate) const SINGLE: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// Opens every weights file of a Hugging Face folder and lists its tensors by name.
pub(crate) fn open_folder(dir: &Path) -> Result<(Vec<TensorFile>, BTreeMap<String, RawTensor>), ModelError> {
    let (index, single) = (dir.join(INDEX), dir.join(SINGLE));
    if single.is_file() {
        let file = TensorFile::open(&single)?;
        let tensors = list(&file, 0)?.into_iter().map(|t| (t.name.clone(), t)).collect();
        return Ok((vec![file], tensors));
    }
    if !index.is_file() {
        let reason = format!("it has a config.json, but neither {SINGLE} nor {INDEX}");
        return Err(ModelError::NotACheckpoint { path: dir.to_owned(), reason });
    }
    open_shards(dir, &index)
}

fn open_shards(dir: &Path, index: &Path) -> Result<(Vec<TensorFile>, BTreeMap<String, RawTensor>), ModelError> {
    let json = read_json(index)?;
    let placement = placement(index, &json)?;
    let names: BTreeSet<&str> = placement.values().copied().collect();
    let mut files = Vec::with_capacity(names.len());
    let mut tensors = BTreeMap::new();
    for name in names {
        if name.contains(['/', '\\']) || name == ".." {
            return Err(ModelError::config(index, "weight_map", name, "file names in the same folder"));
        }
        let file = TensorFile::open(&dir.join(name))?;
        for tensor in list(&file, files.len())? {
            match placement.get(tensor.name.as_str()) {
                Some(shard) if *shard == name => {
                    tensors.insert(tensor.name.clone(), tensor);
                }
                Some(shard) => {
                    let reason = format!("the index places it in {shard}");
                    return Err(unexpected(&tensor.name, file.path(), reason));
                }
                None => return Err(unexpected(&tensor.name, file.path(), "the index does not list it".to_owned())),
            }
        }
        files.push(file);
    }
    if let Some((name, shard)) = placement.iter().find(|(name, _)| !tensors.contains_key(**name)) {
        let reason = format!("it has no tensor `{name}`, which {INDEX} places in it");
        return Err(ModelError::damaged(&dir.join(shard), reason));
    }
    Ok((files, tensors))
}

fn unexpected(tensor: &str, path: &Path, reason: String) -> ModelError {
    ModelError::UnexpectedTensor { tensor: tensor.to_owned(), path: path.to_owned(), reason }
}

/// Tensor name to file name.
fn placement<'a>(path: &Path, json: &'a Value) -> Result<BTreeMap<&'a str, &'a str>, ModelError> {
    let wrong = |found: &str| ModelError::config(path, "weight_map", found, "an object of tensor and file names");
    let map = json.get("weight_map").ok_or_else(|| wrong("absent"))?;
    let map = map.as_object().ok_or_else(|| wrong("no object"))?;
    map.iter().map(|(name, file)| Some((name.as_str(), file.as_str()?))).collect::<Option<_>>().ok_or_else(|| wrong("not all text"))
}

fn list(file: &TensorFile, index: usize) -> Result<Vec<RawTensor>, ModelError> {
    let damaged = |reason: String| ModelError::damaged(file.path(), reason);
    let bytes = file.bytes();
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| damaged(format!("safetensors header: {e}")))?;
    let start = header + size_of::<u64>();
    let mut tensors = Vec::new();
    for (name, info) in metadata.tensors() {
        let stored = stored_type(info.dtype).ok_or_else(|| ModelError::TensorType {
            tensor: name.clone(),
            path: file.path().to_owned(),
            found: format!("{:?}", info.dtype),
            supported: StoredType::SUPPORTED_DENSE,
        });
        // GPT-2's causal mask is stored as bytes or booleans and is not a weight.
        let stored = match stored {
            Err(_) if is_buffer(&name) => continue,
            other => other?,
        };
        let (first, end) = info.data_offsets;
        let elements = info.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        let needed = elements.and_then(|n| stored.bytes_of(n));
        if first > end || needed != Some(end - first) || end > bytes.len() - start {
            return Err(damaged(format!("tensor `{name}` claims bytes {first}..{end} for shape {:?}", info.shape)));
        }
        let shape = info.shape.clone();
        tensors.push(RawTensor { name, file: index, offset: (start + first) as u64, stored, shape });
    }
    Ok(tensors)
}

const fn stored_type(dtype: Dtype) -> Option<StoredType> {
    match dtype {
        Dtype::F32 => Some(StoredType::F32),
        Dtype::F16 => Some(StoredType::F16),
        Dtype::BF16 => Some(StoredType::Bf16),
        _ => None,
    }
}

/// Tensors that old exports carry and that are computed, not learned.
pub(crate) fn is_buffer(name: &str) -> bool {
    [".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"].iter().any(|end| name.ends_with(end))
}
