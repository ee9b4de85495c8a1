//! Opening an existing ONNX export of a decoder: what its inputs and outputs are called and shaped, found out, not assumed.
//!
//! Two layouts are known, and only their common part is asked for: `input_ids`, optional `attention_mask` and
//! `position_ids`, `past_key_values.N.key` and `.value` to `logits`, `present.N.key` and `.value`. Optimum and
//! onnxruntime-genai both write it, each with its own configuration file beside it.

use crate::{
    error::OrtError,
    onnx::{NodeProto, StringStringEntryProto},
    shared::KvShape,
    store::hash_file,
};
use ort::{
    session::Session,
    value::{Outlet, TensorElementType, ValueType},
};
use prost::Message;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;

const MODEL_FILE: &str = "model.onnx";
const EXPECTED: &str = "expected input_ids, optional attention_mask and position_ids, past_key_values.N.key and .value, \
                        and as outputs logits, present.N.key and .value";

/// What an export takes and gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) kv: KvShape,
    pub(crate) vocab: usize,
    pub(crate) has_mask: bool,
    pub(crate) has_positions: bool,
    /// Whether it gives the scores of the last position only.
    pub(crate) last_only: bool,
    /// Whether it can't take several tokens on top of cached ones for more than one row.
    pub(crate) one_row_chunks: bool,
}

/// An export on disk.
#[derive(Debug)]
pub(crate) struct Export {
    pub(crate) file: PathBuf,
    graph: GraphHead,
    settings: Settings,
}

/// What the configuration files beside an export say.
#[derive(Debug, Default)]
struct Settings {
    architecture: Option<String>,
    max_context: Option<usize>,
    vocab: Option<usize>,
}

/// Bytes and operations of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) weight_bytes: u64,
    pub(crate) flops_per_token: u64,
}

/// The model file of an export when `path` is one: an `.onnx` file, or a folder that has `model.onnx` and no safetensors.
pub(crate) fn find(path: &Path) -> Option<PathBuf> {
    if path.extension().is_some_and(|e| e == "onnx") {
        return Some(path.to_owned());
    }
    let file = path.join(MODEL_FILE);
    let is_safetensors = |e: fs::DirEntry| e.path().extension().is_some_and(|e| e == "safetensors");
    let has_weights = fs::read_dir(path).is_ok_and(|entries| entries.flatten().any(is_safetensors));
    (file.is_file() && !has_weights).then_some(file)
}

impl Export {
    /// Reads the graph's structure, without its weights.
    pub(crate) fn open(file: PathBuf) -> Result<Self, OrtError> {
        let bytes = fs::read(&file).map_err(OrtError::store("read", &file))?;
        let model = ModelHead::decode(bytes.as_slice()).map_err(|e| refuse(&file, format!("it is no ONNX file: {e}")))?;
        let graph = model.graph.ok_or_else(|| refuse(&file, "it has no graph".to_owned()))?;
        let settings = Settings::read(file.parent().unwrap_or(Path::new(".")))?;
        Ok(Self { file, graph, settings })
    }

    pub(crate) fn architecture(&self) -> Option<&str> {
        self.settings.architecture.as_deref()
    }

    pub(crate) fn max_context(&self) -> Result<usize, OrtError> {
        let reason = "neither config.json (max_position_embeddings, n_positions) nor genai_config.json (model.context_length) beside it \
                      says for how many positions it was made";
        self.settings.max_context.ok_or_else(|| refuse(&self.file, reason.to_owned()))
    }

    /// Hash of the model file and of every file it refers to.
    pub(crate) fn digest(&self) -> Result<String, OrtError> {
        let folder = self.file.parent().unwrap_or(Path::new("."));
        let locations = self.graph.initializer.iter().flat_map(|t| &t.external_data);
        let locations: BTreeSet<_> =
            locations.filter(|e| e.key.as_deref() == Some("location")).filter_map(|e| e.value.as_deref()).collect();
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"phase onnx export 1");
        for path in std::iter::once(self.file.clone()).chain(locations.iter().map(|l| folder.join(l))) {
            hasher.update(hash_file(&path).map_err(OrtError::store("read", &path))?.as_bytes());
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// What the session takes and gives.
    ///
    /// # Errors
    /// [`OrtError::Export`], listing what was found, when anything is not understood.
    pub(crate) fn interface(&self, session: &Session) -> Result<Interface, OrtError> {
        let inputs = tensors(session.inputs());
        let outputs = tensors(session.outputs());
        let fail = |what: String| {
            let found = format!("inputs {}; outputs {}", list(session.inputs()), list(session.outputs()));
            refuse(&self.file, format!("{what}; {EXPECTED}; found {found}"))
        };
        let layers = (0..).take_while(|n| inputs.contains_key(format!("past_key_values.{n}.key").as_str())).count();
        let mut known = BTreeSet::from(["input_ids".to_owned(), "attention_mask".to_owned(), "position_ids".to_owned()]);
        let mut kv = None;
        for layer in 0..layers {
            for part in ["key", "value"] {
                let past = format!("past_key_values.{layer}.{part}");
                let shape = inputs.get(past.as_str()).and_then(|t| kv_shape(t, layers));
                let shape =
                    shape.ok_or_else(|| fail(format!("{past} is not f32 [batch, heads, past, head_dim] of fixed heads and head_dim")))?;
                if kv.replace(shape).is_some_and(|before| before != shape) {
                    return Err(fail(format!("{past} has another shape than those before")));
                }
                let present = format!("present.{layer}.{part}");
                if !outputs.contains_key(present.as_str()) {
                    return Err(fail(format!("there is no {present}")));
                }
                known.insert(past);
            }
        }
        let kv = kv.ok_or_else(|| fail("there are no past_key_values".to_owned()))?;
        if let Some(other) = inputs.keys().find(|name| !known.contains(**name)) {
            return Err(fail(format!("the input {other} has no meaning here")));
        }
        for name in ["input_ids", "attention_mask", "position_ids"] {
            match inputs.get(name) {
                Some((TensorElementType::Int64, shape)) if shape.len() == 2 => {}
                None if name != "input_ids" => {}
                _ => return Err(fail(format!("{name} is not i64 [batch, tokens]"))),
            }
        }
        let Some((TensorElementType::Float32, logits)) = outputs.get("logits") else {
            return Err(fail("logits are not f32".to_owned()));
        };
        let [_, rows, vocab] = logits[..] else { return Err(fail("logits are not [batch, tokens, vocabulary]".to_owned())) };
        let vocab = usize::try_from(vocab).ok().filter(|v| *v > 0).or(self.settings.vocab);
        Ok(Interface {
            kv,
            vocab: vocab.ok_or_else(|| fail("the size of the vocabulary is not fixed, nor in a config.json".to_owned()))?,
            has_mask: inputs.contains_key("attention_mask"),
            has_positions: inputs.contains_key("position_ids"),
            last_only: rows == 1,
            one_row_chunks: self.graph.node.iter().any(|n| n.op_type.as_deref() == Some("GroupQueryAttention")),
        })
    }

    /// Weights that a step reads and multiplies: everything but tables that are only looked up in.
    pub(crate) fn work(&self, vocab: usize) -> Work {
        let mut consumers: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for node in &self.graph.node {
            let op = node.op_type.as_deref().unwrap_or_default();
            node.input.iter().for_each(|input| _ = consumers.entry(input).or_default().insert(op));
        }
        let mut work = Work { weight_bytes: 0, flops_per_token: 0 };
        for tensor in &self.graph.initializer {
            let name = tensor.name.as_deref().unwrap_or_default();
            let elements: u64 = tensor.dims.iter().map(|d| u64::try_from(*d).unwrap_or(0)).product();
            let used = consumers.get(name);
            let table = used.is_none_or(|ops| ops.iter().all(|op| matches!(*op, "Gather" | "GroupQueryAttention")));
            if tensor.data_type == Some(crate::onnx::data_type::FLOAT) && !table {
                work.weight_bytes += 4 * elements;
                let is_head = tensor.dims.iter().any(|d| usize::try_from(*d) == Ok(vocab));
                if tensor.dims.len() == 2 && !is_head {
                    work.flops_per_token += 2 * elements;
                }
            }
        }
        work
    }
}

impl Settings {
    fn read(folder: &Path) -> Result<Self, OrtError> {
        let json = |name: &str| -> Result<Value, OrtError> {
            let path = folder.join(name);
            if !path.is_file() {
                return Ok(Value::Null);
            }
            let text = fs::read(&path).map_err(OrtError::store("read", &path))?;
            serde_json::from_slice(&text).map_err(|e| refuse(&path, e.to_string()))
        };
        let (config, genai) = (json("config.json")?, json("genai_config.json")?);
        let number = |values: [&Value; 3]| values.into_iter().find_map(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        let text = |values: [&Value; 2]| values.into_iter().find_map(Value::as_str).map(str::to_owned);
        let model = &genai["model"];
        Ok(Self {
            architecture: text([&config["model_type"], &model["type"]]),
            max_context: number([&config["max_position_embeddings"], &config["n_positions"], &model["context_length"]]),
            vocab: number([&config["vocab_size"], &model["vocab_size"], &Value::Null]),
        })
    }
}

type TensorType<'a> = (TensorElementType, &'a [i64]);

fn tensors(outlets: &[Outlet]) -> BTreeMap<&str, TensorType<'_>> {
    outlets
        .iter()
        .filter_map(|outlet| match outlet.dtype() {
            ValueType::Tensor { ty, shape, .. } => Some((outlet.name(), (*ty, &**shape))),
            _ => None,
        })
        .collect()
}

fn kv_shape((element, shape): &TensorType<'_>, layers: usize) -> Option<KvShape> {
    let [_, heads, _, head_dim] = shape[..] else { return None };
    let size = |n: i64| usize::try_from(n).ok().filter(|n| *n > 0);
    (*element == TensorElementType::Float32).then_some(KvShape { layers, heads: size(heads)?, head_dim: size(head_dim)? })
}

fn list(outlets: &[Outlet]) -> String {
    const MOST: usize = 8;
    let mut names: Vec<_> = outlets.iter().take(MOST).map(|o| format!("{}: {}", o.name(), o.dtype())).collect();
    if outlets.len() > MOST {
        names.push(format!("and {} more", outlets.len() - MOST));
    }
    names.join(", ")
}

fn refuse(path: &Path, reason: String) -> OrtError {
    OrtError::Export { path: path.to_owned(), reason }
}

/// As [`ModelProto`](crate::onnx::ModelProto), without the values of constants: those are skipped, not copied.
#[derive(Clone, PartialEq, Message)]
struct ModelHead {
    #[prost(message, optional, tag = "7")]
    graph: Option<GraphHead>,
}

#[derive(Clone, PartialEq, Message)]
struct GraphHead {
    #[prost(message, repeated, tag = "1")]
    node: Vec<NodeProto>,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<TensorHead>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorHead {
    #[prost(int64, repeated, tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, optional, tag = "2")]
    data_type: Option<i32>,
    #[prost(string, optional, tag = "8")]
    name: Option<String>,
    #[prost(message, repeated, tag = "13")]
    external_data: Vec<StringStringEntryProto>,
}
