//! The command line.

use clap::{Args, ColorChoice, Parser, Subcommand};
use phase_core::{DType, Mode};
use phase_policy::{
    Slo,
    cost::{Bounded, TierKind},
};
use std::{fmt, num::NonZeroUsize, path::PathBuf, str::FromStr};

/// Measure one checkpoint on several runtimes, phase by phase, and route requests by what was measured.
#[derive(Debug, Parser)]
#[command(name = "phase", version, max_term_width = 110, propagate_version = true)]
#[command(after_help = "Example: phase doctor")]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Args, Debug)]
pub(crate) struct Global {
    /// Where derived files (ONNX graphs, digests) are kept, and fetched ones are found [default: ~/.cache/phase]
    #[arg(long, global = true, env = "PHASE_CACHE", value_name = "DIR", hide_env_values = true)]
    pub(crate) cache: Option<PathBuf>,
    /// The ONNX Runtime library, 1.24 or newer [default: the newest that `cargo xtask fetch` left in the cache]
    #[arg(long, global = true, env = "PHASE_ORT_LIBRARY", value_name = "FILE", hide_env_values = true)]
    pub(crate) ort_library: Option<PathBuf>,
    /// The device that a bare backend name means: cpu, cuda or cuda:N
    #[arg(long, global = true, default_value_t = Device::Cpu, value_name = "DEVICE")]
    pub(crate) device: Device,
    /// Host threads a backend uses [default: one per core]
    #[arg(long, global = true, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Print the answer and what went wrong, nothing else
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Colours: auto, always or never; auto heeds the terminal, `NO_COLOR` and `CLICOLOR_FORCE`
    #[arg(long, global = true, default_value = "auto", value_name = "WHEN", hide_possible_values = true)]
    pub(crate) color: ColorChoice,
}

/// Where a bare backend name runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Device {
    Cpu,
    /// The CUDA device of this number.
    Cuda(u32),
}

impl Device {
    /// The last part of a path: `cpu`, `cuda`.
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda(_) => "cuda",
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cuda(n @ 1..) => write!(f, "cuda:{n}"),
            other => f.write_str(other.path()),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |n: &str| n.parse().map(Self::Cuda).ok();
        let device = match text.split_once(':') {
            Some(("cuda", n)) => number(n),
            None if text == "cuda" => Some(Self::Cuda(0)),
            None if text == "cpu" => Some(Self::Cpu),
            _ => None,
        };
        device.ok_or_else(|| "one of cpu, cuda, cuda:N".to_owned())
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say what is here: runtimes, devices, energy sources, and how to get what is missing
    Doctor(Doctor),
    /// Measure a checkpoint and write a run directory
    Bench(Bench),
    /// Measure what a device can do at most: reading memory and multiplying matrices
    Ceilings(Ceilings),
    /// One cold start, for `bench`
    #[command(hide = true)]
    Cold(Cold),
    /// Let loaded models stand idle and time the next call, for `policy --idle`
    Idle(Idle),
    /// Check a run directory: digests, and every cell recomputed from the raw events
    Validate(Validate),
    /// Show a run: decision card, matrix, gates
    Report(Report),
    /// Compare two runs, cell by cell
    Compare(Compare),
    /// Write a run for other tools: Parquet, CSV, OpenMetrics, llm-d, llama-bench
    #[cfg(feature = "export")]
    Export(Export),
    /// Read rows of another tool, to be shown beside a run and compared with nothing
    #[cfg(feature = "export")]
    Import(Import),
    /// Serve a run or a policy to Prometheus: GET /metrics
    #[cfg(feature = "export")]
    ServeMetrics(ServeMetrics),
    /// Follow one cell through a folder of runs
    History(History),
    /// Compile runs into a policy, or show one
    Policy(Policy),
    /// Ask a policy
    Decide(Decide),
    /// Attribute energy to phases, calibrate a sensor, watch the sources
    Energy(Energy),
    /// Hold a policy against this machine; the exit code is the severity of what changed
    Check(Check),
    /// The cost formulas alone: a rate and a price to seconds, dollars, energy and carbon a million tokens
    Cost(Cost),
    /// Workers and money for a load, by a policy and a price book
    Plan(Plan),
    /// Generate text, streamed, and print the phases' times
    Generate(Generate),
    /// Print the scores of the next token, for parity checks
    Logits(Logits),
    /// Make or look at checkpoints
    Model(Model),
    /// Print what makes a shell complete this program's commands and flags
    Completions(Completions),
    /// Write the manual, a page a command
    Man(Man),
}

#[derive(Args, Debug)]
pub(crate) struct Checkpoint {
    /// A Hugging Face folder or a GGUF file
    #[arg(long, env = "PHASE_MODEL", value_name = "PATH", hide_env_values = true)]
    pub(crate) model: PathBuf,
    /// Number format of the weights: f32, f16 or bf16
    #[arg(long, default_value_t = DType::F32, value_name = "TYPE")]
    pub(crate) dtype: DType,
}

#[derive(Args, Debug)]
#[command(after_help = "Example: phase doctor")]
pub(crate) struct Doctor {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "Example: phase bench --model SmolLM2 --out runs/one --watch")]
pub(crate) struct Bench {
    #[command(flatten)]
    pub(crate) checkpoint: Checkpoint,
    /// Backends, by bare name or path
    #[arg(long, value_delimiter = ',', default_value = "ort,candle,burn", value_name = "LIST")]
    pub(crate) backends: Vec<String>,
    /// Modes of the backends that have several: eager, compiled [default: all they have]
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub(crate) modes: Vec<Mode>,
    /// Scenario sets [default: S0,S1,S2,S3, or none when -p or -n is given]
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub(crate) scenarios: Vec<String>,
    /// Sizes of the sets: cpu or gpu [default: that of the device]
    #[arg(long, value_parser = ["cpu", "gpu"])]
    pub(crate) scale: Option<String>,
    /// How much replication: `short` for a first look, `full` for a policy
    #[arg(long, default_value = "full", value_parser = ["short", "full"])]
    pub(crate) effort: String,
    /// The run directory to write
    #[arg(long, value_name = "RUN", required_unless_present_any = ["dry_run", "prompt_tokens", "new_tokens"])]
    pub(crate) out: Option<PathBuf>,
    /// Go on with a run directory that was cut short
    #[arg(long, requires = "out")]
    pub(crate) resume: bool,
    /// Print the plan and its estimated time, measure nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Show a table meanwhile: samples and running median of every cell on every backend
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) watch: bool,
    /// Cells of your own: prompt lengths to prefill
    #[arg(short = 'p', long, value_delimiter = ',', value_name = "LIST")]
    pub(crate) prompt_tokens: Vec<usize>,
    /// Cells of your own: numbers of tokens to decode
    #[arg(short = 'n', long, value_delimiter = ',', value_name = "LIST")]
    pub(crate) new_tokens: Vec<usize>,
    /// Cells of your own: batch sizes
    #[arg(short = 'b', long, value_delimiter = ',', default_value = "1", value_name = "LIST")]
    pub(crate) batch: Vec<usize>,
    /// Cells of your own: positions cached before decoding
    #[arg(short = 'd', long, value_delimiter = ',', default_value = "128", value_name = "LIST")]
    pub(crate) depth: Vec<usize>,
    /// Replication blocks [default: the sets' own; 5 for cells of your own]
    #[arg(short = 'r', long, value_name = "N")]
    pub(crate) repetitions: Option<u32>,
    /// Seed of the order of cells and of the prompts
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// What the devices can do at most, kept in the run for the roofline: measure (seconds, before the first load), none, or files of `phase ceilings`
    #[arg(long, value_delimiter = ',', default_value = "measure", value_name = "LIST")]
    pub(crate) ceilings: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) energy: BenchEnergy,
    /// Print the cells as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct BenchEnergy {
    /// Measure energy too: every cell's call is replayed after the last block, 30 to 80 s a cell and backend
    #[arg(long)]
    pub(crate) energy: bool,
    /// What the sensors' readings mean: folders of `phase energy calibrate`, or files from there; without one no number is given
    #[arg(long, requires = "energy", value_delimiter = ',', value_name = "LIST")]
    pub(crate) energy_calibration: Vec<PathBuf>,
    /// The GPUs to read, by position or UUID [default: all; a backend's energy is that of the GPU it runs on]
    #[arg(long, requires = "energy", value_delimiter = ',', value_name = "LIST")]
    pub(crate) energy_device: Vec<String>,
    /// A samples file to read in place of sensors, from its beginning when the run begins: to try it out without any
    #[arg(long, requires = "energy", conflicts_with = "energy_device", value_name = "FILE")]
    pub(crate) energy_source: Option<PathBuf>,
    /// Replay until an interval's half-width is this share of its middle, or the sensor allows no better
    #[arg(long, requires = "energy", default_value_t = 0.05, value_name = "SHARE")]
    pub(crate) energy_accuracy: f64,
    /// Least length of a window of replays, in seconds
    #[arg(long, requires = "energy", default_value_t = 5.0, value_name = "S")]
    pub(crate) energy_window: f64,
    /// End about so many seconds after the start, blocks included: windows become shorter, to 2 s, and calls that no time is
    /// left for have no energy; the run is sealed all the same [default: as long as it takes]
    #[arg(long, requires = "energy", value_name = "S")]
    pub(crate) energy_budget: Option<f64>,
}

#[derive(Args, Debug)]
#[command(after_help = "Example: phase ceilings -o ceilings.json")]
pub(crate) struct Ceilings {
    /// The file to write, for `phase report --ceilings`; without it the rates are only printed
    #[arg(short, long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Blocks in which the measurements take turns
    #[arg(short = 'r', long, default_value_t = 7, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub(crate) repetitions: u32,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Cold {
    /// What to do, as JSON
    pub(crate) request: String,
}

#[derive(Args, Debug)]
#[command(after_help = "Example: phase idle --model SmolLM2 --backends ort -o idle.json")]
pub(crate) struct Idle {
    #[command(flatten)]
    pub(crate) checkpoint: Checkpoint,
    /// Backends, by bare name or path
    #[arg(long, value_delimiter = ',', default_value = "ort,candle,burn", value_name = "LIST")]
    pub(crate) backends: Vec<String>,
    /// Idle times: `short` up to 1 s, `full` up to 60 s
    #[arg(long, default_value = "short", value_parser = ["short", "full"])]
    pub(crate) effort: String,
    /// Prompt tokens; decode steps are timed right after them
    #[arg(short = 'p', long, default_value_t = 32, value_name = "N")]
    pub(crate) prompt_tokens: usize,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

#[derive(Args, Debug)]
#[command(after_help = "Example: phase validate runs/one")]
pub(crate) struct Validate {
    /// The run directory
    pub(crate) run: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "Example: phase report runs/one --html report.html")]
pub(crate) struct Report {
    /// The run directory, or a policy file
    pub(crate) source: PathBuf,
    /// Write one self-contained page
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// The decision card only, for a terminal of 80 columns
    #[arg(long, conflicts_with = "json")]
    pub(crate) card: bool,
    /// Files that `phase import` wrote, shown in tables of their own
    #[cfg(feature = "export")]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["card", "json", "html"])]
    pub(crate) foreign: Vec<PathBuf>,
    /// Print JSON instead of Markdown
    #[arg(long)]
    pub(crate) json: bool,
    /// The backend for ties and doubts [default: the reference of the agreement check]
    #[arg(long, value_name = "BACKEND")]
    pub(crate) default_safe: Option<String>,
    /// A price book for the cost table
    #[arg(long, value_name = "BOOK")]
    pub(crate) prices: Option<PathBuf>,
    /// Files of `phase ceilings` for the roofline, in place of the run's own; a row above them voids the report and ends with code 1
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub(crate) ceilings: Vec<PathBuf>,
}

#[cfg(feature = "export")]
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

#[cfg(feature = "export")]
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

#[cfg(feature = "export")]
fn tool(text: &str) -> Result<phase_export::Tool, String> {
    let all = phase_export::Tool::ALL;
    all.into_iter().find(|t| t.as_str() == text).ok_or_else(|| format!("one of {}", all.map(phase_export::Tool::as_str).join(", ")))
}

#[cfg(feature = "export")]
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

#[derive(Args, Debug)]
#[command(after_help = "Example: phase compare runs/one runs/two --threshold 0.05")]
pub(crate) struct Compare {
    /// The run to compare with
    pub(crate) base: PathBuf,
    /// The run in question
    pub(crate) run: PathBuf,
    /// Differences below this share are equivalent [default: the policy's region of equivalence, 0.02]
    #[arg(long, value_name = "SHARE")]
    pub(crate) threshold: Option<f64>,
    /// Compare across boundaries all the same; the result says so
    #[arg(long)]
    pub(crate) foreign: bool,
    /// Write one self-contained page
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "Example: phase history runs --html history.html")]
pub(crate) struct History {
    /// A folder of run directories
    pub(crate) dir: PathBuf,
    /// The cell, by its id or the beginning of it [default: the steady cell that most runs have]
    #[arg(long, value_name = "ID")]
    pub(crate) cell: Option<String>,
    /// Write one self-contained page
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

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
#[command(after_help = "Example: phase energy watch --seconds 10")]
pub(crate) struct Energy {
    #[command(subcommand)]
    pub(crate) command: EnergyCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EnergyCommand {
    /// Attribute recorded readings to phases: an interval that holds the energy, or none with a reason
    Attribute(Attribute),
    /// Find out what the sensors of a GPU do, by giving it a known load; takes about four minutes
    Calibrate(Calibrate),
    /// Show power, updates and gaps of every source, once a second
    Watch(Watch),
}

#[derive(Args, Debug)]
#[command(after_help = "Example: phase energy attribute --events e.jsonl --samples s.jsonl --calibration c.json")]
pub(crate) struct Attribute {
    /// Phases, one JSON object a line: `event`, `phase`, `start_ns`, `end_ns`
    #[arg(long, value_name = "EVENTS")]
    pub(crate) events: PathBuf,
    /// Readings: a header with `schema`, `kind`, `unit` and `device`, then `t_ns` and `value` a line
    #[arg(long, value_name = "SAMPLES")]
    pub(crate) samples: PathBuf,
    /// The sensor, a JSON object: `kind`, `update_ns`, `window_ns`, `lag_ns`, `min_w`, `max_w`
    #[arg(long, value_name = "CAL")]
    pub(crate) calibration: PathBuf,
    /// Print one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "Example: phase energy calibrate --load-command \"python3 load_torch.py\" -o calibration")]
pub(crate) struct Calibrate {
    /// The program that makes the GPU busy, with its arguments; `energy/tools/load_torch.py` is one
    #[arg(long, value_name = "COMMAND", required_unless_present = "from")]
    pub(crate) load_command: Option<String>,
    /// Judge again what an earlier calibration wrote, without a GPU
    #[arg(long, value_name = "DIR", conflicts_with = "load_command")]
    pub(crate) from: Option<PathBuf>,
    /// The folder to write: calibrations, readings, steps, report, pictures
    #[arg(short, long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// The GPU, by position or UUID
    #[arg(long, default_value = "0", value_name = "GPU")]
    pub(crate) gpu: String,
    /// Leave out what a calibration can do without: power levels, and load periods that no sensor has
    #[arg(long)]
    pub(crate) short: bool,
    /// Time between polls in milliseconds
    #[arg(long, default_value_t = 5, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) period_ms: u64,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "Example: phase energy watch --seconds 10")]
pub(crate) struct Watch {
    /// End after so many seconds [default: when interrupted]
    #[arg(long, value_name = "N")]
    pub(crate) seconds: Option<u64>,
    /// Time between polls in milliseconds
    #[arg(long, default_value_t = 10, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) period_ms: u64,
    /// A folder to keep the readings in, as samples files
    #[arg(short, long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Print one JSON object a source and second
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

#[derive(Args, Debug)]
#[command(after_help = "Example: phase cost --tokens-per-s 900,850,950 --usd-per-hour 2.5")]
pub(crate) struct Cost {
    /// Tokens a second of one worker, with a lower and an upper bound where they are known
    #[arg(long, value_name = "X[,LOW,HIGH]", value_parser = rate)]
    pub(crate) tokens_per_s: Bounded,
    /// Price of an hour of it
    #[arg(long, value_name = "Y[,LOW,HIGH]", value_parser = bounded)]
    pub(crate) usd_per_hour: Bounded,
    /// Power it draws while it works
    #[arg(long, value_name = "W[,LOW,HIGH]", value_parser = bounded)]
    pub(crate) watts: Option<Bounded>,
    /// Price of electricity; it is added to the price of the hour
    #[arg(long, value_name = "P", requires = "watts", value_parser = positive)]
    pub(crate) usd_per_kwh: Option<f64>,
    /// Carbon intensity of electricity, in grams of CO2 equivalent
    #[arg(long, value_name = "G", requires = "watts", value_parser = positive)]
    pub(crate) g_per_kwh: Option<f64>,
    /// Tokens asked for in a month of 30 days
    #[arg(long, value_name = "M", value_parser = positive)]
    pub(crate) tokens_per_month: Option<f64>,
    /// Load of the busy time over the mean load
    #[arg(long, value_name = "B", requires = "tokens_per_month", value_parser = at_least_one)]
    pub(crate) burst: Option<f64>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A number, or a number with its bounds.
fn bounded(text: &str) -> Result<Bounded, String> {
    let numbers = text.split(',').map(|n| n.trim().parse::<f64>().map_err(|e| format!("`{n}`: {e}"))).collect::<Result<Vec<_>, _>>()?;
    match numbers[..] {
        [value] => Bounded::exact(value),
        [value, low, high] => Bounded::new(value, low, high),
        _ => return Err("one number, or three: the value, its lower and its upper bound".to_owned()),
    }
    .map_err(|e| e.to_string())
}

fn rate(text: &str) -> Result<Bounded, String> {
    bounded(text).and_then(|v| if v.low() > 0.0 { Ok(v) } else { Err("a rate must be above 0, its lower bound too".to_owned()) })
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(v) if v.is_finite() && v >= 0.0 => Ok(v),
        Ok(_) => Err("it must be 0 or more".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}

fn at_least_one(text: &str) -> Result<f64, String> {
    positive(text).and_then(|v| if v >= 1.0 { Ok(v) } else { Err("it must be 1 or more".to_owned()) })
}

#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("load").required(true).args(["trace", "mix"]))]
#[command(after_help = "Example: phase plan --policy policy.json --mix 512x64:1 --requests-per-s 5 --prices prices.json")]
pub(crate) struct Plan {
    /// The policy file
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: PathBuf,
    /// Requests as they came: CSV with `arrival_s,prompt_tokens,new_tokens`, or the columns of `BurstGPT` or of Azure's traces
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
    /// Requests by share: PROMPTxNEW:WEIGHT,... or BATCHxPROMPTxNEW:WEIGHT,...
    #[arg(long, value_name = "MIX", requires = "requests_per_s")]
    pub(crate) mix: Option<String>,
    /// Mean rate of the mix
    #[arg(long, value_name = "R", conflicts_with = "trace")]
    pub(crate) requests_per_s: Option<f64>,
    /// Load of the busy time over the mean load of the mix
    #[arg(long, value_name = "B", default_value_t = 1.0, conflicts_with = "trace")]
    pub(crate) burst: f64,
    /// Variability of the mix's arrivals: 1 for Poisson, 4 to 9 for bursts
    #[arg(long, value_name = "V", default_value_t = 1.0, conflicts_with = "trace")]
    pub(crate) ca2: f64,
    /// Limits, by upper bounds: ttft=500ms,tpot=60ms,total=10s and p50, p95 or p99
    #[arg(long, value_name = "LIMITS", default_value = "p50")]
    pub(crate) slo: Slo,
    /// The price book
    #[arg(long, value_name = "FILE")]
    pub(crate) prices: PathBuf,
    /// Refuse a price book older than this
    #[arg(long, value_name = "DAYS")]
    pub(crate) max_price_age: Option<i64>,
    /// Tiers to price: `on_demand`, `spot`, `reserved_1y`, `reserved_3y`, `own` [default: all that each machine has]
    #[arg(long, value_delimiter = ',', value_name = "LIST", value_parser = tier)]
    pub(crate) tiers: Vec<TierKind>,
    /// Share of requests that may lie outside of what was measured; they are left out of every number
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub(crate) may_leave_out: f64,
    /// Write cost against load as an SVG picture
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

fn tier(text: &str) -> Result<TierKind, String> {
    let known = || TierKind::ALL.map(TierKind::as_str).join(", ");
    TierKind::ALL.into_iter().find(|t| t.as_str() == text).ok_or_else(|| format!("one of {}", known()))
}

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

#[derive(Args, Debug)]
#[command(after_help = "Example: phase completions bash > ~/.local/share/bash-completion/completions/phase")]
pub(crate) struct Completions {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Args, Debug)]
#[command(after_help = "Example: phase man --out ~/.local/share/man/man1")]
pub(crate) struct Man {
    /// The folder to write, made if it is missing
    #[arg(short, long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn every_example_can_be_meant() {
        let mut program = Arguments::command();
        program.clone().debug_assert();
        program.build();
        let mut open: Vec<_> = program.get_subcommands().collect();
        let mut seen = 0;
        while let Some(command) = open.pop() {
            open.extend(command.get_subcommands().filter(|c| c.get_name() != "help"));
            let Some(help) = command.get_after_help() else { continue };
            let line = help.to_string().lines().next().unwrap().strip_prefix("Example: ").unwrap().to_owned();
            // Words as a shell makes them: quotes hold together, the rest is no argument from `>` on.
            let parts = line.split('"').enumerate().flat_map(|(n, part)| match n % 2 {
                0 => part.split_whitespace().map(str::to_owned).collect(),
                _ => vec![part.to_owned()],
            });
            let words: Vec<_> = parts.take_while(|word| word != ">").collect();
            Arguments::try_parse_from(&words).unwrap_or_else(|e| panic!("{line}: {e}"));
            seen += 1;
        }
        assert!(seen > 20, "the examples were not found");
    }
}
