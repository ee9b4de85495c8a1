//! Policies: `policy`, `decide`, `check`.

use clap::{Args, Subcommand};
use phase_core::DType;
use std::path::PathBuf;

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "Example: phase policy runs/one runs/two -o policy.json")]
pub(crate) struct Policy {
    #[command(subcommand)]
    pub(crate) command: Option<PolicyCommand>,
    /// Run directories of one boundary; one that is called `show` is written `./show`
    #[arg(required = true)]
    pub(crate) runs: Vec<PathBuf>,
    /// The policy file to write
    #[arg(short, long, value_name = "FILE", required = true)]
    pub(crate) out: Option<PathBuf>,
    /// The backend for ties and for what was not measured [default: ort, the source document's hypothesis]
    #[arg(long, value_name = "BACKEND")]
    pub(crate) default_safe: Option<String>,
    /// A file of `phase idle`, measured under the boundary of the runs
    #[arg(long, value_name = "FILE")]
    pub(crate) idle: Option<PathBuf>,
    /// Differences below this share are ties
    #[arg(long, default_value_t = 0.02, value_name = "SHARE")]
    pub(crate) rope: f64,
    /// The mix that requests have, which live traffic is later held against: PROMPTxNEW:WEIGHT, separated by commas
    #[arg(long, value_name = "MIX")]
    pub(crate) mix: Option<String>,
    /// What a path's device was measured to do at most, in GB/s and GFLOP/s: faster calls are refused
    #[arg(long, value_name = "BACKEND=GBS[/GFLOPS]")]
    pub(crate) ceiling: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Say what a policy rests on and what it decides
    #[command(after_help = "Example: phase policy show policy.json")]
    Show {
        /// The policy file, of this version or an older one
        policy: PathBuf,
        /// Print the document, checked and brought to this version
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args, Debug)]
#[command(allow_negative_numbers = true)]
#[command(after_help = "Example: phase decide --policy policy.json --prompt-tokens 512 --new-tokens 64 --explain")]
pub(crate) struct Decide {
    /// The policy file
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: PathBuf,
    /// Sequences
    #[arg(long, default_value_t = 1)]
    pub(crate) batch: usize,
    /// Prompt tokens per sequence
    #[arg(long)]
    pub(crate) prompt_tokens: usize,
    /// New tokens per sequence
    #[arg(long)]
    pub(crate) new_tokens: usize,
    /// Say why
    #[arg(long)]
    pub(crate) explain: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
#[command(
    after_help = "Example: phase check --policy policy.json --model SmolLM2\nExit codes: 0 the policy holds, 10 reweight, 11 recheck, 12 energy invalid, 13 invalid"
)]
pub(crate) struct Check {
    /// The policy file
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: PathBuf,
    /// The checkpoint, to check its digest and what only loaded models tell; without it, machine and runtimes are checked
    #[arg(long, value_name = "PATH")]
    pub(crate) model: Option<PathBuf>,
    /// Number format of the weights: f32, f16 or bf16
    #[arg(long, default_value_t = DType::F32, value_name = "TYPE")]
    pub(crate) dtype: DType,
    /// Requests of late, as a trace, to be held against the mix that the policy was weighted with
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
    /// Run directories that the policy rests on, to read its evidence in their raw records again
    #[arg(long, value_name = "RUN")]
    pub(crate) evidence: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
