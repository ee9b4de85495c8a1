//! A checkpoint's weights as candle tensors, each read once, straight into the memory that candle keeps.

use candle_core::{Device, Tensor};
use half::{bf16, f16};
use phase_core::DType;
use phase_model::{LayerRole, Mlp, ModelConfig, Role, Weights as Checkpoint};

use crate::{CandleError, memory::Stored};

/// Every weight of a model. Matrices are in the chosen number format, vectors in f32.
#[derive(Debug)]
pub(crate) struct Weights {
    /// `[vocab, hidden]`.
    pub(crate) embedding: Tensor,
    /// `[max_context, hidden]`, for learned positions.
    pub(crate) positions: Option<Tensor>,
    pub(crate) layers: Vec<LayerWeights>,
    pub(crate) final_norm: NormWeights,
    /// Shares the embedding's memory when they are tied.
    pub(crate) head: Linear,
}

#[derive(Debug)]
pub(crate) struct LayerWeights {
    pub(crate) attn_norm: NormWeights,
    /// Queries, keys and values, one below the other.
    pub(crate) qkv: Linear,
    pub(crate) q_norm: Option<NormWeights>,
    pub(crate) k_norm: Option<NormWeights>,
    pub(crate) o: Linear,
    pub(crate) mlp_norm: NormWeights,
    /// Gate and up, one below the other; up alone in a plain feed-forward layer.
    pub(crate) gate_up: Linear,
    pub(crate) down: Linear,
}

#[derive(Debug)]
pub(crate) struct NormWeights {
    pub(crate) weight: Tensor,
    pub(crate) bias: Option<Tensor>,
}

/// `x · weightᵀ + bias`.
#[derive(Debug)]
pub(crate) struct Linear {
    /// `[out, in]`.
    pub(crate) weight: Tensor,
    /// `[out]`.
    pub(crate) bias: Option<Tensor>,
}

impl Weights {
    pub(crate) fn load(config: &ModelConfig, checkpoint: &Checkpoint, dtype: DType, device: &Device) -> Result<Self, CandleError> {
        let loader = Loader { checkpoint, dtype, device };
        let embedding = loader.matrix(&[Role::TokenEmbedding])?;
        let head = match config.tied_embeddings {
            true => embedding.clone(),
            false => loader.matrix(&[Role::LmHead])?,
        };
        Ok(Self {
            embedding,
            positions: loader.has(Role::PositionEmbedding).then(|| loader.matrix(&[Role::PositionEmbedding])).transpose()?,
            layers: (0..config.layers).map(|layer| LayerWeights::load(config, &loader, layer)).collect::<Result<_, _>>()?,
            final_norm: loader.norm(Role::FinalNorm, Some(Role::FinalNormBias))?,
            head: Linear { weight: head, bias: None },
        })
    }

    /// Bytes of matrices, biases and norms that one decode step of one sequence reads; of an untied embedding it reads a row.
    pub(crate) fn bytes_per_step(&self) -> u64 {
        let layers = self.layers.iter().flat_map(LayerWeights::tensors);
        layers.chain(self.final_norm.tensors()).chain(self.head.tensors()).map(bytes).sum()
    }

    /// Two operations for each element of the layers' matrices.
    pub(crate) fn flops_per_token(&self) -> u64 {
        let matrices = self.layers.iter().flat_map(|layer| [&layer.qkv, &layer.o, &layer.gate_up, &layer.down]);
        matrices.map(|linear| 2 * linear.weight.elem_count() as u64).sum()
    }
}

impl LayerWeights {
    fn load(config: &ModelConfig, loader: &Loader<'_>, index: usize) -> Result<Self, CandleError> {
        use LayerRole as R;
        let role = |role| Role::Layer(index, role);
        let head_norm = |weight| config.qk_norm.then(|| loader.norm(role(weight), None)).transpose();
        let gate_up = match config.mlp {
            Mlp::Gated => loader.linear(&[(role(R::Gate), role(R::GateBias)), (role(R::Up), role(R::UpBias))])?,
            _ => loader.linear(&[(role(R::Up), role(R::UpBias))])?,
        };
        Ok(Self {
            attn_norm: loader.norm(role(R::AttnNorm), Some(role(R::AttnNormBias)))?,
            qkv: loader.linear(&[(role(R::Q), role(R::QBias)), (role(R::K), role(R::KBias)), (role(R::V), role(R::VBias))])?,
            q_norm: head_norm(R::QNorm)?,
            k_norm: head_norm(R::KNorm)?,
            o: loader.linear(&[(role(R::O), role(R::OBias))])?,
            mlp_norm: loader.norm(role(R::MlpNorm), Some(role(R::MlpNormBias)))?,
            gate_up,
            down: loader.linear(&[(role(R::Down), role(R::DownBias))])?,
        })
    }

    fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let Self { attn_norm, qkv, q_norm, k_norm, o, mlp_norm, gate_up, down } = self;
        let linears = [qkv, o, gate_up, down].into_iter().flat_map(Linear::tensors);
        let norms = [Some(attn_norm), q_norm.as_ref(), k_norm.as_ref(), Some(mlp_norm)];
        linears.chain(norms.into_iter().flatten().flat_map(NormWeights::tensors))
    }
}

impl NormWeights {
    fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        std::iter::once(&self.weight).chain(&self.bias)
    }
}

impl Linear {
    fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        std::iter::once(&self.weight).chain(&self.bias)
    }
}

fn bytes(tensor: &Tensor) -> u64 {
    (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64
}

struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    dtype: DType,
    device: &'a Device,
}

impl Loader<'_> {
    fn has(&self, role: Role) -> bool {
        self.checkpoint.has(role)
    }

    /// Several matrices of one width, one below the other.
    fn matrix(&self, roles: &[Role]) -> Result<Tensor, CandleError> {
        let mut rows = 0;
        for role in roles {
            rows += self.checkpoint.shape(*role)?[0];
        }
        let shape = [rows, self.checkpoint.shape(roles[0])?[1]];
        match self.dtype {
            DType::F32 => self.tensor::<f32>(roles, &shape),
            DType::F16 => self.tensor::<f16>(roles, &shape),
            DType::Bf16 => self.tensor::<bf16>(roles, &shape),
            other => Err(CandleError::DType(other)),
        }
    }

    /// Linear layers of one input, one below the other, each with its bias's role.
    fn linear(&self, parts: &[(Role, Role)]) -> Result<Linear, CandleError> {
        let (weights, biases): (Vec<_>, Vec<_>) = parts.iter().copied().unzip();
        let weight = self.matrix(&weights)?;
        let bias = if self.has(biases[0]) { Some(self.tensor::<f32>(&biases, &[weight.dims()[0]])?) } else { None };
        Ok(Linear { weight, bias })
    }

    fn norm(&self, weight: Role, bias: Option<Role>) -> Result<NormWeights, CandleError> {
        let vector = |role| self.tensor::<f32>(&[role], self.checkpoint.shape(role)?);
        let bias = bias.filter(|role| self.has(*role));
        Ok(NormWeights { weight: vector(weight)?, bias: bias.map(vector).transpose()? })
    }

    fn tensor<E: Stored>(&self, roles: &[Role], shape: &[usize]) -> Result<Tensor, CandleError> {
        let mut elements = vec![E::default(); shape.iter().product()];
        self.checkpoint.read_joined(roles, &mut elements)?;
        Tensor::from_vec(elements, shape, self.device).map_err(CandleError::candle("make a tensor of weights"))
    }
}
