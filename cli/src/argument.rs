//! The command line: what all commands share; each group of commands has a module.

mod about;
mod energy;
#[cfg(feature = "export")]
mod exchange;
mod measure;
mod model;
mod money;
mod policy;
mod read;

pub(crate) use about::{Completions, Doctor, Man};
use clap::{Args, ColorChoice, Parser, Subcommand};
pub(crate) use energy::{Attribute, Calibrate, Energy, EnergyCommand, Watch};
#[cfg(feature = "export")]
pub(crate) use exchange::{Export, Import, ServeMetrics};
pub(crate) use measure::{Bench, BenchEnergy, Ceilings, Cold, Idle};
pub(crate) use model::{Generate, Logits, Model, ModelCommand};
pub(crate) use money::{Cost, Plan};
use phase_core::DType;
pub(crate) use policy::{Check, Decide, Policy, PolicyCommand};
pub(crate) use read::{Compare, History, Report, Validate};
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
    #[arg(long, global = true, value_name = "N", value_parser = threads)]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Print the answer and what went wrong, nothing else
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Colours: auto, always or never; auto heeds the terminal, `NO_COLOR` and `CLICOLOR_FORCE`
    #[arg(long, global = true, default_value = "auto", value_name = "WHEN", hide_possible_values = true)]
    pub(crate) color: ColorChoice,
}

/// More threads than any machine has cores only keep each other waiting: such a number was mistyped.
fn threads(text: &str) -> Result<NonZeroUsize, String> {
    const MOST: usize = 1024;
    text.parse().ok().filter(|n: &NonZeroUsize| n.get() <= MOST).ok_or_else(|| format!("it must be a number from 1 to {MOST}"))
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

    /// `PHASE_WRITE_DOCS=1` writes the tables in place of comparing them.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "a developer's switch, of a test alone")]
    #[cfg(feature = "export")]
    fn the_tables_of_the_command_reference_are_these_arguments() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/cli.md");
        let page = std::fs::read_to_string(&file).unwrap();
        let mut program = Arguments::command();
        program.build();
        let made: Vec<_> = page.split("\n## ").map(|section| with_table(section, &program)).collect();
        let made = made.join("\n## ");
        if std::env::var_os("PHASE_WRITE_DOCS").is_some() {
            std::fs::write(&file, made).unwrap();
        } else if let Some((ours, theirs)) = made.lines().zip(page.lines()).find(|(ours, theirs)| ours != theirs) {
            panic!("docs/reference/cli.md has\n{theirs}\nin place of\n{ours}\nPHASE_WRITE_DOCS=1 makes this test write it");
        } else {
            assert_eq!(made, page);
        }
    }

    /// A section with the table of its command; its words are kept.
    #[cfg(feature = "export")]
    fn with_table(section: &str, program: &clap::Command) -> String {
        let title = section.lines().next().unwrap_or_default();
        let named = title.strip_prefix('`').and_then(|t| t.strip_suffix('`')).and_then(|t| t.strip_prefix("phase "));
        let command = match named {
            Some(words) => words.split(' ').fold(program, |c, word| c.find_subcommand(word).unwrap_or_else(|| panic!("{words}"))),
            None if title == "Everywhere" => program,
            None => return section.to_owned(),
        };
        let shown = |a: &&clap::Arg| a.get_long().is_some_and(|l| l != "help" && l != "version") && !a.is_hide_set();
        let rows: Vec<_> = command.get_arguments().filter(shown).filter(|a| a.is_global_set() == named.is_none()).map(table_row).collect();
        let prose = section.split("\n|").next().unwrap_or_default().trim_end();
        let after = if section.ends_with('\n') && !section.ends_with("\n\n") { "\n" } else { "" };
        let table =
            if rows.is_empty() { String::new() } else { format!("\n\n| flag | what | default |\n|---|---|---|\n{}", rows.join("\n")) };
        format!("{prose}{table}\n{after}").trim_end_matches('\n').to_owned() + "\n"
    }

    #[cfg(feature = "export")]
    fn table_row(argument: &clap::Arg) -> String {
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        let (what, told) = match help.split_once(" [default: ") {
            Some((what, rest)) => (what.to_owned(), rest.trim_end_matches(']').to_owned()),
            None => (help, argument.get_default_values().iter().map(|v| v.to_string_lossy()).collect::<Vec<_>>().join(",")),
        };
        let takes = argument.get_action().takes_values();
        let told = if takes { told } else { String::new() };
        let default = match argument.get_env().map(|name| format!("`{}`", name.to_string_lossy())) {
            Some(name) if told.is_empty() => name,
            Some(name) => format!("{name}, else {told}"),
            None if argument.is_required_set() => "**required**".to_owned(),
            None => told,
        };
        let short = argument.get_short().map_or_else(String::new, |c| format!("`-{c}`, "));
        let value = argument.get_value_names().filter(|_| takes).map_or_else(String::new, |names| format!(" {}", names[0]));
        let cells = [format!("{short}`--{}{value}`", argument.get_long().unwrap_or_default()), what, default];
        let cells = cells.map(|cell| if cell.is_empty() { " ".to_owned() } else { format!(" {} ", cell.replace('|', "\\|")) });
        format!("|{}|", cells.join("|"))
    }
}
