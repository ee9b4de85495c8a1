//! Builds an ONNX graph and remembers where each large constant comes from.

mod decoder;
#[cfg(feature = "cuda")]
mod step;

pub(crate) use decoder::{decoder, names};
#[cfg(feature = "cuda")]
pub(crate) use step::step;

use crate::onnx::{AttributeProto, Dim, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto, data_type};
use phase_model::Role;

/// Raised whenever the graph written for a checkpoint changes, so that older derived files are not used.
pub(crate) const GRAPH_VERSION: u32 = 1;

/// Name of the file with the large constants, beside the model file.
pub(crate) const WEIGHTS_FILE: &str = "weights.bin";

/// Constants start at multiples of this, so that each can be mapped on its own.
pub(crate) const ALIGNMENT: u64 = 4096;

/// How weights reach a graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Weights {
    /// As f32 constants in the weights file, laid out for the CPU provider, which packs them.
    #[default]
    File,
    /// As inputs, laid out as in the checkpoint, so that several graphs share one copy in device memory.
    #[cfg(feature = "cuda")]
    Inputs(Format),
}

/// A number format that the CUDA provider's fused attention computes in.
#[cfg(feature = "cuda")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    F16,
    Bf16,
}

#[cfg(feature = "cuda")]
impl Format {
    pub(crate) const BYTES: usize = 2;

    pub(crate) fn of(dtype: phase_core::DType) -> Option<Self> {
        match dtype {
            phase_core::DType::F16 => Some(Self::F16),
            phase_core::DType::Bf16 => Some(Self::Bf16),
            _ => None,
        }
    }

    pub(crate) const fn dtype(self) -> phase_core::DType {
        match self {
            Self::F16 => phase_core::DType::F16,
            Self::Bf16 => phase_core::DType::Bf16,
        }
    }
}

impl Weights {
    /// ONNX's number for the format of weights, activations, keys and values.
    pub(crate) fn element(self) -> i32 {
        match self {
            Self::File => data_type::FLOAT,
            #[cfg(feature = "cuda")]
            Self::Inputs(Format::F16) => data_type::FLOAT16,
            #[cfg(feature = "cuda")]
            Self::Inputs(Format::Bf16) => data_type::BFLOAT16,
        }
    }

    pub(crate) fn are_inputs(self) -> bool {
        self != Self::File
    }
}

/// The domain of this crate's own operators.
pub(crate) const DOMAIN: &str = "phase";
/// `SiLU` of the first input times the second, in that domain; for any number of rows.
pub(crate) const GATED: &str = "Gated";
/// Elements that a thread of it takes; a row has a multiple of them.
pub(crate) const GATED_MULTIPLE: usize = 8;

/// The fused operators' domain.
const MICROSOFT: &str = "com.microsoft";

/// Where the values of a large constant come from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Source {
    /// Tensors of the checkpoint one below the other, as they are.
    Joined(Vec<Role>),
    /// Tensors of the checkpoint side by side, each transposed: the right operand of `x * W`.
    Transposed(Vec<Role>),
    /// Values computed here.
    Values(Vec<f32>),
}

/// One large constant: in the weights file at an offset, or an input of this name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Constant {
    pub(crate) name: String,
    pub(crate) dims: Vec<usize>,
    pub(crate) source: Source,
    pub(crate) elements: usize,
    pub(crate) offset: u64,
}

/// A graph under construction.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    proto: GraphProto,
    weights: Weights,
    constants: Vec<Constant>,
    end: u64,
}

impl Graph {
    pub(crate) fn new(weights: Weights) -> Self {
        Self { weights, ..Self::default() }
    }

    /// How weights reach it.
    pub(crate) fn weights(&self) -> Weights {
        self.weights
    }

    /// Adds an operator of the standard domain and gives the name of its first output.
    pub(crate) fn node(&mut self, op: &str, inputs: &[&str], output: &str, attributes: Vec<AttributeProto>) -> String {
        self.push("", op, inputs, &[output], attributes)
    }

    /// Adds one of ONNX Runtime's fused operators and gives the name of its first output.
    pub(crate) fn fused(&mut self, op: &str, inputs: &[&str], outputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        self.push(MICROSOFT, op, inputs, outputs, attributes)
    }

    pub(crate) fn push(&mut self, domain: &str, op: &str, inputs: &[&str], outputs: &[&str], attribute: Vec<AttributeProto>) -> String {
        let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        self.proto.node.push(NodeProto {
            input: owned(inputs),
            output: owned(outputs),
            name: Some(format!("{}/{op}", outputs[0])),
            op_type: Some(op.to_owned()),
            attribute,
            domain: Some(domain.to_owned()),
        });
        outputs[0].to_owned()
    }

    pub(crate) fn input(&mut self, name: &str, elem_type: i32, dims: &[Dim<'_>]) {
        self.proto.input.push(ValueInfoProto::tensor(name, elem_type, dims));
    }

    pub(crate) fn output(&mut self, name: &str, elem_type: i32, dims: &[Dim<'_>]) {
        self.proto.output.push(ValueInfoProto::tensor(name, elem_type, dims));
    }

    /// Adds a small constant of integers.
    pub(crate) fn integers(&mut self, name: &str, dims: &[i64], values: &[i64]) {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.proto.initializer.push(TensorProto::inline(name, data_type::INT64, dims, raw));
    }

    /// Adds a small constant of numbers.
    #[cfg(test)]
    pub(crate) fn floats(&mut self, name: &str, dims: &[i64], values: &[f32]) {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.proto.initializer.push(TensorProto::inline(name, data_type::FLOAT, dims, raw));
    }

    /// Adds a constant that lies in the weights file, or is an input.
    pub(crate) fn constant(&mut self, name: &str, dims: &[usize], source: Source) {
        let elements = dims.iter().product::<usize>();
        let (bytes, offset) = if self.weights.are_inputs() {
            let fixed: Vec<_> = dims.iter().map(|d| Dim::Fixed(*d)).collect();
            self.input(name, self.weights.element(), &fixed);
            (0, 0)
        } else {
            let (bytes, offset) = (4 * elements as u64, self.end.next_multiple_of(ALIGNMENT));
            let dims: Vec<_> = dims.iter().map(|d| i64::try_from(*d).unwrap_or(i64::MAX)).collect();
            self.proto.initializer.push(TensorProto::external(name, &dims, WEIGHTS_FILE, offset, bytes));
            (bytes, offset)
        };
        self.constants.push(Constant { name: name.to_owned(), dims: dims.to_vec(), source, elements, offset });
        self.end = offset + bytes;
    }

    /// Whether it has operators of this crate.
    #[cfg(feature = "cuda")]
    pub(crate) fn has_own(&self) -> bool {
        self.proto.node.iter().any(|node| node.domain.as_deref() == Some(DOMAIN))
    }

    /// The finished model, and what must be written into its weights file, in order.
    pub(crate) fn finish(mut self, name: &str) -> (ModelProto, Vec<Constant>) {
        self.proto.name = Some(name.to_owned());
        let opset = |domain: &str, version| OperatorSetIdProto { domain: Some(domain.to_owned()), version: Some(version) };
        let mut opset_import = vec![opset("", 21), opset(MICROSOFT, 1)];
        let known = |domain: &str| domain.is_empty() || domain == MICROSOFT;
        let own = self.proto.node.iter().filter_map(|n| n.domain.as_deref()).find(|d| !known(d));
        opset_import.extend(own.map(|domain| opset(domain, 1)));
        let model = ModelProto {
            ir_version: Some(10),
            producer_name: Some(env!("CARGO_PKG_NAME").to_owned()),
            producer_version: Some(GRAPH_VERSION.to_string()),
            graph: Some(self.proto),
            opset_import,
        };
        (model, self.constants)
    }
}
