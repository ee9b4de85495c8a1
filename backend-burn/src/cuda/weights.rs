//! A checkpoint's weights in device memory, each copied once through pinned memory.

use cudarc::driver::CudaEvent;
use half::{bf16, f16};
use phase_core::DType;
use phase_kernels::cuda::{Region, classify};
use phase_model::{Element, LayerRole, Mlp, ModelConfig, Role, Values, Weights as Checkpoint, inverse_frequencies};
use rayon::prelude::*;

use super::device::{Buffer, Gpu, Pinned};
use crate::BurnError;

/// Every weight of a model. Matrices are in the chosen number format, vectors in f32.
#[derive(Debug)]
pub(super) struct Weights {
    /// `[vocab, hidden]`.
    pub(super) embedding: Region,
    /// `[max_context, hidden]`, for learned positions.
    pub(super) positions: Option<Region>,
    pub(super) layers: Vec<LayerWeights>,
    pub(super) final_norm: Norm,
    /// The embedding when they are tied.
    pub(super) head: Region,
    /// `[head_dim / 2]` f32, for a rotary embedding.
    pub(super) frequencies: Option<Region>,
    pub(super) work: Work,
    #[expect(dead_code, reason = "owns what the regions describe")]
    buffers: Vec<Buffer>,
}

/// What a decode step and a prompt's token cost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Work {
    pub(super) bytes_per_step: u64,
    pub(super) flops_per_token: u64,
}

#[derive(Debug)]
pub(super) struct LayerWeights {
    pub(super) attn_norm: Norm,
    /// Queries, keys and values, one below the other.
    pub(super) qkv: Linear,
    pub(super) q_norm: Option<Region>,
    pub(super) k_norm: Option<Region>,
    pub(super) o: Linear,
    pub(super) mlp_norm: Norm,
    /// Gate and up, one below the other; up alone in a plain feed-forward layer.
    pub(super) gate_up: Linear,
    pub(super) down: Linear,
}

/// What a norm multiplies by and adds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Norm {
    /// `[width]` f32.
    pub(super) gain: Region,
    /// `[width]` f32 of a layer norm; RMS norms have none.
    pub(super) shift: Option<Region>,
    pub(super) eps: f32,
}

/// `x · weightᵀ + bias`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Linear {
    /// `[n, k]`.
    pub(super) weight: Region,
    /// `[n]` f32.
    pub(super) bias: Option<Region>,
    pub(super) n: usize,
    pub(super) k: usize,
}

impl Weights {
    pub(super) fn load(config: &ModelConfig, checkpoint: &Checkpoint, dtype: DType, gpu: &Gpu) -> Result<Self, BurnError> {
        let mut loader = Loader { checkpoint, config, dtype, gpu, staging: Staging::new(gpu)?, buffers: Vec::new(), work: Work::default() };
        let embedding = loader.matrix(&[Role::TokenEmbedding])?.weight;
        let head = if config.tied_embeddings { embedding } else { loader.matrix(&[Role::LmHead])?.weight };
        loader.work.bytes_per_step += head.bytes() as u64;
        let positions = match loader.has(Role::PositionEmbedding) {
            true => Some(loader.matrix(&[Role::PositionEmbedding])?.weight),
            false => None,
        };
        let layers = (0..config.layers).map(|layer| LayerWeights::load(&mut loader, layer)).collect::<Result<_, _>>()?;
        let final_norm = loader.norm(Role::FinalNorm, Role::FinalNormBias)?;
        let frequencies = match config.rope() {
            Some(rope) => Some(loader.put("rotary frequencies", bytemuck::cast_slice(&inverse_frequencies(rope, config.head_dim)))?),
            None => None,
        };
        let Loader { buffers, work, .. } = loader;
        gpu.wait()?;
        Ok(Self { embedding, positions, layers, final_norm, head, frequencies, work, buffers })
    }
}

impl LayerWeights {
    fn load(loader: &mut Loader<'_>, index: usize) -> Result<Self, BurnError> {
        use LayerRole as R;
        let role = |role| Role::Layer(index, role);
        let gate_up = match loader.config.mlp {
            Mlp::Gated => loader.linear(&[(role(R::Gate), role(R::GateBias)), (role(R::Up), role(R::UpBias))])?,
            _ => loader.linear(&[(role(R::Up), role(R::UpBias))])?,
        };
        let qk_norm = loader.config.qk_norm;
        Ok(Self {
            attn_norm: loader.norm(role(R::AttnNorm), role(R::AttnNormBias))?,
            qkv: loader.linear(&[(role(R::Q), role(R::QBias)), (role(R::K), role(R::KBias)), (role(R::V), role(R::VBias))])?,
            q_norm: if qk_norm { Some(loader.vector(&[role(R::QNorm)])?) } else { None },
            k_norm: if qk_norm { Some(loader.vector(&[role(R::KNorm)])?) } else { None },
            o: loader.linear(&[(role(R::O), role(R::OBias))])?,
            mlp_norm: loader.norm(role(R::MlpNorm), role(R::MlpNormBias))?,
            gate_up,
            down: loader.linear(&[(role(R::Down), role(R::DownBias))])?,
        })
    }
}

struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    config: &'a ModelConfig,
    dtype: DType,
    gpu: &'a Gpu,
    staging: Staging,
    buffers: Vec<Buffer>,
    work: Work,
}

impl Loader<'_> {
    fn has(&self, role: Role) -> bool {
        self.checkpoint.has(role)
    }

    /// Matrices of one input, one below the other.
    fn matrix(&mut self, roles: &[Role]) -> Result<Linear, BurnError> {
        let mut n = 0;
        for role in roles {
            n += self.checkpoint.shape(*role)?[0];
        }
        let k = self.checkpoint.shape(roles[0])?[1];
        let element = self.dtype.size_bytes();
        let buffer = self.gpu.buffer("the weights", n * k * element)?;
        let weight = buffer.region();
        self.buffers.push(buffer);
        let mut at = 0;
        for role in roles {
            at += match self.dtype {
                DType::F32 => self.copy::<f32>(*role, weight, at)?,
                DType::F16 => self.copy::<f16>(*role, weight, at)?,
                DType::Bf16 => self.copy::<bf16>(*role, weight, at)?,
                other => return Err(BurnError::DType { dtype: other }),
            };
        }
        Ok(Linear { weight, bias: None, n, k })
    }

    /// Copies one tensor behind the first `at` bytes; gives its length in bytes.
    fn copy<E: Element + bytemuck::Pod>(&mut self, role: Role, to: Region, at: usize) -> Result<usize, BurnError> {
        let view = self.checkpoint.view(role)?;
        let same = matches!(
            (view.values(), self.dtype),
            (Values::F32(_), DType::F32) | (Values::F16(_), DType::F16) | (Values::Bf16(_), DType::Bf16)
        );
        let converted: Vec<E>;
        let bytes = if same {
            view.bytes()
        } else {
            converted = self.checkpoint.to_vec::<E>(role)?;
            bytemuck::cast_slice(&converted)
        };
        self.staging.copy(self.gpu, bytes, Region::new(to.address() + at as u64, to.bytes() - at))?;
        Ok(bytes.len())
    }

    /// Linear layers of one input, one below the other, each with its bias's role.
    fn linear(&mut self, parts: &[(Role, Role)]) -> Result<Linear, BurnError> {
        let (weights, biases): (Vec<_>, Vec<_>) = parts.iter().copied().unzip();
        let linear = self.matrix(&weights)?;
        self.work.flops_per_token += 2 * (linear.n * linear.k) as u64;
        self.work.bytes_per_step += linear.weight.bytes() as u64;
        let bias = if self.has(biases[0]) { Some(self.vector(&biases)?) } else { None };
        Ok(Linear { bias, ..linear })
    }

    #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is what the reference does")]
    fn norm(&mut self, weight: Role, bias: Role) -> Result<Norm, BurnError> {
        let shift = if self.has(bias) { Some(self.vector(&[bias])?) } else { None };
        Ok(Norm { gain: self.vector(&[weight])?, shift, eps: self.config.norm_eps as f32 })
    }

    /// Vectors in f32, one behind the other.
    fn vector(&mut self, roles: &[Role]) -> Result<Region, BurnError> {
        let mut elements = Vec::new();
        for role in roles {
            elements.extend(self.checkpoint.to_vec::<f32>(*role)?);
        }
        self.work.bytes_per_step += size_of_val(&elements[..]) as u64;
        self.put("the weights", bytemuck::cast_slice(&elements))
    }

    fn put(&mut self, what: &'static str, bytes: &[u8]) -> Result<Region, BurnError> {
        let buffer = self.gpu.buffer(what, bytes.len())?;
        let region = buffer.region();
        self.buffers.push(buffer);
        self.staging.copy(self.gpu, bytes, region)?;
        Ok(region)
    }
}

/// Two pieces of pinned memory: one is filled while the device copies from the other.
struct Staging {
    pieces: [(Pinned, CudaEvent); 2],
    turn: usize,
}

impl Staging {
    fn new(gpu: &Gpu) -> Result<Self, BurnError> {
        let piece = || Ok::<_, BurnError>((gpu.pinned(PIECE_BYTES)?, gpu.event()?));
        Ok(Self { pieces: [piece()?, piece()?], turn: 0 })
    }

    fn copy(&mut self, gpu: &Gpu, bytes: &[u8], to: Region) -> Result<(), BurnError> {
        let mut at = 0;
        for part in bytes.chunks(PIECE_BYTES) {
            let (pinned, free) = &mut self.pieces[self.turn];
            self.turn = 1 - self.turn;
            free.synchronize().map_err(classify("wait for a copy"))?;
            let staged = &mut pinned.bytes()?[..part.len()];
            // The first touch of a mapped file's pages is most of the work, so all threads take part.
            staged.par_chunks_mut(TASK_BYTES).zip(part.par_chunks(TASK_BYTES)).for_each(|(to, from)| to.copy_from_slice(from));
            gpu.upload(staged, Region::new(to.address() + at as u64, to.bytes() - at))?;
            gpu.record(free)?;
            at += part.len();
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        for (_, free) in &self.pieces {
            // The device may still be copying from it; where the context is lost, nothing is.
            let _ = free.synchronize();
        }
    }
}

const PIECE_BYTES: usize = 32 << 20;
const TASK_BYTES: usize = 1 << 20;
