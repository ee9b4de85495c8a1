//! Random checkpoints of any size, for tests and for measuring shapes without downloading weights.
//!
//! The same shape, seed and dtype give the same bytes on every machine. Numbers are scaled so that activations and logits
//! stay of the order of one to ten through any number of layers; the text such a model writes means nothing.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::sync_channel,
    },
};

use half::{bf16, f16};
use phase_core::DType;
use rayon::prelude::*;
use serde_json::{Value, json};

use crate::{Architecture, ModelConfig, ModelError, config::from_hf, schema};

/// Dimensions of a random model.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Shape {
    /// The family, which decides structure and tensor names.
    pub architecture: Architecture,
    /// Rows of the token embedding.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub intermediate: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; equal to `heads` for GPT-2.
    pub kv_heads: usize,
    /// Elements per head; `hidden / heads` for GPT-2.
    pub head_dim: usize,
    /// Positions.
    pub max_context: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Llama 3's scaling: factor and original context.
    pub llama3_scaling: Option<(f64, usize)>,
    /// Positions a query sees, for Mistral.
    pub sliding_window: Option<usize>,
    /// Whether the output layer is the token embedding.
    pub tied_embeddings: bool,
    /// A new file is started when the next tensor would take the current one beyond this many bytes.
    pub shard_bytes: u64,
}

/// Names that [`Shape::named`] knows.
pub const NAMES: [&str; 8] =
    ["llama-3.1-8b", "llama-3.2-1b", "smollm2-135m", "tiny", "tiny-gpt2", "tiny-mistral", "tiny-qwen2", "tiny-qwen3"];

impl Shape {
    /// A model of some hundred thousand parameters: milliseconds per run, with every feature of its family.
    pub const fn tiny(architecture: Architecture) -> Self {
        let gpt2 = matches!(architecture, Architecture::Gpt2);
        Self {
            architecture,
            vocab: 512,
            hidden: 64,
            intermediate: 160,
            layers: 3,
            heads: 4,
            kv_heads: if gpt2 { 4 } else { 2 },
            head_dim: 16,
            max_context: 256,
            rope_theta: 10_000.0,
            llama3_scaling: None,
            sliding_window: if matches!(architecture, Architecture::Mistral) { Some(48) } else { None },
            tied_embeddings: !matches!(architecture, Architecture::Mistral | Architecture::Qwen3),
            shard_bytes: 5_000_000_000,
        }
    }

    /// `SmolLM2-135M`.
    pub const fn smollm2_135m() -> Self {
        Self {
            vocab: 49_152,
            hidden: 576,
            intermediate: 1536,
            layers: 30,
            heads: 9,
            kv_heads: 3,
            head_dim: 64,
            max_context: 8192,
            rope_theta: 100_000.0,
            ..Self::tiny(Architecture::Llama)
        }
    }

    /// Llama 3.2 1B.
    pub const fn llama_3_2_1b() -> Self {
        Self {
            vocab: 128_256,
            hidden: 2048,
            intermediate: 8192,
            layers: 16,
            heads: 32,
            kv_heads: 8,
            head_dim: 64,
            max_context: 131_072,
            rope_theta: 500_000.0,
            llama3_scaling: Some((32.0, 8192)),
            ..Self::tiny(Architecture::Llama)
        }
    }

    /// Llama 3.1 8B.
    pub const fn llama_3_1_8b() -> Self {
        Self {
            hidden: 4096,
            intermediate: 14_336,
            layers: 32,
            head_dim: 128,
            llama3_scaling: Some((8.0, 8192)),
            tied_embeddings: false,
            ..Self::llama_3_2_1b()
        }
    }

    /// A shape by its name; see [`NAMES`].
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "tiny" => Self::tiny(Architecture::Llama),
            "smollm2-135m" => Self::smollm2_135m(),
            "llama-3.2-1b" => Self::llama_3_2_1b(),
            "llama-3.1-8b" => Self::llama_3_1_8b(),
            other => Self::tiny(Architecture::from_name(other.strip_prefix("tiny-")?)?),
        })
    }

    /// The configuration that opening such a checkpoint gives.
    ///
    /// # Errors
    /// [`ModelError::Config`] when the shape contradicts itself.
    pub fn config(&self, dtype: DType) -> Result<ModelConfig, ModelError> {
        from_hf(Path::new("config.json"), &self.config_json(dtype), None, None)
    }

    fn config_json(&self, dtype: DType) -> Value {
        let dtype = match dtype {
            DType::F16 => "float16",
            DType::Bf16 => "bfloat16",
            _ => "float32",
        };
        let class = self.architecture.class();
        let model_type = self.architecture.as_str();
        if self.architecture == Architecture::Gpt2 {
            return json!({
                "architectures": [class], "model_type": model_type, "dtype": dtype,
                "vocab_size": self.vocab, "n_embd": self.hidden, "n_inner": self.intermediate,
                "n_layer": self.layers, "n_head": self.heads, "n_positions": self.max_context,
                "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
                "tie_word_embeddings": self.tied_embeddings,
            });
        }
        let scaling = self.llama3_scaling.map(|(factor, original)| {
            json!({
                "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": original,
            })
        });
        json!({
            "architectures": [class], "model_type": model_type, "dtype": dtype,
            "vocab_size": self.vocab, "hidden_size": self.hidden, "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads, "head_dim": self.head_dim,
            "max_position_embeddings": self.max_context, "rms_norm_eps": 1e-5, "hidden_act": "silu",
            "rope_theta": self.rope_theta, "rope_scaling": scaling, "sliding_window": self.sliding_window,
            "tie_word_embeddings": self.tied_embeddings,
        })
    }
}

/// Writes a Hugging Face folder of random weights. `dir` must not exist; it appears only when it is complete.
///
/// # Errors
/// [`ModelError::Io`]; [`ModelError::Config`] when the shape contradicts itself.
///
/// ```
/// # use phase_model::{Architecture, Checkpoint, ModelError, random};
/// # let dir = tempfile::tempdir().unwrap();
/// let path = dir.path().join("tiny-qwen3");
/// random::write(&path, &random::Shape::tiny(Architecture::Qwen3), 1, phase_core::DType::Bf16)?;
/// assert!(Checkpoint::open(&path)?.config().qk_norm);
/// # Ok::<(), ModelError>(())
/// ```
pub fn write(dir: &Path, shape: &Shape, seed: u64, dtype: DType) -> Result<(), ModelError> {
    write_with(dir, shape, seed, dtype, &mut |_, _, _| {})
}

/// As [`write()`]; `watch` is told how many bytes of weights are written, of how many in all, and which tensor is being made. The
/// first never decreases, the second never changes, and the last call has both equal.
///
/// # Errors
/// As [`write()`].
pub fn write_with(dir: &Path, shape: &Shape, seed: u64, dtype: DType, watch: &mut dyn FnMut(u64, u64, &str)) -> Result<(), ModelError> {
    if dir.exists() {
        let source = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
        return Err(ModelError::Io { action: "create", path: dir.to_owned(), source });
    }
    let json = shape.config_json(dtype);
    let config = shape.config(dtype)?;
    let unfinished = unfinished_name(dir);
    let _ = fs::remove_dir_all(&unfinished);
    fs::create_dir_all(&unfinished).map_err(ModelError::io("create", &unfinished))?;
    let mut told = Told { written: AtomicU64::new(0), total: 0, watch };
    let written = write_all(&unfinished, shape, &config, &json, seed, dtype, &mut told)
        .and_then(|()| fs::rename(&unfinished, dir).map_err(ModelError::io("create", dir)));
    if written.is_err() {
        let _ = fs::remove_dir_all(&unfinished);
    }
    written
}

fn unfinished_name(dir: &Path) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    dir.with_file_name(name)
}

/// One stored tensor: its name and shape, and the sizes its numbers are drawn with.
struct Plan {
    name: String,
    shape: Vec<usize>,
    mean: f32,
    deviation: f32,
}

/// Bytes of weights on their way, and who is told.
struct Told<'w> {
    written: AtomicU64,
    total: u64,
    watch: &'w mut dyn FnMut(u64, u64, &str),
}

impl Told<'_> {
    fn at(&mut self, tensor: &str) {
        (self.watch)(*self.written.get_mut(), self.total, tensor);
    }
}

fn write_all(
    dir: &Path,
    shape: &Shape,
    config: &ModelConfig,
    json: &Value,
    seed: u64,
    dtype: DType,
    told: &mut Told<'_>,
) -> Result<(), ModelError> {
    write_json(&dir.join("config.json"), json)?;
    let plans = plans(config);
    let bytes = |plan: &Plan| (plan.shape.iter().product::<usize>() * dtype.size_bytes()) as u64;
    told.total = plans.iter().map(bytes).sum();
    let mut shards: Vec<Vec<&Plan>> = vec![Vec::new()];
    let mut filled = 0;
    for plan in &plans {
        if filled > 0 && filled + bytes(plan) > shape.shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes(plan);
        shards.last_mut().expect("there is always one").push(plan);
    }
    let count = shards.len();
    let name = |index: usize| match count {
        1 => "model.safetensors".to_owned(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
    };
    for (index, shard) in shards.iter().enumerate() {
        write_shard(&dir.join(name(index)), shard, seed, dtype, told)?;
    }
    if count > 1 {
        let placed = shards.iter().enumerate().flat_map(|(i, shard)| shard.iter().map(move |p| (p.name.clone(), i)));
        let map: serde_json::Map<String, Value> = placed.map(|(tensor, i)| (tensor, name(i).into())).collect();
        write_json(&dir.join("model.safetensors.index.json"), &json!({"metadata": {"total_size": told.total}, "weight_map": map}))?;
    }
    Ok(())
}

/// The stored tensors, each once: GPT-2's queries, keys and values share one.
fn plans(config: &ModelConfig) -> Vec<Plan> {
    let mut plans: Vec<Plan> = Vec::new();
    for slot in schema::hugging_face(config, schema::full_prefix(config.architecture)) {
        if plans.iter().rev().take(6).any(|plan| plan.name == slot.name) {
            continue;
        }
        let is_bias = slot.name.ends_with(".bias");
        let (mean, deviation) = match slot.shape.as_slice() {
            [_] if is_bias => (0.0, 0.1),
            [_] => (1.0, 0.1),
            [_, width, ..] => (0.0, 1.0 / as_f32(*width).sqrt()),
            [] => (0.0, 0.0),
        };
        plans.push(Plan { name: slot.name, shape: slot.stored_shape, mean, deviation });
    }
    plans
}

fn write_shard(path: &Path, plans: &[&Plan], seed: u64, dtype: DType, told: &mut Told<'_>) -> Result<(), ModelError> {
    let io = |source| ModelError::Io { action: "write", path: path.to_owned(), source };
    let kind = match dtype {
        DType::F16 => "F16",
        DType::Bf16 => "BF16",
        _ => "F32",
    };
    let mut header = serde_json::Map::new();
    let mut at = 0;
    for plan in plans {
        let end = at + plan.shape.iter().product::<usize>() * dtype.size_bytes();
        header.insert(plan.name.clone(), json!({"dtype": kind, "shape": plan.shape, "data_offsets": [at, end]}));
        at = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = File::create(path).map_err(io)?;
    file.write_all(&(header.len() as u64).to_le_bytes()).map_err(io)?;
    file.write_all(&header).map_err(io)?;
    // Not synced: what a power cut takes can be made again, and waiting for the disk costs more than making it.
    write_tensors(&mut file, plans, seed, dtype, told).map_err(io)?;
    told.at(plans.last().map_or("", |plan| &plan.name));
    Ok(())
}

/// Makes the numbers on all cores while one thread writes those made before. Holds a few parts, whatever the size.
fn write_tensors(file: &mut File, plans: &[&Plan], seed: u64, dtype: DType, told: &mut Told<'_>) -> std::io::Result<()> {
    const PART: usize = 8 << 20;
    let (made, to_write) = sync_channel::<Vec<u8>>(2);
    let (written, to_fill) = sync_channel::<Vec<u8>>(4);
    let Told { written: so_far, total, watch } = told;
    let so_far = &*so_far;
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || {
            for part in to_write {
                file.write_all(&part)?;
                so_far.fetch_add(part.len() as u64, Ordering::Relaxed);
                // Nobody takes it back after the last part.
                let _ = written.send(part);
            }
            Ok(())
        });
        'parts: for plan in plans {
            let stream = stream_of(&plan.name, seed);
            let elements: usize = plan.shape.iter().product();
            for start in (0..elements).step_by(PART) {
                watch(so_far.load(Ordering::Relaxed), *total, &plan.name);
                let mut part = to_fill.try_recv().unwrap_or_default();
                part.resize(PART.min(elements - start) * dtype.size_bytes(), 0);
                match dtype {
                    DType::F16 => fill(&mut part, plan, stream, start, |x| f16::from_f32(x).to_le_bytes()),
                    DType::Bf16 => fill(&mut part, plan, stream, start, |x| bf16::from_f32(x).to_le_bytes()),
                    _ => fill(&mut part, plan, stream, start, f32::to_le_bytes),
                }
                if made.send(part).is_err() {
                    // The writer has given up, and says why.
                    break 'parts;
                }
            }
        }
        drop(made);
        writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Elements `start..` of a tensor, `N` bytes each.
fn fill<const N: usize>(part: &mut [u8], plan: &Plan, stream: u64, start: usize, store: impl Fn(f32) -> [u8; N] + Sync) {
    const TASK: usize = 1 << 14;
    part.par_chunks_mut(TASK * N).enumerate().for_each(|(task, bytes)| {
        let first = (start + task * TASK) as u64;
        for (index, bytes) in (first..).zip(bytes.as_chunks_mut::<N>().0) {
            *bytes = store(plan.mean + plan.deviation * normal(stream, index));
        }
    });
}

/// A tensor's own sequence, so that its numbers do not depend on which tensors came before.
fn stream_of(name: &str, seed: u64) -> u64 {
    let hash = blake3::Hasher::new().update(&seed.to_le_bytes()).update(name.as_bytes()).finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// Element `index` of a sequence of roughly normal numbers: mean 0, deviation 1, never beyond 3.5.
fn normal(stream: u64, index: u64) -> f32 {
    // SplitMix64's output function over a counter.
    let mut z = stream.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    // The sum of four uniform numbers is close to normal and exact in f32.
    let sum: u64 = (0..4).map(|i| (z >> (16 * i)) & 0xFFFF).sum();
    let centred = (sum as f64) - 2.0 * 65_535.0;
    round(centred * (3.0f64.sqrt() / 65_535.0))
}

fn write_json(path: &Path, value: &Value) -> Result<(), ModelError> {
    fs::write(path, format!("{value:#}\n")).map_err(ModelError::io("write", path))
}

#[expect(clippy::cast_possible_truncation, reason = "rounding is meant")]
fn round(x: f64) -> f32 {
    x as f32
}

fn as_f32(n: usize) -> f32 {
    round(n as f64)
}
