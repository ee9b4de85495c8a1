//! What runs or makes a checkpoint: `generate`, `logits`, `model`.

use super::Checkpoint;
use clap::{Args, Subcommand};
use phase_core::DType;
use std::path::PathBuf;

#[derive(Args, Debug)]
#[command(after_help = "Example: phase generate --model SmolLM2 --backend candle \"Once upon a time\"")]
pub(crate) struct Generate {
    #[command(flatten)]
    pub(crate) checkpoint: Checkpoint,
    /// ort, candle or burn; or auto, which asks the policy
    #[arg(long, default_value = "ort")]
    pub(crate) backend: String,
    /// The policy that `--backend auto` asks
    #[arg(long, value_name = "FILE", required_if_eq("backend", "auto"))]
    pub(crate) policy: Option<PathBuf>,
    /// Put the prompt into the model's chat template
    #[arg(long)]
    pub(crate) chat: bool,
    /// Most tokens to generate
    #[arg(long, default_value_t = 128, value_name = "N")]
    pub(crate) max_tokens: usize,
    /// Sampling temperature; greedy when absent
    #[arg(long, value_name = "T")]
    pub(crate) temperature: Option<f32>,
    /// Nucleus of the sampling
    #[arg(long, default_value_t = 0.95, requires = "temperature", value_name = "P")]
    pub(crate) top_p: f32,
    /// Seed of the sampling
    #[arg(long, default_value_t = 1, requires = "temperature")]
    pub(crate) seed: u64,
    /// Print one JSON object at the end instead of streaming
    #[arg(long)]
    pub(crate) json: bool,
    /// The prompt
    pub(crate) prompt: String,
}

#[derive(Args, Debug)]
#[command(after_help = "Example: phase logits --model SmolLM2 --backend ort --tokens 1,2,3 --json")]
pub(crate) struct Logits {
    #[command(flatten)]
    pub(crate) checkpoint: Checkpoint,
    /// ort, candle or burn
    #[arg(long)]
    pub(crate) backend: String,
    /// Token ids to prefill
    #[arg(long, value_delimiter = ',', required = true, value_name = "LIST")]
    pub(crate) tokens: Vec<u32>,
    /// Token ids to decode after them, one at a time
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub(crate) then: Vec<u32>,
    /// Print every score as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "Example: phase model info model")]
pub(crate) struct Model {
    #[command(subcommand)]
    pub(crate) command: ModelCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Write a checkpoint of random weights: as slow as a trained one, and as large
    #[command(after_help = "Example: phase model random --shape tiny -o model")]
    Random {
        /// tiny, tiny-gpt2, tiny-qwen2, tiny-qwen3, tiny-mistral, smollm2-135m, llama-3.2-1b, llama-3.1-8b
        #[arg(long)]
        shape: String,
        /// Seed of the weights
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Number format of the weights
        #[arg(long, default_value_t = DType::F32, value_name = "TYPE")]
        dtype: DType,
        /// The folder to make
        #[arg(short, long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Say what a checkpoint is, or why it can't be used
    #[command(after_help = "Example: phase model info model")]
    Info {
        /// A Hugging Face folder or a GGUF file
        path: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}
