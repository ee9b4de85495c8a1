//! What measures: `bench`, `ceilings`, `idle`.

use super::Checkpoint;
use clap::Args;
use phase_core::Mode;
use std::path::PathBuf;

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
    #[arg(short = 'r', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) repetitions: Option<u32>,
    /// Seed of the order of cells and of the prompts
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// What the devices can do at most, kept in the run for the roofline: measure (seconds; GPUs before the first load, the processor beside the blocks, in four times its last cache of memory), none, or files of `phase ceilings`
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
    /// End about so many seconds after the start, blocks included: windows become shorter, to 2 s; decode and prefill take
    /// turns, and what no time is left for says `budget` and the seconds it needs [default: as long as it takes]
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
