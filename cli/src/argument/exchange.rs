//! Runs of and for other tools: `export`, `import`, `serve-metrics`.

use clap::Args;
use std::path::PathBuf;

#[derive(Args, Debug)]
#[command(after_help = "Example: phase export runs/one --format parquet -o tables")]
pub(crate) struct Export {
    /// The run directory
    pub(crate) run: PathBuf,
    /// parquet, csv, openmetrics, llmd, llama-bench or llama-bench-sql
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: phase_export::Format,
    /// The file or, for parquet, csv and llmd, the folder to write; NAME.parquet and NAME.csv get the events alone
    #[arg(short, long, value_name = "FILE|DIR")]
    pub(crate) out: PathBuf,
}

#[derive(Args, Debug)]
#[command(after_help = "Example: phase import bench.json --format llama-bench -o foreign.json")]
pub(crate) struct Import {
    /// The other tool's file
    pub(crate) file: PathBuf,
    /// llama-bench (json, jsonl) or optimum-benchmark
    #[arg(long, value_name = "TOOL", value_parser = tool)]
    pub(crate) format: phase_export::Tool,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

fn tool(text: &str) -> Result<phase_export::Tool, String> {
    let all = phase_export::Tool::ALL;
    all.into_iter().find(|t| t.as_str() == text).ok_or_else(|| format!("one of {}", all.map(phase_export::Tool::as_str).join(", ")))
}

#[derive(Args, Debug)]
#[command(
    after_help = "Example: phase serve-metrics runs/one --policy policy.json\nThere is no encryption and no password: listen on a loopback address, or put a proxy before it."
)]
pub(crate) struct ServeMetrics {
    /// The run directory
    #[arg(required_unless_present = "policy")]
    pub(crate) run: Option<PathBuf>,
    /// A policy, held against this machine once a minute
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:9464", value_name = "ADDRESS")]
    pub(crate) listen: std::net::SocketAddr,
}
