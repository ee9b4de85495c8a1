//! The program `phase`: measures one checkpoint on several runtimes, phase by phase, and turns the measurements into a
//! policy that routes requests.
//!
//! Exit codes: `check` has its own; else 0 fine, 1 a check failed or the work went wrong, 2 usage, 3 environment (a missing library or device).

mod agenda;
mod argument;
mod command;
mod cuda;
mod exit;
mod progress;
mod setting;
mod watch;

use argument::{Arguments, Command};
use clap::{CommandFactory as _, FromArgMatches as _};
use exit::Failure;
use std::process::ExitCode;

fn main() -> ExitCode {
    // clap exits with 2 by itself on a usage error, and with 0 on --help.
    let matches = Arguments::command().color(exit::color_asked_for(std::env::args_os())).get_matches();
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    exit::set_quiet(arguments.global.quiet);
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            failure.code()
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let setting = match &arguments.command {
        // What the build of a package calls needs no home and no runtime.
        Command::Completions(a) => return command::manual::completions(a),
        Command::Man(a) => return command::manual::man(a),
        _ => setting::Setting::new(&arguments.global)?,
    };
    match &arguments.command {
        Command::Doctor(a) => command::doctor::run(&setting, a),
        Command::Bench(a) => command::bench::run(&setting, a),
        Command::Ceilings(a) => command::ceilings::run(&setting, a),
        Command::Cold(a) => command::cold::run(&setting, a),
        Command::Idle(a) => command::idle::run(&setting, a),
        Command::Validate(a) => command::run_directory::validate(a),
        Command::Report(a) => command::report::report(&setting, a),
        Command::Compare(a) => command::report::compare(a),
        Command::History(a) => command::report::history(a),
        Command::Policy(a) => command::policy::run(a),
        Command::Decide(a) => command::policy::decide(a),
        Command::Energy(a) => command::energy::run(a),
        #[cfg(feature = "export")]
        Command::Export(a) => command::export::export(a),
        #[cfg(feature = "export")]
        Command::Import(a) => command::export::import(a),
        #[cfg(feature = "export")]
        Command::ServeMetrics(a) => command::serve_metrics::run(&setting, a),
        Command::Check(a) => command::check::run(&setting, a),
        Command::Cost(a) => command::cost::run(a),
        Command::Plan(a) => command::plan::run(a),
        Command::Generate(a) => command::generate::run(&setting, a),
        Command::Logits(a) => command::logits::run(&setting, a),
        Command::Model(a) => command::model::run(a),
        Command::Completions(a) => command::manual::completions(a),
        Command::Man(a) => command::manual::man(a),
    }
}
