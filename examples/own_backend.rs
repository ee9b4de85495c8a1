//! A backend of your own: a plain Rust decoder for Llama-family checkpoints, slow and readable.
//!
//! It runs the conformance kit on itself and then compares its scores with candle's.
//!
//! `cargo run --release -p phase-examples --example own_backend`

use phase_core::{
    Backend, BackendId, CacheSpec, CallError, Capabilities, DType, Decode, ErrorKind, Evidence, KvCache, Layer, LoadSpec, Logits, Model,
    ModelInfo, PhaseError, PhaseTypes, Prefill, PromptBatch, StackInfo, TokenId, check_step, conformance,
};
use phase_model::{Architecture, Checkpoint, LayerRole, ModelConfig, ModelError, Role, RopeTables, random, rope_tables};

// --- What fails: one enum, each variant with its kind. ---------------------------------------------------------------

#[derive(Debug, thiserror::Error)]
enum PlainError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Checkpoint(#[from] ModelError),
    #[error("plain runs Llama-family checkpoints in f32, this is {0}")]
    Unsupported(String),
}

impl PhaseError for PlainError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Call(e) => e.kind(),
            Self::Checkpoint(e) => e.kind(),
            Self::Unsupported(_) => ErrorKind::Unsupported,
        }
    }
}

// --- The backend: says who it is and loads models. -------------------------------------------------------------------

#[derive(Debug, Default)]
struct Plain;

impl Backend for Plain {
    type Model = PlainModel;
    type Error = PlainError;

    fn id(&self) -> BackendId {
        BackendId::new("plain-cpu")
    }

    fn probe(&self) -> Result<StackInfo, PlainError> {
        Ok(StackInfo::new().with(Layer::Runtime, "backend", "plain-cpu").with(Layer::Runtime, "library", "plain Rust loops"))
    }

    fn load(&self, spec: &LoadSpec) -> Result<PlainModel, PlainError> {
        spec.check()?;
        let checkpoint = Checkpoint::of(spec)?;
        let config = checkpoint.config().clone();
        let plain =
            config.architecture == Architecture::Llama && !config.biases.qkv && !config.biases.attention_output && !config.biases.mlp;
        if !plain || spec.dtype != DType::F32 {
            return Err(PlainError::Unsupported(format!("{:?} in {}", config.architecture, spec.dtype)));
        }
        let read = |role| checkpoint.weights().to_vec::<f32>(role);
        let layers = (0..config.layers)
            .map(|i| {
                let of = |role| read(Role::Layer(i, role));
                Ok(Block {
                    attn_norm: of(LayerRole::AttnNorm)?,
                    q: of(LayerRole::Q)?,
                    k: of(LayerRole::K)?,
                    v: of(LayerRole::V)?,
                    o: of(LayerRole::O)?,
                    mlp_norm: of(LayerRole::MlpNorm)?,
                    gate: of(LayerRole::Gate)?,
                    up: of(LayerRole::Up)?,
                    down: of(LayerRole::Down)?,
                })
            })
            .collect::<Result<_, ModelError>>()?;
        let stack = self
            .probe()?
            .with(Layer::Model, "digest", checkpoint.digest()?.to_string())
            .with(Layer::Model, "architecture", format!("{:?}", config.architecture))
            .with(Layer::Model, "dtype", "f32");
        Ok(PlainModel {
            info: ModelInfo::new(self.id(), config.vocab, config.max_context, DType::F32).with_stack(stack),
            capabilities: Capabilities::new(spec.max_batch, config.max_context).with_chunked_prefill(),
            embedding: read(Role::TokenEmbedding)?,
            final_norm: read(Role::FinalNorm)?,
            head: read(Role::LmHead)?,
            rope: rope_tables(&config, 0..config.max_context)?.ok_or_else(|| PlainError::Unsupported("a model without rope".to_owned()))?,
            layers,
            config,
            products: 0,
        })
    }
}

// --- The model: weights, both phases, allocation, evidence. ----------------------------------------------------------

#[derive(Debug)]
struct Block {
    attn_norm: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    o: Vec<f32>,
    mlp_norm: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    down: Vec<f32>,
}

#[derive(Debug)]
struct PlainModel {
    info: ModelInfo,
    capabilities: Capabilities,
    config: ModelConfig,
    embedding: Vec<f32>,
    layers: Vec<Block>,
    final_norm: Vec<f32>,
    head: Vec<f32>,
    rope: RopeTables,
    products: u64,
}

/// Keys and values by row, layer and position: `kv_heads x head_dim` values each.
#[derive(Debug)]
struct PlainCache {
    keys: Vec<Vec<Vec<f32>>>,
    values: Vec<Vec<Vec<f32>>>,
    width: usize,
    len: usize,
    capacity: usize,
}

impl KvCache for PlainCache {
    fn batch(&self) -> usize {
        self.keys.len()
    }

    fn len(&self) -> usize {
        self.len
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        for layer in self.keys.iter_mut().chain(&mut self.values).flatten() {
            layer.truncate(self.len * self.width);
        }
    }
}

impl PhaseTypes for PlainModel {
    type Cache = PlainCache;
    type Error = PlainError;
}

impl Prefill for PlainModel {
    fn prefill(&mut self, cache: &mut PlainCache, prompt: PromptBatch<'_>, out: &mut Logits) -> Result<(), PlainError> {
        prompt.check(cache, self.config.vocab)?;
        let scores = out.reset(prompt.batch(), self.config.vocab);
        for ((row, tokens), scores) in prompt.rows().enumerate().zip(scores.chunks_exact_mut(self.config.vocab)) {
            let mut hidden = Vec::new();
            for (i, token) in tokens.iter().enumerate() {
                hidden = self.position(cache, row, cache.len + i, *token);
            }
            let normed = rms_norm(&hidden, &self.final_norm, self.config.norm_eps);
            scores.copy_from_slice(&self.product(&self.head, &normed));
        }
        cache.len += prompt.len();
        self.products += 7 * self.config.layers as u64 + 1;
        Ok(())
    }
}

impl Decode for PlainModel {
    fn decode(&mut self, cache: &mut PlainCache, tokens: &[TokenId], out: &mut Logits) -> Result<(), PlainError> {
        check_step(tokens, cache, self.config.vocab)?;
        self.prefill(cache, PromptBatch::new(tokens, tokens.len())?, out)
    }
}

impl Model for PlainModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn allocate(&mut self, spec: CacheSpec) -> Result<PlainCache, PlainError> {
        let CacheSpec { batch, capacity } = spec.check(&self.capabilities)?;
        let empty = vec![vec![Vec::new(); self.config.layers]; batch];
        Ok(PlainCache { keys: empty.clone(), values: empty, width: self.config.kv_dim(), len: 0, capacity })
    }

    fn evidence(&mut self) -> Result<Evidence, PlainError> {
        Ok(Evidence::new("call counter").with_placement("host", self.products).with_kernel("dot product"))
    }
}

impl PlainModel {
    /// One token through all layers; its keys and values are appended to the cache.
    fn position(&self, cache: &mut PlainCache, row: usize, position: usize, token: TokenId) -> Vec<f32> {
        let ModelConfig { hidden, norm_eps, heads, head_dim, .. } = self.config;
        let at = token.0 as usize * hidden;
        let mut x = self.embedding[at..at + hidden].to_vec();
        for (i, layer) in self.layers.iter().enumerate() {
            let normed = rms_norm(&x, &layer.attn_norm, norm_eps);
            let mut q = self.product(&layer.q, &normed);
            let mut k = self.product(&layer.k, &normed);
            self.rotate(&mut q, position);
            self.rotate(&mut k, position);
            cache.keys[row][i].extend(k);
            cache.values[row][i].extend(self.product(&layer.v, &normed));
            let (keys, values) = (&cache.keys[row][i], &cache.values[row][i]);
            let attended: Vec<f32> =
                (0..heads).flat_map(|h| self.attend(&q[h * head_dim..][..head_dim], keys, values, h / self.config.group())).collect();
            add(&mut x, &self.product(&layer.o, &attended));
            let normed = rms_norm(&x, &layer.mlp_norm, norm_eps);
            let mut gate = self.product(&layer.gate, &normed);
            for (g, u) in gate.iter_mut().zip(self.product(&layer.up, &normed)) {
                *g = *g / (1.0 + (-*g).exp()) * u;
            }
            add(&mut x, &self.product(&layer.down, &gate));
        }
        x
    }

    /// `weight x input`, with `weight` row-major `[out, in]`.
    fn product(&self, weight: &[f32], input: &[f32]) -> Vec<f32> {
        weight.chunks_exact(input.len()).map(|row| dot(row, input)).collect()
    }

    fn rotate(&self, heads: &mut [f32], position: usize) {
        let half = self.rope.half;
        let (cos, sin) = (&self.rope.cos[position * half..][..half], &self.rope.sin[position * half..][..half]);
        for head in heads.chunks_exact_mut(2 * half) {
            let (a, b) = head.split_at_mut(half);
            for i in 0..half {
                (a[i], b[i]) = (a[i] * cos[i] - b[i] * sin[i], b[i] * cos[i] + a[i] * sin[i]);
            }
        }
    }

    /// Softmax attention of one query over every cached position of key-value head `head`.
    fn attend(&self, q: &[f32], keys: &[f32], values: &[f32], head: usize) -> Vec<f32> {
        let (width, dim) = (self.config.kv_dim(), self.config.head_dim);
        let of = |all: &[f32], position: usize| position * width + head * dim..(position * width + head * dim + dim).min(all.len());
        let mut weights: Vec<f32> = (0..keys.len() / width).map(|p| dot(q, &keys[of(keys, p)]) * self.config.attention_scale()).collect();
        let top = weights.iter().fold(f32::NEG_INFINITY, |m, w| m.max(*w));
        weights.iter_mut().for_each(|w| *w = (*w - top).exp());
        let total: f32 = weights.iter().sum();
        let mut out = vec![0.0; dim];
        for (p, w) in weights.iter().enumerate() {
            out.iter_mut().zip(&values[of(values, p)]).for_each(|(o, v)| *o += w / total * v);
        }
        out
    }
}

fn rms_norm(x: &[f32], weight: &[f32], eps: f64) -> Vec<f32> {
    let scale = 1.0 / (dot(x, x) / x.len() as f32 + eps as f32).sqrt();
    x.iter().zip(weight).map(|(v, w)| v * scale * w).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(a, b)| *a += b);
}

// --- Proof: the conformance kit, and agreement with candle. ----------------------------------------------------------

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::temp_dir().join(format!("phase-own-backend-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    random::write(&folder, &random::Shape::tiny(Architecture::Llama), 7, DType::F32)?;
    let spec = LoadSpec::new(&folder);
    let load = || Plain.load(&spec).expect("the checkpoint just written");
    conformance::phase_split_is_invisible(load);
    conformance::chunking_is_invisible(load);
    conformance::rows_are_independent(load);
    conformance::overflow_leaves_the_cache_usable(load);
    conformance::bad_input_is_a_kind(load);
    conformance::truncating_forgets(load);
    println!("plain-cpu passes the conformance checks");

    let prompt: Vec<TokenId> = (1..20).map(TokenId).collect();
    let plain = scores(&mut load(), &prompt)?;
    let candle = scores(&mut phase_backend_candle::Candle::cpu().load(&spec)?, &prompt)?;
    let worst = plain.as_slice().iter().zip(candle.as_slice()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("largest difference to candle-cpu over {} scores: {worst:.2e}", plain.vocab());
    std::fs::remove_dir_all(&folder)?;
    if worst > 1e-3 {
        return Err(format!("plain-cpu and candle-cpu disagree by {worst}").into());
    }
    Ok(())
}

fn scores<M: Model>(model: &mut M, prompt: &[TokenId]) -> Result<Logits, Box<dyn std::error::Error>>
where
    M::Error: 'static,
{
    let mut cache = model.allocate(CacheSpec { batch: 1, capacity: prompt.len() })?;
    let mut out = Logits::new();
    model.prefill(&mut cache, PromptBatch::single(prompt)?, &mut out)?;
    Ok(out)
}
