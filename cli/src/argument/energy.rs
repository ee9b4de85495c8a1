//! `phase energy`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

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
    #[arg(long, default_value_t = 20, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) period_ms: u64,
    /// A folder to keep the readings in, as samples files
    #[arg(short, long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Print one JSON object a source and second
    #[arg(long)]
    pub(crate) json: bool,
}
