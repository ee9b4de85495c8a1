//! Builds an ONNX graph and remembers where each large constant comes from.

mod decoder;

pub(crate) use decoder::{decoder, names};

use crate::onnx::{AttributeProto, Dim, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto, data_type};
use phase_model::Role;

/// Raised whenever the graph written for a checkpoint changes, so that older derived files are not used.
pub(crate) const GRAPH_VERSION: u32 = 1;

/// Name of the file with the large constants, beside the model file.
pub(crate) const WEIGHTS_FILE: &str = "weights.bin";

/// Constants start at multiples of this, so that each can be mapped on its own.
pub(crate) const ALIGNMENT: u64 = 4096;

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

/// One large constant in the weights file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Constant {
    pub(crate) source: Source,
    pub(crate) elements: usize,
    pub(crate) offset: u64,
}

/// A graph under construction.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    proto: GraphProto,
    constants: Vec<Constant>,
    end: u64,
}

impl Graph {
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

    /// Adds a constant that lies in the weights file.
    pub(crate) fn constant(&mut self, name: &str, dims: &[usize], source: Source) {
        let elements = dims.iter().product::<usize>();
        let bytes = 4 * elements as u64;
        let offset = self.end.next_multiple_of(ALIGNMENT);
        let dims: Vec<_> = dims.iter().map(|d| i64::try_from(*d).unwrap_or(i64::MAX)).collect();
        self.proto.initializer.push(TensorProto::external(name, &dims, WEIGHTS_FILE, offset, bytes));
        self.constants.push(Constant { source, elements, offset });
        self.end = offset + bytes;
    }

    /// The finished model, and what must be written into its weights file, in order.
    pub(crate) fn finish(mut self, name: &str) -> (ModelProto, Vec<Constant>) {
        self.proto.name = Some(name.to_owned());
        let opset = |domain: &str, version| OperatorSetIdProto { domain: Some(domain.to_owned()), version: Some(version) };
        let model = ModelProto {
            ir_version: Some(10),
            producer_name: Some(env!("CARGO_PKG_NAME").to_owned()),
            producer_version: Some(GRAPH_VERSION.to_string()),
            graph: Some(self.proto),
            opset_import: vec![opset("", 21), opset(MICROSOFT, 1)],
        };
        (model, self.constants)
    }
}
