//! This crate's own operators, as ONNX Runtime's CUDA provider takes them.

use super::kernels::{Gating, Operator as Kind, StepKernels};
use crate::graph::{DOMAIN, Format, GATED};
use ort::{
    operator::{ComputeContext, Kernel, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput},
    value::{DynTensorValueType, TensorElementType, ValueRef},
};
use std::sync::Arc;

const CUDA: &str = "CUDAExecutionProvider";

/// All operators of a step, on these kernels.
pub(crate) fn domain(kernels: &Arc<StepKernels>, format: Format) -> ort::Result<OperatorDomain> {
    let kinds = [Kind::Embed, Kind::Project, Kind::Attend, Kind::AddAttended, Kind::Gate, Kind::AddGated, Kind::Scores];
    kinds.into_iter().try_fold(OperatorDomain::new(DOMAIN)?, |domain, kind| domain.add(Step { kind, format, kernels: Arc::clone(kernels) }))
}

/// The operators of the graph for both phases.
pub(crate) fn gated_domain(gating: &Arc<Gating>, format: Format) -> ort::Result<OperatorDomain> {
    OperatorDomain::new(DOMAIN)?.add(Gated { format, gating: Arc::clone(gating) })
}

/// ONNX Runtime's name for a number format.
fn element(format: Format) -> TensorElementType {
    match format {
        Format::F16 => TensorElementType::Float16,
        Format::Bf16 => TensorElementType::Bfloat16,
    }
}

struct Gated {
    format: Format,
    gating: Arc<Gating>,
}

impl Operator for Gated {
    type Kernel<'attr> = GatedRun;

    fn name(&self) -> &str {
        GATED
    }

    fn execution_provider_type(&self) -> Option<&str> {
        Some(CUDA)
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [element(self.format); 2].map(OperatorInput::required)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(element(self.format))]
    }

    fn create_kernel<'attr>(&self, _: &KernelContext<'attr>) -> ort::Result<GatedRun> {
        Ok(GatedRun(Arc::clone(&self.gating)))
    }
}

/// [`Gated`] at its place in a graph.
struct GatedRun(Arc<Gating>);

impl Kernel for GatedRun {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let missing = || ort::Error::new("an operator has no input or output");
        let (gate, up) = (given(context, 0)?.ok_or_else(missing)?, given(context, 1)?.ok_or_else(missing)?);
        let shape = gate.shape().to_vec();
        let elements = shape.iter().product::<i64>();
        let output = context.output(0, shape)?.ok_or_else(missing)?;
        let output = output.downcast::<DynTensorValueType>()?.data_ptr() as u64;
        let tensors = [gate.data_ptr() as u64, up.data_ptr() as u64, output];
        // SAFETY: the graph gives all three one shape, whose rows are whole pieces; ONNX Runtime aligns tensors, and keeps them
        // until its stream, which is the kernel's stream, is past them.
        unsafe { self.0.queue(tensors, usize::try_from(elements).unwrap_or(0)) }.map_err(|e| ort::Error::new(e.to_string()))
    }
}

struct Step {
    kind: Kind,
    format: Format,
    kernels: Arc<StepKernels>,
}

impl Operator for Step {
    type Kernel<'attr> = Run;

    fn name(&self) -> &str {
        match self.kind {
            Kind::Embed => "Embed",
            Kind::Project => "Project",
            Kind::Attend => "Attend",
            Kind::AddAttended => "AddAttended",
            Kind::Gate => "Gate",
            Kind::AddGated => "AddGated",
            Kind::Scores => "Scores",
        }
    }

    fn execution_provider_type(&self) -> Option<&str> {
        Some(CUDA)
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        let weight = element(self.format);
        let [float, int, long] = [TensorElementType::Float32, TensorElementType::Int32, TensorElementType::Int64];
        let types = match self.kind {
            Kind::Embed => vec![long, weight],
            Kind::Project | Kind::Scores => vec![float, weight, weight],
            Kind::Attend => vec![float, weight, weight, int, weight, weight],
            Kind::AddAttended | Kind::AddGated => vec![float, float, weight],
            Kind::Gate => vec![float, weight, weight, weight],
        };
        let bias = (self.kind == Kind::Project).then(|| OperatorInput::optional(weight));
        types.into_iter().map(OperatorInput::required).chain(bias)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(&self, _: &KernelContext<'attr>) -> ort::Result<Run> {
        Ok(Run { kind: self.kind, kernels: Arc::clone(&self.kernels) })
    }
}

/// An operator at its place in a graph.
struct Run {
    kind: Kind,
    kernels: Arc<StepKernels>,
}

impl Kernel for Run {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let inputs = match self.kind {
            Kind::Embed => 2,
            Kind::Attend => 6,
            Kind::Project | Kind::Gate => 4,
            Kind::AddAttended | Kind::AddGated | Kind::Scores => 3,
        };
        let (mut tensors, mut capacity) = (Vec::with_capacity(inputs + 1), 0);
        for at in 0..inputs {
            // An optional input that is not there is a null pointer to the kernel.
            let Some(value) = given(context, at)? else {
                tensors.push(0);
                continue;
            };
            if self.kind == Kind::Attend && at == 1 {
                capacity = value.shape().get(2).and_then(|n| usize::try_from(*n).ok()).unwrap_or(0);
            }
            tensors.push(value.data_ptr() as u64);
        }
        let sizes = self.kernels.sizes;
        let width = match self.kind {
            Kind::Embed | Kind::AddAttended | Kind::AddGated => sizes.hidden,
            Kind::Project => sizes.q_dim + 2 * sizes.kv_dim,
            Kind::Attend => sizes.q_dim,
            Kind::Gate => sizes.inner,
            Kind::Scores => sizes.vocab,
        };
        let output = context.output(0, [1, i64::from(width)])?.ok_or_else(|| ort::Error::new("an operator has no output"))?;
        tensors.push(output.downcast::<DynTensorValueType>()?.data_ptr() as u64);
        // SAFETY: the graph gives these tensors the model's sizes, and ONNX Runtime keeps them until its stream, which is
        // the kernels' stream, is past them.
        unsafe { self.kernels.queue(self.kind, &mut tensors, capacity) }.map_err(|e| ort::Error::new(e.to_string()))
    }
}

/// An input of the operator; `None` when it is optional and was left out.
fn given(context: &ComputeContext, at: usize) -> ort::Result<Option<ValueRef<'_, DynTensorValueType>>> {
    if at >= context.num_inputs()? {
        return Ok(None);
    }
    context.input(at)?.map(|value| value.downcast()).transpose()
}
