//! candle-transformers' own Llama (safetensors, or GGUF through `quantized_llama`), timed as `drivers/common.py` says.
//!
//! usage: candle-transformers-peer MODEL [-d f32|f16|bf16] [-p 128,512] [-n 64] [-D 128] [-r 3]
//! MODEL is a Hugging Face folder or a GGUF file. Threads: `RAYON_NUM_THREADS`.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use candle_core::quantized::gguf_file;
use candle_core::{DType, Device, IndexOp, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Config, Llama, LlamaConfig};
use candle_transformers::models::quantized_llama::ModelWeights;
use serde_json::json;

const SEED: [u32; 9] = [6403, 1980, 253, 655, 28, 665, 436, 253, 1838];
const CHECK: usize = 12;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

enum Model {
    Plain(Llama, Box<Config>, DType),
    Quantized(Box<ModelWeights>),
}

/// One sequence under way: the cache (the quantised model keeps its own), the length, the last token.
struct Sequence {
    cache: Option<Cache>,
    len: usize,
    token: u32,
}

impl Model {
    fn load(path: &str, dtype: DType) -> Result<Self> {
        if path.ends_with(".gguf") {
            let mut file = std::fs::File::open(path)?;
            let content = gguf_file::Content::read(&mut file)?;
            let weights = ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?;
            return Ok(Self::Quantized(Box::new(weights)));
        }
        let folder = Path::new(path);
        let config: LlamaConfig = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
        let config = config.into_config(false);
        // SAFETY: nothing writes to the checkpoint while this program runs.
        let vb = unsafe { VarBuilder::from_mmaped_safetensors(&[folder.join("model.safetensors")], dtype, &Device::Cpu)? };
        Ok(Self::Plain(Llama::load(vb, &config)?, Box::new(config), dtype))
    }

    fn forward(&mut self, ids: &[u32], sequence: &mut Sequence) -> Result<()> {
        let input = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
        let logits = match (self, &mut sequence.cache) {
            (Self::Plain(model, ..), Some(cache)) => model.forward(&input, sequence.len, cache)?,
            (Self::Quantized(model), _) => model.forward(&input, sequence.len)?,
            (Self::Plain(..), None) => unreachable!("a plain sequence has a cache"),
        };
        sequence.len += ids.len();
        sequence.token = logits.i(0)?.to_dtype(DType::F32)?.argmax(0)?.to_scalar()?;
        Ok(())
    }

    fn prefill(&mut self, ids: &[u32]) -> Result<Sequence> {
        let cache = match self {
            Self::Plain(_, config, dtype) => Some(Cache::new(true, *dtype, config, &Device::Cpu)?),
            Self::Quantized(_) => None,
        };
        let mut sequence = Sequence { cache, len: 0, token: 0 };
        self.forward(ids, &mut sequence)?;
        Ok(sequence)
    }

    fn decode(&mut self, sequence: &mut Sequence, n: usize) -> Result<Vec<u32>> {
        let mut ids = vec![sequence.token];
        for _ in 0..n {
            self.forward(&[sequence.token], sequence)?;
            ids.push(sequence.token);
        }
        Ok(ids)
    }
}

fn prompt(n: usize) -> Vec<u32> {
    SEED.iter().copied().cycle().take(n).collect()
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: MODEL [-d TYPE] [-p LENGTHS] [-n TOKENS] [-D DEPTH] [-r TIMES]")?;
    let (mut dtype, mut lengths, mut new, mut depth, mut times) = (DType::F32, vec![128, 512], 64, 128, 3);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{flag} wants a value"))?;
        match flag.as_str() {
            "-d" => {
                dtype = match value.as_str() {
                    "f32" => DType::F32,
                    "f16" => DType::F16,
                    "bf16" => DType::BF16,
                    other => return Err(format!("unknown type {other}").into()),
                }
            }
            "-p" => lengths = value.split(',').map(str::parse).collect::<std::result::Result<_, _>>()?,
            "-n" => new = value.parse()?,
            "-D" => depth = value.parse()?,
            "-r" => times = value.parse()?,
            other => return Err(format!("unknown flag {other}").into()),
        }
    }
    let mut model = Model::load(&path, dtype)?;
    println!("{}", json!({"runtime": "candle-transformers", "version": "0.11.1", "threads": candle_core::utils::get_num_threads()}));
    let mut sequence = model.prefill(&SEED)?;
    println!("{}", json!({"check": model.decode(&mut sequence, CHECK - 1)?}));

    // As in drivers/common.py: one run more than asked, the first thrown away.
    for length in lengths {
        let ids = prompt(length);
        let mut samples = Vec::new();
        for _ in 0..=times {
            let start = Instant::now();
            model.prefill(&ids)?;
            samples.push(length as f64 / start.elapsed().as_secs_f64());
        }
        println!("{}", json!({"kind": "pp", "n": length, "samples": samples[1..]}));
    }
    let mut samples = Vec::new();
    for _ in 0..=times {
        let mut sequence = model.prefill(&prompt(depth))?;
        let start = Instant::now();
        model.decode(&mut sequence, new)?;
        samples.push(new as f64 / start.elapsed().as_secs_f64());
    }
    println!("{}", json!({"kind": "tg", "n": new, "samples": samples[1..]}));
    Ok(())
}
