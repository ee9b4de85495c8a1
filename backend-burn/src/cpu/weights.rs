//! The weights of one model, read tensor by tensor into burn's storage.

use half::{bf16, f16};
use phase_core::DType;
use phase_model::{Checkpoint, LayerRole, Mlp, ModelConfig, Role};

use super::storage::{Matrix, Weight};
use crate::BurnError;

/// A linear layer, `x · Wᵀ + bias`.
#[derive(Debug)]
pub(crate) struct Linear {
    pub(crate) matrix: Matrix,
    pub(crate) bias: Option<Vec<f32>>,
}

/// Weight of a norm, and its bias when it has one.
#[derive(Debug)]
pub(crate) struct NormWeights {
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Option<Vec<f32>>,
}

/// One layer.
#[derive(Debug)]
pub(crate) struct LayerWeights {
    pub(crate) attn_norm: NormWeights,
    /// Queries, keys and values in one matrix.
    pub(crate) qkv: Linear,
    pub(crate) q_norm: Option<Vec<f32>>,
    pub(crate) k_norm: Option<Vec<f32>>,
    pub(crate) o: Linear,
    pub(crate) mlp_norm: NormWeights,
    /// Gate and up in one matrix, or up alone in a plain feed-forward layer.
    pub(crate) up: Linear,
    pub(crate) down: Linear,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct ModelWeights {
    pub(crate) embedding: Linear,
    /// `[max_context, hidden]`, in f32: one row a token is read.
    pub(crate) positions: Option<Vec<f32>>,
    pub(crate) layers: Vec<LayerWeights>,
    pub(crate) final_norm: NormWeights,
    /// `None` when the embedding is the output layer.
    head: Option<Linear>,
}

impl ModelWeights {
    pub(crate) fn load(checkpoint: &Checkpoint, dtype: DType) -> Result<Self, BurnError> {
        match dtype {
            DType::F32 => Reader(checkpoint).model::<f32>(),
            DType::F16 => Reader(checkpoint).model::<f16>(),
            DType::Bf16 => Reader(checkpoint).model::<bf16>(),
            _ => Err(BurnError::DType { dtype }),
        }
    }

    pub(crate) fn head(&self) -> &Linear {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// Operations of the layers' products for one token: two for each weight.
    pub(crate) fn flops_per_token(&self) -> u64 {
        2 * self.layers.iter().map(LayerWeights::elements).sum::<u64>()
    }

    /// Bytes that one decode step reads at batch 1.
    pub(crate) fn bytes_per_step(&self) -> u64 {
        let layers: u64 = self.layers.iter().map(LayerWeights::bytes).sum();
        layers + self.final_norm.bytes() + self.head().bytes()
    }
}

impl LayerWeights {
    fn bytes(&self) -> u64 {
        let heads = [&self.q_norm, &self.k_norm].into_iter().flatten().map(|w| bytes_of(w)).sum::<u64>();
        let linears = [&self.qkv, &self.o, &self.up, &self.down].map(Linear::bytes).iter().sum::<u64>();
        heads + linears + self.attn_norm.bytes() + self.mlp_norm.bytes()
    }

    /// Elements of the matrices.
    fn elements(&self) -> u64 {
        [&self.qkv, &self.o, &self.up, &self.down].map(|l| (l.matrix.rows() * l.matrix.cols()) as u64).iter().sum()
    }
}

impl Linear {
    fn bytes(&self) -> u64 {
        self.matrix.bytes() + self.bias.as_deref().map_or(0, bytes_of)
    }
}

impl NormWeights {
    fn bytes(&self) -> u64 {
        bytes_of(&self.weight) + self.bias.as_deref().map_or(0, bytes_of)
    }
}

fn bytes_of(values: &[f32]) -> u64 {
    size_of_val(values) as u64
}

struct Reader<'a>(&'a Checkpoint);

impl Reader<'_> {
    fn model<E: Weight>(&self) -> Result<ModelWeights, BurnError> {
        let config = self.config();
        Ok(ModelWeights {
            embedding: self.linear::<E>(&[Role::TokenEmbedding], &[])?,
            positions: self.optional(Role::PositionEmbedding)?,
            layers: (0..config.layers).map(|layer| self.layer::<E>(layer)).collect::<Result<_, _>>()?,
            final_norm: self.norm(Role::FinalNorm, Role::FinalNormBias)?,
            head: (!config.tied_embeddings).then(|| self.linear::<E>(&[Role::LmHead], &[])).transpose()?,
        })
    }

    fn layer<E: Weight>(&self, layer: usize) -> Result<LayerWeights, BurnError> {
        use LayerRole as R;
        let at = |role| Role::Layer(layer, role);
        let linear = |roles: &[R], biases: &[R]| {
            let all = |roles: &[R]| roles.iter().map(|role| at(*role)).collect::<Vec<_>>();
            self.linear::<E>(&all(roles), &all(biases))
        };
        let up = match self.config().mlp {
            Mlp::Gated => linear(&[R::Gate, R::Up], &[R::GateBias, R::UpBias]),
            _ => linear(&[R::Up], &[R::UpBias]),
        };
        Ok(LayerWeights {
            attn_norm: self.norm(at(R::AttnNorm), at(R::AttnNormBias))?,
            qkv: linear(&[R::Q, R::K, R::V], &[R::QBias, R::KBias, R::VBias])?,
            q_norm: self.optional(at(R::QNorm))?,
            k_norm: self.optional(at(R::KNorm))?,
            o: linear(&[R::O], &[R::OBias])?,
            mlp_norm: self.norm(at(R::MlpNorm), at(R::MlpNormBias))?,
            up: up?,
            down: linear(&[R::Down], &[R::DownBias])?,
        })
    }

    /// The biases are all there or all absent: phase-model's configuration has one switch for those of a fused matrix.
    fn linear<E: Weight>(&self, roles: &[Role], biases: &[Role]) -> Result<Linear, BurnError> {
        let mut bias = Vec::new();
        for role in biases {
            bias.extend(self.optional(*role)?.unwrap_or_default());
        }
        Ok(Linear { matrix: self.matrix::<E>(roles)?, bias: (!bias.is_empty()).then_some(bias) })
    }

    fn matrix<E: Weight>(&self, roles: &[Role]) -> Result<Matrix, BurnError> {
        let weights = self.0.weights();
        let mut rows = 0;
        for role in roles {
            rows += weights.shape(*role)?[0];
        }
        let cols = weights.shape(roles[0])?[1];
        Matrix::load::<E>(rows, cols, |out| Ok(weights.read_joined(roles, out)?))
    }

    fn norm(&self, weight: Role, bias: Role) -> Result<NormWeights, BurnError> {
        Ok(NormWeights { weight: self.0.weights().to_vec(weight)?, bias: self.optional(bias)? })
    }

    fn optional(&self, role: Role) -> Result<Option<Vec<f32>>, BurnError> {
        Ok(self.has(role).then(|| self.0.weights().to_vec(role)).transpose()?)
    }

    fn has(&self, role: Role) -> bool {
        self.0.weights().has(role)
    }

    fn config(&self) -> &ModelConfig {
        self.0.config()
    }
}
